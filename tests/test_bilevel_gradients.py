"""Every meta-gradient against the exact one of ridge regression, and that against differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from draws import generator
from torch import Tensor

from rulesearch.errors import ConfigError, LearnerError
from rulesearch.outer.bilevel import (
    SGD,
    Adam,
    BilevelGradient,
    ComplexSynapse,
    ConjugateGradient,
    Contrastive,
    Dense,
    Descent,
    Estimate,
    Evolution,
    Identity,
    Implicit,
    Neumann,
    Ridge,
    RidgeSolution,
    UnrolledDescent,
    best_beta,
    draw_ridge,
    error_bound,
    exact_ridge_gradient,
)

pytestmark = pytest.mark.usefixtures("one_thread")

EXACT = RidgeSolution()
FEATURES = 6


@pytest.fixture(scope="module")
def ridge() -> Ridge:
    return draw_ridge(3, FEATURES, 20, generator())


def thetas(strength: str = "log_lambda.W") -> dict[str, Tensor]:
    """Anchors, and strengths about 0.4, all different."""
    omega, log = torch.randn(2, 3, FEATURES, generator=generator(1), dtype=torch.float64)
    log = log - 1
    return {"omega.W": omega, strength: log if strength.startswith("log") else log.exp()}


def error(found: Estimate, exact: Estimate) -> float:
    """Largest deviation relative to the largest derivative."""
    assert found.gradient.keys() == exact.gradient.keys()
    size = max(float(t.abs().max()) for t in exact.gradient.values())
    return max(float((t - exact.gradient[k]).abs().max()) for k, t in found.gradient.items()) / size


# -- the oracle --


@pytest.mark.parametrize("strength", ["lambda.W", "log_lambda.W"])
def test_the_exact_gradient_is_that_of_finite_differences(ridge: Ridge, strength: str) -> None:
    theta, h = thetas(strength), 1e-5

    def loss(moved: dict[str, Tensor]) -> Tensor:
        """Ridge by its normal equations, written out."""
        task, omega = ridge.inner, moved["omega.W"]
        lam = moved[strength].exp() if strength.startswith("log") else moved[strength]
        losses = []
        for p in range(3):
            a = task.x[p].T @ task.x[p] / 20 + torch.diag(lam[p])
            b = task.x[p].T @ task.y[p] / 20 + lam[p] * omega[p]
            residual = task.x_eval[p] @ torch.linalg.inv(a) @ b - task.y_eval[p]
            losses.append((residual**2).sum() / 40)
        return torch.stack(losses)

    exact = exact_ridge_gradient(ridge, theta)
    torch.testing.assert_close(exact.loss, loss(theta))
    for name, value in theta.items():
        for i in range(FEATURES):
            nudge = torch.zeros_like(value)
            nudge[:, i] = h
            higher, lower = (loss({**theta, name: value + s * nudge}) for s in (1, -1))
            torch.testing.assert_close(
                exact.gradient[name][:, i], (higher - lower) / (2 * h), rtol=1e-7, atol=1e-9
            )


@pytest.mark.parametrize("strength", ["lambda.W", "log_lambda.W"])
@pytest.mark.parametrize(
    "gradient",
    [
        Implicit(EXACT, Dense()),
        Implicit(EXACT, ConjugateGradient(FEATURES)),
        Implicit(EXACT, Neumann(400, 0.3)),
        UnrolledDescent(Descent(400, SGD(0.3))),
        UnrolledDescent(Descent(400, SGD(0.1, momentum=0.9, nesterov=True))),
        UnrolledDescent(Descent(400, SGD(0.3)), last=200),
    ],
    ids=lambda g: f"{type(g).__name__}-{type(getattr(g, 'inverse', g.learner)).__name__}",
)
def test_what_is_exact_in_the_limit_is_exact(
    ridge: Ridge, strength: str, gradient: BilevelGradient[Any]
) -> None:
    theta = thetas(strength)
    exact = exact_ridge_gradient(ridge, theta)
    found = gradient(ridge, theta)
    assert error(found, exact) < 1e-9
    torch.testing.assert_close(found.loss, exact.loss, rtol=1e-10, atol=0)
    torch.testing.assert_close(found.phi["W"], exact.phi["W"], rtol=0, atol=1e-10)
    assert not any(t.requires_grad for t in (*found.gradient.values(), *found.phi.values()))


# -- how errors go to zero --


def halvings(errors: list[float]) -> list[float]:
    """Observed orders of accuracy."""
    return [math.log2(a / b) for a, b in pairwise(errors)]


@pytest.mark.parametrize(
    ("scheme", "order"), [("forward", 1), ("symmetric", 2), ("three-point", 2)]
)
def test_the_orders_of_the_contrastive_schemes(ridge: Ridge, scheme: str, order: int) -> None:
    theta = thetas()
    exact = exact_ridge_gradient(ridge, theta)
    errors = [
        error(Contrastive(EXACT, EXACT, 0.02 / 2**k, scheme)(ridge, theta), exact) for k in range(4)
    ]
    assert halvings(errors) == pytest.approx([order] * 3, abs=0.1)
    assert errors[-1] < (0.02 if order == 1 else 2e-4)


def test_the_contrastive_errors_are_those_of_the_taylor_series() -> None:
    """One weight: phi = (b + beta b' + lambda omega) / (a + beta a' + lambda) by hand.

    The derivative of L in omega is then lambda (omega - phi(beta)), a function of beta whose
    second and third derivatives are known.
    """
    ridge = draw_ridge(1, 1, 10, generator(5))
    (a, b), (a_, b_) = (tuple(float(t) for t in pair) for pair in ridge.inner.moments)
    lam, omega = 0.7, -0.3
    theta = {
        "omega.W": torch.full((1, 1), omega, dtype=torch.float64),
        "lambda.W": torch.full((1, 1), lam, dtype=torch.float64),
    }
    h, top = a + lam, b + lam * omega
    first = lam * (a_ * top - b_ * h) / h**2  # d/dbeta of lambda (omega - phi)
    second, third = -2 * a_ / h * first, 6 * (a_ / h) ** 2 * first
    beta = 1e-3
    expected = {
        "forward": second * beta / 2,
        "symmetric": third * beta**2 / 6,
        "three-point": -third * beta**2 / 3,
    }
    for scheme, bias in expected.items():
        found = Contrastive(EXACT, EXACT, beta, scheme)(ridge, theta).gradient["omega.W"]
        assert float(found) - first == pytest.approx(bias, rel=0.01)


def test_a_nudged_phase_goes_on_from_the_free_solution(ridge: Ridge) -> None:
    """By hand: Eq. 7 with plain gradient descent, which moves both phases."""
    theta, beta, rate = thetas("lambda.W"), 0.3, 0.1
    omega, lam, task = theta["omega.W"], theta["lambda.W"], ridge.inner

    def descend(phi: Tensor, beta: float, steps: int) -> Tensor:
        for _ in range(steps):
            slope = torch.zeros_like(phi)
            for x, y, weight in ((task.x, task.y, 1.0), (task.x_eval, task.y_eval, beta)):
                residual = torch.einsum("pei,pi->pe", x, phi) - y
                slope += weight * torch.einsum("pei,pe->pi", x, residual) / 20
            phi = phi - rate * (slope + lam * (phi - omega))
        return phi

    free = descend(omega, 0.0, 7)
    nudged = descend(free, beta, 4)
    learners = Descent(7, SGD(rate)), Descent(4, SGD(rate))
    found = Contrastive(*learners, beta)(ridge, theta)
    torch.testing.assert_close(found.phi["W"], free)
    torch.testing.assert_close(found.gradient["omega.W"], -lam / beta * (nudged - free))
    squares = (nudged - omega) ** 2 - (free - omega) ** 2
    torch.testing.assert_close(found.gradient["lambda.W"], squares / (2 * beta))
    # A reference that also goes on, but is not nudged.
    onward = descend(free, 0.0, 4)
    found = Contrastive(*learners, beta, continued=True)(ridge, theta)
    torch.testing.assert_close(found.gradient["omega.W"], -lam / beta * (nudged - onward))


@pytest.mark.parametrize("scheme", ["forward", "symmetric"])
def test_contrastive_errors_vanish_as_learning_is_refined(ridge: Ridge, scheme: str) -> None:
    """With beta fixed the error goes to that of exact solutions, geometrically in the steps."""
    theta, beta = thetas(), 1e-3
    limit = Contrastive(EXACT, EXACT, beta, scheme)(ridge, theta)
    errors = []
    for steps in (50, 100, 150):
        learner = Descent(steps, SGD(0.3))
        errors.append(error(Contrastive(learner, learner, beta, scheme)(ridge, theta), limit))
    hessian = ridge.inner.normal_equations(0.0)[0] + torch.diag_embed(
        thetas()["log_lambda.W"].exp()
    )
    slowest = 1 - 0.3 * float(torch.linalg.eigvalsh(hessian).min())
    for before, after in pairwise(errors):
        assert math.log(after / before) / 50 == pytest.approx(math.log(slowest), rel=0.1)


def test_truncation_errs_by_what_came_before_the_window(ridge: Ridge) -> None:
    """At the solution the last k steps are the first k terms of the Neumann series."""
    theta, rate, last = thetas("lambda.W"), 0.3, 12
    truncated = UnrolledDescent(Descent(600, SGD(rate)), last)(ridge, theta)
    series = Implicit(EXACT, Neumann(last - 1, rate))(ridge, theta)
    assert error(truncated, series) < 1e-9
    assert error(truncated, exact_ridge_gradient(ridge, theta)) > 1e-3


def test_t1_t2_is_exact_where_the_hessian_is_the_identity() -> None:
    ridge = draw_ridge(2, 4, 8, generator(2))
    x, y = torch.eye(4, dtype=torch.float64).expand(2, 4, 4), ridge.inner.y[:, :4]
    task = type(ridge.inner)(x, y, ridge.inner.x_eval, ridge.inner.y_eval)
    theta = {"omega.W": torch.zeros(2, 4, dtype=torch.float64)}
    same = ComplexSynapse(task, {"lambda.W": torch.full((2, 4), 0.5, dtype=torch.float64)})
    exact = exact_ridge_gradient(same, theta)  # H = X^T X / 4 + lambda = 3/4
    assert error(Implicit(EXACT, Identity(4 / 3))(same, theta), exact) < 1e-12
    assert error(Implicit(EXACT, Identity())(same, theta), exact) == pytest.approx(1 / 4)


def test_conjugate_gradient_halts_where_it_is_done(ridge: Ridge) -> None:
    """Problems finish at different iterations, one of them at once; none turns into 0 / 0."""
    matrices = torch.stack([torch.eye(3), torch.diag(torch.tensor([1.0, 2.0, 5.0])), torch.eye(3)])
    g = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    v, sound = ConjugateGradient(20)(lambda d: (matrices @ d.unsqueeze(-1)).squeeze(-1), g)
    assert sound.all()
    expected = torch.tensor([[1.0, 2.0, 3.0], [1.0, 0.5, 0.2], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(v, expected)


def test_evolution_approaches_the_gradient_as_pairs_grow(ridge: Ridge) -> None:
    """Its standard error is known for a loss that is nearly linear over the perturbations."""
    theta = thetas("lambda.W")
    exact = exact_ridge_gradient(ridge, theta)
    flat = torch.cat(list(exact.gradient.values()), -1)
    for pairs in (50, 800):
        found = Evolution(EXACT, pairs, 1e-3, generator(3))(ridge, theta)
        deviation = torch.cat([found.gradient[k] for k in exact.gradient], -1) - flat
        # Var of eps_i (eps . g) is |g|^2 + g_i^2, over the number of pairs.
        variance = ((flat**2).sum(-1, keepdim=True) + flat**2) / pairs
        assert float((deviation**2 / variance).mean()) == pytest.approx(1, abs=0.6)


# -- the theorem --


def test_the_bound_and_where_it_is_least() -> None:
    assert error_bound(0.01, 1.0) == pytest.approx(0.02 + 0.5)
    for delta in (1e-6, 1e-3, 0.2):
        beta = best_beta(delta)
        assert error_bound(delta, beta) == pytest.approx(2 * math.sqrt(delta))
        assert error_bound(delta, beta * 1.1) > error_bound(delta, beta)
        assert error_bound(delta, beta / 1.1) > error_bound(delta, beta)
    assert best_beta(1.0) == math.inf
    with pytest.raises(ConfigError, match="beta must be positive"):
        error_bound(0.1, 0.0)


class _Erring:
    """Solutions that are off by delta in a direction of their own."""

    steps = 0

    def __init__(self, delta: float) -> None:
        self.delta = delta

    def __call__(
        self, problem: Ridge, theta: Any, phi: Any, beta: float = 0.0, first: int = 0
    ) -> dict[str, Tensor]:
        w = EXACT(problem, theta, phi, beta)["W"]
        away = torch.where(torch.tensor(beta != 0.0), 1.0, -1.0) * torch.ones_like(w)
        return {"W": w + self.delta * away / away.norm(dim=-1, keepdim=True)}


@pytest.mark.parametrize("delta", [1e-4, 1e-6])
def test_the_theorem_on_ridge(ridge: Ridge, delta: float) -> None:
    """The error stays below the bound, with a constant from smoothness, and is least near it."""
    theta = thetas("lambda.W")
    exact = exact_ridge_gradient(ridge, theta)
    size = max(float(t.abs().max()) for t in exact.gradient.values())
    betas = torch.logspace(-5, 0, 26).tolist()

    def errors(learner: Any) -> list[float]:
        return [error(Contrastive(learner, learner, b)(ridge, theta), exact) for b in betas]

    # How fast the partial derivatives change with phi, and how far exact solutions are off.
    away = float((theta["omega.W"] - exact.phi["W"]).abs().max()) + 1  # phi moves by less than 1
    lipschitz = max(float(theta["lambda.W"].max()), away)
    bias = max(e * (1 + b) / b for e, b in zip(errors(EXACT), betas, strict=True))
    constant = max(2 * lipschitz / size, bias)
    found = errors(_Erring(delta))
    for e, b in zip(found, betas, strict=True):
        assert e <= constant * error_bound(delta, b)
    assert max(e / error_bound(delta, b) for e, b in zip(found, betas, strict=True)) > constant / 20
    assert 0.1 < betas[found.index(min(found))] / best_beta(delta) < 10


# -- mistakes --


@pytest.mark.parametrize("beta", [0.0, -0.1, math.nan, math.inf])
def test_a_strength_that_nudges_nothing_is_refused(beta: float) -> None:
    with pytest.raises(ConfigError, match="nudging strength, must be positive"):
        Contrastive(EXACT, EXACT, beta)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Contrastive(EXACT, EXACT, 0.1, "foward"), "did you mean 'forward'"),
        (lambda: SGD(0.0), "rate must be a positive number"),
        (lambda: SGD(0.1, momentum=1.0), "momentum"),
        (lambda: Adam(-1.0), "rate"),
        (lambda: Descent(-1), "steps must be at least 0"),
        (lambda: UnrolledDescent(Descent(5), 6), "from 1 to 5"),
        (lambda: ConjugateGradient(0), "iterations"),
        (lambda: Neumann(3, 0.0), "alpha"),
        (lambda: Evolution(EXACT, 0, 0.1, generator()), "pairs"),
    ],
)
def test_settings_that_make_no_sense(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1])
def test_strengths_must_be_finite(ridge: Ridge, bad: float) -> None:
    theta = thetas("lambda.W")
    theta["lambda.W"][1, 2] = bad
    with pytest.raises(LearnerError, match=r"lambda\.W: strengths must be finite"):
        Contrastive(EXACT, EXACT, 0.1)(ridge, theta)


def test_a_problem_that_diverges_is_told_from_the_others(ridge: Ridge) -> None:
    theta = thetas("lambda.W")
    theta["lambda.W"][1] = 1e6  # its curvature is too large for the rate
    learner = Descent(200, SGD(0.3))
    found = Contrastive(learner, learner, 0.1)(ridge, theta)
    assert found.accepted.tolist() == [True, False, True]
