"""A lifetime of a meta-model in stages: what its networks are like along the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from rulesearch.errors import ConfigError
from rulesearch.networks import NetworkState
from rulesearch.outer import MetaModel
from rulesearch.outer.accuracy import share_right
from rulesearch.tasks import TaskBatch

__all__ = ["by_seed", "query_curve", "query_errors", "stages", "step"]


def stages(
    model: MetaModel, task: TaskBatch, every: int, born: NetworkState | None = None
) -> Iterator[NetworkState]:
    """Yield the networks at birth and after each `every` steps, which must divide the lifetime.

    They are born as the model says, or as they are given.

    Raises
    ------
    ConfigError
        If they do not.
    """
    steps, lifetimes = task.x.shape[:2]
    if every < 1 or steps % every:
        raise ConfigError(f"a lifetime of {steps} steps has no stages of {every} steps")
    state = model.born(lifetimes // model.seeds) if born is None else born
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


def query_errors(model: MetaModel, state: NetworkState, task: TaskBatch) -> Tensor:
    """Errors on the queries of networks as they are, as FLP's tables tell them.

    Returns
    -------
    Tensor (lifetimes,)
        Mean squared error; in classification the percentage of queries whose largest output is
        not their class, NaN where a lifetime has diverged.
    """
    outcome = model.judge(state, task)
    if model.learner.network.output == "linear":
        return outcome.loss
    left = (outcome.loss[:, None], *state.W)
    return 100 - 100 * share_right(outcome.output, task.label_query, *left)


@torch.no_grad()
def query_curve(
    model: MetaModel, task: TaskBatch, every: int, born: NetworkState | None = None
) -> Tensor:
    """Errors on all queries as a lifetime goes on (FLP, appendix C).

    Parameters
    ----------
    model : MetaModel
    task : TaskBatch
        Lifetimes, those of a seed together.
    every : int
        Steps from one measurement to the next; they divide the lifetime.
    born : NetworkState, optional
        Where lifetimes begin instead of the model's own birth.

    Returns
    -------
    Tensor, shape (seeds, lifetimes, 1 + steps / every)
        At birth first; what is told of it is told by :func:`query_errors`.
    """
    errors = [query_errors(model, state, task) for state in stages(model, task, every, born)]
    return by_seed(model, torch.stack(errors, dim=-1))
