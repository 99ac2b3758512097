r"""The reversible meta-gradient for any term, tape or none: autograd within every step.

An update ``W' = W o (1 + G) + S`` with low-rank G and S is undone by
``W = (W' - S) / (1 + G)``. So backward needs the low-rank factors of every step, not W:
memory O(T (n + m)) a connection instead of O(T n m). At every checkpoint the rebuilt W is
compared with the kept one; where it drifted too far the segment is taken again from its
checkpoint, its weights recomputed. With several examples a step they are low-rank all the
same, of the rank of a single one times the examples. Terms that a tape holds run the same
algorithm without autograd: compiled (``compile/native.py``), or in torch (``learners/eager/``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rulesearch.compile.program import Program
from rulesearch.compile.torch_source import compile_torch
from rulesearch.learners.examples import Indexed
from rulesearch.learners.matrices import (
    constant_matrices,
    plastic_matrices,
    rates,
    relative_distance,
    with_matrices,
)
from rulesearch.learners.report import LifetimeReport
from rulesearch.learners.signals import connection_signals
from rulesearch.learners.update import Update, contract
from rulesearch.networks import NetworkState, PlasticNetwork

__all__ = ["live_reversible"]


@dataclass(frozen=True, eq=False)
class _Problem:
    """What stays the same over a lifetime."""

    network: PlasticNetwork
    program: Program
    born: NetworkState  # whose matrices take others' places
    share: float
    every: int
    tolerance: float
    report: LifetimeReport

    @property
    def invertible(self) -> bool:
        return self.program.invertible(self.network.plastic)

    def updates(
        self, weights: Sequence[Tensor], constant: Sequence[Tensor], theta: Tensor, x: Tensor,
        label: Tensor,
    ) -> list[Update]:  # fmt: skip
        """One a plastic matrix, of examples x ``(lifetimes, examples, n_in)``."""
        state = with_matrices(self.network, self.born, weights, constant)
        wanted, shape = self.program.inputs, (x.shape[0], x.shape[1])
        factors = compile_torch(self.program)
        found = []
        signals_of = connection_signals(self.network, state, x, label, wanted)
        for signals, rate in zip(signals_of, rates(self.network, state), strict=True):
            f = factors(theta.unsqueeze(1), **{name: signals[name] for name in wanted})
            found.append(contract(f, shape, self.share, rate))
        return found


def _inputs(table: Tensor, index: Tensor | None) -> Tensor | Indexed:
    return table if index is None else Indexed(table, index)


class _Lifetime(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, problem: _Problem, count: int, table: Tensor, index: Tensor | None,
        label: Tensor, theta: Tensor, *matrices: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        x = _inputs(table, index)
        weights, constant = list(matrices[:count]), matrices[count:]
        keep = any(ctx.needs_input_grad)
        checkpoints: list[list[Tensor]] = []
        history: list[list[Update]] = []
        for t in range(x.shape[0]):
            if keep and t % problem.every == 0:
                checkpoints.append(weights)
            updates = problem.updates(weights, constant, theta, x[t], label[t])
            weights = [u.apply(w) for w, u in zip(weights, updates, strict=True)]
            if keep and problem.invertible:
                first = history[0] if history else updates
                history.append([*map(Update.sharing, updates, first)])
        if keep:
            ctx.problem, ctx.checkpoints, ctx.history = problem, checkpoints, history
            ctx.save_for_backward(table, index, label, theta, *weights, *constant)
        return tuple(w.clone() if w is m else w for w, m in zip(weights, matrices, strict=False))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        problem: _Problem = ctx.problem
        table, index, label, theta, *saved = ctx.saved_tensors
        x, n = _inputs(table, index), len(grads)
        weights, constant = saved[:n], saved[n:]
        problem.report.note_recomputed(torch.zeros(x.shape[1], dtype=torch.int64))
        learnt = ctx.needs_input_grad[6 + n :]
        inputs = torch.empty_like(table) if ctx.needs_input_grad[2] else None
        back = _Backward(problem, x, label, theta, constant, learnt, inputs)
        zeros = [torch.zeros_like(m) for m, wanted in zip(constant, learnt, strict=True) if wanted]
        bars = _Bars(grads, torch.zeros_like(theta), zeros)
        for segment in reversed(range(len(ctx.checkpoints))):
            begin = segment * problem.every
            steps = range(begin, min(begin + problem.every, x.shape[0]))
            kept = ctx.checkpoints[segment]
            again, result = not problem.invertible, bars
            if not again:
                for t in reversed(steps):
                    pairs = zip(weights, ctx.history[t], strict=True)
                    weights = [update.undo(w) for w, update in pairs]
                    result = back.step(t, weights, result)
                drift = relative_distance(weights, kept)
                problem.report.note_drift(drift)
                again = not bool((drift <= problem.tolerance).all())
            if again:
                problem.report.note_recomputed(torch.ones(x.shape[1], dtype=torch.int64))
                result = bars
                before = back.replay(kept, steps)
                for t in reversed(steps):
                    result = back.step(t, before[t - begin], result)
            weights, bars = kept, result
        carried = iter(bars.constant)
        others = [next(carried) if wanted else None for wanted in learnt]
        return (None, None, inputs, None, None, bars.theta, *bars.plastic, *others)


class _Bars(NamedTuple):
    """Adjoints of the plastic matrices, of theta and of the constant matrices that want one."""

    plastic: Sequence[Tensor]
    theta: Tensor
    constant: Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class _Backward:
    problem: _Problem
    x: Tensor | Indexed
    label: Tensor
    theta: Tensor
    constant: Sequence[Tensor]
    learnt: Sequence[bool]  # which of the constant matrices have an adjoint
    inputs: Tensor | None  # where the adjoint of x goes

    def step(self, t: int, weights: Sequence[Tensor], bars: _Bars) -> _Bars:
        """Pull the adjoints back over step t: the vjp of one update."""
        with torch.enable_grad():
            theta, *born = (v.detach().requires_grad_() for v in (self.theta, *weights))
            constant = [
                m.detach().requires_grad_(wanted)
                for m, wanted in zip(self.constant, self.learnt, strict=True)
            ]
            x = self.x[t].detach().requires_grad_(self.inputs is not None)
            updates = self.problem.updates(born, constant, theta, x, self.label[t])
            new = [u.apply(w) for w, u in zip(born, updates, strict=True)]
            leaves = [theta, *born, *(v for v in (*constant, x) if v.requires_grad)]
            found = torch.autograd.grad(
                new, leaves, bars.plastic, allow_unused=True, materialize_grads=True
            )
        if self.inputs is not None:
            self.inputs[t] = found[-1]
        n = 1 + len(born)
        added = [old + more for old, more in zip(bars.constant, found[n:], strict=False)]
        return _Bars(found[1:n], bars.theta + found[0], added)

    def replay(self, weights: Sequence[Tensor], steps: range) -> list[list[Tensor]]:
        """All plastic matrices of a segment, from its checkpoint."""
        states = [list(weights)]
        for t in steps[:-1]:
            updates = self.problem.updates(
                states[-1], self.constant, self.theta, self.x[t], self.label[t]
            )
            states.append([u.apply(w) for w, u in zip(states[-1], updates, strict=True)])
        return states


def live_reversible(
    network: PlasticNetwork,
    program: Program,
    state: NetworkState,
    theta: Tensor,
    x: Tensor | Indexed,
    label: Tensor,
    share: float,
    every: int,
    tolerance: float,
    report: LifetimeReport,
) -> NetworkState:
    """Live; shapes as in :func:`rulesearch.learners.unrolled.live_unrolled`."""
    problem = _Problem(network, program, state, share, every, tolerance, report)
    live: Callable[..., tuple[Tensor, ...]] = _Lifetime.apply
    inputs = (x.table, x.index) if isinstance(x, Indexed) else (x, None)
    plastic = plastic_matrices(network, state)
    matrices = [*plastic, *constant_matrices(network, state)]
    final = live(problem, len(plastic), *inputs, label, theta, *matrices)
    return with_matrices(network, state, final)
