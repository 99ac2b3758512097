"""The meta-gradient is autograd's, for weights, feedback, rates and the layers below them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_flp import (
    IMAGE,
    SETTINGS,
    SINE,
    WIDE,
    gradients,
    task_of,
    training_of,
)

from rulesearch.errors import ConfigError
from rulesearch.outer import (
    features,
    flp_model,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", SETTINGS)
def test_the_meta_gradient_is_autograds(name: str) -> None:
    settings = SETTINGS[name]
    task = task_of(settings, 2, episodes=2)
    found = gradients(flp_model(settings, 2, dtype=WIDE), task)
    oracle = flp_model(replace(settings, method="autograd"), 2, dtype=WIDE)
    expected = gradients(oracle, task)
    moved = {key for key, g in expected.items() if g is not None and g.any()}
    wanted = {"W", "bias", "rate"} | ({"features"} if settings.plastic_layers < 4 else set())
    wanted |= {"bias_rate"} if settings.learning == "gradient" else {"B"}
    assert wanted <= {key.split(".")[0] for key in moved}
    for key in moved:
        actual, exact = found[key], expected[key]
        assert actual is not None
        assert exact is not None
        torch.testing.assert_close(actual, exact, rtol=1e-8, atol=1e-10 * float(exact.abs().max()))


def test_features_learn_from_support_and_query() -> None:
    """Central differences of one weight of the convolutions, and that both paths count."""
    settings = IMAGE
    model, task = flp_model(settings, 1, dtype=WIDE), task_of(settings, 1)
    key = "features.0.0.0.weight"
    slope = gradients(model, task)[key]
    assert slope is not None
    weight = dict(model.named_parameters())[key]
    place = tuple(int(i) for i in torch.unravel_index(slope.abs().argmax(), slope.shape))

    def loss(step: float, where: str) -> float:
        """Loss with the weight moved where features of the support, the query, or both are."""
        with torch.no_grad():
            start = float(weight[place])
            weight[place] = start + step * (where in ("support", "both"))
            state = model.live(task)
            weight[place] = start + step * (where in ("query", "both"))
            found = float(model.judge(state, task).loss.sum())
            weight[place] = start
        return found

    def central(where: str, step: float = 1e-6) -> float:
        return (loss(step, where) - loss(-step, where)) / (2 * step)

    assert central("both") == pytest.approx(float(slope[place]), rel=1e-5)
    support, query = central("support"), central("query")
    assert support != 0 != query
    assert support + query == pytest.approx(float(slope[place]), rel=1e-5)


@pytest.mark.parametrize("rows", [1, 7, 10_000])
def test_features_computed_again_are_the_same(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(SINE, plastic_layers=2)
    task = task_of(settings, 2)
    expected = gradients(flp_model(settings, 2, dtype=WIDE), task)
    monkeypatch.setattr(features, "ROWS", rows)
    found = gradients(flp_model(settings, 2, dtype=WIDE), task)
    assert found.keys() == expected.keys()
    for key, g in expected.items():
        torch.testing.assert_close(found[key], g, rtol=1e-10, atol=1e-12)


def test_the_first_order_gradient_is_another() -> None:
    settings = replace(SINE, learning="gradient")
    task = task_of(settings, 1)
    exact = gradients(training_of(settings, 1).model, task)["rate.0"]
    first = gradients(training_of(replace(settings, method="first-order"), 1).model, task)["rate.0"]
    assert exact is not None
    assert first is not None
    assert first.any()
    assert not torch.allclose(first, exact, rtol=1e-3)


def test_a_baseline_starts_from_forward_weights() -> None:
    """Layers keep their weights whether they are plastic or not, and the function is the same."""
    source = flp_model(SINE, 2, dtype=WIDE)
    gradient = replace(SINE, learning="gradient", plastic_layers=2)
    model = flp_model(gradient, 2, seed=5, like=source, dtype=WIDE)
    x = torch.randn(2, 7, 4, dtype=WIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = source.learner.network(source.born(), source.see(x, 2))
        found = model.learner.network(model.born(), model.see(x, 2))
    torch.testing.assert_close(found, expected)
    with torch.no_grad():  # weights are copied, not shared
        for t in source.parameters():
            t.zero_()
        torch.testing.assert_close(model.learner.network(model.born(), model.see(x, 2)), expected)
    with pytest.raises(ConfigError, match="other layers"):
        flp_model(replace(SINE, widths=(4, 6, 5, 5, 1)), 2, like=source)
