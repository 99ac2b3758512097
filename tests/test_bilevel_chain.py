"""A chain of equilibria: its meta-gradient against autograd through the solutions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rulesearch.errors import LearnerError
from rulesearch.outer.bilevel import (
    SGD,
    Chain,
    ComplexSynapse,
    ContrastiveChain,
    Descent,
    LossProblem,
    Named,
    Newton,
)

pytestmark = pytest.mark.usefixtures("one_thread")

STAGES, PROBLEMS, FEATURES, UNITS, EXAMPLES = 3, 2, 3, 4, 5


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = drawn(STAGES, PROBLEMS, EXAMPLES, FEATURES, seed=0)
Y = drawn(STAGES, PROBLEMS, EXAMPLES, seed=1)
X_EVAL, Y_EVAL = drawn(PROBLEMS, 7, FEATURES, seed=2), drawn(PROBLEMS, 7, seed=3)


def theta() -> dict[str, Tensor]:
    """The state before the first stage, strengths, and slow weights below the readout."""
    return {
        "omega.v": drawn(PROBLEMS, UNITS, seed=4),
        "lambda.v": drawn(PROBLEMS, UNITS, seed=5).abs() + 0.2,
        "slow": drawn(PROBLEMS, UNITS, FEATURES, seed=6) / 2,
    }


def chain() -> Chain[LossProblem]:
    """Readouts of tanh units, which learn what their stage shows; all are judged together."""

    def loss(x: Tensor, y: Tensor, phi: Named, at: Named) -> Tensor:
        hidden = torch.tanh(torch.einsum("puf,pef->peu", at["slow"], x))
        answer = torch.einsum("peu,pu->pe", hidden, phi["v"])
        return (answer - y).square().mean(1) / 2

    born = {"v": torch.full((PROBLEMS, UNITS), 0.1, dtype=torch.float64)}
    stages = [
        LossProblem(
            lambda phi, at, step, x=x, y=y: loss(x, y, phi, at),
            lambda phi, at, step: loss(X_EVAL, Y_EVAL, phi, at),
            lambda at: born,
        )
        for x, y in zip(X, Y, strict=True)
    ]
    return Chain([ComplexSynapse(stage) for stage in stages])


def by_autograd(at: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """Normal equations of one stage after another, written out."""
    leaves = {name: value.clone().requires_grad_() for name, value in at.items()}
    state = leaves.get("omega.v", torch.full((PROBLEMS, UNITS), 0.1, dtype=torch.float64))
    for x, y in zip(X, Y, strict=True):
        h = torch.tanh(x @ leaves["slow"].mT)
        left = h.mT @ h / EXAMPLES + torch.diag_embed(leaves["lambda.v"])
        right = (h.mT @ y.unsqueeze(-1)).squeeze(-1) / EXAMPLES + leaves["lambda.v"] * state
        state = torch.linalg.inv(left) @ right.unsqueeze(-1)
        state = state.squeeze(-1)
    answer = torch.tanh(X_EVAL @ leaves["slow"].mT) @ state.unsqueeze(-1)
    loss = (answer.squeeze(-1) - Y_EVAL).square().mean(1) / 2
    slopes = torch.autograd.grad(loss.sum(), list(leaves.values()))
    return loss.detach(), dict(zip(leaves, slopes, strict=True)), state.detach()


@pytest.mark.parametrize("parts", [("omega.v", "lambda.v", "slow"), ("lambda.v", "slow")])
def test_the_way_back_is_a_contrast_for_each_stage(parts: tuple[str, ...]) -> None:
    at = {name: theta()[name] for name in parts}
    loss, slopes, state = by_autograd(at)
    errors = []
    for beta in (0.2, 0.1, 0.05):
        found = ContrastiveChain(Newton(), Newton(), beta)(chain(), at)
        torch.testing.assert_close(found.loss, loss)
        torch.testing.assert_close(found.phi["v"], state)
        assert found.gradient.keys() == slopes.keys()
        assert found.accepted.all()
        assert found.residual["learning"].max() < 1e-10
        if "omega.v" in parts:  # minima move by multiples of beta: nothing is left to err
            torch.testing.assert_close(found.gradient["omega.v"], slopes["omega.v"])
        errors.append(max(float((found.gradient[k] - slopes[k]).abs().max()) for k in parts))
    # Also the other derivatives are quadratic in the solution, so symmetric contrasts are exact.
    assert max(errors) < 1e-10


def test_steps_of_descent_come_to_the_same() -> None:
    _, slopes, _ = by_autograd(theta())
    phase = Descent(400, SGD(0.3))
    found = ContrastiveChain(phase, phase, 0.1)(chain(), theta())
    for name, slope in slopes.items():
        torch.testing.assert_close(found.gradient[name], slope, rtol=1e-6, atol=1e-8)
    short = ContrastiveChain(Descent(10, SGD(0.3)), Descent(10, SGD(0.3)), 0.1, tolerance=0.01)
    found = short(chain(), theta())
    assert found.residual["learning"].min() > 0.01
    assert not found.accepted.any()


def test_newton_goes_to_the_minimum_and_says_where_there_is_none() -> None:
    hessian = torch.tensor([[[2.0, 1.0], [1.0, 3.0]], [[1.0, 1.0], [1.0, 1.0]]])

    class Quadratic:
        def slope(self, phi: Named, theta: Named, beta: float, step: int) -> Named:
            return {"w": torch.einsum("pij,pj->pi", hessian, phi["w"]) - torch.tensor([1.0, 2.0])}

        def eval_loss(self, phi: Named, theta: Named) -> torch.Tensor:
            return phi["w"].square().sum(-1)

    found = Newton()(Quadratic(), {}, {"w": torch.tensor([[5.0, 6.0], [5.0, 6.0]])})  # type: ignore[arg-type]
    torch.testing.assert_close(found["w"][0], torch.tensor([0.2, 0.6]))
    assert found["w"][1].isnan().all()


def test_what_judges_is_all_examples_where_a_step_sees_some() -> None:
    """One of seven at step 0, whose slope would be of another loss."""

    def batched(inner: LossProblem) -> LossProblem:
        def evaluate(phi: Named, at: Named, step: int | None) -> Tensor:
            if step is None:
                return inner.evaluate(phi, at, None)
            hidden = torch.tanh(torch.einsum("puf,pef->peu", at["slow"], X_EVAL[:, :1]))
            answer = torch.einsum("peu,pu->pe", hidden, phi["v"])
            return (answer - Y_EVAL[:, :1]).square().mean(1) / 2

        return LossProblem(inner.learn, evaluate, inner.born)

    stages = [ComplexSynapse(batched(stage.inner)) for stage in chain().stages]
    found = ContrastiveChain(Newton(), Newton(), 0.1)(Chain(stages), theta())
    for name, slope in by_autograd(theta())[1].items():
        torch.testing.assert_close(found.gradient[name], slope)


def test_a_chain_without_stages_is_refused() -> None:
    with pytest.raises(LearnerError, match="one stage at least"):
        Chain([])
