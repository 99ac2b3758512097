"""OML as published (Javed and White 2019): meta-training of its own, then few-shot tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from rulesearch.outer import FLPSettings, MetaModel, MetaTraining, flp_model
from rulesearch.outer.averaged import Averaged
from rulesearch.reproduce.base import Job, Trained, Training
from rulesearch.reproduce.flp import FLPRunSettings, Measure, chosen, new_lives
from rulesearch.tasks import OMLTrajectories, TaskFamily

__all__ = ["oml_jobs", "with_new_readout"]


def oml_jobs(
    row: str,
    flp: FLPSettings,
    train: OMLTrajectories,
    tests: Mapping[str, tuple[FLPSettings, TaskFamily]],
    run: FLPRunSettings,
    measure: Measure,
) -> Sequence[Job]:
    """One row under several conditions, which tests alone tell apart: it is trained once.

    Parameters
    ----------
    flp : FLPSettings
        The network of meta-training, which has an output for each class.
    tests : mapping
        Of each condition, the network, which may have other outputs and rates, and the tasks.
    measure : callable
        Of these networks in test lifetimes.
    """
    measures = {key: partial(_measure, *test, run, measure) for key, test in tests.items()}
    first, *others = measures
    job = Job(row, first, run.updates, partial(_begin, flp, train, run), measures[first])
    return [job, *(job.again(key, measures[key]) for key in others)]


def with_new_readout(model: MetaModel, flp: FLPSettings) -> MetaModel:
    """What was learnt of a network but for its last layer, in one of other outputs or rates."""
    new = flp_model(flp, model.seeds, dtype=model.dtype, device=model.device)
    kept: dict[str, Tensor] = {}
    last = len(model.W) - 1
    for key, value in model.state_dict().items():
        part, _, layer = key.partition(".")
        if part == "features" or (part in ("W", "bias") and int(layer) < last):
            kept[key] = value
    new.load_state_dict({**new.state_dict(), **kept})
    return new


def _begin(
    flp: FLPSettings, tasks: OMLTrajectories, run: FLPRunSettings, trained: Trained
) -> Averaged[MetaModel]:
    model = flp_model(flp, run.seeds, run.seed, device=run.device)
    return run.averaged(
        MetaTraining(model, tasks, flp.rates, run.seed, run.episodes, fresh_readout=True)
    )


def _measure(
    flp: FLPSettings,
    tasks: TaskFamily,
    run: FLPRunSettings,
    measure: Measure,
    training: Training,
) -> dict[str, Tensor]:
    with torch.no_grad():
        model = with_new_readout(chosen(training), flp)
    return measure(model, new_lives(model, tasks, run.lifetimes, run.seed, fresh_readout=True))
