"""FLP, Table 1: ten sines learnt in one lifetime, in random order or one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from rulesearch.outer import SINES, FLPSettings, MetaRates, Stage
from rulesearch.outer.flp_presets import by_gradient, by_oml
from rulesearch.reproduce.base import Job, Published, Reproduction, Row
from rulesearch.reproduce.flp import FLPRunSettings, Mixing, Tasks, flp_job, last_layers
from rulesearch.reproduce.given import term_or_rule
from rulesearch.search.settings import Count, Size, Spec
from rulesearch.tasks import IncrementalSines

__all__ = ["FLP_TABLE1", "SineSettings", "sine_network", "sine_networks", "sine_tasks"]


class SineStage(Spec):
    """Lifetimes of so many updates, before those that the table is of.

    Attributes
    ----------
    updates : int
    functions, batches : int
        Sines of a lifetime, steps on each.
    pace : float
        By which every step of Adam is larger meanwhile.
    """

    updates: Count
    functions: Count
    batches: Count
    pace: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


class SineSettings(FLPRunSettings):
    """Settings of the regression tasks.

    Attributes
    ----------
    hidden : tuple of int
        Units of the hidden layers; the last two layers of weights below the output are plastic
        in FLP (3).
    functions, batches, examples : int
        Sines of a lifetime, steps on each, examples of a step.
    stages : tuple of SineStage
        Shorter lifetimes that meta-training begins with; the other updates are of whole ones.
        The paper has none.
    conditions : tuple of {'iid', 'continual'}
        Which to run.
    order : {'iid', 'mixed'}
        Of the iid condition: whole batches of one sine in random order, as in the released
        code, or examples of all sines in every batch.
    pool : int or None
        Sines that meta-training draws from, 400 in the released code; None draws fresh ones.
        Test lifetimes are always of fresh ones.
    mixing, rate : float
        Adam's step of FLP's mixing and rates.
    mixing_start : float, or three
        First value of FLP's mixing, in all plastic layers or in each of FLP (3), of which other
        networks have the last.
    start : float
        First value of FLP's rates; zero in the paper.
    milestones : tuple of int
        Updates from which on ``forward`` is 0.3 times what it was before.
    oml_rate : float
        On half the squared error: the default is 0.003 on the whole.
    """

    hidden: Annotated[tuple[Count, ...], Field(min_length=3)] = SINES.widths[1:-1]
    functions: Count = 10
    batches: Count = 40
    examples: Count = 32
    stages: tuple[SineStage, ...] = ()
    conditions: Annotated[tuple[Literal["iid", "continual"], ...], Field(min_length=1)] = (
        "iid",
        "continual",
    )
    order: Literal["iid", "mixed"] = "iid"
    pool: Count | None = None
    mixing: Size = 1e-4
    rate: Size = 1e-8
    mixing_start: Mixing = SINES.mixing
    start: Size = 0.0
    milestones: tuple[Count, ...] = ()
    gradient_start: Size = 2e-3
    oml_rate: Size = 6e-3

    @property
    def deepest(self) -> int:
        """Plastic layers of the network that has most."""
        return SINES.plastic_layers

    @field_validator("stages")
    @classmethod
    def _fits(cls, stages: tuple[SineStage, ...], info: ValidationInfo) -> tuple[SineStage, ...]:
        spent = sum(stage.updates for stage in stages)
        whole = info.data.get("updates", spent)  # missing where it is wrong itself
        if spent > whole:
            raise PydanticCustomError(
                "stages",
                "has {spent} updates, of {whole} in all: give more updates, or shorter stages",
                {"spent": spent, "whole": whole},
            )
        most = max((stage.functions for stage in stages), default=0)
        whole = info.data.get("functions", most)
        if most > whole:
            raise PydanticCustomError(
                "stages",
                "has lifetimes of {most} sines, where whole ones have {whole}",
                {"most": most, "whole": whole},
            )
        return stages


GRADIENT = {"iid": Published(0.00057, 2e-5), "continual": Published(0.069, 0.02)}
ROWS = (
    Row(
        "feature-reuse-1",
        "Feature reuse (1)",
        {"iid": Published(0.050, 7e-3), "continual": Published(0.035, 3e-3)},
    ),
    Row(
        "flp-2",
        "FLP (2)",
        {"iid": Published(0.00093, 3e-5), "continual": Published(0.0016, 6e-5)},
    ),
    Row(
        "flp-3",
        "FLP (3)",
        {"iid": Published(0.00051, 8e-5), "continual": Published(0.0068, 2e-3)},
    ),
    Row("gradient-3", "Gradient (3)", GRADIENT),
    Row("gradient-3-first-order", "Gradient (3), first order", GRADIENT),
    Row("gradient-3-random", "Gradient (3), random"),
    Row("gradient-3-random-first-order", "Gradient (3), random, first order"),
    Row("oml-3", "Original OML (3)", {"iid": Published(0.072), "continual": Published(0.40)}),
)


def sine_tasks(settings: SineSettings) -> dict[str, Tasks]:
    """Tasks of each condition."""

    def tasks(order: Literal["continual", "iid", "mixed"]) -> Tasks:
        test = IncrementalSines(
            settings.functions, settings.batches, settings.examples, settings.examples, order
        )
        train = replace(test, pool=settings.pool, pool_seed=settings.seed, slots=settings.functions)
        stages = tuple(
            Stage(s.updates, replace(train, functions=s.functions, batches=s.batches), s.pace)
            for s in settings.stages
        )
        return Tasks(train, test, stages)

    orders: dict[str, Literal["continual", "iid", "mixed"]]
    orders = {"iid": settings.order, "continual": "continual"}
    return {c: tasks(order) for c, order in orders.items() if c in settings.conditions}


def sine_network(settings: SineSettings, plastic_layers: int) -> FLPSettings:
    """The network of FLP with so many plastic layers."""
    rates = MetaRates(
        settings.forward,
        settings.feedback,
        settings.mixing,
        settings.rate,
        settings.feedback_rate,
        clip=settings.clip,
        betas=settings.betas,
        milestones=settings.milestones,
    )
    widths = (settings.functions + 1, *settings.hidden, 1)
    return replace(
        SINES,
        widths=widths,
        plastic_layers=plastic_layers,
        rule=term_or_rule(settings.rule),
        mixing=last_layers(settings.mixing_start, plastic_layers, settings.deepest),
        reduction=settings.reduction,
        feedback=settings.learnt_feedback,
        rate=settings.start,
        rates=rates,
    )


Networks = dict[str, tuple[FLPSettings, tuple[str, FLPSettings] | None]]
"""By row: a network, and the row and network whose forward weights it begins with."""


def sine_networks(settings: SineSettings) -> Networks:
    """All rows' networks."""
    flp = sine_network(settings, 3)
    start, rate = settings.gradient_start, settings.gradient_rate
    exact = by_gradient(flp, start, rate, exact=True)
    first_order = by_gradient(flp, start, rate, exact=False)
    trained = ("flp-3", flp)
    return {
        "feature-reuse-1": (sine_network(settings, 1), None),
        "flp-2": (sine_network(settings, 2), None),
        "flp-3": (flp, None),
        "gradient-3": (exact, trained),
        "gradient-3-first-order": (first_order, trained),
        "gradient-3-random": (exact, None),
        "gradient-3-random-first-order": (first_order, None),
        "oml-3": (by_oml(flp, settings.oml_rate), None),
    }


def _jobs(settings: SineSettings) -> Sequence[Job]:
    return [
        flp_job((row, condition), network, tasks, settings, like)
        for row, (network, like) in sine_networks(settings).items()
        for condition, tasks in sine_tasks(settings).items()
    ]


def _stages(*stages: tuple[int, int, int, float]) -> list[dict[str, float]]:
    return [dict(zip(SineStage.model_fields, stage, strict=True)) for stage in stages]


STAGED = _stages(
    (800, 4, 6, 16),
    (400, 6, 8, 16),
    (400, 8, 10, 12),
    (800, 10, 10, 12),
    (300, 10, 20, 8),
    (400, 10, 40, 4),
)
"""Stages for layers as wide as the paper's."""
NARROW = _stages(
    (1500, 4, 6, 20),
    (800, 6, 8, 20),
    (800, 8, 10, 20),
    (1000, 10, 10, 20),
    (400, 10, 20, 20),
    (400, 10, 40, 20),
    (600, 10, 40, 4),
)
"""And for layers a quarter as wide, which bear larger steps."""

FLP_TABLE1 = Reproduction(
    name="flp-table1",
    title="FLP, Table 1: incremental sines",
    source="Lindsey and Litwin-Kumar 2020, Table 1 (20,000 episodes, 2 seeds)",
    unit="mean squared error",
    rows=ROWS,
    conditions={"iid": "iid", "continual": "continual"},
    settings=SineSettings,
    scales={
        "small": {
            "updates": 2000,
            "seeds": 2,
            "hidden": [64, 64, 64, 192, 64, 64],
            "functions": 4,
            "batches": 6,
            "forward": 1e-3,
            "feedback": 1e-3,
            "mixing": 1e-3,
            "rate": 1e-6,
            "clip": 2,
            "gradient_start": 1e-2,
            "oml_rate": 1e-3,
            "checkpoint_every": 100,
        },
        "narrow": {
            "updates": 6100,
            "seeds": 2,
            "hidden": [75, 75, 75, 75, 75, 225, 75, 75],
            "stages": NARROW,
            "forward": 5e-5,
            "feedback": 5e-5,
            "mixing": 5e-5,
            "rate": 5e-8,
            "gradient_rate": 5e-6,
            "clip": 2,
            "checkpoint_every": 100,
        },
        "staged": {
            "updates": 3500,
            "seeds": 2,
            "stages": STAGED,
            "forward": 2.5e-5,
            "feedback": 1e-4,
            "mixing": 1e-4,
            "rate": 2e-7,
            "gradient_rate": 2.5e-5,
            "betas": [0.7, 0.95],
            "clip": 2,
        },
        "full": {"updates": 20_000, "seeds": 2},
    },
    jobs=_jobs,
    notes=(
        "The number of plastic layers is in parentheses.",
        "Gradient (3) starts from the forward weights of FLP (3), as the paper's does, unless it "
        "says random. The paper's text differentiates exactly, its released code to first order.",
        "The paper's Original OML is as published by others; ours is OML's learning (one fixed "
        "rate, a first-order meta-gradient), from random weights, trained here.",
    ),
    trained_by="flp-table1",
)
"""The reproduction of the paper's Table 1."""
