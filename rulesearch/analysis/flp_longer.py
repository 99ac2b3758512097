"""Lifetimes longer than those that a network was meta-trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rulesearch.analysis.flp_life import by_seed, stages
from rulesearch.arguments import check_kind, whole
from rulesearch.errors import ConfigError
from rulesearch.outer import MetaModel
from rulesearch.tasks import IncrementalSines, TaskBatch
from rulesearch.torch_arguments import check_generators

__all__ = ["in_rounds", "longer_errors", "round_errors"]


@torch.no_grad()
def longer_errors(
    model: MetaModel,
    tasks: IncrementalSines,
    draws: Sequence[torch.Generator],
    times: Sequence[int],
) -> Tensor:
    """Errors after lives with so many times as many batches of every sine.

    Parameters
    ----------
    model : MetaModel
    tasks : IncrementalSines
        Those that the model was meta-trained on.
    draws : sequence of torch.Generator
        One a lifetime, those of a seed together; they are left as they are. Lives of every length
        have the same sines and the same queries.
    times : sequence of int

    Returns
    -------
    Tensor (seeds, lifetimes, lengths)
        Mean squared error on the queries of all sines.

    Raises
    ------
    ConfigError
        If one of them is of another kind, or there are no times.
    """
    _check(model, tasks, draws, times)
    judges, found = tasks.sample(_copies(draws), model.dtype).to(model.device), []
    for factor in times:
        *_, end = stages(model, _longer(model, tasks, draws, factor), tasks.steps)
        found.append(model.judge(end, judges).loss)
    return by_seed(model, torch.stack(found, dim=-1))


@torch.no_grad()
def round_errors(
    model: MetaModel,
    tasks: IncrementalSines,
    draws: Sequence[torch.Generator],
    times: Sequence[int],
) -> Tensor:
    """Errors after so many rounds, each of all sines one after another.

    Parameters and result as of :func:`longer_errors`; one life is judged at all its lengths. It
    meets the examples of the longest of those lives, in another order. Tasks are in continual
    order, which alone can be made into rounds.

    Raises
    ------
    ConfigError
        As :func:`longer_errors`, or if sines do not come one after another.
    """
    _check(model, tasks, draws, times)
    if tasks.order != "continual":
        raise ConfigError(
            f"rounds are of sines that come one after another, but the order is '{tasks.order}'; "
            "use order='continual'"
        )
    judges, rounds = tasks.sample(_copies(draws), model.dtype).to(model.device), max(times)
    task = in_rounds(_longer(model, tasks, draws, rounds), tasks.functions, rounds)
    lived = enumerate(stages(model, task, tasks.steps))
    found = {count: model.judge(state, judges).loss for count, state in lived if count in times}
    return by_seed(model, torch.stack([found[count] for count in times], dim=-1))


def _check(
    model: MetaModel,
    tasks: IncrementalSines,
    draws: Sequence[torch.Generator],
    times: Sequence[int],
) -> None:
    check_kind("model", model, MetaModel, "a MetaModel, as flp_model(settings)")
    check_kind("tasks", tasks, IncrementalSines, "IncrementalSines")
    check_generators(draws, "lifetime")
    check_kind("times", times, Sequence, "how many times as long, as [1, 2]")
    if not times:
        raise ConfigError("times is empty: say how many times as long lives should be")
    for i, factor in enumerate(times):
        whole(f"times[{i}]", factor, least=1)


def in_rounds(task: TaskBatch, functions: int, rounds: int) -> TaskBatch:
    """Order a continual task's steps, function after function, in rounds of all functions."""
    steps = torch.arange(task.x.shape[0]).reshape(functions, rounds, -1).transpose(0, 1).flatten()
    return replace(task, x=task.x[:][steps], label=task.label[steps])


def _longer(
    model: MetaModel, tasks: IncrementalSines, draws: Sequence[torch.Generator], factor: int
) -> TaskBatch:
    """Lives of the same sines with so many times as many batches of each."""
    longer = replace(tasks, batches=factor * tasks.batches)
    return longer.sample(_copies(draws), model.dtype).to(model.device)


def _copies(draws: Sequence[torch.Generator]) -> list[torch.Generator]:
    return [torch.Generator().set_state(draw.get_state()) for draw in draws]
