"""The library itself: its compiled engine, and its reversible method run eagerly in torch."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

import rulesearch as rs
from rulesearch.bench.peers.base import Answer, Prepared
from rulesearch.bench.problem import Data, Problem

__all__ = ["eager", "exact", "fused"]

ROOM = 2 << 30  # bytes that the exact gradient may take at once


def _prepared(engine: str, problem: Problem, data: Data) -> Prepared:
    network = problem.network
    on_device = "auto" if data.table.device.type == "cuda" and engine == "fused" else engine
    learner = rs.PlasticityLearner(network, problem.terms, engine=on_device)
    examples = rs.Indexed(data.table, data.index)

    def run() -> Answer:
        theta = data.theta.clone().requires_grad_()
        final = learner.live(data.state, theta, examples, data.label)
        loss = network.loss(network(final, data.x_query), data.label_query).sum()
        (gradient,) = torch.autograd.grad(loss, theta)
        return Answer(loss.item(), gradient.tolist())

    def remarks() -> dict[str, Any]:
        report = learner.report
        if report is None:
            return {}
        return {
            "path": report.path,
            "reason": report.reason,
            "drift": None if report.drift is None else float(report.drift.max()),
            "recomputed": None if report.recomputed is None else int(report.recomputed.sum()),
            "rank": learner.program.rank,
        }

    return Prepared(run, remarks=remarks)


fused = partial(_prepared, "fused")
eager = partial(_prepared, "torch")


def exact(problem: Problem) -> Answer:
    """Loss and gradient in float64, of as many lifetimes at a time as fit into memory."""
    data = problem.make().to(torch.float64)
    learner = rs.PlasticityLearner(problem.network, problem.terms)
    each = learner.bytes_per_lifetime(problem.steps, torch.float64)
    together = max(1, min(problem.lifetimes, ROOM // each))
    loss, gradient = 0.0, torch.zeros(learner.n_terms, dtype=torch.float64)
    for begin in range(0, problem.lifetimes, together):
        end = min(begin + together, problem.lifetimes)
        part = _prepared("auto", problem, data.part(begin, end)).answer()
        loss, gradient = (
            loss + part.loss,
            gradient + torch.tensor(part.gradient, dtype=torch.float64),
        )
    return Answer(loss, gradient.tolist())
