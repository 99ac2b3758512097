"""The mean of the last updates, resumed or not, and steps that shrink at milestones."""

from __future__ import annotations

import pytest
import torch

from rulesearch.errors import ConfigError
from rulesearch.outer.averaged import Averaged
from rulesearch.outer.bilevel import BilevelTraining, MetaParameters
from rulesearch.outer.bilevel.named import Named
from rulesearch.outer.bilevel.problem import Estimate


def down(problem: int, theta: Named) -> Estimate:
    """A meta-gradient of one: by Adam every weight falls by the rate at each update."""
    assert torch.is_grad_enabled()  # a meta-gradient may unroll
    gradient = {name: torch.ones_like(t) for name, t in theta.items()}
    return Estimate(gradient, torch.zeros(2), {}, torch.ones(2, dtype=torch.bool))


def training(begin: int, milestones: tuple[int, ...] = ()) -> Averaged:
    model = MetaParameters({"w": torch.zeros(2, 3), "b": torch.zeros(2)})
    steps = BilevelTraining(model, lambda update: update, down, 0.25, milestones=milestones)
    return Averaged(steps, begin)


def bias(of: Averaged) -> torch.Tensor:
    return of.model.theta()["b"].detach()


def test_it_ends_with_the_mean_of_the_last() -> None:
    """After 7 updates, of which the first 3 do not count: the mean of 4, 5, 6 and 7 quarters."""
    averaged = training(3)
    for _ in range(7):
        averaged.update()
    assert averaged.updates == 7
    torch.testing.assert_close(bias(averaged), torch.full((2,), -7 / 4))
    averaged.choose()
    torch.testing.assert_close(bias(averaged), torch.full((2,), -5.5 / 4))
    weights = averaged.model.theta()["w"].detach()
    torch.testing.assert_close(weights, torch.full((2, 3), -5.5 / 4))


def test_before_anything_counts_it_is_the_last() -> None:
    averaged = training(5)
    averaged.update()
    averaged.choose()
    torch.testing.assert_close(bias(averaged), torch.full((2,), -1 / 4))


@pytest.mark.parametrize("broken_off", [1, 3, 5])
def test_it_goes_on_from_a_checkpoint(broken_off: int) -> None:
    first = training(3)
    for _ in range(broken_off):
        first.update()
    kept = {key: value.clone() for key, value in first.tensors().items()}
    first.update()
    resumed = training(3)
    resumed.load(kept, broken_off)
    for _ in range(7 - broken_off):
        resumed.update()
    resumed.choose()
    torch.testing.assert_close(bias(resumed), torch.full((2,), -5.5 / 4))


def test_steps_are_halved_at_milestones() -> None:
    """Two steps of a quarter, one of an eighth, two of a sixteenth."""
    halved = training(99, (2, 3))
    for _ in range(5):
        halved.update()
    torch.testing.assert_close(bias(halved), torch.full((2,), -(2 / 4 + 1 / 8 + 2 / 16)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"drop": 0.0}, "drop must be a positive number"), ({"milestones": (2, -1)}, "milestone")],
)
def test_bad_milestones(settings: dict[str, float], message: str) -> None:
    model = MetaParameters({"b": torch.zeros(2)})
    with pytest.raises(ConfigError, match=message):
        BilevelTraining(model, lambda update: update, down, 0.25, **settings)  # type: ignore[arg-type]


def test_fewer_than_no_updates() -> None:
    with pytest.raises(ConfigError, match="averaged"):
        training(-1)
