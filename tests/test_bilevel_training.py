"""Meta-training on bilevel problems: what an update descends, what diverges, what resumes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from draws import generator
from safetensors.torch import load, save
from torch import Tensor

from rulesearch.errors import ConfigError
from rulesearch.outer.bilevel import (
    SGD,
    BilevelTraining,
    ComplexSynapse,
    Contrastive,
    Dense,
    Descent,
    Evolution,
    Implicit,
    LeastSquares,
    MetaParameters,
    Named,
    RidgeSolution,
    draw_ridge,
    exact_ridge_gradient,
)
from rulesearch.outer.bilevel.convergence import Settled
from rulesearch.outer.bilevel.problem import Estimate

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_eps_root_is_inside_of_adams_root() -> None:
    trained, root = replace(training(), eps_root=1e-4), 1e-4
    theta = {k: v.detach().clone() for k, v in trained.model.theta().items()}
    each = {k: v.repeat_interleave(3, 0) for k, v in theta.items()}
    gradient = trained.meta_gradient(trained.problems(0), each).gradient
    trained.update()
    for name, moved in trained.model.theta().items():
        g = gradient[name].reshape(2, 3, -1).mean(1)
        wanted = theta[name] - 0.05 * g / ((g**2 + root).sqrt() + 1e-8)
        lowest = 0.0 if name.startswith("lambda") else -torch.inf
        torch.testing.assert_close(moved.detach(), wanted.clamp(min=lowest))
    with pytest.raises(ConfigError, match="eps_root must be a number not below zero"):
        replace(trained, eps_root=-1.0)


def test_another_number_of_problems_than_of_seeds_and_episodes_is_refused() -> None:
    trained = training(seeds=1, episodes=1)
    trained.problems = lambda update: draw_ridge(3, 4, 10, generator(update))
    with pytest.raises(
        ConfigError, match="3 problems; with seeds=1 and episodes=1 there should be 1"
    ):
        trained.update()


def test_what_a_seed_learns_is_the_mean_of_the_problems_that_settled() -> None:
    """Adam's first moment tells: its step, and a mean of the losses as a sum, would not."""
    trained = training()
    trained.meta_gradient = Implicit(RidgeSolution(), Dense())
    ridge = draw_ridge(6, 4, 10, generator(0))
    each = {k: v.detach().repeat_interleave(3, 0) for k, v in trained.model.theta().items()}
    exact = exact_ridge_gradient(ridge, each)
    x = ridge.inner.x.clone()
    x[1] = torch.nan  # of the first seed's problems the second
    task = LeastSquares(x, ridge.inner.y, ridge.inner.x_eval, ridge.inner.y_eval)
    trained.problems = lambda update: ComplexSynapse(task)
    record = trained.update()

    def mean(values: Tensor) -> Tensor:
        return torch.stack([(values[0] + values[2]) / 2, (values[3] + values[4] + values[5]) / 3])

    torch.testing.assert_close(record.loss, mean(exact.loss))
    for name, gradient in exact.gradient.items():
        found = trained.tensors()
        torch.testing.assert_close(found[f"adam.first.{name}"], 0.1 * mean(gradient))
        torch.testing.assert_close(found[f"adam.second.{name}"], 1e-3 * mean(gradient) ** 2)


@pytest.mark.parametrize(
    ("left", "told"),
    [((1.0, 9.0, 2.0, 4.0), 3.0), ((1.0, torch.nan, 2.0, 9.0), 2.0), ((3.0, torch.inf, 5.0), 5.0)],
)
def test_what_a_seed_leaves_unsolved_is_the_median_of_its_problems(
    left: tuple[float, ...], told: float
) -> None:
    trained = training(seeds=1, episodes=len(left))
    gradient = trained.meta_gradient

    def measured(problem: Any, theta: Named) -> Estimate:
        return replace(gradient(problem, theta), residual={"learning": torch.tensor(left)})

    record = replace(trained, meta_gradient=measured).update()
    assert record.residual["learning"].tolist() == [told]


def test_meta_training_lowers_the_loss_on_problems_never_met() -> None:
    """Teachers that agree: omega should become what they have in common."""
    common = torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=torch.float64)

    def alike(seed: int, count: int) -> ComplexSynapse[LeastSquares]:
        drawn = draw_ridge(count, 4, 3, generator(seed)).inner  # too few to know four weights
        y, y_eval = drawn.y + drawn.x @ common, drawn.y_eval + drawn.x_eval @ common
        return ComplexSynapse(LeastSquares(drawn.x, y, drawn.x_eval, y_eval))

    trained = training()
    trained.problems = lambda update: alike(update, 6)
    begun = {k: v.detach().clone() for k, v in trained.model.theta().items()}
    for _ in range(60):
        trained.update()
    new = alike(1000, 200)

    def loss(theta: Named) -> float:
        each = {k: v.detach().repeat_interleave(100, 0) for k, v in theta.items()}
        return float(new.eval_loss(RidgeSolution()(new, each, new.start(each)), each).mean())

    assert loss(trained.model.theta()) < 0.5 * loss(begun)
    omega = trained.model.theta()["omega.W"].detach()
    assert (torch.cosine_similarity(omega, common.expand_as(omega)) > 0.9).all()


def test_strengths_are_kept_from_below_zero() -> None:
    """Without noise nothing should be drawn to zero: the first step would pass it."""
    trained = training()
    trained.problems = lambda update: draw_ridge(6, 4, 10, generator(update), noise=0.0)
    trained.update()
    assert trained.model.theta()["lambda.W"].detach().min() == 0


def moments(trained: BilevelTraining[Any]) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in trained.tensors().items() if k.startswith("adam.")}


def test_a_seed_that_diverges_goes_half_way_back_and_keeps_its_moments() -> None:
    trained = training()
    good = {k: v.detach().clone() for k, v in trained.model.theta().items()}
    trained.update()
    poisoned = trained.problems(1)
    x = poisoned.inner.x.clone()
    x[3:] = torch.nan  # all problems of the second seed, and one of the first
    x[0] = torch.nan
    task = type(poisoned.inner)(x, poisoned.inner.y, poisoned.inner.x_eval, poisoned.inner.y_eval)
    trained.problems = lambda update: ComplexSynapse(task)
    before = {k: v.detach().clone() for k, v in trained.model.theta().items()}
    kept = moments(trained)
    record = trained.update()
    assert record.rejected.tolist() == [False, True]
    assert record.diverged is not None
    assert record.diverged.tolist() == [1, 3]
    assert record.loss.isfinite().tolist() == [True, False]
    for name, moved in trained.model.theta().items():
        assert torch.equal(moved[1], (before[name][1] + good[name][1]) / 2)
        assert moved.isfinite().all()
        assert not torch.equal(moved[0], before[name][0])
    for name, value in moments(trained).items():
        assert torch.equal(value[1], kept[name][1])
        assert not torch.equal(value[0], kept[name][0])


@pytest.mark.parametrize("phase", ["free", "nudged"])
def test_what_explodes_and_stays_finite_teaches_nothing(phase: str) -> None:
    """Three steps far too long make weights of 1e9, whose squares would be Adam's for ever."""
    calm, wild = Descent(200, SGD(0.1)), Descent(4, SGD(1e3))
    learners = (wild, calm) if phase == "free" else (calm, wild)
    trained = training()
    trained.update()
    before = moments(trained)
    trained.meta_gradient = Contrastive(*learners, 0.1)
    record = trained.update()
    assert record.rejected.tolist() == [True, True]
    assert all(torch.equal(value, before[name]) for name, value in moments(trained).items())
    each = {k: v.detach().repeat_interleave(3, 0) for k, v in trained.model.theta().items()}
    found = Contrastive(*learners, 0.1, bound=float("inf"))(trained.problems(1), each)
    assert found.accepted.all()  # it is the bound that tells
    assert max(float(g.abs().max()) for g in found.gradient.values()) > 1e6
    with pytest.raises(ConfigError, match="bound"):
        Contrastive(*learners, 0.1, bound=0.0)


def test_a_negative_nudge_may_make_the_loss_as_bad_as_it_likes() -> None:
    """Weights that stay moderate are accepted, however large the loss; on the other side not."""
    ridge = draw_ridge(2, 4, 10, generator(1)).inner
    scaled = LeastSquares(ridge.x, ridge.y, 100 * ridge.x_eval, 100 * ridge.y_eval)
    theta = {"lambda.W": torch.full((2, 4), 0.5, dtype=torch.float64)}
    start = {"W": torch.zeros(2, 4, dtype=torch.float64)}
    watch = Settled(ComplexSynapse(scaled), theta, start, 10.0)
    driven = {"W": start["W"] - 9.0}
    assert watch(driven, beta=-1.0).tolist() == [True, True]
    assert watch(driven, beta=1.0).tolist() == [False, False]
    assert watch({"W": start["W"] - 11.0}, beta=-1.0).tolist() == [False, False]


def test_a_strength_that_overflows_is_a_rejection() -> None:
    """exp(log_lambda) is infinite: its seed is rejected until it is back in range."""
    trained = BilevelTraining(
        MetaParameters({"log_lambda.W": torch.zeros(2, 4, dtype=torch.float64)}),
        lambda update: draw_ridge(2, 4, 10, generator(update)),
        Contrastive(Descent(300, SGD(0.1)), Descent(100, SGD(0.1)), 0.01),
        0.1,
    )
    trained.update()
    with torch.no_grad():
        trained.model.theta()["log_lambda.W"][1, 3] = 800.0
    rejected = [trained.update().rejected.tolist() for _ in range(12)]
    assert rejected[0] == [False, True]
    assert rejected[-1] == [False, False]


def by_evolution() -> BilevelTraining[Any]:
    """Strengths at zero and near it, where every other perturbation is below."""
    strength = torch.tensor([[0.0, 1e-3, 0.02, 0.5]] * 2, dtype=torch.float64)
    return BilevelTraining(
        MetaParameters({"lambda.W": strength}),
        lambda update: draw_ridge(6, 4, 10, generator(update)),
        Evolution(RidgeSolution(), 4, 0.05, generator(9)),
        0.01,
        3,
    )


def test_evolution_learns_strengths_near_zero() -> None:
    """The noisier the targets, the more it pays to be drawn to zero: strengths leave it."""
    trained = by_evolution()
    trained.problems = lambda update: draw_ridge(6, 4, 10, generator(update), noise=3.0)
    for _ in range(30):
        assert not trained.update().rejected.any()
    strength = trained.model.theta()["lambda.W"].detach()
    assert (strength[:, :2] > 0.05).all()


def test_evolution_resumes_to_the_same_bits() -> None:
    whole, begun, resumed = by_evolution(), by_evolution(), by_evolution()
    for _ in range(4):
        whole.update()
    for _ in range(2):
        begun.update()
    resumed.load(load(save({k: v.clone() for k, v in begun.tensors().items()})), begun.updates)
    for _ in range(2):
        resumed.update()
    for name, value in whole.tensors().items():
        assert torch.equal(value, resumed.tensors()[name]), name


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
    with pytest.raises(ConfigError, match=r"lambda/W has shape \(1, 4\), here it is \(2, 4\)"):
        training().load(training(seeds=1).tensors(), 1)  # which would broadcast
    with pytest.raises(ConfigError, match="rate"):
        training(rate=0.0)
