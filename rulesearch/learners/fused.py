"""The reversible meta-gradient on the compiled engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from rulesearch.compile.native import Examples, live_backward, live_forward
from rulesearch.compile.tape import Tape
from rulesearch.learners.examples import Indexed
from rulesearch.learners.report import LifetimeReport
from rulesearch.networks import NetworkState

__all__ = ["are_stored", "as_examples", "checkpoint_every", "live_fused"]

MEMORY = 2**29
"""Bytes that all lifetimes' stored products may take; beyond it they are computed again."""


def are_stored(tape: Tape, shape: tuple[int, int, int], dtype: torch.dtype) -> bool:
    """Whether the products of all steps are kept for the backward pass.

    Parameters
    ----------
    shape : tuple of int
        Steps, lifetimes and examples a step.
    """
    return prod(shape) * tape.stored * dtype.itemsize <= MEMORY


def checkpoint_every(tape: Tape, shape: tuple[int, int, int], dtype: torch.dtype) -> int:
    """Steps between checkpoints that take the least memory, about.

    Products that are not kept have to be made again for a segment of each lifetime at work, so
    that segments should be short; every lifetime keeps its checkpoints, so that they should be
    few.
    """
    steps, lifetimes, examples = shape
    if are_stored(tape, shape, dtype):
        return max(100, -(-steps // 10))
    segment = tape.stored * examples * min(torch.get_num_threads(), lifetimes)
    return max(10, math.isqrt(lifetimes * steps * tape.plastic_size // segment))


@dataclass(frozen=True, eq=False)
class _Problem:
    tape: Tape
    examples: Examples
    tolerance: float
    reversible: bool
    report: LifetimeReport


class _Lifetime(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, problem: _Problem, theta: Tensor, *matrices: Tensor
    ) -> tuple[Tensor, ...]:
        n = problem.tape.n_plastic
        born = tuple(m.contiguous() for m in matrices)
        weights = tuple(m.clone() for m in born[:n])
        keep = any(ctx.needs_input_grad)
        stored, checkpoints = live_forward(
            problem.tape, problem.examples, theta, (*weights, *born[n:]), keep,
            are_stored(problem.tape, problem.examples.shape, theta.dtype),
        )  # fmt: skip
        if keep:
            ctx.problem, ctx.stored, ctx.checkpoints = problem, stored, checkpoints
            ctx.save_for_backward(theta, *born, *weights)
        return weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        problem: _Problem = ctx.problem
        n = problem.tape.n_plastic
        theta, *matrices = ctx.saved_tensors
        born, feedback, weights = matrices[:n], matrices[n:-n], matrices[-n:]
        adjoints: list[Tensor | None] = [
            g.clone(memory_format=torch.contiguous_format) for g in grads
        ]
        for needed, matrix in zip(ctx.needs_input_grad[2 + n :], feedback, strict=True):
            adjoints.append(torch.zeros_like(matrix) if needed else None)
        theta_bar, drift, recomputed = live_backward(
            problem.tape, problem.examples, theta, born, (*weights, *feedback), adjoints,
            ctx.stored, ctx.checkpoints, problem.tolerance, problem.reversible,
        )  # fmt: skip
        problem.report.note_drift(drift)
        problem.report.note_recomputed(recomputed)
        return (None, theta_bar, *adjoints)


def as_examples(x: Tensor | Indexed, label: Tensor, every: int, share: float) -> Examples:
    """For the engine; shapes as from :func:`rulesearch.learners.examples.check_examples`."""
    if isinstance(x, Indexed):
        return Examples(
            x.table.contiguous(), x.index.contiguous(), label.contiguous(), every, share
        )
    return Examples(x.contiguous(), None, label.contiguous(), every, share)


def live_fused(
    tape: Tape,
    state: NetworkState,
    theta: Tensor,
    examples: Examples,
    tolerance: float,
    reversible: bool,
    report: LifetimeReport,
) -> NetworkState:
    """Live on the compiled engine.

    Parameters
    ----------
    theta : Tensor (lifetimes, n_terms)
    """
    problem = _Problem(tape, examples, tolerance, reversible, report)
    matrices = [*state.W, *(state.B if len(tape.shapes) > tape.n_plastic else ())]
    live: Callable[..., tuple[Tensor, ...]] = _Lifetime.apply
    final = live(problem, theta.contiguous(), *matrices)
    return NetworkState(list(final), state.B)
