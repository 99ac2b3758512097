"""The paper's formulas in torch, all lifetimes at once, with autograd through every step."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from rulesearch.bench.peers.base import Answer, Prepared
from rulesearch.bench.peers.formulas import live_step, query_loss
from rulesearch.bench.problem import Data, Problem

__all__ = ["again", "checkpointed", "plain"]


def plain(problem: Problem, data: Data) -> Prepared:
    """The whole history is kept."""
    return _prepared(problem, data, problem.steps)


def checkpointed(problem: Problem, data: Data) -> Prepared:
    """Segments of about sqrt(steps) steps, each run again when its gradient is wanted."""
    return _prepared(problem, data, math.isqrt(problem.steps - 1) + 1)


def _prepared(problem: Problem, data: Data, segment: int) -> Prepared:
    B, classes = data.state.B, problem.sizes[-1]

    def live(begin: int, end: int, theta: Tensor, *W: Tensor) -> tuple[Tensor, ...]:
        for t in range(begin, end):
            x = data.table[data.index[t]]
            target = functional.one_hot(data.label[t], classes).to(x.dtype)
            W = tuple(live_step(problem.pool, W, B, theta, x, target))
        return W

    def run() -> Answer:
        theta = data.theta.clone().requires_grad_()
        W = tuple(data.state.W)
        for begin in range(0, problem.steps, segment):
            end = min(begin + segment, problem.steps)
            if segment < problem.steps:
                W = again(live, begin, end, theta, *W)
            else:
                W = live(begin, end, theta, *W)
        loss = query_loss(W, data.x_query, data.label_query).sum()
        (gradient,) = torch.autograd.grad(loss, theta)
        return Answer(loss.item(), gradient.tolist())

    return Prepared(run)


def again(function: Callable[..., tuple[Tensor, ...]], *arguments: object) -> tuple[Tensor, ...]:
    """Call a function of which only the arguments are kept, and which backward calls again."""
    found: tuple[Tensor, ...] = checkpoint(
        function, *arguments, use_reentrant=False, preserve_rng_state=False
    )
    return found
