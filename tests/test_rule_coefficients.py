"""A rule's coefficients by contrast, against the exact meta-gradients of the same rule."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from draws import generator
from torch import Tensor

from rulesearch.errors import LearnerError
from rulesearch.grammar import Term, TermPool
from rulesearch.networks import PlasticNetwork
from rulesearch.outer.bilevel import (
    SGD,
    CoefficientProblem,
    Contrastive,
    Dense,
    Descent,
    Implicit,
    UnrolledDescent,
    always,
)
from rulesearch.outer.bilevel.networks import Examples

pytestmark = pytest.mark.usefixtures("one_thread")

POOL = TermPool(
    Term.from_text(name, text)
    for name, text in (("gradient", "-e_post * y_pre.T"), ("decay", "-W"), ("held", "Omega - W"))
)
NETWORK = PlasticNetwork([4, 5, 3], activation="tanh", feedback="symmetric")
CONVEX = PlasticNetwork([4, 3], feedback="symmetric")
LIVES = 2
THETA = {"theta": torch.tensor([[0.8, 0.03, 0.02], [0.6, 0.04, 0.05]], dtype=torch.float64)}


def examples(seed: int, count: int) -> Examples:
    g = generator(seed)
    x = torch.randn(LIVES, count, 4, generator=g, dtype=torch.float64)
    teacher = torch.randn(4, 3, generator=generator(7), dtype=torch.float64)
    return Examples(x, (x @ teacher).argmax(-1))


def omega(weights: list[Tensor]) -> list[Tensor]:
    return [torch.linspace(-1, 1, w.numel(), dtype=w.dtype).view_as(w) for w in weights]


def problem(pool: TermPool = POOL, network: PlasticNetwork = NETWORK) -> CoefficientProblem:
    born = network.init([generator(10), generator(11)], torch.float64)
    born = replace(born, Omega=omega(born.W))
    return CoefficientProblem(network, pool, born, always(examples(1, 12)), always(examples(2, 9)))


def augmented(W: list[Tensor], theta: Tensor, beta: float) -> Tensor:
    """Losses, decay and distance from Omega, written out."""

    def loss(seen: Examples) -> Tensor:
        logits = torch.tanh(seen.x @ W[0].mT) @ W[1].mT
        return -logits.log_softmax(-1).gather(-1, seen.label[..., None]).mean((1, 2))

    length = sum(w.square().sum((1, 2)) for w in W) / 2
    away = sum((w - o).square().sum((1, 2)) for w, o in zip(W, omega(W), strict=True)) / 2
    held = theta[:, 1] * length + theta[:, 2] * away
    return theta[:, 0] * loss(examples(1, 12)) + held + beta * loss(examples(2, 9))


def test_the_rule_descends_its_energies() -> None:
    found, theta = problem(), THETA["theta"].clone().requires_grad_()
    phi = {k: w.requires_grad_() for k, w in found.start(THETA).items()}
    for beta in (0.0, 0.3):
        loss = augmented(list(phi.values()), theta, beta).sum()
        *slopes, of_theta = torch.autograd.grad(loss, [*phi.values(), theta])
        for slope, expected in zip(found.slope(phi, THETA, beta, 0).values(), slopes, strict=True):
            torch.testing.assert_close(slope, expected)
        torch.testing.assert_close(found.partial(phi, THETA, beta)["theta"], of_theta)
    torch.testing.assert_close(
        found.learn_loss(phi, THETA), augmented(list(phi.values()), THETA["theta"], 0.0)
    )


def test_contrasting_energies_gives_the_gradient_of_the_coefficients() -> None:
    """At the order of the scheme, where learning converges."""
    learner = Descent(200, SGD(1.0, 0.8))
    convex = problem(network=CONVEX)
    exact = Implicit(learner, Dense())(convex, THETA).gradient["theta"]
    unrolled = UnrolledDescent(learner)(convex, THETA).gradient["theta"]
    torch.testing.assert_close(unrolled, exact, rtol=1e-6, atol=1e-9)

    def error(beta: float, scheme: str) -> float:
        found = Contrastive(learner, learner, beta, scheme)(convex, THETA).gradient["theta"]
        return float((found - exact).norm() / exact.norm())

    for scheme, order in (("forward", 1), ("symmetric", 2)):
        coarse, fine = error(4e-3, scheme), error(2e-3, scheme)
        assert fine < 0.1
        assert coarse / fine == pytest.approx(2**order, rel=0.15)


def test_without_other_weights_omega_is_the_weights_at_birth() -> None:
    found = problem()
    at_birth = replace(found, born=replace(found.born, Omega=[]))
    phi = {k: w + 0.1 for k, w in found.start(THETA).items()}
    count = sum(w[0].numel() for w in phi.values())
    energy = at_birth.partial(phi, THETA, 0.0)["theta"][:, 2]
    torch.testing.assert_close(energy, torch.full((2,), 0.005 * count, dtype=torch.float64))
    pull = at_birth.slope(phi, {"theta": torch.tensor([[0.0, 0.0, 1.0]] * 2).double()}, 0.0, 0)
    for slope in pull.values():
        torch.testing.assert_close(slope, torch.full_like(slope, 0.1))


def test_what_descends_nothing_is_refused() -> None:
    oja = Term.from_text("oja", "y_post * y_pre.T - y_post * y_post.T * W")
    with pytest.raises(LearnerError, match=r"term oja: .* descends no known energy"):
        problem(TermPool([oja]))
    random = PlasticNetwork([4, 5, 3], activation="tanh", feedback="random")
    with pytest.raises(LearnerError, match=r"with random feedback errors are no gradient"):
        problem(POOL, random)
