"""Whole lifetimes as one operation that autograd can differentiate, whatever executes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rulesearch.compile.native import Examples
from rulesearch.compile.tape import Tape
from rulesearch.learners.matrices import constant_matrices, plastic_matrices, with_matrices
from rulesearch.learners.report import LifetimeReport
from rulesearch.networks import NetworkState, PlasticNetwork

__all__ = ["Problem", "live_on"]


@dataclass(frozen=True, eq=False)
class Problem:
    """What is lived, and by what means.

    Attributes
    ----------
    forward, backward : functions
        As ``live_forward`` and ``live_backward`` of :mod:`rulesearch.compile.native`.
    store : bool
        Whether products with matrices are kept for the backward pass.
    """

    forward: Callable[..., tuple[Tensor | None, Tensor | None]]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]
    tape: Tape
    examples: Examples
    store: bool
    tolerance: float
    reversible: bool
    report: LifetimeReport


class _Lifetime(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, problem: Problem, x: Tensor, theta: Tensor, *matrices: Tensor
    ) -> tuple[Tensor, ...]:
        n = problem.tape.n_plastic
        born = tuple(m.contiguous() for m in matrices)
        weights = tuple(m.clone() for m in born[:n])
        keep = any(ctx.needs_input_grad)
        stored, checkpoints = problem.forward(
            problem.tape, problem.examples, theta, (*weights, *born[n:]), keep, problem.store
        )
        if keep:
            ctx.problem, ctx.stored, ctx.checkpoints = problem, stored, checkpoints
            examples = problem.examples  # saved too, so that autograd notices if they change
            ctx.save_for_backward(x, examples.index, examples.label, theta, *born, *weights)
        return weights

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        problem: Problem = ctx.problem
        n = problem.tape.n_plastic
        x, _, _, theta, *matrices = ctx.saved_tensors
        born, constant, weights = matrices[:n], matrices[n:-n], matrices[-n:]
        adjoints: list[Tensor | None] = [
            g.clone(memory_format=torch.contiguous_format) for g in grads
        ]
        for needed, matrix in zip(ctx.needs_input_grad[3 + n :], constant, strict=True):
            adjoints.append(torch.zeros_like(matrix) if needed else None)
        inputs_bar = torch.empty_like(x) if ctx.needs_input_grad[1] else None
        theta_bar, drift, recomputed = problem.backward(
            problem.tape, problem.examples, theta, born, (*weights, *constant), adjoints,
            ctx.stored, ctx.checkpoints, problem.tolerance, problem.reversible, inputs_bar,
        )  # fmt: skip
        if problem.reversible:
            problem.report.note_drift(drift)
        problem.report.note_recomputed(recomputed)
        return (None, inputs_bar, theta_bar, *adjoints)


def live_on(
    problem: Problem, network: PlasticNetwork, state: NetworkState, theta: Tensor
) -> NetworkState:
    """Live.

    Parameters
    ----------
    theta : Tensor (lifetimes, n_terms)
    """
    matrices = [*plastic_matrices(network, state), *constant_matrices(network, state)]
    live: Callable[..., tuple[Tensor, ...]] = _Lifetime.apply
    final = live(problem, problem.examples.x, theta.contiguous(), *matrices)
    return with_matrices(network, state, final)
