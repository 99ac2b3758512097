"""What no meta-gradient can be made of is refused where it is said."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from small_flp import SINE, WIDE, sines, task_of
from torch import Tensor

from rulesearch.errors import ConfigError, GrammarError, LearnerError
from rulesearch.grammar import Grammar
from rulesearch.networks import LearntFeedback
from rulesearch.outer import MetaTraining, flp_model
from rulesearch.outer.bilevel import (
    SGD,
    Adam,
    BilevelTraining,
    ComplexSynapse,
    Contrastive,
    ContrastiveChain,
    Descent,
    Evolution,
    Identity,
    Implicit,
    LossProblem,
    MetaParameters,
    Named,
    Newton,
    UnrolledDescent,
    best_beta,
    draw_ridge,
)
from rulesearch.outer.flp_presets import by_gradient
from rulesearch.outer.rule_shape import ShapeTraining
from rulesearch.reproduce import make_plan

pytestmark = pytest.mark.usefixtures("one_thread")

NAN, INF = math.nan, math.inf
LEARNER = Descent(20, SGD(0.1))


@pytest.mark.parametrize("betas", [(1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, NAN)])
def test_moments_that_never_forget_or_are_none(betas: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="betas are from 0 to below 1"):
        Adam(0.1, betas=betas)


@pytest.mark.parametrize("value", [NAN, INF, -1.0])
def test_numbers_that_are_none(value: float) -> None:
    with pytest.raises(ConfigError, match="eps must be a number not below zero"):
        Adam(0.1, eps=value)
    with pytest.raises(ConfigError, match="eps_root must be a number not below zero"):
        Adam(0.1, eps_root=value)
    with pytest.raises(ConfigError, match="scale must be a positive number"):
        Identity(value)
    with pytest.raises(ConfigError, match="beta, the nudging strength, must be positive"):
        ContrastiveChain(Newton(), Newton(), value)
    with pytest.raises(ConfigError, match=r"tolerance.*must be positive"):
        ContrastiveChain(Newton(), Newton(), 0.1, tolerance=value)


@pytest.mark.parametrize("delta", [NAN, -1.0])
def test_no_strength_is_best_for_what_is_no_distance(delta: float) -> None:
    with pytest.raises(ConfigError, match="delta must not be negative"):
        best_beta(delta)


@pytest.mark.parametrize("count", [0, -1])
def test_nothing_learns_without_seeds_and_episodes(count: int) -> None:
    ridge = draw_ridge(2, 3, 8, torch.Generator().manual_seed(0))
    model = MetaParameters({"omega.W": torch.zeros(2, 3)})
    contrast = Contrastive(LEARNER, LEARNER, 0.1)
    with pytest.raises(ConfigError, match="episodes must be at least 1"):
        BilevelTraining(model, lambda update: ridge, contrast, 0.1, count)
    with pytest.raises(ConfigError, match="meta-training: episodes must be at least 1"):
        MetaTraining(flp_model(SINE), sines(), SINE.rates, episodes=count)
    with pytest.raises(ConfigError, match="FLP: seeds must be at least 1"):
        flp_model(SINE, count)


def test_losses_that_take_other_arguments() -> None:
    def loss(phi: object, theta: object, step: object) -> torch.Tensor:
        return torch.zeros(())

    def born(theta: Named) -> dict[str, torch.Tensor]:
        return {}

    def borne() -> dict[str, torch.Tensor]:
        return {}

    short = r"learn should take \(phi, theta, step\), not \(phi, theta\): too many positional"
    with pytest.raises(ConfigError, match=short):
        LossProblem(lambda phi, theta: torch.zeros(()), loss, born)  # type: ignore[arg-type,misc]
    with pytest.raises(
        ConfigError, match=r"evaluate should take \(phi, theta, step\), not \(phi\)"
    ):
        LossProblem(loss, lambda phi: torch.zeros(()), born)  # type: ignore[arg-type,misc]
    with pytest.raises(ConfigError, match=r"born should take \(theta\), not \(\)"):
        LossProblem(loss, loss, borne)  # type: ignore[arg-type]
    assert LossProblem(loss, loss, born).start({}) == {}


def test_a_meta_parameter_that_is_mistyped() -> None:
    ridge = draw_ridge(2, 3, 8, torch.Generator().manual_seed(0))
    theta = {"omgea.W": torch.zeros(2, 3).double(), "lambda.W": torch.ones(2, 3).double()}
    with pytest.raises(LearnerError, match=r"omgea\.W: .*did you mean 'omega'\?"):
        Contrastive(LEARNER, LEARNER, 0.1)(ridge, theta)


def side_by_side(phi: Named, theta: Named, step: int | None) -> Tensor:
    """Losses of three problems."""
    return ((phi["W"] - theta["goal"]) ** 2).sum(-1) + torch.zeros(3)


def test_problems_that_share_what_they_are_born_with_are_refused() -> None:
    """They would learn it together: its slope is that of all losses."""
    problem = LossProblem(side_by_side, side_by_side, lambda theta: {"W": torch.zeros(1, 3)})
    contrast = Contrastive(Descent(2, SGD(0.1)), Descent(2, SGD(0.1)), 0.1)
    with pytest.raises(LearnerError, match=r"as W.repeat_interleave\(3, 0\)"):
        contrast(problem, {"goal": torch.ones(3, 3)})


def test_a_rule_that_learns_nothing() -> None:
    for numbers in ("F0: 0, F2: 0, F9: 0", "F0: .nan, F2: 0, F9: 0"):
        with pytest.raises(GrammarError, match="coefficients"):
            make_plan("cml-rules", "small", [f"coefficients={{{numbers}}}"])


def test_a_first_order_model_says_how_it_is_called() -> None:
    model = flp_model(by_gradient(SINE, 0.1, 0.1, exact=False), 2, dtype=WIDE)
    task = task_of(SINE, 2)
    with pytest.raises(LearnerError, match=r"theta\.requires_grad_\(False\)"):
        model(task)
    model.theta.requires_grad_(False)
    assert model(task).loss.requires_grad


def test_the_size_of_a_rule_goes_into_the_rates_of_plastic_feedback_too() -> None:
    feedback = LearntFeedback(plastic=True)
    settings = replace(SINE, feedback=feedback, rate=0.01)
    names = ("oja_single", "hebb", "decay")
    pool = Grammar.from_yaml("flp10").enumerate().subset(names)
    model = flp_model(settings, 2, pool=pool, theta=[0.5, -2.0, 0.25], dtype=WIDE)
    task = task_of(SINE, 2)
    with torch.no_grad():
        before = model(task).output
        ShapeTraining(MetaTraining(model, sines(), replace(settings.rates, theta=1e-2)))
        torch.testing.assert_close(model(task).output, before, rtol=1e-9, atol=1e-12)
    expected = torch.tensor([[0.25, -1.0, 0.125]] * 2, dtype=WIDE)
    torch.testing.assert_close(model.theta.detach(), expected)
    for rate in (*model.rate, *model.feedback_rate):
        torch.testing.assert_close(rate.detach(), torch.full_like(rate, 0.02))


def test_a_strength_that_may_be_of_a_problem_or_of_a_column() -> None:
    """Two problems, each of whose weights have two columns: to take it for either is a guess."""
    W = torch.arange(12.0).reshape(2, 3, 2)
    strength = torch.tensor([0.5, 3.0])

    def loss(phi: Named, theta: Named, step: int | None) -> Tensor:
        return phi["W"].square().sum((1, 2)) / 2

    inner = LossProblem(loss, loss, lambda theta: {"W": W})
    contrast = Contrastive(LEARNER, LEARNER, 0.1)
    message = (
        r"lambda\.W has shape \(2,\), for 2 problems whose parameter has \(2, 3, 2\): say whether "
        r"it has a part for each problem, \.reshape\(2, 1, 1\), or the same for all, "
        r"\.reshape\(1, 1, 2\)"
    )
    theta = {"omega.W": W}
    with pytest.raises(LearnerError, match=message):
        contrast(ComplexSynapse(inner, {"lambda.W": strength}), theta)
    with pytest.raises(LearnerError, match=message):
        UnrolledDescent(LEARNER)(ComplexSynapse(inner, theta), {"lambda.W": strength})
    long = Contrastive(Descent(200, SGD(0.1)), Descent(200, SGD(0.1)), 1e-3)
    for shape in ((2, 1, 1), (1, 1, 2)):
        each = strength.reshape(shape)
        free = long(ComplexSynapse(inner, {"lambda.W": each}), theta).phi["W"]
        torch.testing.assert_close(free, each * W / (1 + each))
    one = ComplexSynapse(
        LossProblem(
            lambda phi, theta, step: loss(phi, theta, step).sum(),
            lambda phi, theta, step: loss(phi, theta, step).sum(),
            lambda theta: {"W": W},
        ),
        {"lambda.W": strength},
    )
    free = long(one, theta).phi["W"]  # of one problem there is nothing to guess
    torch.testing.assert_close(free, strength * W / (1 + strength))


METHODS = {
    "contrastive": lambda: Contrastive(LEARNER, LEARNER, 0.1),
    "unrolled": lambda: UnrolledDescent(LEARNER),
    "implicit": lambda: Implicit(LEARNER, Identity()),
    "evolution": lambda: Evolution(LEARNER, 2, 0.1, torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("method", METHODS)
def test_an_anchor_without_a_synapse_is_refused(method: str) -> None:
    x = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    zero = torch.zeros(2, 1, 3)

    def error(phi: Named, theta: Named, step: int | None) -> Tensor:
        return (x @ phi["W"].mT - x.sum(-1, keepdim=True)).square().mean((1, 2))

    def held(phi: Named, theta: Named, step: int | None) -> Tensor:
        away = theta["lambda.W"] * (phi["W"] - theta["omega.W"]) ** 2 / 2
        return error(phi, theta, step) + away.sum((1, 2))

    bare = LossProblem(error, error, lambda theta: {"W": zero})
    theta = {"omega.W": zero + 1, "lambda.W": zero + 0.1}
    with pytest.raises(LearnerError, match=r"depends on 'omega\.W'.*put a ComplexSynapse around"):
        METHODS[method]()(bare, theta)
    around = METHODS[method]()(ComplexSynapse(bare), theta)
    own = LossProblem(held, error, lambda theta: {"W": theta["omega.W"].detach()})
    if method != "evolution":  # whose lives begin elsewhere
        gradient = METHODS[method]()(own, theta).gradient["lambda.W"]
        torch.testing.assert_close(gradient, around.gradient["lambda.W"])
    begun = LossProblem(error, error, lambda theta: {"W": theta["omega.W"]})
    METHODS[method]()(begun, {"omega.W": zero})  # where learning starts
