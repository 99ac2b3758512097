"""Jobs of FLP's tables: meta-train a network of FLP, then let it live on tasks that are new."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import Discriminator, Field, Tag, field_validator
from pydantic_core import PydanticCustomError
from torch import Tensor

from rulesearch.analysis.flp_life import by_seed, query_errors
from rulesearch.arguments import naming
from rulesearch.errors import ConfigError
from rulesearch.networks import LearntFeedback, NetworkState
from rulesearch.outer import FLPSettings, MetaModel, MetaTraining, Stage, flp_model
from rulesearch.outer.averaged import Averaged
from rulesearch.outer.clipping import WHY
from rulesearch.outer.flp import flp_learner
from rulesearch.outer.readout import fresh_readouts
from rulesearch.outer.seeds import READOUT, TEST, generators
from rulesearch.reproduce.base import (
    Job,
    RunSettings,
    Trained,
    Training,
    portions,
)
from rulesearch.reproduce.given import RuleName
from rulesearch.search.settings import Count, Size
from rulesearch.tasks import TaskBatch, TaskFamily

__all__ = [
    "AT_ONCE",
    "FLPRunSettings",
    "Lives",
    "Measure",
    "Mixing",
    "Tasks",
    "chosen",
    "final_errors",
    "flp_job",
    "last_layers",
    "lengths",
    "lifetime_errors",
    "new_lives",
    "restored",
]

Share = Annotated[float, Field(ge=0, lt=1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def _kind(start: object) -> str:
    """Which form a value has: a plain union reports the mistakes of its first member."""
    return "each" if isinstance(start, list | tuple) else "one"


Mixing = Annotated[
    Annotated[Finite, Tag("one")] | Annotated[tuple[Finite, ...], Tag("each")],
    Discriminator(_kind),
]
"""One number for all plastic layers, or one for each, first to last."""

AT_ONCE = 20  # test lifetimes side by side: what they hold is in proportion

Lives = Iterable[tuple[TaskBatch, NetworkState]]
"""Test tasks, and the networks that are born to them."""

Measure = Callable[[MetaModel, Lives], dict[str, Tensor]]
"""What is measured of a model's test lifetimes, ``(seeds, lifetimes, ...)`` each."""


class FLPRunSettings(RunSettings):
    """What FLP's reproductions can be told.

    Attributes
    ----------
    forward, feedback : float
        Adam's step of forward weights and of feedback.
    rule : str
        What weights of FLP learn by: a term of the catalogue, or a ``rule.json`` that
        ``Rule.save`` wrote.
    reduction : {'sum', 'mean'}
        Of FLP's updates over the examples of a step.
    source, clamp_output, presynaptic, pathway, plastic
        What feedback does: see :class:`rulesearch.LearntFeedback`.
    feedback_rate : float
        Adam's step of the rates of feedback that is plastic; by default a hundredth of that of the
        first plastic layer's ``rate``.
    clip : float or None
        Largest meta-gradient, as a multiple of its usual norm, above 1; the paper does not clip.
    average : int
        Last updates whose meta-parameters are averaged, all where there are no more; the paper
        takes those of the last.
    betas : (float, float)
        Of Adam's running means, of a gradient and of its square.
    gradient_start, gradient_rate : float
        Of the rates of gradient descent: their first value, and Adam's step.
    oml_rate : float
        Fixed rate of OML.
    """

    forward: Size = 1e-4
    feedback: Size = 1e-4
    rule: RuleName = "oja_single"
    reduction: Literal["sum", "mean"] = "sum"
    source: Literal["error", "target"] = "error"
    clamp_output: bool = False
    presynaptic: Literal["before", "after"] = "before"
    pathway: Literal["direct", "layered"] = "direct"
    plastic: bool = False
    feedback_rate: Size | None = None
    clip: float | None = None
    average: Count = 1
    betas: tuple[Share, Share] = (0.9, 0.999)
    gradient_start: Size
    gradient_rate: Size = 1e-4
    oml_rate: Size

    @field_validator("clip")
    @classmethod
    def _what_is_usual_can_grow(cls, clip: float | None) -> float | None:
        if clip is not None and not 1 < clip < math.inf:
            raise PydanticCustomError("clip", f"should be a number above 1, {WHY}")
        return clip

    def averaged(self, training: MetaTraining) -> Averaged[MetaModel]:
        """A meta-training that ends with the mean of its last updates."""
        return Averaged(training, max(0, self.updates - self.average))

    @property
    def learnt_feedback(self) -> LearntFeedback:
        """What feedback does."""
        return LearntFeedback(
            source=self.source,
            clamp_output=self.clamp_output,
            presynaptic=self.presynaptic,
            pathway=self.pathway,
            plastic=self.plastic,
        )


def last_layers(start: Mixing, count: int, deepest: int) -> Mixing:
    """Where mixing begins in the last layers of the deepest network that a value is given for.

    Raises
    ------
    ConfigError
        If there are not as many values as that network has plastic layers.
    """
    if not isinstance(start, tuple):
        return start
    if len(start) != deepest:
        raise ConfigError(
            f"mixing_start has {len(start)} values; give one number, or {deepest}, a value for "
            "each plastic layer of the network that has most, first to last"
        )
    return start[-count:]


class Tasks(NamedTuple):
    """Where a network is meta-trained, where it is tested, and easier tasks to begin with."""

    train: TaskFamily
    test: TaskFamily
    stages: tuple[Stage, ...] = ()


def new_lives(
    model: MetaModel,
    tasks: TaskFamily,
    lifetimes: int,
    seed: int,
    *,
    fresh_readout: bool = False,
) -> Iterator[tuple[TaskBatch, NetworkState]]:
    """Test lifetimes, some at a time, those of a seed together.

    Parameters
    ----------
    lifetimes : int
        Of each seed.
    seed : int
        Of the run.
    fresh_readout : bool
        Whether each lifetime begins with weights of the last layer of its own, drawn anew.
    """
    for some in portions(model.seeds, lifetimes, max(1, AT_ONCE // model.seeds)):
        task = tasks.sample(generators(seed, 0, TEST, some), model.dtype).to(model.device)
        with torch.no_grad():
            born = model.born(len(some) // model.seeds)
        if fresh_readout:
            draws = generators(seed, 1, READOUT, some)
            fresh = fresh_readouts(model.learner.network, draws, model.dtype)
            born = replace(born, W=[*born.W[:-1], fresh.to(model.device)])
        yield task, born


@torch.no_grad()
def final_errors(model: MetaModel, lives: Lives) -> dict[str, Tensor]:
    """``error`` (seeds, lifetimes), when all steps are lived; see :func:`query_errors`."""
    found = [query_errors(model, model.live(task, born), task) for task, born in lives]
    return {"error": torch.cat([by_seed(model, error) for error in found], 1).cpu()}


def lifetime_errors(
    model: MetaModel,
    tasks: TaskFamily,
    lifetimes: int,
    seed: int,
    *,
    fresh_readout: bool = False,
) -> Tensor:
    """Errors ``(seeds, lifetimes)`` after test lifetimes, which are :func:`new_lives`."""
    lives = new_lives(model, tasks, lifetimes, seed, fresh_readout=fresh_readout)
    return final_errors(model, lives)["error"]


def flp_job(
    place: tuple[str, str],
    flp: FLPSettings,
    tasks: Tasks,
    run: FLPRunSettings,
    like: tuple[str, FLPSettings] | None = None,
    measure: Measure = final_errors,
) -> Job:
    """One row under one condition.

    Parameters
    ----------
    place : (str, str)
        Row and condition.
    like : (str, FLPSettings), optional
        Row, and its settings, whose meta-trained forward weights are where this one starts.
    measure : callable
        Of the networks in test lifetimes.
    """
    row, condition = place
    with naming(f"rule={run.rule}:"):  # what the network does not carry is told before it runs
        flp_learner(flp)
    source = None if like is None else (f"{like[0]}-{condition}", like[1])
    return Job(
        row,
        condition,
        run.updates,
        partial(_begin, flp, tasks, run, source),
        partial(_measure, tasks.test, run, measure),
        needs=() if source is None else (source[0],),
        lengths=lengths(tasks, run.updates),
    )


def lengths(tasks: Tasks, updates: int) -> tuple[tuple[int, int], ...]:
    """Updates of each stage and of whole lifetimes, with the steps of each lifetime."""
    stages = [(stage.updates, stage.tasks.steps) for stage in tasks.stages]
    left = updates - sum(count for count, _ in stages)
    return (*stages, (left, tasks.train.steps))


def restored(flp: FLPSettings, run: FLPRunSettings, trained: Mapping[str, Tensor]) -> MetaModel:
    """The meta-model of a finished job."""
    model = flp_model(flp, run.seeds, run.seed, device=run.device)
    model.load_state_dict(dict(trained))
    return model


def _begin(
    flp: FLPSettings,
    tasks: Tasks,
    run: FLPRunSettings,
    like: tuple[str, FLPSettings] | None,
    trained: Trained,
) -> Averaged[MetaModel]:
    source = None if like is None else restored(like[1], run, trained[like[0]])
    model = flp_model(flp, run.seeds, run.seed, like=source, device=run.device)
    return run.averaged(
        MetaTraining(model, tasks.train, flp.rates, run.seed, run.episodes, stages=tasks.stages)
    )


def chosen(training: Training) -> MetaModel:
    """The meta-model that a job ends with."""
    assert isinstance(training, Averaged)
    training.choose()
    model = training.model
    assert isinstance(model, MetaModel)
    return model


def _measure(
    tasks: TaskFamily, run: RunSettings, measure: Measure, training: Training
) -> dict[str, Tensor]:
    model = chosen(training)
    return measure(model, new_lives(model, tasks, run.lifetimes, run.seed))
