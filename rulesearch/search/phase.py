"""A phase of a search: many rows meta-learn theta side by side (Algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rulesearch.analysis import Floats, alignment_angles, finite_mean, orthonormality_error
from rulesearch.errors import DivergedError
from rulesearch.grammar import TermPool
from rulesearch.learners import PlasticityLearner
from rulesearch.networks import NetworkState, PlasticNetwork
from rulesearch.outer import Evaluation, MetaGradient, MetaOptimiser, OptimiserState, Unrolled
from rulesearch.outer.seeds import NETWORK, TASK, generators
from rulesearch.search.ranks import ALONE, Ranks
from rulesearch.search.workers import Crew, crew
from rulesearch.tasks import TaskBatch, TaskFamily
from rulesearch.tasks.family import check_batch

__all__ = ["History", "Phase"]


@dataclass
class History:
    """What a phase logged; arrays have updates first, then rows."""

    accuracy: list[list[float]] = field(default_factory=list)
    loss: list[list[float]] = field(default_factory=list)
    theta: list[list[list[float]]] = field(default_factory=list)
    rejected: list[list[int]] = field(default_factory=list)

    def add(self, event: dict[str, Any]) -> None:
        """Take an update event."""
        nan = float("nan")
        self.accuracy.append([nan if a is None else a for a in event["accuracy"]])
        self.loss.append([nan if a is None else a for a in event["loss"]])
        self.theta.append(event["theta"])
        self.rejected.append(event["rejected"])

    def end(self, name: str, window: int) -> Floats:
        """The mean over the last ``window`` updates, rejected ones left out; of loss the median.

        A lifetime on the edge of stability can lose millions, and one would outweigh the rest.
        """
        values = np.array(getattr(self, name)[-window:], dtype=np.float64)
        if name == "loss":
            some = np.isfinite(values).any(0)
            return np.where(some, np.nanmedian(np.where(some, values, 0), axis=0), np.nan)
        return finite_mean(values)


@dataclass(frozen=True)
class Phase:
    """One phase.

    Attributes
    ----------
    name : str
        As in events: 'search', 'refit', 'backprop' or 'feedback_alignment'.
    seeds : tuple of int
        Of each row; rows of one seed see the same tasks and networks.
    t : Tensor (rows, n_terms)
        Scaled coefficients at the start.
    alive : Tensor (rows, n_terms), optional
        One where a coefficient may move; the others are zero. By default all may.
    scales : Tensor (n_terms,)
    halves : mapping of int to TaskFamily
        What rows of a seed live on instead of ``tasks``.
    stream : int
        Random stream; phases that share one are compared on the same tasks and networks.
    ranks : Ranks
        Processes that share the lifetimes.
    device : torch.device
        Where they are lived. What they are born with is drawn on the CPU, and what comes of them
        returns there.
    """

    name: str
    pool: TermPool
    network: PlasticNetwork
    tasks: TaskFamily
    seeds: tuple[int, ...]
    t: Tensor
    scales: Tensor
    optimiser: MetaOptimiser
    meta_batch: int
    seed: int
    alive: Tensor | None = None
    halves: Mapping[int, TaskFamily] = field(default_factory=dict)
    stream: int = 0
    probe_every: int = 10
    meta_gradient: MetaGradient = field(default_factory=Unrolled)
    ranks: Ranks = ALONE
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def run(
        self,
        history: History,
        state: OptimiserState | None,
        emit: Callable[[dict[str, Any]], None],
        checkpoint: Callable[[int, OptimiserState], None],
    ) -> OptimiserState:
        """Run the updates that ``history`` does not hold yet, and return where they ended.

        Parameters
        ----------
        state : OptimiserState or None
            Where to continue; None starts from ``t``, for which none must be done yet.
        emit : callable
            Gets every event.
        checkpoint : callable
            Called after every update with the number of updates done.
        """
        learner = PlasticityLearner(self.network, self.pool)
        state = state or OptimiserState.start(self.t, self.alive)
        with crew(self.device) as lived:
            for update in range(len(history.loss), self.optimiser.updates):
                theta = (state.t * self.scales).to(torch.float32)
                evaluation, probe = self._evaluate(learner, theta, update, lived)
                state, rejected = self.optimiser.update(state, evaluation, self.scales, update)
                if not self.optimiser.reject and rejected.any():
                    raise DivergedError(
                        f"a lifetime diverged at update {update} of '{self.name}', and rejection "
                        "is off; set optimiser.reject: true, or a smaller rate"
                    )
                event = {
                    "event": "update",
                    "phase": self.name,
                    "update": update,
                    "accuracy": _row_means(evaluation.accuracy, evaluation.finite, len(self.seeds)),
                    "loss": _row_means(evaluation.loss, evaluation.finite, len(self.seeds)),
                    "theta": (state.t * self.scales).tolist(),
                    "rejected": rejected.tolist(),
                }
                history.add(event)
                emit(event)
                if probe is not None:
                    emit({"event": "probe", "phase": self.name, "update": update, **probe})
                checkpoint(update + 1, state)
        return state

    def _evaluate(
        self, learner: PlasticityLearner, theta: Tensor, update: int, lived: Crew
    ) -> tuple[Evaluation, dict[str, Any] | None]:
        """Live one meta-batch of every row."""
        lifetimes = [(seed, member) for seed in self.seeds for member in range(self.meta_batch)]
        share = self.ranks.share(len(lifetimes))
        mine, theta = lifetimes[share], theta.repeat_interleave(self.meta_batch, 0)[share]
        probing = update % self.probe_every == 0 or update == self.optimiser.updates - 1

        def live(some: slice) -> tuple[Tensor, ...]:
            tasks = self._draw(mine[some], update).to(self.device)
            draws = generators(self.seed, self.stream, NETWORK, mine[some], update)
            born = learner.init(generator=draws, device=self.device)
            one = self.meta_gradient(learner, born, theta[some].to(self.device), tasks)
            probe = _probe(self.network, one.state, tasks) if probing and one.state else ()
            return one.loss[:, None], one.accuracy[:, None], one.gradient, *probe

        each = learner.bytes_per_lifetime(self.tasks.steps, device=self.device)
        whole = self.ranks.gather(lived(live, len(mine), each), len(lifetimes))
        loss, accuracy, gradient, *probes = (part.cpu() for part in whole)
        evaluation = Evaluation(loss[:, 0], accuracy[:, 0], gradient)
        if not probes:
            return evaluation, None
        rows = len(self.seeds)
        measured = {
            name: _listed(values.reshape(rows, self.meta_batch, -1)[:, 0])
            for name, values in zip(("angles", "orthonormality"), probes, strict=True)
        }
        return evaluation, measured

    def _draw(self, lifetimes: Sequence[tuple[int, int]], update: int) -> TaskBatch:
        """Tasks of lifetimes given by seed and member, of a half where the seed has one."""
        draws = generators(self.seed, self.stream, TASK, lifetimes, update)
        if not self.halves:
            return check_batch("tasks", self.tasks, self.tasks.sample(draws), len(draws))
        parts = [
            self.halves[seed].sample([draw for _, draw in some])
            for seed, some in groupby(
                zip((seed for seed, _ in lifetimes), draws, strict=True), itemgetter(0)
            )
        ]
        return TaskBatch(
            *(torch.cat([getattr(part, name) for part in parts], 1) for name in ("x", "label")),
            *(torch.cat([getattr(p, name) for p in parts]) for name in ("x_query", "label_query")),
        )


def _probe(network: PlasticNetwork, state: NetworkState, task: TaskBatch) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return (
            alignment_angles(network, state, task.x_query, task.label_query),
            orthonormality_error(network, state, task.x_query),
        )


def _row_means(values: Tensor, finite: Tensor, rows: int) -> list[float | None]:
    """The mean over a row's accepted lifetimes; None where there is none."""
    values, finite = values.double().reshape(rows, -1), finite.reshape(rows, -1)
    finite = finite & values.isfinite()
    total = torch.where(finite, values, torch.zeros_like(values)).sum(1)
    count = finite.sum(1)
    return [
        float(s / c) if c else None for s, c in zip(total.tolist(), count.tolist(), strict=True)
    ]


def _listed(values: Tensor) -> list[list[float | None]]:
    return [[v if np.isfinite(v) else None for v in row] for row in values.double().tolist()]
