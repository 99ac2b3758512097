"""Whether a family of tasks keeps what it promises, told before anything is trained on it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from torch import Tensor

from rulesearch.arguments import check_kind, check_takes
from rulesearch.errors import ConfigError
from rulesearch.tasks.base import TaskBatch, TaskFamily

__all__ = ["check_family"]

LIFETIMES = 2


def check_family(name: str, tasks: TaskFamily, wanted: str) -> None:
    """Draw two lifetimes, and compare them with what the family says of itself.

    Parameters
    ----------
    name, wanted : str
        What the argument is called, and what it should be.

    Raises
    ------
    ConfigError
        If it lacks something of a :class:`TaskFamily`, or draws something else than it says.
    """
    kind = type(tasks).__name__
    if not isinstance(tasks, type) and hasattr(tasks, "sample"):
        lacking = [m for m in vars(TaskFamily) if m[0] != "_" and not hasattr(tasks, m)]
        if lacking:
            raise ConfigError(f"{name} should be {wanted}; {kind} lacks {', '.join(lacking)}")
    check_kind(name, tasks, TaskFamily, wanted)
    try:
        json.dumps(tasks.describe())
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{name}: {kind}.describe() should return what JSON can hold, for the manifest: {error}"
        ) from None
    check_takes(f"{name}: {kind}.sample", tasks.sample, "generators", "dtype")
    batch = _drawn(name, tasks, range(LIFETIMES))
    wrong = _misfit(tasks, batch)
    if wrong:
        raise ConfigError(f"{name}: {kind}.sample of {LIFETIMES} generators: {wrong}")
    alone = _drawn(name, tasks, [LIFETIMES - 1])
    beside = [batch.label[:, -1:], batch.x_query[-1:], batch.label_query[-1:]]
    single = [alone.label, alone.x_query, alone.label_query]
    if isinstance(batch.x, Tensor) and isinstance(alone.x, Tensor):  # no table of all examples
        beside, single = [*beside, batch.x[:, -1:]], [*single, alone.x]
    if not all(map(_same, beside, single)):
        raise ConfigError(
            f"{name}: a lifetime of {kind} should follow from its generator and nothing else, but "
            "one drawn by itself is not the same as beside another; draw all that is random of "
            "the i-th from generators[i]"
        )


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(
        one, other, rtol=1e-4, atol=1e-6, equal_nan=True
    )


def _drawn(name: str, tasks: TaskFamily, seeds: Sequence[int]) -> TaskBatch:
    batch = tasks.sample([torch.Generator().manual_seed(seed) for seed in seeds])
    what = f"{name}: what {type(tasks).__name__}.sample returns"
    check_kind(what, batch, TaskBatch, "a rulesearch.tasks.TaskBatch")
    return batch


def _misfit(tasks: TaskFamily, batch: TaskBatch) -> str | None:
    """What is wrong with a batch, if anything."""
    x, n_out = batch.x, tasks.n_out
    lead = tuple(x.shape[:-1])
    if x.ndim not in (3, 4) or (*lead[:2], x.shape[-1]) != (tasks.steps, LIFETIMES, tasks.n_in):
        return (
            f"x has shape {tuple(x.shape)}; it should be ({tasks.steps}, {LIFETIMES}, "
            f"{tasks.n_in}), or ({tasks.steps}, {LIFETIMES}, examples, {tasks.n_in}), of "
            "steps, lifetimes and n_in"
        )
    query = batch.x_query
    if query.ndim != 3 or (len(query), query.shape[-1]) != (LIFETIMES, tasks.n_in):
        return (
            f"x_query has shape {tuple(query.shape)}; it should be ({LIFETIMES}, queries, "
            f"{tasks.n_in})"
        )
    return _misfit_label("label", batch.label, lead, n_out) or _misfit_label(
        "label_query", batch.label_query, tuple(query.shape[:-1]), n_out
    )


def _misfit_label(name: str, label: Tensor, lead: tuple[int, ...], n_out: int) -> str | None:
    target = label.is_floating_point()
    wanted = (*lead, n_out) if target else lead
    if tuple(label.shape) != wanted:
        kind = "targets" if target else "classes"
        return f"{name} has shape {tuple(label.shape)}; as {kind} it should be {wanted}"
    if target:
        return None
    if label.dtype != torch.int64:
        return f"{name} is {label.dtype}; give classes as torch.int64, targets as torch.float32"
    low, high = (int(bound) for bound in torch.aminmax(label))
    if low < 0 or high >= n_out:
        return f"{name} runs from {low} to {high}; n_out is {n_out}"
    return None
