"""Meta-training on bilevel problems: what an update descends, what diverges, what resumes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rulesearch.errors import ConfigError
from rulesearch.outer.bilevel import (
    BilevelTraining,
    ComplexSynapse,
    Contrastive,
    MetaParameters,
    RidgeSolution,
    draw_ridge,
    exact_ridge_gradient,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def training(rate: float = 0.05, seeds: int = 2, episodes: int = 3) -> BilevelTraining[Any]:
    theta = {
        "lambda.W": torch.full((seeds, 4), 0.02, dtype=torch.float64),
        "omega.W": torch.zeros(seeds, 4, dtype=torch.float64),
    }
    return BilevelTraining(
        MetaParameters(theta),
        lambda update: draw_ridge(seeds * episodes, 4, 10, generator(update)),
        Contrastive(RidgeSolution(), RidgeSolution(), 1e-3),
        rate,
        episodes,
    )


def test_an_update_descends_the_mean_of_a_seeds_problems() -> None:
    trained = training(rate=1e-4)
    theta = {k: v.detach().clone() for k, v in trained.model.theta().items()}
    each = {k: v.repeat_interleave(3, 0) for k, v in theta.items()}
    exact = exact_ridge_gradient(draw_ridge(6, 4, 10, generator(0)), each)
    record = trained.update()
    torch.testing.assert_close(record.loss, exact.loss.reshape(2, 3).mean(1))
    assert not record.rejected.any()
    for name, moved in trained.model.theta().items():  # Adam's first step is the sign
        mean = exact.gradient[name].reshape(2, 3, -1).mean(1)
        torch.testing.assert_close(
            moved.detach(), theta[name] - 1e-4 * mean.sign(), rtol=0, atol=1e-8
        )


def test_meta_training_lowers_the_loss() -> None:
    trained = training()
    loss = torch.stack([trained.update().loss.mean() for _ in range(60)])
    assert loss[-10:].mean() < loss[:10].mean()


def test_strengths_are_kept_from_below_zero() -> None:
    """Without noise nothing should be drawn to zero: the first step would pass it."""
    trained = training()
    trained.problems = lambda update: draw_ridge(6, 4, 10, generator(update), noise=0.0)
    trained.update()
    assert trained.model.theta()["lambda.W"].detach().min() == 0


def test_a_seed_that_diverges_stays_as_it_was() -> None:
    trained = training()
    trained.update()
    poisoned = trained.problems(1)
    x = poisoned.inner.x.clone()
    x[3:] = torch.nan  # all problems of the second seed, and one of the first
    x[0] = torch.nan
    task = type(poisoned.inner)(x, poisoned.inner.y, poisoned.inner.x_eval, poisoned.inner.y_eval)
    trained.problems = lambda update: ComplexSynapse(task)
    before = {k: v.detach().clone() for k, v in trained.model.theta().items()}
    record = trained.update()
    assert record.rejected.tolist() == [False, True]
    assert record.loss.isfinite().tolist() == [True, False]
    for name, moved in trained.model.theta().items():
        assert torch.equal(moved[1], before[name][1])
        assert moved.isfinite().all()
        assert not torch.equal(moved[0], before[name][0])


def test_it_resumes_to_the_same_bits() -> None:
    whole, begun = training(), training()
    for _ in range(5):
        whole.update()
    for _ in range(2):
        begun.update()
    resumed = training()
    resumed.load({k: v.clone() for k, v in begun.tensors().items()}, begun.updates)
    for _ in range(3):
        resumed.update()
    for name, value in whole.tensors().items():
        assert torch.equal(value, resumed.tensors()[name]), name
    with pytest.raises(ConfigError, match="other meta-parameters"):
        training().load({}, 1)
    with pytest.raises(ConfigError, match="rate"):
        training(rate=0.0)
