"""A lifetime of a meta-model in stages: what its networks are like along the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from rulesearch.errors import ConfigError
from rulesearch.networks import NetworkState
from rulesearch.outer import MetaModel
from rulesearch.tasks import TaskBatch

__all__ = ["by_seed", "query_curve", "stages", "step"]


def stages(model: MetaModel, task: TaskBatch, every: int) -> Iterator[NetworkState]:
    """Yield the networks at birth and after each `every` steps, which must divide the lifetime.

    Raises
    ------
    ConfigError
        If they do not.
    """
    steps, lifetimes = task.x.shape[:2]
    if every < 1 or steps % every:
        raise ConfigError(f"a lifetime of {steps} steps has no stages of {every} steps")
    state = model.born(lifetimes // model.seeds)
    yield state
    for start in range(0, steps, every):
        piece = slice(start, start + every)
        state = model.live(replace(task, x=task.x[piece], label=task.label[piece]), state)
        yield state


def step(task: TaskBatch, number: int) -> tuple[Tensor, Tensor]:
    """Examples and labels of a step, ``(lifetimes, examples, ...)`` even if it has only one."""
    x, label = task.x[number], task.label[number]
    return (x.unsqueeze(1), label.unsqueeze(1)) if x.ndim == 2 else (x, label)


def by_seed(model: MetaModel, values: Tensor) -> Tensor:
    """``(seeds * lifetimes, ...)`` as ``(seeds, lifetimes, ...)``."""
    return values.reshape(model.seeds, -1, *values.shape[1:])


@torch.no_grad()
def query_curve(model: MetaModel, task: TaskBatch, every: int) -> Tensor:
    """Loss on all queries as a lifetime goes on (FLP, appendix C).

    Parameters
    ----------
    model : MetaModel
    task : TaskBatch
        Lifetimes, those of a seed together.
    every : int
        Steps from one measurement to the next; they divide the lifetime.

    Returns
    -------
    Tensor, shape (seeds, lifetimes, 1 + steps / every)
        At birth first. The mean squared error where the output is linear, else cross-entropy.
    """
    losses = [model.judge(state, task).loss for state in stages(model, task, every)]
    return by_seed(model, torch.stack(losses, dim=-1))
