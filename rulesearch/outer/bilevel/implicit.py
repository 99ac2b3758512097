r"""The meta-gradient by the implicit function theorem, up to how the Hessian is inverted.

.. math:: \nabla_\theta = \frac{\partial L^{\mathrm{eval}}}{\partial\theta}
          - \frac{\partial^2 L^{\mathrm{learn}}}{\partial\theta\,\partial\phi} v, \quad
          H v = \frac{\partial L^{\mathrm{eval}}}{\partial\phi}, \quad
          H = \frac{\partial^2 L^{\mathrm{learn}}}{\partial\phi^2}

at the solution, with the losses of all examples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from rulesearch.arguments import check_kind
from rulesearch.named import Named, cloned, detached, flat, gradient, leaves
from rulesearch.outer.bilevel.convergence import BOUND, Settled, check_bound
from rulesearch.outer.bilevel.given import check_depends, check_given, check_learner
from rulesearch.outer.bilevel.problem import BilevelLearner, Estimate, Smooth, learning_loss
from rulesearch.outer.bilevel.residual import LEARNING, SOLVER, check_tolerance, part_left, within

__all__ = ["Implicit", "InverseHessian", "Product", "Solution"]

Product = Callable[[Tensor], Tensor]
"""H v, for vectors ``(*lead, n)``."""

S = TypeVar("S", bound=Smooth)


class Solution(NamedTuple):
    """What a solver found.

    Attributes
    ----------
    v : Tensor (*lead, n)
    sound : Tensor ``lead`` bool
        Of which problems it has not met anything that contradicts what it relies on.
    """

    v: Tensor
    sound: Tensor


@runtime_checkable
class InverseHessian(Protocol):
    """A way to solve H v = g."""

    def __call__(self, product: Product, g: Tensor) -> Solution:
        """Return v, as large as g; a problem that is not sound is rejected."""
        ...


@dataclass(frozen=True)
class Implicit(Generic[S]):
    """Differentiates the condition that the solution satisfies, not the way to it.

    Parameters
    ----------
    learner : BilevelLearner
    inverse : InverseHessian
    bound : float
        How far learning may go astray, see :mod:`rulesearch.outer.bilevel.convergence`.
    tolerance : float, optional
        The largest residual of learning that is accepted, see
        :mod:`rulesearch.outer.bilevel.residual`; by default any.

    Raises
    ------
    ConfigError
        For a bound or tolerance that is not positive.
    """

    learner: BilevelLearner[S]
    inverse: InverseHessian
    bound: float = BOUND
    tolerance: float | None = None

    def __post_init__(self) -> None:
        check_learner("learner", self.learner)
        check_kind("inverse", self.inverse, InverseHessian, "a solver, as ConjugateGradient(10)")
        check_bound(self.bound)
        check_tolerance(self.tolerance)

    def __call__(self, problem: S, theta: Named) -> Estimate:
        """Learn, then solve and differentiate at the solution."""
        check_given(problem, theta)
        learnt = learning_loss(problem)
        with torch.no_grad():
            start = problem.start(theta)
            solution = self.learner(problem, theta, cloned(start))
            settled = Settled(problem, theta, start, self.bound)(solution)
        with torch.enable_grad():
            phi, at = leaves(solution), leaves(theta)
            loss = problem.eval_loss(phi, at)
            check_depends("the evaluation loss", loss, phi)
            direct = gradient(loss, at, retain_graph=True)
            g = flat(gradient(loss, phi), loss.shape)
            slope = flat(gradient(learnt(phi, at), phi, create_graph=True), loss.shape)

            def product(v: Tensor) -> Tensor:
                return flat(gradient(slope * v, phi, retain_graph=True), loss.shape)

            v, sound = self.inverse(product, g)
            residual = {LEARNING: part_left(slope, g), SOLVER: part_left(g - product(v), g)}
            mixed = gradient(slope * v, at)
        total = {name: direct[name] - mixed[name] for name in theta}
        settled = settled & sound & within(residual[LEARNING], self.tolerance)
        return Estimate(total, loss.detach(), detached(phi), settled, residual)
