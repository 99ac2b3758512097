"""Peers of an episode of FLP: as one would write it in torch, and the library itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from rulesearch.bench.episode import Episode, EpisodeData, told
from rulesearch.bench.peers.base import Answer, Prepared
from rulesearch.bench.peers.plain import again

__all__ = ["checkpointed", "exact", "hoisted", "own", "plain"]


class Layer(NamedTuple):
    """Meta-parameters of a plastic layer: W and alpha (n_post, n_pre), B (n_out, n_post)."""

    weight: Tensor
    bias: Tensor
    feedback: Tensor
    feedback_bias: Tensor
    mixing: Tensor
    rate: Tensor


def plain(problem: Episode, data: EpisodeData) -> Prepared:
    """All layers run in every step; the whole history is kept."""
    return _prepared(problem, data, problem.steps, hoist=False)


def hoisted(problem: Episode, data: EpisodeData) -> Prepared:
    """Layers that do not learn run once, on all examples."""
    return _prepared(problem, data, problem.steps, hoist=True)


def checkpointed(problem: Episode, data: EpisodeData) -> Prepared:
    """All layers, in segments of about sqrt(steps) steps that are run again."""
    return _prepared(problem, data, math.isqrt(problem.steps - 1) + 1, hoist=False)


def own(problem: Episode, data: EpisodeData) -> Prepared:
    """The library, as meta-training calls it."""
    return _differentiated(data, lambda: data.model(data.task).loss.sum())


def exact(problem: Episode) -> Answer:
    """Loss and gradient in float64."""
    return own(problem, problem.make().to(torch.float64)).answer()


def _prepared(problem: Episode, data: EpisodeData, segment: int, *, hoist: bool) -> Prepared:
    task = data.task

    def lose(life: int) -> Tensor:
        """Query loss of one lifetime."""
        fixed, plastic = _fixed(data), _plastic(data)
        x, target = task.x[:][:, life], task.label[:, life]
        if hoist:
            x = _forward(x, fixed)
        below = [] if hoist else fixed

        def live(begin: int, end: int, *W: Tensor) -> tuple[Tensor, ...]:
            for t in range(begin, end):
                W = _step(W, plastic, _forward(x[t], below), target[t])
            return W

        W = tuple(layer.weight for layer in plastic)
        for begin in range(0, problem.steps, segment):
            end = min(begin + segment, problem.steps)
            W = again(live, begin, end, *W) if segment < problem.steps else live(begin, end, *W)
        answer = _activations(W, plastic, _forward(task.x_query[life], fixed))[-1]
        return (answer - task.label_query[life]).square().mean()

    lifetimes = range(problem.lifetimes)
    return _differentiated(data, lambda: torch.stack([lose(k) for k in lifetimes]).sum())


def _differentiated(data: EpisodeData, lose: Callable[[], Tensor]) -> Prepared:
    """The gradient of a loss, told by sums of its numbers once the clock has stopped."""

    def run() -> tuple[Tensor, tuple[Tensor, ...]]:
        loss = lose()
        return loss.detach(), torch.autograd.grad(loss, data.learnt)

    def tell(found: tuple[Tensor, tuple[Tensor, ...]]) -> Answer:
        loss, gradient = found
        return Answer(loss.item(), told(data.learnt, gradient))

    return Prepared(run, tell=tell)


def _fixed(data: EpisodeData) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of the layers that do not learn."""
    parameters = [p for module in data.model.features for p in module.parameters()]
    return list(zip(parameters[::2], parameters[1::2], strict=True))


def _plastic(data: EpisodeData) -> list[Layer]:
    m = data.model
    parts = zip(m.W, m.bias, m.B, m.feedback_bias, m.mixing, m.rate, strict=True)
    return [Layer(*(p[0] for p in part)) for part in parts]


def _forward(x: Tensor, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    for weight, bias in layers:
        x = torch.nn.functional.linear(x, weight, bias).relu()
    return x


def _activations(W: Sequence[Tensor], plastic: Sequence[Layer], y: Tensor) -> list[Tensor]:
    """y_0 to y_L of (examples, n_0); the last is linear."""
    found = [y]
    for k, (w, layer) in enumerate(zip(W, plastic, strict=True)):
        z = torch.nn.functional.linear(found[-1], w, layer.bias)
        found.append(z.relu() if k < len(plastic) - 1 else z)
    return found


def _step(
    W: Sequence[Tensor], plastic: Sequence[Layer], x: Tensor, target: Tensor
) -> tuple[Tensor, ...]:
    """One update (Lindsey & Litwin-Kumar 2020, section 4.1; Oja's rule summed over a batch)."""
    y = _activations(W, plastic, x)
    error = target - y[-1]
    new = []
    for w, layer, (pre, post) in zip(W, plastic, pairwise(y), strict=True):
        fed_back = (error @ layer.feedback + layer.feedback_bias).relu()
        p = layer.mixing * fed_back + (1 - layer.mixing) * post
        oja = p.T @ pre - p.square().sum(0)[:, None] * w
        new.append(w + layer.rate * oja)
    return tuple(new)
