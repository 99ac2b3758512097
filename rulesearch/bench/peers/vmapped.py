"""The paper's formulas in torch for one lifetime: ``torch.func.grad``, and ``vmap`` over lives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from rulesearch.bench.peers.base import Answer, Prepared
from rulesearch.bench.peers.formulas import live_step, query_loss
from rulesearch.bench.problem import Data, Problem

__all__ = ["vmapped"]


def vmapped(problem: Problem, data: Data) -> Prepared:
    """Gradient of one life, mapped over lives."""

    def life(
        theta: Tensor, W: list[Tensor], B: list[Tensor], x: Tensor, target: Tensor,
        x_query: Tensor, label_query: Tensor,
    ) -> Tensor:  # fmt: skip
        for t in range(problem.steps):
            W = live_step(problem.pool, W, B, theta, x[t], target[t])
        return query_loss(W, x_query, label_query)

    lives = torch.func.vmap(torch.func.grad_and_value(life), (None, 0, 0, 1, 1, 0, 0))

    def run() -> Answer:
        x = data.table[data.index]
        target = functional.one_hot(data.label, problem.sizes[-1]).to(x.dtype)
        gradient, loss = lives(
            data.theta, data.state.W, data.state.B, x, target, data.x_query, data.label_query
        )
        return Answer(loss.sum().item(), gradient.sum(0).tolist())

    return Prepared(run)
