"""What cannot be meta-trained is told before any training, in one clear error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pytest
import torch
from small_flp import IMAGE, RATES, SINE, WIDE, images, sines, task_of, training_of
from torch import Tensor, nn

from rulesearch.errors import ConfigError, LearnerError
from rulesearch.grammar import Grammar, Term, TermPool
from rulesearch.learners import PlasticityLearner
from rulesearch.networks import PlasticNetwork
from rulesearch.outer import MetaModel, MetaRates, MetaTraining, flp_model
from rulesearch.rules import Rule
from rulesearch.tasks import ImageData, OnlineFewShot, TaskBatch
from rulesearch.tasks.family import check_first

pytestmark = pytest.mark.usefixtures("one_thread")
NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_settings_that_are_not_finite(value: float) -> None:
    with pytest.raises(ConfigError, match="FLP: mixing is"):
        replace(SINE, mixing=value)
    with pytest.raises(ConfigError, match="FLP: mixing is"):
        replace(SINE, mixing=[0.5, value, 0.5])
    with pytest.raises(ConfigError, match="FLP: rate is"):
        replace(SINE, rate=value)
    with pytest.raises(ConfigError, match="FLP: rate is"):
        replace(SINE, rate=(0.1, value, 0.1))


@pytest.mark.parametrize("size", [0, -5, 5.5])
def test_sizes_that_are_none(size: Any) -> None:
    for widths in ((size, 6, 5, 4, 1), (4, 6, size, 4, 1), (4, 6, 5, 4, size)):
        with pytest.raises(ConfigError, match=r"FLP: widths is \(.*whole numbers from 1 on"):
            replace(SINE, widths=widths)
    for name in ("channels", "strides"):
        with pytest.raises(ConfigError, match=f"FLP: {name} is .*whole numbers from 1 on"):
            replace(IMAGE, **{name: (2, size)})
    with pytest.raises(ConfigError, match=r"FLP: image is .*whole numbers from 1 on"):
        replace(IMAGE, image=(1, 8, size))


@pytest.mark.parametrize(
    "name", ["forward", "feedback", "mixing", "rate", "feedback_rate", "theta"]
)
@pytest.mark.parametrize("value", [NAN, INF, -1e-3])
def test_steps_that_are_none(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"meta-training: {name} is"):
        replace(RATES, **{name: value})


def test_other_rates_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match="meta-training: rate is"):
        MetaRates(rate=(1e-3, NAN))
    for clip in (NAN, -1.0):
        with pytest.raises(ConfigError, match="meta-training: clip is"):
            MetaRates(clip=clip)
    for clip in (0.0, 0.5, 1.0):
        told = f"meta-training: clip is {clip}; give a number above 1, as 2: .* could only fall"
        with pytest.raises(ConfigError, match=told):
            MetaRates(clip=clip)
    with pytest.raises(ConfigError, match="meta-training: drop is"):
        MetaRates(drop=NAN)


@pytest.mark.parametrize("part", ["mixing", "rate", "bias_rate", "feedback_rate"])
def test_lifetimes_refuse_what_is_not_finite(part: str) -> None:
    learnt = part in ("mixing", "feedback_rate")
    feedback = replace(SINE.feedback, plastic=part == "feedback_rate")
    settings = replace(SINE, learning="flp" if learnt else "gradient", feedback=feedback)
    model, task = flp_model(settings, 2, dtype=WIDE), task_of(settings, 2)
    state = model.born()
    getattr(state, part)[1].data.flatten()[-1] = NAN
    seen = model.see(task.x[:], 2)
    with pytest.raises(LearnerError, match=rf"state\.{part}\[1\] is not finite"):
        model.learner.live(state, model.theta, seen, task.label)
    with pytest.raises(LearnerError, match=rf"state\.{part}\[1\] is not finite"):
        MetaModel(model.learner, state)


@pytest.mark.parametrize("part", ["W", "B", "bias", "feedback_bias"])
@pytest.mark.parametrize("value", [NAN, INF])
def test_networks_are_not_born_with_what_is_not_finite(part: str, value: float) -> None:
    model = flp_model(SINE, 2)
    state = model.born().detach()
    getattr(state, part)[1].flatten()[-1] = value
    with pytest.raises(LearnerError, match=rf"state\.{part}\[1\] is not finite"):
        MetaModel(model.learner, state)


@pytest.mark.parametrize("part", ["theta", "W.0", "B.1", "mixing.0", "features.1.0.0.weight"])
def test_meta_training_refuses_what_is_not_finite(part: str) -> None:
    """Loaded into a model, or from a checkpoint."""
    settings = replace(SINE, plastic_layers=2)
    model = flp_model(settings, 2)
    good = {key: value.clone() for key, value in model.state_dict().items()}
    bad = good | {part: good[part] / 0}
    begun = MetaTraining(model, sines(), settings.rates)
    checkpoint = begun.tensors() | {f"model.{part}": bad[part]}
    with pytest.raises(ConfigError, match=f"{part} of the model is not finite"):
        begun.load(checkpoint, 1)
    assert begun.update().loss.isfinite().all()
    model.load_state_dict(bad)
    with pytest.raises(ConfigError, match=f"{part} of the model is not finite"):
        MetaTraining(model, sines(), settings.rates)


def test_parts_that_no_state_has_cannot_be_fixed() -> None:
    model = flp_model(SINE, 1)
    with pytest.raises(ConfigError, match=r"fixed is one of W, .*not 'rates'; did you mean 'rate'"):
        MetaModel(model.learner, model.born(), list(model.features), fixed=["rates"])


def test_theta_that_is_none() -> None:
    pool = Grammar.from_yaml("flp10").enumerate()
    for theta in ([1.0, 2.0], [1.0] * (len(pool) + 1)):
        with pytest.raises(LearnerError, match=rf"theta has shape \({len(theta)},\); it should be"):
            flp_model(SINE, 2, pool=pool, theta=theta)
    with pytest.raises(LearnerError, match=r"theta is .*finite numbers"):
        flp_model(SINE, 2, pool=pool, theta=[NAN] * len(pool))


def test_a_rule_that_needs_what_is_not_there() -> None:
    pool = TermPool([Term.from_text("own", "-B"), Term.from_text("kept", "Omega")])
    with pytest.raises(LearnerError, match="a term needs B of its own connection"):
        flp_model(replace(SINE, rule=Rule(pool, {"own": 1.0})))
    plastic = replace(SINE, feedback=replace(SINE.feedback, plastic=True))
    with pytest.raises(LearnerError, match="a term needs Omega"):
        flp_model(replace(plastic, rule=Rule(pool, {"kept": 1.0})))
    fed = TermPool([Term.from_text("fed", "e_post * y_pre.T")])
    with pytest.raises(LearnerError, match="a term needs e_post"):
        flp_model(replace(plastic, rule=Rule(fed, {"fed": 1.0})))
    with pytest.raises(LearnerError, match="a pool has no coefficients"):
        flp_model(SINE, pool=fed)


# -- tasks and networks --


def training(settings: Any, tasks: Any, **options: Any) -> MetaTraining:
    return MetaTraining(flp_model(settings, 2), tasks, settings.rates, **options)


def test_examples_of_another_width() -> None:
    with pytest.raises(
        ConfigError,
        match=r"'sines-7-continual' have 8 values, .* takes 4; make widths begin with 8",
    ):
        training(replace(SINE, plastic_layers=4), sines(functions=7))
    with pytest.raises(
        ConfigError, match=r"'sines-7.* 8 values, .* takes 4; make widths begin wit"
    ):
        training(SINE, sines(functions=7))


def test_outputs_that_are_too_few_or_too_many() -> None:
    few = replace(IMAGE, widths=(2 * 4 * 4, 6, 3))
    with pytest.raises(ConfigError, match="need 4 outputs, the network has 3"):
        training(few, images())
    many = replace(IMAGE, widths=(2 * 4 * 4, 6, 9))
    assert training(many, images()).update().loss.isfinite().all()
    with pytest.raises(ConfigError, match="need 1 outputs, the network has 2"):
        training(replace(SINE, widths=(4, 6, 5, 4, 2)), sines())


def test_images_of_another_shape() -> None:
    def tasks(*shape: int) -> OnlineFewShot:
        pixels = torch.zeros(40, math.prod(shape), dtype=torch.uint8)
        data = ImageData(pixels, torch.arange(5).repeat(8), 5, tuple("abcde"), "blank", shape)
        return OnlineFewShot(data, ways=3, shots=2, queries=2, outputs=4)

    assert training(IMAGE, tasks(8, 8)).updates == 0
    for shape in ((4, 16), (9, 9)):
        with pytest.raises(ConfigError, match=r"have shape \(1, .* features see \(1, 8, 8\)"):
            training(IMAGE, tasks(*shape))
    with pytest.raises(ConfigError, match=r"have shape \(3, 8, 8\), features see \(1, 8, 8\)"):
        training(IMAGE, tasks(3, 8, 8))


def test_convolutions_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"convolutions give 32 values .* begins with 33"):
        replace(IMAGE, widths=(33, 6, 4))
    with pytest.raises(ConfigError, match=r"2 convolutions \(channels\) need as many strides"):
        replace(IMAGE, strides=(1,))
    with pytest.raises(ConfigError, match=r"0 convolutions \(channels\) need as many strides"):
        replace(IMAGE, channels=())
    with pytest.raises(ConfigError, match="need the image's shape"):
        replace(IMAGE, image=None)
    with pytest.raises(ConfigError, match="a larger image"):
        replace(IMAGE, image=(1, 4, 4))


def test_features_that_give_something_else() -> None:
    other = flp_model(replace(SINE, plastic_layers=2), 2)
    model = MetaModel(other.learner, other.born(), [nn.Linear(4, 3), nn.Linear(4, 3)])
    with pytest.raises(ConfigError, match=r"features give 3 values of an example, .* take 5"):
        MetaTraining(model, sines())


def test_targets_of_another_width() -> None:
    model, task = flp_model(SINE, 2, dtype=WIDE), task_of(SINE, 2)
    wide = replace(task, label_query=task.label_query.expand(-1, -1, 2))
    with pytest.raises(LearnerError, match="targets of queries have shape"):
        model(wide)


@dataclass(frozen=True)
class Shares:
    """What share three inputs have in their sum."""

    steps: int = 2
    name: str = "shares"
    n_in: int = 4
    n_out: int = 3

    def describe(self) -> dict[str, object]:
        return asdict(self)

    def sample(
        self, generators: Sequence[torch.Generator], dtype: torch.dtype = torch.float32
    ) -> TaskBatch:
        drawn = [torch.rand(self.steps + 1, self.n_in, generator=g) for g in generators]
        x = torch.stack(drawn, 1).to(dtype)
        share = x[..., 1:] / x[..., 1:].sum(-1, keepdim=True)
        return TaskBatch(x[:-1], share[:-1], x[-1:].transpose(0, 1), share[-1:].transpose(0, 1))


def test_probabilities_of_fewer_classes_than_outputs() -> None:
    for outputs, fits in ((3, True), (5, False)):
        settings = replace(SINE, widths=(4, 6, outputs), plastic_layers=1, output="softmax")
        network = PlasticNetwork([4, outputs])
        if fits:
            assert training(settings, Shares()).update().loss.isfinite().all()
            check_first("tasks", Shares(), network)
            continue
        told = r"tasks: targets of 'shares' hold 3 values, the network has 5 outputs"
        with pytest.raises(ConfigError, match=told):
            training(settings, Shares())
        with pytest.raises(ConfigError, match=told):
            check_first("tasks", Shares(), network)


@pytest.mark.parametrize("below", [False, True], ids=["none below", "features"])
def test_queries_of_other_lifetimes_than_the_state(below: bool) -> None:
    """A task judges as many networks as it has lifetimes, whatever layers are below."""
    model = flp_model(SINE if below else replace(SINE, plastic_layers=4), 2, dtype=WIDE)
    two, four = task_of(SINE, 2), task_of(SINE, 2, episodes=2)
    state = model.live(four)
    told = r"examples have shape \(2, 6, 4\), and there are 4 networks"
    with pytest.raises(LearnerError, match=told):
        model.judge(state, two)
    with pytest.raises(LearnerError, match=r"examples have shape \(6, 2, 3, 4\), .* 4 networks"):
        model.live(two, state)
    with pytest.raises(LearnerError, match=r"examples have shape \(4, 6, 4\), .* 2 networks"):
        model.judge(model.live(two), four)


def test_what_a_first_order_gradient_cannot_learn() -> None:
    rule = replace(SINE, method="first-order", rates=MetaRates(feedback=0, mixing=0, theta=1e-3))
    with pytest.raises(ConfigError, match="first-order meta-gradient tells nothing of theta"):
        training_of(rule)
    for name in ("feedback", "mixing"):
        rates = replace(MetaRates(feedback=0, mixing=0), **{name: 1e-3})
        with pytest.raises(ConfigError, match=f"tells nothing of {name}"):
            training_of(replace(SINE, method="first-order", rates=rates))
    training_of(replace(SINE, method="first-order", rates=MetaRates(feedback=0, mixing=0)))


# -- a loss by hand --


def test_labels_of_a_linear_output_are_one_hot() -> None:
    """Mean squared error of three queries against unit vectors, written out."""
    network = PlasticNetwork([2, 3], output="linear", feedback="symmetric")
    pool = Grammar.from_yaml("catalogue").enumerate()
    learner = PlasticityLearner(network, Rule(pool, {"pseudo_gradient": 1.0}), "first-order")
    born = learner.init(1, dtype=WIDE)
    W = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]], dtype=WIDE)
    model = MetaModel(learner, replace(born, W=[W]))
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 2.0]]], dtype=WIDE)
    label = torch.tensor([[0, 2, 1]])
    task = TaskBatch(x.new_zeros(1, 1, 2), label[:1, :1], x, label)
    # Outputs (1, 0, 1), (0, 2, 1), (1, 4, 3) against (1, 0, 0), (0, 0, 1), (0, 1, 0).
    expected = torch.tensor([(1 + 4 + (1 + 9 + 9)) / 9], dtype=WIDE)
    torch.testing.assert_close(model.judge(model.born(), task).loss.detach(), expected)
    as_targets = replace(task, label_query=torch.eye(3, dtype=WIDE)[label])
    found: Tensor = model.judge(model.born(), as_targets).loss
    torch.testing.assert_close(found.detach(), expected)


def test_mixing_begins_in_each_layer_where_it_is_said() -> None:
    model = flp_model(replace(SINE, mixing=[0.25, 0.5, 0.75]), 2)
    assert [m.tolist() for m in model.mixing] == [[0.25] * 2, [0.5] * 2, [0.75] * 2]
    with pytest.raises(ConfigError, match="FLP: 2 values of mixing for 3 plastic layers"):
        replace(SINE, mixing=(0.25, 0.5))
