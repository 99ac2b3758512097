"""The papers' networks, against the facts of the paper and of its code, written once more."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from small_flp import SINE, WIDE, task_of
from torch import Tensor

from rulesearch.errors import ConfigError
from rulesearch.grammar import Grammar
from rulesearch.networks import LearntFeedback
from rulesearch.outer import PRESETS, FLPSettings, MetaRates, flp_model
from rulesearch.outer.flp_presets import by_gradient, by_oml, with_plastic_layers
from rulesearch.reproduce import make_plan
from rulesearch.reproduce.flp_table1 import SineSettings, sine_network
from rulesearch.reproduce.flp_table2 import ImageSettings, image_network
from rulesearch.rules import Rule

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = ("flp", "feature-reuse", "gradient", "gradient-first-order", "oml")
TASKS: dict[str, dict[str, Any]] = {
    # Preprint, appendix B; tables 3 and 4; figures 7 to 9 of the released code.
    "sines": {
        "widths": (11, 300, 300, 300, 300, 300, 900, 300, 300, 1),
        "plastic": 3,
        "output": "linear",
        "source": "error",
        "clamp": False,
        "beta": 0.5,
        "image": None,
        "channels": (),
        "strides": (),
        "alpha_rate": (1e-8, 1e-8, 1e-8),
        "beta_rate": 1e-4,
        "oml": 6e-3,  # 0.003 on the whole square is 0.006 on half of it
    },
    "omniglot": {
        "widths": (3 * 3 * 128, 128, 1000),
        "plastic": 2,
        "output": "softmax",
        "source": "target",
        "clamp": True,
        "beta": 1.0,
        "image": (1, 84, 84),
        "channels": (128, 128, 128, 128, 128, 128),
        "strides": (2, 1, 2, 1, 2, 2),
        "alpha_rate": (1e-3, 1e-3 * 1e-2),
        "beta_rate": 0.0,
        "oml": 1e-2,
    },
    "mini-imagenet": {
        "widths": (3 * 3 * 256, 1000, 1000),
        "plastic": 2,
        "output": "softmax",
        "source": "target",
        "clamp": True,
        "beta": 1.0,
        "image": (3, 84, 84),
        "channels": (256, 256, 256, 256, 256, 256),
        "strides": (2, 1, 2, 1, 2, 2),
        "alpha_rate": (1e-4, 1e-4 * 1e-4),
        "beta_rate": 0.0,
        "oml": 1e-2,
    },
}


def a_value_a_layer(value: float | tuple[float, ...], layers: int) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,) * layers


def test_there_is_a_preset_for_every_row() -> None:
    assert set(PRESETS) == {f"{task}-{row}" for task in TASKS for row in ROWS}


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("task", TASKS)
def test_a_preset_is_the_papers(task: str, row: str) -> None:
    facts, flp = TASKS[task], PRESETS[f"{task}-{row}"]
    assert flp.widths == facts["widths"]
    assert (flp.output, flp.image) == (facts["output"], facts["image"])
    assert (flp.channels, flp.strides) == (facts["channels"], facts["strides"])
    assert flp.plastic_layers == (1 if row == "feature-reuse" else facts["plastic"])
    rates = flp.rates
    assert (rates.forward, rates.theta, rates.clip, rates.milestones) == (1e-4, 0, None, ())
    layers = flp.plastic_layers
    steps = tuple(float(r) for r in a_value_a_layer(rates.rate, layers))
    if row in ("flp", "feature-reuse"):
        assert (flp.learning, flp.method, flp.rule) == ("flp", "reversible", "oja_single")
        assert flp.starts == (0.0,) * layers
        assert steps == pytest.approx(facts["alpha_rate"][-layers:], rel=1e-12)
        assert (rates.feedback, rates.mixing) == (1e-4, facts["beta_rate"])
        assert flp.mixing == facts["beta"]
        assert flp.feedback == LearntFeedback(
            source=facts["source"],
            activation="relu",
            clamp_output=facts["clamp"],
            presynaptic="before",
            pathway="direct",
            plastic=False,
        )
        return
    assert (rates.feedback, rates.mixing) == (0.0, 0.0)
    if row == "oml":
        assert (flp.learning, flp.method) == ("oml", "first-order")
        assert (set(flp.starts), set(steps)) == ({facts["oml"]}, {0.0})
    else:
        assert flp.learning == "gradient"
        assert flp.method == ("first-order" if "first-order" in row else "reversible")
        assert set(steps) == {1e-4}
        assert min(flp.starts) > 0


@pytest.mark.parametrize("row", ROWS)
def test_networks_are_born_as_the_papers(row: str) -> None:
    """Relu, Kaiming-normal weights and feedback, no biases at birth; sums only under FLP."""
    size = {"widths": (11, 300, 300, 900, 300, 1)}
    flp = replace(PRESETS[f"sines-{row}"], **size)
    model = flp_model(flp, 1).requires_grad_(False)
    network, learner = model.learner.network, model.learner
    assert (network.activation, network.bias, network.output) == ("relu", True, "linear")
    learnt = row in ("flp", "feature-reuse")
    assert network.feedback == ("flp" if learnt else "symmetric")
    assert learner.reduction == ("sum" if learnt else "mean")
    assert learner.rule is not None
    assert learner.rule.coefficients == {"oja_single" if learnt else "pseudo_gradient": 1.0}
    for W in model.W:
        assert float(W.std()) == pytest.approx(math.sqrt(2 / W.shape[-1]), rel=0.15)
    assert all(not b.any() for b in model.bias)
    assert len(model.bias_rate) == (0 if learnt else 3)
    if learnt:
        for B, W in zip(model.B, model.W, strict=True):
            assert tuple(B.shape) == (1, 1, W.shape[1])  # straight from the output
        assert all(not c.any() for c in model.feedback_bias)
        assert [float(m) for m in model.mixing] == [0.5] * len(model.W)
    if row == "flp":  # of fan-in one, so a standard deviation of the root of two
        assert float(model.B[0].std()) == pytest.approx(math.sqrt(2), rel=0.15)
    below = [m for m in model.features[0].modules() if isinstance(m, torch.nn.Linear)]
    for layer in below:
        assert float(layer.weight.std()) == pytest.approx(math.sqrt(2 / layer.in_features), rel=0.1)
        assert not layer.bias.any()


def test_convolutions_are_born_as_the_papers() -> None:
    """He's normal weights by what a unit sees, and no biases; relu after each, and no padding."""
    flp = replace(
        PRESETS["omniglot-flp"],
        channels=(30, 60), strides=(2, 1), image=(3, 9, 9), widths=(60 * 2 * 2, 5, 7),
    )  # fmt: skip
    model = flp_model(flp, 1, dtype=WIDE).requires_grad_(False)
    first, second = (m for m in model.features[0].modules() if isinstance(m, torch.nn.Conv2d))
    for layer, sees in ((first, 3 * 9), (second, 30 * 9)):
        assert float(layer.weight.std()) == pytest.approx(math.sqrt(2 / sees), rel=0.05)
        assert not layer.bias.any()
        layer.bias.add_(0.1)
    x = torch.randn(2, 3 * 9 * 9, dtype=WIDE, generator=torch.Generator().manual_seed(0))
    h = x.reshape(2, 3, 9, 9)
    for layer, stride in ((first, 2), (second, 1)):
        patches = h.unfold(2, 3, stride).unfold(3, 3, stride)
        h = torch.einsum("ncijab,ocab->noij", patches, layer.weight) + 0.1
        h = h.clamp(min=0)
    torch.testing.assert_close(model.see(x[None], 1)[0], h.flatten(1))


def test_feedback_of_a_thousand_outputs_is_as_weak_as_the_papers() -> None:
    flp = replace(
        PRESETS["omniglot-flp"], image=None, channels=(), strides=(), widths=(9, 128, 1000)
    )
    (hidden, output), network = flp_model(flp).requires_grad_(False).B, flp.network
    assert float(hidden.std()) == pytest.approx(0.045, rel=0.02)
    assert tuple(output.shape) == (1, 1000, 1000)
    assert network.learnt_feedback.clamp_output


@pytest.mark.parametrize("reduction", ["sum", "mean", None])
@pytest.mark.parametrize("learning", ["flp", "gradient"])
def test_the_reduction_is_a_setting(learning: str, reduction: str | None) -> None:
    """Of a step of three equal examples the sum moves weights three times as far."""
    flp = replace(SINE, learning=learning, reduction=reduction)
    model = flp_model(flp, 1, dtype=WIDE)
    task = task_of(flp, 1)
    assert isinstance(task.x, Tensor)
    x, label = task.x[:1, :, :1], task.label[:1, :, :1]

    def change(copies: int) -> Tensor:
        more = replace(task, x=x.repeat(1, 1, copies, 1), label=label.repeat(1, 1, copies, 1))
        return (model.live(more).W[-1] - model.W[-1]).detach()

    one, three = change(1), change(3)
    assert one.any()
    summed = reduction == "sum" or (reduction is None and learning == "flp")
    torch.testing.assert_close(three, (3 if summed else 1) * one, rtol=1e-10, atol=1e-14)


def test_any_rule_is_plugged_in() -> None:
    pool = Grammar.from_yaml("flp10").enumerate()
    chosen = dict(zip(pool.names[:2], (0.5, -2.0), strict=True))
    rule = Rule(pool, chosen)
    model = flp_model(replace(SINE, rule=rule), 2)
    assert model.learner.rule is rule
    assert model.theta.tolist() == [[0.5, -2.0]] * 2
    with pytest.raises(ConfigError, match="oja_singel"):
        flp_model(replace(SINE, rule="oja_singel"))


def test_baselines_of_other_settings() -> None:
    flp = FLPSettings(
        (9, 8, 7, 6),
        3,
        mixing=(0.4, 0.5, 0.6),
        rate=(1.0, 2.0, 3.0),
        rates=MetaRates(rate=(0.1, 0.2, 0.3)),
    )
    two = with_plastic_layers(flp, 2)
    assert (two.plastic_layers, two.rate, two.rates.rate) == (2, (2.0, 3.0), (0.2, 0.3))
    assert two.mixing == (0.5, 0.6)
    assert with_plastic_layers(SINE, 1) == replace(SINE, plastic_layers=1)
    assert by_gradient(flp, 0.5, 0.25).rates.rate == 0.25
    assert by_oml(flp, 0.5).starts == (0.5,) * 3


def test_reproductions_are_of_the_presets() -> None:
    """At full scale, which is where sizes are the papers'."""
    sines = make_plan("flp-table1", "full").settings
    images = make_plan("flp-table2", "full").settings
    assert isinstance(sines, SineSettings)
    assert isinstance(images, ImageSettings)

    def same(found: FLPSettings, preset: str) -> None:
        wanted = PRESETS[preset]
        steps = a_value_a_layer(wanted.rates.rate, wanted.plastic_layers)
        layers = found.plastic_layers
        assert a_value_a_layer(found.rates.rate, layers) == steps
        assert found.starts == wanted.starts
        spread = {"rate": 0.0, "rates": replace(found.rates, rate=0.0), "reduction": "sum"}
        assert replace(found, **spread) == replace(
            wanted, rate=0.0, rates=replace(wanted.rates, rate=0.0), reduction="sum"
        )

    same(sine_network(sines, 3), "sines-flp")
    same(sine_network(sines, 1), "sines-feature-reuse")
    for condition, task in (("iid", "omniglot"), ("mini-imagenet", "mini-imagenet")):
        same(image_network(images, condition, 2), f"{task}-flp")
        same(image_network(images, condition, 1), f"{task}-feature-reuse")
    for settings, task in ((sines, "sines"), (images, "omniglot")):
        gradient, oml = PRESETS[f"{task}-gradient"], PRESETS[f"{task}-oml"]
        assert (settings.gradient_start, settings.gradient_rate) == (
            gradient.starts[0], gradient.rates.rate,
        )  # fmt: skip
        assert settings.oml_rate == oml.starts[0]


def test_feedback_is_a_setting_of_reproductions() -> None:
    told = ("source=target", "pathway=layered", "plastic=true", "presynaptic=after",
            "clamp_output=true", "feedback_rate=1e-7", "reduction=mean", "start=0.25")  # fmt: skip
    sines = make_plan("flp-table1", "small", told).settings
    assert isinstance(sines, SineSettings)
    flp = sine_network(sines, 2)
    wanted = LearntFeedback(
        source="target", pathway="layered", plastic=True, presynaptic="after", clamp_output=True
    )
    assert flp.feedback == wanted
    assert (flp.rates.feedback_rate, flp.reduction, flp.rate) == (1e-7, "mean", 0.25)
    images = make_plan("flp-table2", "small", ("source=error", "clamp_output=false")).settings
    assert isinstance(images, ImageSettings)
    feedback = image_network(images, "iid", 2).feedback
    assert feedback == LearntFeedback(source="error", clamp_output=False)
