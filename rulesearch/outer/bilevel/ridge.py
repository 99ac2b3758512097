r"""Ridge regression with a complex synapse for each weight: everything known in closed form.

.. math:: L^{\mathrm{learn}} = \frac{1}{2n} \|X\phi - y\|^2
          + \frac{1}{2} \sum_i \lambda_i (\omega_i - \phi_i)^2, \quad
          L^{\mathrm{eval}} = \frac{1}{2n'} \|X'\phi - y'\|^2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rulesearch.arguments import check_kind, real, whole
from rulesearch.errors import LearnerError
from rulesearch.named import Named
from rulesearch.outer.bilevel.given import check_given
from rulesearch.outer.bilevel.problem import Estimate
from rulesearch.outer.bilevel.synapse import LAMBDA, LOG_LAMBDA, OMEGA, ComplexSynapse
from rulesearch.torch_arguments import check_floating

__all__ = ["LeastSquares", "Ridge", "RidgeSolution", "draw_ridge", "exact_ridge_gradient"]

W = "W"


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """Linear regression with the parameter W ``(problems, n_in)``, and no meta-parameters.

    Parameters
    ----------
    x, x_eval : Tensor (problems, examples, n_in)
    y, y_eval : Tensor (problems, examples)

    Raises
    ------
    LearnerError
        If shapes do not fit.
    """

    x: Tensor
    y: Tensor
    x_eval: Tensor
    y_eval: Tensor

    def __post_init__(self) -> None:
        for name in ("x", "y", "x_eval", "y_eval"):
            check_kind(name, getattr(self, name), Tensor, "a torch tensor", LearnerError)
        for x, y in ((self.x, self.y), (self.x_eval, self.y_eval)):
            if x.ndim != 3 or x.shape[:2] != y.shape or x.shape[::2] != self.x.shape[::2]:
                raise LearnerError(
                    "x is (problems, examples, n_in) and y (problems, examples), not "
                    f"{tuple(x.shape)} and {tuple(y.shape)}"
                )

    @classmethod
    def side_by_side(cls, parts: Sequence[LeastSquares]) -> LeastSquares:
        """Join problems of the same shape."""
        tensors = [(p.x, p.y, p.x_eval, p.y_eval) for p in parts]
        return cls(*(torch.cat(same) for same in zip(*tensors, strict=True)))

    def to(self, device: torch.device | str) -> LeastSquares:
        """Return the same problems on a device."""
        return LeastSquares(*(t.to(device) for t in (self.x, self.y, self.x_eval, self.y_eval)))

    def start(self, theta: Named) -> Named:
        """Zero."""
        return {W: self.x.new_zeros(self.x.shape[0], self.x.shape[2])}

    def slope(self, phi: Named, theta: Named, beta: float, step: int) -> Named:
        """Of the squares, in closed form."""
        hessian, target = self.normal_equations(beta)
        return {W: _times(hessian, phi[W]) - target}

    def partial(self, phi: Named, theta: Named, beta: float) -> Named:
        """Nothing depends on meta-parameters."""
        return {name: torch.zeros_like(t) for name, t in theta.items()}

    def learn_loss(self, phi: Named, theta: Named) -> Tensor:
        """Half the mean square on the examples learnt, ``(problems,)``."""
        return ((_times(self.x, phi[W]) - self.y) ** 2).mean(-1) / 2

    def eval_loss(self, phi: Named, theta: Named) -> Tensor:
        """Half the mean square on the other examples, ``(problems,)``."""
        return ((_times(self.x_eval, phi[W]) - self.y_eval) ** 2).mean(-1) / 2

    def normal_equations(self, beta: float) -> tuple[Tensor, Tensor]:
        """Matrix and right side of what the augmented loss without anchors requires of W."""
        learn, judged = self.moments
        return learn[0] + beta * judged[0], learn[1] + beta * judged[1]

    @cached_property
    def moments(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """``X^T X / n`` and ``X^T y / n`` of the examples learnt, and of those evaluated."""

        def moments(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return x.mT @ x / x.shape[1], _times(x.mT, y) / x.shape[1]

        return moments(self.x, self.y), moments(self.x_eval, self.y_eval)


Ridge = ComplexSynapse[LeastSquares]
"""Least squares whose W is anchored."""


@dataclass(frozen=True)
class RidgeSolution:
    """A learner that knows the answer: it takes no steps, and makes no error."""

    steps: int = 0

    def __call__(
        self, problem: Ridge, theta: Named, phi: Named, beta: float = 0.0, first: int = 0
    ) -> Named:
        """Return the solution of the augmented problem."""
        hessian, target = _anchored(problem, theta, phi, beta)
        return {W: torch.linalg.solve(hessian, target.unsqueeze(-1)).squeeze(-1)}


def exact_ridge_gradient(problem: Ridge, theta: Named) -> Estimate:
    r"""The meta-gradient by the formula.

    .. math:: H v = \frac{\partial L^{\mathrm{eval}}}{\partial\phi}, \quad
              \nabla_\omega = \lambda v, \quad \nabla_\lambda = (\omega - \phi^*) v
    """
    check_given(problem, theta)
    phi = RidgeSolution()(problem, theta, problem.start(theta))
    hessian, _ = _anchored(problem, theta, phi, 0.0)
    judged, wanted = problem.inner.moments[1]
    g = _times(judged, phi[W]) - wanted
    v = torch.linalg.solve(hessian, g.unsqueeze(-1)).squeeze(-1)
    anchors = [anchor for _, anchor in problem.anchors(phi, theta)]
    if not anchors:
        raise LearnerError(f"{LAMBDA}{W} is missing: the formula is of a ridge that is anchored")
    ((omega, strength),) = anchors
    away = omega - phi[W]
    known = {
        OMEGA + W: strength * v,
        LAMBDA + W: away * v,
        LOG_LAMBDA + W: strength * away * v,
    }
    gradient = {name: known[name].sum_to_size(t.shape) for name, t in theta.items()}
    loss = problem.eval_loss(phi, theta)
    return Estimate(gradient, loss, phi, torch.ones_like(loss, dtype=torch.bool))


def draw_ridge(
    problems: int,
    n_in: int,
    examples: int,
    generator: torch.Generator,
    noise: float = 0.5,
    dtype: torch.dtype = torch.float64,
) -> Ridge:
    """Draw problems with a teacher each: normal inputs, weights of norm 1, noisy targets.

    Parameters
    ----------
    examples : int
        To learn from, and as many to evaluate on.
    noise : float
        Standard deviation of the targets around the teacher's.

    Raises
    ------
    ConfigError
        For less than one problem, input or example, or what is no generator, number or type.
    """
    for name, count in (("problems", problems), ("n_in", n_in), ("examples", examples)):
        whole(name, count, least=1)
    check_kind("generator", generator, torch.Generator, "a torch.Generator")
    real("noise", noise)
    check_floating(dtype)

    def draw(*shape: int) -> Tensor:
        return torch.randn(problems, *shape, generator=generator, dtype=dtype)

    teacher = torch.nn.functional.normalize(draw(n_in), dim=-1)
    x, x_eval = draw(examples, n_in), draw(examples, n_in)
    y, y_eval = (_times(each, teacher) + noise * draw(examples) for each in (x, x_eval))
    return ComplexSynapse(LeastSquares(x, y, x_eval, y_eval))


def _anchored(problem: Ridge, theta: Named, phi: Named, beta: float) -> tuple[Tensor, Tensor]:
    hessian, target = problem.inner.normal_equations(beta)
    for _, (omega, strength) in problem.anchors(phi, theta):
        hessian = hessian + torch.diag_embed(strength.expand_as(target))
        target = target + strength * omega
    return hessian, target


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)
