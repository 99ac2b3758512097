"""Spiking networks that learn a task, as a bilevel problem; and unrolling a window of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from rulesearch.arguments import check_kind, naming, whole
from rulesearch.errors import ConfigError, LearnerError, did_you_mean
from rulesearch.learners.bptt import BPTT
from rulesearch.learners.eprop import EProp
from rulesearch.named import cloned
from rulesearch.outer.bilevel import Bilevel, Descent, Estimate, Named, UnrolledDescent
from rulesearch.outer.bilevel.convergence import BOUND, Settled
from rulesearch.outer.bilevel.given import check_given, check_learner, check_named
from rulesearch.outer.bilevel.synapse import KINDS, OMEGA, check_fits
from rulesearch.tasks.spiking_sines import SpikingExamples, SpikingTasks

__all__ = ["LastWindow", "SpikingProblem"]


@dataclass(frozen=True)
class SpikingProblem:
    """Tasks side by side, learnt by e-prop or BPTT; theta are weights at the start.

    A complex synapse around it has others (``omega.W_in``, ``lambda.W_in``, ...).

    A nudge is the same learning rule on the examples of the evaluation, times beta, without what
    the rule does about firing rates. What is judged is the mean squared error of the answers.

    Parameters
    ----------
    learner : EProp or BPTT
    tasks : SpikingTasks
    batch : int, optional
        Examples of a step, taken in turn; by default all.
    born : mapping, optional
        Weights at birth, ``(lifetimes, n_post, n_pre)``, of those that are not among the
        meta-parameters.

    Raises
    ------
    ConfigError
        If one of them is of another kind, or a batch has more examples than there are.
    LearnerError
        If there is not a target for each example and output, or a weight at birth is none of the
        network's, or of another shape; at the start of learning, if a weight is neither a
        meta-parameter nor born, or a meta-parameter is of none.
    """

    learner: EProp | BPTT
    tasks: SpikingTasks
    batch: int | None = None
    born: Named = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_kind("learner", self.learner, (EProp, BPTT), "EProp or BPTT of a network")
        check_kind("tasks", self.tasks, SpikingTasks, "SpikingTasks, as of SpikingSines().sample()")
        for part, (x, target) in self.tasks._asdict().items():
            with naming(f"tasks.{part}:"):
                self.learner.network.check_target(x, target)
        examples = self.tasks.learn.target.shape[1]
        if self.batch is not None and whole("batch", self.batch, least=1) > examples:
            raise ConfigError(f"batch is {self.batch}, of {examples} examples: give no more")
        check_named("born", self.born)
        self._check_names("born", self.born)
        for name, value in self.born.items():
            self._check_shape(f"born[{name!r}]", name, value)

    def start(self, theta: Named) -> Named:
        """Weights among the meta-parameters, or omega of a synapse around; others are born so."""
        self._check_names("theta", theta, ("", OMEGA))
        x, found = self.tasks.learn.x, {}
        for name, shape in self.learner.network.shapes.items():
            if name in theta:
                self._check_shape(name, name, theta[name])
                found[name] = theta[name]
            elif OMEGA + name in theta:
                like = x.new_empty(len(x), *shape)
                check_fits(OMEGA + name, theta[OMEGA + name], like)
                found[name] = theta[OMEGA + name].expand_as(like)
            elif name in self.born:
                found[name] = self.born[name]
            else:
                raise LearnerError(
                    f"{name} is no meta-parameter: give born={{{name!r}: weights at birth}}, as "
                    "of the network's init(generators)"
                )
        return found

    def slope(self, phi: Named, theta: Named, beta: float, step: int) -> Named:
        """What the learner descends, on the examples of the step; and beta times the judged."""
        slope = self.learner(phi, *self._examples(step))
        if beta == 0:
            return slope
        judged = self._undisturbed(phi, *self.tasks.evaluate)
        return {name: s + beta * judged[name] for name, s in slope.items()}

    def partial(self, phi: Named, theta: Named, beta: float) -> Named:
        """Zero: a loss depends on the start by what was learnt alone."""
        self._check_names("theta", theta)
        return {name: torch.zeros_like(t) for name, t in theta.items()}

    def learn_loss(self, phi: Named, theta: Named) -> Tensor:
        """What BPTT descends on all examples, ``(lifetimes,)``.

        Raises
        ------
        LearnerError
            Of e-prop, which descends no loss.
        """
        if isinstance(self.learner, EProp):
            raise LearnerError(
                "e-prop descends no loss that could be differentiated; learn by BPTT, or use the "
                "contrastive meta-gradient, unrolling or evolution"
            )
        return self.learner.loss(phi, *self.tasks.learn)

    def eval_loss(self, phi: Named, theta: Named) -> Tensor:
        """Mean squared error on the evaluation's examples, ``(lifetimes,)``."""
        x, target = self.tasks.evaluate
        answer = self.learner.network(phi, x).answer
        return (answer - target).square().mean((1, 2))

    def _check_names(self, given: str, named: Named, kinds: Sequence[str] = ("",)) -> None:
        """Refuse what is of no weight, or of another kind."""
        known = self.learner.network.shapes
        full, anchors = ([k + name for k in some for name in known] for some in (kinds, KINDS))
        for key in named:
            if key not in full:
                hint = did_you_mean(key, [*full, *anchors])
                if key in anchors:
                    hint = " but of a synapse; put a ComplexSynapse around the problem"
                raise LearnerError(
                    f"{given}: '{key}' is none of the weights {', '.join(known)}{hint}"
                )

    def _check_shape(self, key: str, name: str, value: Tensor) -> None:
        wanted = (len(self.tasks.learn.x), *self.learner.network.shapes[name])
        if value.shape != wanted:
            raise LearnerError(
                f"{key} has shape {tuple(value.shape)}; it should be {wanted}: a lifetime a task"
            )

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

    Raises
    ------
    ConfigError
        If one of them does not learn so, or what is to be learnt is no problem.
    LearnerError
        If a meta-parameter is not where learning starts.
    """

    before: Descent
    window: Descent

    def __post_init__(self) -> None:
        check_learner("before", self.before)
        check_kind("window", self.window, Descent, "a Descent, whose steps can be followed")

    def __call__(self, problem: Bilevel, theta: Named) -> Estimate:
        """Learn, and differentiate the window."""
        check_given(problem, theta)
        with torch.no_grad():
            start = problem.start(theta)
            for name in theta:
                if name not in start:
                    raise LearnerError(
                        f"theta: '{name}' is none of the parameters {', '.join(start)}; LastWindow "
                        "is for meta-parameters that are where learning starts: use UnrolledDescent"
                    )
            phi = self.before(problem, theta, cloned(start))
        found = UnrolledDescent(self.window)(problem, phi, self.before.steps)
        gradient = {name: found.gradient[name] for name in theta}
        settled = Settled(problem, theta, start, BOUND)(found.phi, found.loss)
        return replace(found, gradient=gradient, settled=settled)
