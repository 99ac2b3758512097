r"""The reversible meta-gradient in torch, on any device.

An update ``W' = W o (1 + G) + S`` with low-rank G and S is undone by
``W = (W' - S) / (1 + G)``. So backward needs the low-rank factors of every step, not W:
memory O(T (n + m)) a connection instead of O(T n m). At every checkpoint the rebuilt W is
compared with the kept one; where it drifted too far the segment is taken again from its
checkpoint, its weights recomputed. The same algorithm runs compiled in ``fused``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rulesearch.compile.program import Program
from rulesearch.compile.torch_source import Factored, compile_torch
from rulesearch.learners.report import LifetimeReport
from rulesearch.learners.signals import connection_signals
from rulesearch.networks import NetworkState, PlasticNetwork

__all__ = ["live_reversible"]


@dataclass(frozen=True, eq=False)
class _Problem:
    """What stays the same over a lifetime."""

    network: PlasticNetwork
    program: Program
    every: int
    tolerance: float
    report: LifetimeReport

    @property
    def invertible(self) -> bool:
        return self.program.invertible(self.network.plastic)

    def factors(
        self, weights: Sequence[Tensor], feedback: Sequence[Tensor], theta: Tensor, x: Tensor,
        label: Tensor,
    ) -> list[Factored]:  # fmt: skip
        state = NetworkState(list(weights), list(feedback))
        wanted = self.program.inputs
        update = compile_torch(self.program)
        return [
            update(theta, **{name: signals[name] for name in wanted})
            for signals in connection_signals(self.network, state, x, label, wanted)
        ]


def _sharing(f: Factored, first: Factored) -> Factored:
    """The factors of a step, with the first step's E: it holds no W, so that they are equal."""
    others = tuple((p, q, e) for (p, q, _), (_, _, e) in zip(f.others, first.others, strict=True))
    return replace(f, others=others)


def _updated(weight: Tensor, f: Factored) -> Tensor:
    return weight * (1 + f.growth(weight)) + f.shift(weight)


def _undone(weight: Tensor, f: Factored) -> Tensor:
    return (weight - f.shift(weight)) / (1 + f.growth(weight))


class _Lifetime(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, problem: _Problem, x: Tensor, label: Tensor, theta: Tensor, *matrices: Tensor
    ) -> tuple[Tensor, ...]:
        n = len(problem.network.connections)
        weights, feedback = list(matrices[:n]), matrices[n:]
        keep = any(ctx.needs_input_grad)
        checkpoints: list[list[Tensor]] = []
        history: list[list[Factored]] = []
        for t in range(x.shape[0]):
            if keep and t % problem.every == 0:
                checkpoints.append(weights)
            factors = problem.factors(weights, feedback, theta, x[t], label[t])
            weights = [_updated(w, f) for w, f in zip(weights, factors, strict=True)]
            if keep and problem.invertible:
                first = history[0] if history else factors
                history.append([*map(_sharing, factors, first)])
        if keep:
            ctx.problem, ctx.checkpoints, ctx.history = problem, checkpoints, history
            ctx.save_for_backward(x, label, theta, *weights, *feedback)
        return tuple(w.clone() if w is m else w for w, m in zip(weights, matrices, strict=False))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        problem: _Problem = ctx.problem
        x, label, theta, *saved = ctx.saved_tensors
        n = len(problem.network.connections)
        weights, feedback = saved[:n], saved[n:]
        problem.report.note_recomputed(torch.zeros(x.shape[1], dtype=torch.int64))
        back = _Backward(problem, x, label, theta, feedback)
        bars = _Bars(grads, torch.zeros_like(theta), [torch.zeros_like(b) for b in feedback])
        for segment in reversed(range(len(ctx.checkpoints))):
            begin = segment * problem.every
            steps = range(begin, min(begin + problem.every, x.shape[0]))
            kept = ctx.checkpoints[segment]
            again, result = not problem.invertible, bars
            if not again:
                for t in reversed(steps):
                    pairs = zip(weights, ctx.history[t], strict=True)
                    weights = [_undone(w, f) for w, f in pairs]
                    result = back.step(t, weights, result)
                drift = _relative_distance(weights, kept)
                problem.report.note_drift(drift)
                again = not bool((drift <= problem.tolerance).all())
            if again:
                problem.report.note_recomputed(torch.ones(x.shape[1], dtype=torch.int64))
                result = bars
                before = back.replay(kept, steps)
                for t in reversed(steps):
                    result = back.step(t, before[t - begin], result)
            weights, bars = kept, result
        return (None, None, None, bars.theta, *bars.W, *bars.B)


class _Bars(NamedTuple):
    """Adjoints of the weights, of theta and of the feedback weights."""

    W: Sequence[Tensor]
    theta: Tensor
    B: Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class _Backward:
    problem: _Problem
    x: Tensor
    label: Tensor
    theta: Tensor
    feedback: Sequence[Tensor]

    def step(self, t: int, weights: Sequence[Tensor], bars: _Bars) -> _Bars:
        """Pull the adjoints back over step t: the vjp of one update."""
        with torch.enable_grad():
            leaves = [v.detach().requires_grad_() for v in (self.theta, *weights, *self.feedback)]
            theta, rest = leaves[0], leaves[1:]
            n = len(weights)
            factors = self.problem.factors(rest[:n], rest[n:], theta, self.x[t], self.label[t])
            new = [_updated(w, f) for w, f in zip(rest[:n], factors, strict=True)]
            found = torch.autograd.grad(
                new, leaves, bars.W, allow_unused=True, materialize_grads=True
            )
        added = [old + more for old, more in zip(bars.B, found[1 + n :], strict=True)]
        return _Bars(found[1 : 1 + n], bars.theta + found[0], added)

    def replay(self, weights: Sequence[Tensor], steps: range) -> list[list[Tensor]]:
        """All weights of a segment, from its checkpoint."""
        states = [list(weights)]
        for t in steps[:-1]:
            factors = self.problem.factors(
                states[-1], self.feedback, self.theta, self.x[t], self.label[t]
            )
            states.append([_updated(w, f) for w, f in zip(states[-1], factors, strict=True)])
        return states


def _relative_distance(rebuilt: Sequence[Tensor], kept: Sequence[Tensor]) -> Tensor:
    """Per lifetime, over all connections together."""

    def square(tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack([t.double().flatten(1).square().sum(1) for t in tensors]).sum(0)

    difference = [r - k for r, k in zip(rebuilt, kept, strict=True)]
    return (square(difference) / square(kept).clamp_min(1e-300)).sqrt()


def live_reversible(
    network: PlasticNetwork,
    program: Program,
    state: NetworkState,
    theta: Tensor,
    x: Tensor,
    label: Tensor,
    every: int,
    tolerance: float,
    report: LifetimeReport,
) -> NetworkState:
    """Live; shapes as in :func:`rulesearch.learners.unrolled.live_unrolled`."""
    problem = _Problem(network, program, every, tolerance, report)
    live: Callable[..., tuple[Tensor, ...]] = _Lifetime.apply
    final = live(problem, x, label, theta, *state.W, *state.B)
    return NetworkState(list(final), state.B)
