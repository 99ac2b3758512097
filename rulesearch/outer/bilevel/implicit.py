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
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from rulesearch.outer.bilevel.convergence import BOUND, Settled, check_bound
from rulesearch.outer.bilevel.named import Named, detached, flat, gradient, leaves
from rulesearch.outer.bilevel.problem import BilevelLearner, Estimate, Smooth

__all__ = ["Implicit", "InverseHessian", "Product"]

Product = Callable[[Tensor], Tensor]
"""H v, for vectors ``(*lead, n)``."""

S = TypeVar("S", bound=Smooth)


class InverseHessian(Protocol):
    """A way to solve H v = g."""

    def __call__(self, product: Product, g: Tensor) -> Tensor:
        """Return v, ``(*lead, n)`` as g."""
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

    Raises
    ------
    ConfigError
        For a bound that is not positive.
    """

    learner: BilevelLearner[S]
    inverse: InverseHessian
    bound: float = BOUND

    def __post_init__(self) -> None:
        check_bound(self.bound)

    def __call__(self, problem: S, theta: Named) -> Estimate:
        """Learn, then solve and differentiate at the solution."""
        with torch.no_grad():
            start = problem.start(theta)
            solution = self.learner(problem, theta, start)
            settled = Settled(problem, theta, start, self.bound)(solution)
        with torch.enable_grad():
            phi, at = leaves(solution), leaves(theta)
            loss = problem.eval_loss(phi, at)
            direct = gradient(loss, at, retain_graph=True)
            g = flat(gradient(loss, phi), loss.shape)
            slope = flat(gradient(problem.learn_loss(phi, at), phi, create_graph=True), loss.shape)

            def product(v: Tensor) -> Tensor:
                return flat(gradient(slope * v, phi, retain_graph=True), loss.shape)

            v = self.inverse(product, g)
            mixed = gradient(slope * v, at)
        total = {name: direct[name] - mixed[name] for name in theta}
        return Estimate(total, loss.detach(), detached(phi), settled)
