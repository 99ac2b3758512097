"""The meta-gradient through the steps of learning, by autograd: exact, or truncated."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from rulesearch.arguments import check_kind, whole
from rulesearch.errors import ConfigError
from rulesearch.named import Named, detached, gradient, leaves
from rulesearch.outer.bilevel.convergence import BOUND, Settled, check_bound
from rulesearch.outer.bilevel.descent import Descent
from rulesearch.outer.bilevel.given import check_depends, check_given
from rulesearch.outer.bilevel.problem import Bilevel, Estimate

__all__ = ["UnrolledDescent"]


@dataclass(frozen=True)
class UnrolledDescent:
    """Backpropagates through learning (CML, section 2); memory grows with the steps recorded.

    Parameters
    ----------
    learner : Descent
        How much of it is recorded `last` says, whatever its own `tracked`.
    last : int, optional
        Truncated to so many last steps; by default all of them, and the start. The optimiser's
        memory lives through.
    bound : float
        How far learning may go astray, see :mod:`rulesearch.outer.bilevel.convergence`.

    Raises
    ------
    ConfigError
        If no step would be recorded, or more than there are; for a bound that is not positive.
    """

    learner: Descent
    last: int | None = None
    bound: float = BOUND

    def __post_init__(self) -> None:
        check_kind("learner", self.learner, Descent, "a Descent, whose steps can be followed")
        check_bound(self.bound)
        if self.last is not None and not 0 < whole("last", self.last, 0) <= self.learner.steps:
            raise ConfigError(
                f"last is a number of steps from 1 to {self.learner.steps}, not {self.last}"
            )

    @torch.enable_grad()
    def __call__(self, problem: Bilevel, theta: Named, first: int = 0) -> Estimate:
        """Learn, lose, and differentiate; ``first`` is the number of the first step."""
        check_given(problem, theta)
        at = leaves(theta)
        start = problem.start(at)
        if self.last is not None:
            start = detached(start)
        phi = replace(self.learner, tracked=self.last)(problem, at, start, first=first)
        loss = problem.eval_loss(phi, at)
        check_depends("the evaluation loss", loss, phi)
        settled = Settled(problem, theta, start, self.bound)(phi, loss)
        return Estimate(gradient(loss, at), loss.detach(), detached(phi), settled)
