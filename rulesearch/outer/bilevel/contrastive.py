r"""The contrastive meta-gradient: learn, learn again nudged, and compare.

.. math:: \nabla_\theta \approx \frac{1}{\beta} \left(
          \frac{\partial L}{\partial\theta}(\hat{\phi}_\beta, \theta, \beta)
          - \frac{\partial L}{\partial\theta}(\hat{\phi}_0, \theta, 0) \right)

(CML, Eq. 5). By the equilibrium propagation theorem the total derivative of
:math:`L(\phi^*_\beta, \theta, \beta)` in :math:`\theta` is its partial one, d, and the
meta-gradient is :math:`\partial d / \partial\beta` at 0: what is left is to differentiate a
function of one number by finite differences. No second derivative is taken, and nothing is
kept of how the solutions were reached.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from rulesearch.arguments import check_choice, check_kind, number
from rulesearch.errors import ConfigError
from rulesearch.named import Named, cloned, detached
from rulesearch.outer.bilevel.convergence import BOUND, Settled, check_bound
from rulesearch.outer.bilevel.given import check_given, check_learner, check_names
from rulesearch.outer.bilevel.problem import Bilevel, BilevelLearner, Estimate
from rulesearch.outer.bilevel.residual import LEARNING, Nudge, check_tolerance, within

__all__ = ["SCHEMES", "Contrastive", "check_beta"]

SCHEMES: Mapping[str, Mapping[int, float]] = {
    "forward": {0: -1.0, 1: 1.0},
    "symmetric": {-1: -0.5, 1: 0.5},
    "three-point": {0: -1.5, 1: 2.0, 2: -0.5},
}
"""Weights of partial derivatives at multiples of beta; exact for polynomials in beta of degree
1, 2 and 2, so that errors are O(beta), O(beta^2) and O(beta^2)."""

P = TypeVar("P", bound=Bilevel)


def check_beta(beta: float) -> None:
    """Raise ConfigError unless the nudging strength is a positive number."""
    if isinstance(beta, bool) or not 0 < number(beta) < math.inf:
        raise ConfigError(f"beta, the nudging strength, must be positive, not {beta!r}")


@dataclass(frozen=True)
class Contrastive(Generic[P]):
    """Contrasts a free solution and nudged ones.

    Parameters
    ----------
    free : BilevelLearner
        Learns undisturbed, from the problem's start.
    nudged : BilevelLearner
        Goes on from the free solution with the learning loss and beta times the evaluation loss.
    beta : float
        Nudging strength, above zero.
    scheme : {'forward', 'symmetric', 'three-point'}
        See :data:`SCHEMES`.
    continued : bool
        Whether the solution at beta = 0 is the free one after a nudged phase of strength 0. It
        costs another phase, and cancels how far a free phase that has not converged would have
        gone on. Symmetric contrasts, which have no solution at beta = 0, do so anyway.
    bound : float
        How far a phase may go astray, see :mod:`rulesearch.outer.bilevel.convergence`.
    tolerance : float, optional
        The largest residual of learning that is accepted, see
        :mod:`rulesearch.outer.bilevel.residual`; by default any.

    Raises
    ------
    ConfigError
        For a strength, bound or tolerance that is not a positive number, or an unknown scheme.
    """

    free: BilevelLearner[P]
    nudged: BilevelLearner[P]
    beta: float
    scheme: str = "forward"
    continued: bool = False
    bound: float = BOUND
    tolerance: float | None = None

    def __post_init__(self) -> None:
        check_learner("free", self.free)
        check_learner("nudged", self.nudged)
        check_beta(self.beta)
        check_kind("continued", self.continued, bool, "True or False")
        check_bound(self.bound)
        check_tolerance(self.tolerance)
        check_choice("scheme", self.scheme, SCHEMES)

    @torch.no_grad()
    def __call__(self, problem: P, theta: Named) -> Estimate:
        """Learn once free and once for each strength of the scheme."""
        check_given(problem, theta)
        theta = detached(theta)
        start = problem.start(theta)
        watch = Settled(problem, theta, start, self.bound)
        free = self.free(problem, theta, cloned(start))
        loss = problem.eval_loss(free, theta)
        settled = watch(free, loss)
        nudge = Nudge(problem, theta, free, self.beta, self.free.steps, loss.shape)
        residual = torch.zeros_like(loss, dtype=torch.float64)
        total: dict[str, Tensor] = {name: torch.zeros_like(t) for name, t in theta.items()}
        for multiple, weight in SCHEMES[self.scheme].items():
            beta, phi, step = multiple * self.beta, free, self.free.steps
            if multiple or self.continued:
                phi = self.nudged(problem, theta, cloned(free), beta, step)
                step += self.nudged.steps
                settled = settled & watch(phi, beta=beta)
            residual = torch.maximum(residual, nudge.residual(phi, beta, step))
            partial = problem.partial(phi, theta, beta)
            check_names("what the problem's partial returns", partial, theta)
            for name, slope in partial.items():
                total[name] += weight / self.beta * slope
        settled = settled & within(residual, self.tolerance)
        return Estimate(total, loss, free, settled, {LEARNING: residual})
