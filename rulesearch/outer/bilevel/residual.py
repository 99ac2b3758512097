r"""What learning has left undone, in units of what the evaluation asks of it.

Both the contrast and the implicit function theorem take solutions for minima. How far they are
from that, as far as it matters to the meta-gradient, is told by the slopes that are left:

.. math:: r = \max_b \frac{\|\partial_\phi L(\hat{\phi}_b, \theta, b)\|}
                          {\|\partial_\phi L(\hat{\phi}_0, \theta, \beta)
                             - \partial_\phi L(\hat{\phi}_0, \theta, 0)\|}

over the nudging strengths b that are contrasted. The denominator is the nudge,
:math:`\beta\|\partial L^{\mathrm{eval}}/\partial\phi\|`; without nudging, that with
:math:`\beta = 1`. With r = 1 a solution is pulled as much by what it has not learnt as by what is
to be differentiated. Where the Hessian is a multiple of the identity, a weak forward nudge whose
own phase has converged errs by just r, relative to the meta-gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rulesearch.arguments import number
from rulesearch.errors import ConfigError
from rulesearch.named import Named, flat
from rulesearch.outer.bilevel.problem import Bilevel

__all__ = ["LEARNING", "SOLVER", "Nudge", "check_tolerance", "part_left", "within"]

LEARNING, SOLVER = "learning", "solver"
"""Whose residual an estimate tells: that of learning, and of solving for the inverse Hessian."""


def check_tolerance(tolerance: float | None) -> None:
    """Raise ConfigError unless the tolerance is none, or a positive number."""
    if tolerance is not None and not 0 < number(tolerance) < math.inf:
        raise ConfigError(
            f"tolerance, of learning that has not converged, must be positive, not {tolerance!r}; "
            "leave it out to accept any"
        )


def within(residual: Tensor, tolerance: float | None) -> Tensor:
    """Whose learning has converged as far as is asked, ``lead`` bool."""
    if tolerance is None:
        return torch.ones_like(residual, dtype=torch.bool)
    return residual <= tolerance


def part_left(left: Tensor, whole: Tensor) -> Tensor:
    """Norms of vectors ``(*lead, n)``, the first relative to the second; 0 of nothing left."""
    over, under = (vector.detach().double().norm(dim=-1) for vector in (left, whole))
    return torch.where(over == 0, 0.0, over / under)


class Nudge:
    """What a nudge asks of the free solution, by which slopes are measured.

    Parameters
    ----------
    problem : Bilevel
    theta, free : Named
    beta : float
    step : int
        Which follows the free phase.
    lead : Size
    """

    @torch.no_grad()
    def __init__(
        self, problem: Bilevel, theta: Named, free: Named, beta: float, step: int, lead: torch.Size
    ) -> None:
        self.problem, self.theta, self.lead = problem, theta, lead
        self._asked = self._slope(free, beta, step) - self._slope(free, 0.0, step)

    @torch.no_grad()
    def residual(self, phi: Named, beta: float, step: int) -> Tensor:
        """Relative size of the slope that a solution is left with, ``lead``."""
        return part_left(self._slope(phi, beta, step), self._asked)

    def _slope(self, phi: Named, beta: float, step: int) -> Tensor:
        return flat(self.problem.slope(phi, self.theta, beta, step), self.lead)
