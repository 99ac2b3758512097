"""Spiking networks that learn a task, as a bilevel problem; and unrolling a window of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from rulesearch.arguments import check_kind, whole
from rulesearch.learners.bptt import BPTT
from rulesearch.learners.eprop import EProp
from rulesearch.outer.bilevel import Bilevel, Descent, Estimate, Named, UnrolledDescent
from rulesearch.outer.bilevel.convergence import BOUND, Settled
from rulesearch.tasks.spiking_sines import SpikingExamples, SpikingTasks

__all__ = ["LastWindow", "SpikingProblem"]


@dataclass(frozen=True)
class SpikingProblem:
    """Tasks side by side, learnt by e-prop or BPTT; theta are the weights at the start.

    A nudge is the same learning rule on the examples of the evaluation, times beta, without what
    the rule does about firing rates. What is judged is the mean squared error of the answers.

    Parameters
    ----------
    learner : EProp or BPTT
    tasks : SpikingTasks
    batch : int, optional
        Examples of a step, taken in turn; by default all.

    Raises
    ------
    ConfigError
        If one of them is of another kind.
    """

    learner: EProp | BPTT
    tasks: SpikingTasks
    batch: int | None = None

    def __post_init__(self) -> None:
        check_kind("learner", self.learner, (EProp, BPTT), "EProp or BPTT of a network")
        check_kind("tasks", self.tasks, SpikingTasks, "SpikingTasks, as of SpikingSines().sample()")
        if self.batch is not None:
            whole("batch", self.batch, least=1)

    def start(self, theta: Named) -> Named:
        """Weights among the meta-parameters; others are zero, for what goes around to replace."""
        x = self.tasks.learn.x
        return {
            name: theta[name] if name in theta else x.new_zeros(len(x), *shape)
            for name, shape in self.learner.network.shapes.items()
        }

    def slope(self, phi: Named, theta: Named, beta: float, step: int) -> Named:
        """What the learner descends, on the examples of the step; and beta times the judged."""
        slope = self.learner(phi, *self._examples(step))
        if beta == 0:
            return slope
        judged = self._undisturbed(phi, *self.tasks.evaluate)
        return {name: s + beta * judged[name] for name, s in slope.items()}

    def partial(self, phi: Named, theta: Named, beta: float) -> Named:
        """Zero: a loss depends on the start by what was learnt alone."""
        return {name: torch.zeros_like(t) for name, t in theta.items()}

    def eval_loss(self, phi: Named, theta: Named) -> Tensor:
        """Mean squared error on the evaluation's examples, ``(lifetimes,)``."""
        x, target = self.tasks.evaluate
        answer = self.learner.network(phi, x).answer
        return (answer - target).square().mean((1, 2))

    @cached_property
    def _undisturbed(self) -> EProp | BPTT:
        return replace(self.learner, rate_strength=0.0)

    def _examples(self, step: int) -> SpikingExamples:
        x, target = self.tasks.learn
        if self.batch is None:
            return self.tasks.learn
        n = target.shape[1]
        turn = (step * self.batch + torch.arange(self.batch, device=x.device)) % n
        return SpikingExamples(x[:, :, turn], target[:, turn])


@dataclass(frozen=True)
class LastWindow:
    """Truncated unrolling whose gradient at the window's start is taken for that at the first.

    For problems whose meta-parameters are where learning starts, and which exact truncation
    would leave without a gradient. The optimiser begins anew with the window.

    Parameters
    ----------
    before : Descent
        Not differentiated.
    window : Descent
        Differentiated, all of it.
    """

    before: Descent
    window: Descent

    def __call__(self, problem: Bilevel, theta: Named) -> Estimate:
        """Learn, and differentiate the window."""
        with torch.no_grad():
            start = problem.start(theta)
            phi = self.before(problem, theta, start)
        found = UnrolledDescent(self.window)(problem, phi, self.before.steps)
        return replace(found, settled=Settled(problem, theta, start, BOUND)(found.phi, found.loss))
