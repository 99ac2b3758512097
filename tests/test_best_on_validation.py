"""The best by validation: which update's weights a seed ends with, resumed or not."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rulesearch.errors import ConfigError
from rulesearch.named import Named
from rulesearch.outer.best_on_validation import BestOnValidation
from rulesearch.outer.bilevel import BilevelTraining, MetaParameters
from rulesearch.outer.bilevel.problem import Estimate

ERRORS = torch.tensor([[5.0, 1.0], [2.0, 3.0], [math.nan, 0.5], [4.0, 0.5]])  # (looks, seeds)


def down(problem: int, theta: Named) -> Estimate:
    """A meta-gradient of one: by Adam every weight falls by the rate at each update."""
    gradient = {name: torch.ones_like(t) for name, t in theta.items()}
    alive = torch.ones(2, dtype=torch.bool)
    return Estimate(gradient, torch.zeros(2), {}, alive)


def training(judge: Callable[[MetaParameters], Tensor], every: int = 2) -> BestOnValidation:
    model = MetaParameters({"w": torch.zeros(2, 3), "b": torch.zeros(2)})
    return BestOnValidation(BilevelTraining(model, lambda update: update, down, 0.25), judge, every)


def listed(begin: int = 0) -> Callable[[MetaParameters], Tensor]:
    looks = iter(ERRORS[begin:])
    return lambda model: next(looks)


def test_every_seed_ends_with_its_own_best() -> None:
    """Looked at after updates 2, 4, 6 and 8: seed 0 likes 4, seed 1 the first of equals."""
    chosen = training(listed())
    told = [chosen.update().validation for _ in range(9)]
    assert [k for k, error in enumerate(told, 1) if error is not None] == [2, 4, 6, 8]
    looked = torch.stack([error for error in told if error is not None])
    torch.testing.assert_close(looked, ERRORS, equal_nan=True)
    assert chosen.updates == 9
    torch.testing.assert_close(chosen.model.theta()["b"].detach(), torch.full((2,), -9 / 4))
    chosen.choose()
    expected = -torch.tensor([4.0, 6.0]) / 4
    torch.testing.assert_close(chosen.model.theta()["b"].detach(), expected)
    torch.testing.assert_close(chosen.model.theta()["w"].detach(), expected[:, None].expand(2, 3))


def test_without_a_look_it_is_the_last() -> None:
    last = training(listed(), every=5)
    for _ in range(3):
        last.update()
    last.choose()
    torch.testing.assert_close(last.model.theta()["b"].detach(), torch.full((2,), -3 / 4))


def test_a_seed_whose_errors_are_no_numbers_keeps_its_last() -> None:
    errors = iter([[1.0, math.nan], [2.0, math.inf]])
    mixed = training(lambda model: torch.tensor(next(errors)))
    for _ in range(5):
        mixed.update()
    mixed.choose()
    expected = -torch.tensor([2.0, 5.0]) / 4
    torch.testing.assert_close(mixed.model.theta()["b"].detach(), expected)


@pytest.mark.parametrize("broken_off", [1, 3, 4, 7])
def test_it_goes_on_from_a_checkpoint(broken_off: int) -> None:
    first = training(listed())
    for _ in range(broken_off):
        first.update()
    kept = {key: value.clone() for key, value in first.tensors().items()}
    resumed = training(listed(broken_off // 2))
    resumed.load(kept, broken_off)
    for _ in range(8 - broken_off):
        resumed.update()
    resumed.choose()
    expected = -torch.tensor([4.0, 6.0]) / 4
    torch.testing.assert_close(resumed.model.theta()["b"].detach(), expected)


def test_to_look_at_no_update_is_refused() -> None:
    with pytest.raises(ConfigError, match="between validations must be at least 1"):
        training(listed(), every=0)
