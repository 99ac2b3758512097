"""How much learning something new changes what a network does with what it learnt before."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from rulesearch.analysis.flp_life import by_seed, stages
from rulesearch.arguments import check_kind
from rulesearch.errors import ConfigError
from rulesearch.outer import MetaModel
from rulesearch.tasks import IncrementalSines, TaskBatch

__all__ = ["interference"]


@torch.no_grad()
def interference(model: MetaModel, tasks: IncrementalSines, task: TaskBatch) -> Tensor:
    """Mean squared change of the outputs for earlier sines, from learning one more.

    FLP, section 7.2 and Figure 2B. The inputs are the queries, which no lifetime trains on, with
    the slot codes of the earlier sines.

    Parameters
    ----------
    model : MetaModel
    tasks : IncrementalSines
        In continual order.
    task : TaskBatch
        Sampled from them; lifetimes of a seed together.

    Returns
    -------
    Tensor, shape (seeds, lifetimes, functions - 1)
        For the second sine to the last.

    Raises
    ------
    ConfigError
        If tasks are of another kind or not those of the task, sines do not come one after another,
        or there is one alone.
    """
    wanted = "IncrementalSines(order='continual'), whose stages it knows"
    check_kind("interference: tasks", tasks, IncrementalSines, wanted)
    if tasks.order != "continual":
        raise ConfigError(
            f"interference is measured from one sine to the next, but the order is "
            f"'{tasks.order}'; use order='continual'"
        )
    if tasks.functions < 2:
        raise ConfigError(
            "interference is of a new sine with earlier ones; give functions=2 or more"
        )
    steps, lifetimes = task.x.shape[:2]
    sampled, told = (steps, task.x_query.shape[1]), (tasks.steps, tasks.functions * tasks.queries)
    if sampled != told:
        raise ConfigError(
            "interference: a lifetime of these tasks has {} steps and {} queries, that of the task "
            "{} and {}; give the tasks that it was sampled from".format(*told, *sampled)
        )
    network = model.learner.network
    seen = model.see(task.x_query, lifetimes)
    outputs = (network(state, seen) for state in stages(model, task, tasks.batches))
    found = []
    for learnt, (before, after) in enumerate(pairwise(outputs)):
        earlier = slice(0, learnt * tasks.queries)  # queries come slot after slot
        found.append((after - before)[:, earlier].square().mean((-1, -2)))
    return by_seed(model, torch.stack(found[1:], dim=-1))  # before the first sine there is none
