"""Whether a family of tasks has what it takes, and draws what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Collection

import torch
from torch import Tensor

from rulesearch.arguments import check_kind, check_takes
from rulesearch.errors import ConfigError
from rulesearch.learners import Indexed
from rulesearch.networks import PlasticNetwork
from rulesearch.networks.fit import check_targets
from rulesearch.tasks.base import TaskBatch, TaskFamily

__all__ = [
    "check_batch",
    "check_described",
    "check_family",
    "check_finite",
    "check_first",
    "explodes",
]

_PARTS = ("x", "label", "x_query", "label_query")


def check_family(name: str, tasks: TaskFamily, wanted: str, *asked: str) -> None:
    """Refuse what is no family of tasks.

    Parameters
    ----------
    name, wanted : str
        What the argument is called, and what it should be.
    asked : str
        What ``sample`` has to take.

    Raises
    ------
    ConfigError
        If it lacks something of a :class:`TaskFamily`, or takes other arguments.
    """
    kind = type(tasks).__name__
    if not isinstance(tasks, type) and hasattr(tasks, "sample"):
        lacking = [m for m in vars(TaskFamily) if m[0] != "_" and not hasattr(tasks, m)]
        if lacking:
            raise ConfigError(f"{name} should be {wanted}; {kind} lacks {', '.join(lacking)}")
    check_kind(name, tasks, TaskFamily, wanted)
    check_takes(f"{name}: {kind}.sample", tasks.sample, *asked)


def check_batch(
    name: str,
    tasks: TaskFamily,
    batch: TaskBatch,
    lifetimes: int,
    dtype: torch.dtype = torch.float32,
) -> TaskBatch:
    """Return what a family has drawn, unless it is something else than the family says.

    Raises
    ------
    ConfigError
        If it is no :class:`TaskBatch`, its shapes or labels are not those of the family, or its
        examples not of the type that was asked for.
    """
    what = f"{name}: what {type(tasks).__name__}.sample returns"
    check_kind(what, batch, TaskBatch, "a rulesearch.tasks.TaskBatch")
    wrong = _misfit(tasks, batch, lifetimes) or _misfit_type(batch, dtype)
    if wrong:
        raise ConfigError(f"{what} for {lifetimes} generators: {wrong}")
    return batch


def check_first(
    name: str, tasks: TaskFamily, network: PlasticNetwork, dtype: torch.dtype | None = None
) -> None:
    """Draw a few lifetimes, and refuse those that a network cannot be asked for, or not again.

    Parameters
    ----------
    dtype : torch.dtype, optional
        Of the examples, where the family is asked for one.

    Raises
    ------
    ConfigError
        If targets are not as wide as the output, those of a softmax output are no probabilities of
        classes, a number is not finite, or the same generators give other lifetimes; or as from
        :func:`check_batch`.
    """

    def drawn() -> TaskBatch:
        draws = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
        batch = tasks.sample(draws) if dtype is None else tasks.sample(draws, dtype)
        return check_batch(name, tasks, batch, len(draws), dtype or torch.float32)

    batch, again = drawn(), drawn()
    wide = network.sizes[-1]
    if batch.label.is_floating_point() and tasks.n_out != wide:
        raise ConfigError(
            f"{name}: targets of '{tasks.name}' hold {tasks.n_out} values, the network has {wide} "
            "outputs; targets need as many"
        ).about("network", "outputs")
    if network.output == "softmax":
        for part, label in (("label", batch.label), ("label_query", batch.label_query)):
            check_targets(network.output, label, f"{name}: {part} of '{tasks.name}'", ConfigError)
    check_finite(name, tasks, batch)
    for part, one, other in zip(_PARTS, _drawn(batch), _drawn(again), strict=True):
        if not torch.equal(one, other):
            raise ConfigError(
                f"{name}: {type(tasks).__name__}.sample draws another {part} from the same "
                "generators; draw all that is random of the i-th lifetime from generators[i] and "
                "from nothing else, as torch.rand(..., generator=generators[i])"
            )


def check_finite(name: str, tasks: TaskFamily, batch: TaskBatch) -> None:
    """Refuse examples and targets by which nothing could be learnt.

    Raises
    ------
    ConfigError
        If one of them holds a number that is none.
    """
    for part, found in zip(_PARTS, _values(batch), strict=True):
        if not found.isfinite().all():
            raise ConfigError(
                f"{name}: what {type(tasks).__name__}.sample returns: {part} holds numbers "
                "that are not finite; leave such examples out"
            )


def explodes(
    tasks: TaskFamily, network: PlasticNetwork, symbols: Collection[str], x: Tensor | Indexed
) -> str | None:
    """Say where the synthetic error of the input explodes, of which terms speak.

    Parameters
    ----------
    symbols : collection of str
        What terms speak of.
    x : Tensor or Indexed
        What lifetimes see.

    Returns
    -------
    str or None
        None unless the activation's derivative, with the input in the place of y, is larger than
        any slope.
    """
    if "e_pre" not in symbols or network.learns_feedback:
        return None
    inputs = x.table[x.index.unique()] if isinstance(x, Indexed) else x
    below = inputs[inputs < network.sigma.bounded_from]
    if not below.numel() or network.sigma.derivative(below.min(), network.beta).abs() <= 1:
        return None
    return (
        f"inputs of '{tasks.name}' are below zero, down to {below.min():.3g}; the derivative of "
        f"{network.activation}, written in y, explodes there, and so does e_pre of the input, "
        "which terms read: scale inputs to [0, 1], or use activation='tanh'"
    )


def check_described(name: str, tasks: TaskFamily) -> None:
    """Refuse a description that no manifest can hold.

    Raises
    ------
    ConfigError
        If it is not of what JSON knows.
    """
    try:
        json.dumps(tasks.describe())
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{name}: {type(tasks).__name__}.describe() should return what JSON can hold, for the "
            f"manifest: {error}"
        ) from None


def _values(batch: TaskBatch) -> tuple[Tensor, ...]:
    """Return what is learnt and asked, :data:`_PARTS`; of a table all of it."""
    x = batch.x.table if isinstance(batch.x, Indexed) else batch.x
    return x, batch.label, batch.x_query, batch.label_query


def _drawn(batch: TaskBatch) -> tuple[Tensor, ...]:
    """Return what was drawn of it: of a table which examples."""
    x = batch.x.index if isinstance(batch.x, Indexed) else batch.x
    return x, *_values(batch)[1:]


def _misfit(tasks: TaskFamily, batch: TaskBatch, lifetimes: int) -> str | None:
    """What is wrong with a batch, if anything."""
    x, query, n_in = batch.x, batch.x_query, tasks.n_in
    lead = tuple(x.shape[:-1])
    if x.ndim not in (3, 4) or (*lead[:2], x.shape[-1]) != (tasks.steps, lifetimes, n_in):
        return (
            f"x has shape {tuple(x.shape)}; it should be ({tasks.steps}, {lifetimes}, {n_in}), or "
            f"({tasks.steps}, {lifetimes}, examples, {n_in}), of steps, lifetimes and n_in"
        )
    if query.ndim != 3 or (len(query), query.shape[-1]) != (lifetimes, n_in):
        shape = tuple(query.shape)
        return f"x_query has shape {shape}; it should be ({lifetimes}, queries, {n_in})"
    for what, shape in (("examples to learn from", lead), ("queries", query.shape)):
        if 0 in shape:
            return f"there are no {what}; draw some"
    return _misfit_label("label", batch.label, lead, tasks.n_out) or _misfit_label(
        "label_query", batch.label_query, tuple(query.shape[:-1]), tasks.n_out
    )


def _misfit_type(batch: TaskBatch, dtype: torch.dtype) -> str | None:
    """What is wrong with the type of the examples, if anything."""
    for name, found in (("x", batch.x.dtype), ("x_query", batch.x_query.dtype)):
        if found != dtype:
            return f"{name} is {found}; give {dtype}"
    return None


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
