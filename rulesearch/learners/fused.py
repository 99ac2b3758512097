"""The reversible meta-gradient on the compiled engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rulesearch.compile.native import live_backward, live_forward
from rulesearch.compile.tape import Tape
from rulesearch.learners.report import LifetimeReport
from rulesearch.networks import NetworkState

__all__ = ["live_fused"]


@dataclass(frozen=True, eq=False)
class _Problem:
    tape: Tape
    every: int
    tolerance: float
    reversible: bool
    report: LifetimeReport


class _Lifetime(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, problem: _Problem, x: Tensor, target: Tensor, theta: Tensor, *matrices: Tensor
    ) -> tuple[Tensor, ...]:
        n = problem.tape.n_plastic
        weights = tuple(m.clone(memory_format=torch.contiguous_format) for m in matrices[:n])
        rest = tuple(m.contiguous() for m in matrices[n:])
        keep = any(ctx.needs_input_grad)
        frames, checkpoints = live_forward(
            problem.tape, x, target, theta, (*weights, *rest), problem.every, keep
        )
        if keep:
            ctx.problem, ctx.frames, ctx.checkpoints = problem, frames, checkpoints
            ctx.save_for_backward(theta, *weights, *rest)
        return weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        problem: _Problem = ctx.problem
        theta, *matrices = ctx.saved_tensors
        adjoints: list[Tensor | None] = [
            g.clone(memory_format=torch.contiguous_format) for g in grads
        ]
        for needed, matrix in zip(
            ctx.needs_input_grad[4 + len(grads) :], matrices[len(grads) :], strict=True
        ):
            adjoints.append(torch.zeros_like(matrix) if needed else None)
        theta_bar, drift, recomputed = live_backward(
            problem.tape, theta, matrices, adjoints, ctx.frames, ctx.checkpoints,
            problem.every, problem.tolerance, problem.reversible,
        )  # fmt: skip
        problem.report.note_drift(drift)
        problem.report.note_recomputed(recomputed)
        return (None, None, None, theta_bar, *adjoints)


def live_fused(
    tape: Tape,
    state: NetworkState,
    theta: Tensor,
    x: Tensor,
    target: Tensor,
    every: int,
    tolerance: float,
    reversible: bool,
    report: LifetimeReport,
) -> NetworkState:
    """Live on the compiled engine.

    Parameters
    ----------
    theta : Tensor (lifetimes, n_terms)
    x, target : Tensor (steps, lifetimes, n)
    """
    problem = _Problem(tape, every, tolerance, reversible, report)
    matrices = [*state.W, *(state.B if len(tape.shapes) > tape.n_plastic else ())]
    live: Callable[..., tuple[Tensor, ...]] = _Lifetime.apply
    final = live(problem, x.contiguous(), target.contiguous(), theta.contiguous(), *matrices)
    return NetworkState(list(final), state.B)
