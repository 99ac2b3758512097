"""Peers of consolidation: learning alone, unrolled as one would write it, and the library."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from rulesearch.bench.consolidation import Consolidation, ConsolidationData
from rulesearch.bench.episode import SUMS, sketch
from rulesearch.bench.peers.base import Answer, Prepared
from rulesearch.outer.bilevel import (
    SGD,
    BilevelGradient,
    ComplexSynapse,
    Contrastive,
    Descent,
    Estimate,
    LossProblem,
    UnrolledDescent,
)
from rulesearch.outer.bilevel.networks import Examples

__all__ = ["exact", "learning", "own", "plain", "truncated"]


def learning(problem: Consolidation, data: ConsolidationData) -> Prepared:
    """Learning and no more: its gradient is zero."""

    def run() -> Answer:
        W = _live(problem, data, data.strength, recorded=0)
        return Answer(_loss(W, data.evaluate).sum().item(), _few([torch.zeros_like(w) for w in W]))

    return _prepared(run, problem.steps)


def plain(problem: Consolidation, data: ConsolidationData) -> Prepared:
    """Autograd through all steps."""
    return _unrolled(problem, data, problem.steps)


def truncated(problem: Consolidation, data: ConsolidationData) -> Prepared:
    """Autograd through the last steps."""
    return _unrolled(problem, data, min(problem.window, problem.steps))


def own(problem: Consolidation, data: ConsolidationData) -> Prepared:
    """The library's contrast of a free and a nudged phase, as many steps each."""
    learner = _learner(problem)
    gradient: BilevelGradient[ComplexSynapse[LossProblem]] = Contrastive(
        learner, learner, problem.beta
    )
    return _prepared(lambda: _told(gradient(data.problem, data.theta)), 2 * problem.steps)


def exact(problem: Consolidation) -> Answer:
    """Loss and gradient in float64, by the library's unrolling."""
    data = problem.make().to(torch.float64)
    return _told(UnrolledDescent(_learner(problem))(data.problem, data.theta))


def _learner(problem: Consolidation) -> Descent:
    return Descent(problem.steps, SGD(problem.rate, problem.momentum))


def _told(estimate: Estimate) -> Answer:
    return Answer(estimate.loss.sum().item(), _few(list(estimate.gradient.values())))


def _few(slopes: Sequence[Tensor]) -> list[float]:
    """All of them, or a sketch where they are many."""
    numbers = torch.cat([slope.detach().flatten() for slope in slopes])
    return numbers.tolist() if len(numbers) <= SUMS else sketch([numbers])


def _prepared(run: Callable[[], Answer], steps: int) -> Prepared:
    return Prepared(run, remarks=lambda: {"steps": steps})


def _unrolled(problem: Consolidation, data: ConsolidationData, recorded: int) -> Prepared:
    def run() -> Answer:
        strength = [s.clone().requires_grad_() for s in data.strength]
        loss = _loss(_live(problem, data, strength, recorded), data.evaluate).sum()
        slopes = torch.autograd.grad(loss, strength)
        return Answer(loss.item(), _few(slopes))

    return _prepared(run, problem.steps)


def _live(
    problem: Consolidation, data: ConsolidationData, strength: Sequence[Tensor], recorded: int
) -> list[Tensor]:
    """Descend loss and half lambda (W - born)^2; so many last steps can be differentiated."""
    W = data.born
    velocity = [torch.zeros_like(w) for w in W]
    for step in range(problem.steps):
        keep = step >= problem.steps - recorded
        W = [w if keep and w.requires_grad else w.detach().requires_grad_() for w in W]
        slopes = torch.autograd.grad(_loss(W, data.learn).sum(), W, create_graph=keep)
        with torch.set_grad_enabled(keep):
            velocity = [
                problem.momentum * v + slope + s * (w - born)
                for v, w, born, slope, s in zip(
                    velocity, W, data.born, slopes, strength, strict=True
                )
            ]
            W = [w - problem.rate * v for w, v in zip(W, velocity, strict=True)]
    return W


def _loss(W: Sequence[Tensor], examples: Examples) -> Tensor:
    """Mean cross-entropy of each network, ``(lifetimes,)``."""
    y = examples.x
    for w in W[:-1]:
        y = (y @ w.mT).tanh()
    logits = (y @ W[-1].mT).mT
    return functional.cross_entropy(logits, examples.label, reduction="none").mean(1)
