r"""Learning one thing after another: a chain of equilibria, and its meta-gradient by contrast.

Of K stages each is learnt to the end by complex synapses that are drawn to what the stage before
has left (:math:`\phi^*_0 = \omega`, a meta-parameter),

.. math:: \phi^*_k = \arg\min_\phi l_k(\phi, \theta)
          + \frac{1}{2} \sum_i \lambda_i (\phi^*_{k-1, i} - \phi_i)^2,

and what is judged is the last solution. The contrastive rule holds for each stage, of the loss
:math:`\langle a_k, \phi\rangle` with :math:`a_k = dL^{\mathrm{eval}}/d\phi^*_k`, and its
derivative in the state before, :math:`\phi^*_{k-1}`, is :math:`a_{k-1}`. So the way back is a
nudged phase of each stage, from the last to the first: exact where solutions are, as
:math:`\beta \to 0`. What is kept of a lifetime is one solution a stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from rulesearch.arguments import check_kind
from rulesearch.errors import LearnerError
from rulesearch.named import Named, cloned, detached, flat
from rulesearch.outer.bilevel.contrastive import Contrastive, check_beta
from rulesearch.outer.bilevel.given import check_learner, check_named
from rulesearch.outer.bilevel.losses import LossProblem
from rulesearch.outer.bilevel.problem import Bilevel, BilevelLearner, Estimate
from rulesearch.outer.bilevel.residual import LEARNING, check_tolerance
from rulesearch.outer.bilevel.synapse import OMEGA, ComplexSynapse

__all__ = ["Chain", "ContrastiveChain"]

P = TypeVar("P", bound=Bilevel)


@dataclass(frozen=True)
class Chain(Generic[P]):
    """Stages that are learnt one after another by the same synapses.

    Parameters
    ----------
    stages : sequence of ComplexSynapse
        With the same parameters, all of them anchored. The evaluation loss is that of the last.

    Raises
    ------
    ConfigError, LearnerError
        If one of them is something else, or there are none.
    """

    stages: Sequence[ComplexSynapse[P]]

    def __post_init__(self) -> None:
        wanted = "a list of complex synapses, one a stage"
        check_kind("stages", self.stages, Sequence, wanted)
        for i, stage in enumerate(self.stages):
            wanted = "a ComplexSynapse, which goes around any problem"
            check_kind(f"stages[{i}]", stage, ComplexSynapse, wanted)
        if not self.stages:
            raise LearnerError("a chain has one stage at least")

    def live(self, learner: BilevelLearner[ComplexSynapse[P]], theta: Named) -> list[Named]:
        """Learn all stages; return what the first begins from, and each one's solution."""
        states = [self.stages[0].start(theta)]
        for stage in self.stages:
            drawn = anchored(theta, states[-1])
            states.append(learner(stage, drawn, cloned(stage.start(drawn))))
        return states


@dataclass(frozen=True)
class ContrastiveChain(Generic[P]):
    """The meta-gradient of a chain, by symmetric contrasts.

    ``omega.W`` of every parameter W, if it is among the meta-parameters, is where the chain
    begins; without it the chain begins from the first stage's own start. What judges the last
    stage is all examples where a :class:`LossProblem` is inside, and those of step 0 otherwise.

    Parameters
    ----------
    free : BilevelLearner
        Learns each stage.
    nudged : BilevelLearner
        Goes on from there, nudged either way.
    beta : float
        Nudging strength.
    tolerance : float, optional
        As :class:`Contrastive` has it.

    Raises
    ------
    ConfigError
        For a strength or tolerance that is not a positive number.
    """

    free: BilevelLearner[ComplexSynapse[P]]
    nudged: BilevelLearner[Pulled]
    beta: float
    tolerance: float | None = None

    def __post_init__(self) -> None:
        check_learner("free", self.free)
        check_learner("nudged", self.nudged)
        check_beta(self.beta)
        check_tolerance(self.tolerance)

    @torch.no_grad()
    def __call__(self, problem: Chain[P], theta: Named) -> Estimate:
        """Learn all stages, then contrast them from the last to the first."""
        check_kind("problem", problem, Chain, "a Chain of complex synapses")
        check_named("theta", theta)
        theta = detached(theta)
        states = problem.live(self.free, theta)
        last, end = problem.stages[-1], anchored(theta, states[-2])
        loss = last.eval_loss(states[-1], end)
        pull = _judged(lambda beta: _of_all(last).slope(states[-1], end, beta, 0))
        direct = _judged(lambda beta: last.partial(states[-1], end, beta))
        total = {name: direct[name] for name in theta}
        settled, residual = torch.ones_like(loss, dtype=torch.bool), torch.zeros_like(loss).double()
        for k in reversed(range(len(problem.stages))):
            known = _Known(states[k + 1], self.free.steps)
            contrast: Contrastive[Pulled] = Contrastive(
                known, self.nudged, self.beta, "symmetric", tolerance=self.tolerance
            )
            stage = Pulled(problem.stages[k], states[k + 1], pull, loss.shape)
            found = contrast(stage, anchored(theta, states[k]))
            settled = settled & found.settled
            residual = torch.maximum(residual, found.residual[LEARNING])
            for name in theta:
                if not name.startswith(OMEGA):
                    total[name] = total[name] + found.gradient[name]
            pull = {name: found.gradient[OMEGA + name] for name in pull}
        begun = {OMEGA + name: value for name, value in pull.items()}
        total = {
            name: begun.get(name, value).sum_to_size(theta[name].shape)
            for name, value in total.items()
        }
        return Estimate(total, loss, states[-1], settled, {LEARNING: residual})


@dataclass(frozen=True)
class Pulled:
    """A stage that is judged by how far a solution has moved along a vector."""

    stage: ComplexSynapse[Any]
    solution: Named
    pull: Named
    lead: torch.Size

    def start(self, theta: Named) -> Named:
        """As the stage does."""
        return self.stage.start(theta)

    def slope(self, phi: Named, theta: Named, beta: float, step: int) -> Named:
        """The stage's own, and beta times the vector."""
        own = self.stage.slope(phi, theta, 0.0, step)
        return {name: slope + beta * self.pull[name] for name, slope in own.items()}

    def partial(self, phi: Named, theta: Named, beta: float) -> Named:
        """The stage's own: the vector is fixed."""
        return self.stage.partial(phi, theta, 0.0)

    def eval_loss(self, phi: Named, theta: Named) -> Tensor:
        """Inner product of the way from the stage's solution with the vector, ``lead``."""
        away = {name: phi[name] - value for name, value in self.solution.items()}
        return (flat(away, self.lead) * flat(self.pull, self.lead)).sum(-1)


@dataclass(frozen=True)
class _Known:
    """A free phase that was run before."""

    solution: Named
    steps: int

    def __call__(
        self, problem: Bilevel, theta: Named, phi: Named, beta: float = 0.0, first: int = 0
    ) -> Named:
        return self.solution


def anchored(theta: Named, state: Named) -> dict[str, Tensor]:
    """Meta-parameters with every synapse drawn to a state."""
    return {**theta, **{OMEGA + name: value for name, value in state.items()}}


def _of_all(stage: ComplexSynapse[P]) -> ComplexSynapse[Any]:
    """A stage whose slopes are those of all examples, where losses tell it."""
    inner: Bilevel = stage.inner
    return ComplexSynapse(inner.whole, stage.fixed) if isinstance(inner, LossProblem) else stage


def _judged(derivative: Callable[[float], Named]) -> dict[str, Tensor]:
    """What of a derivative of the augmented loss, by beta, is the evaluation's."""
    whole, own = derivative(1.0), derivative(0.0)
    return {name: value - own[name] for name, value in whole.items()}
