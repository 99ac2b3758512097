"""Beyond CML: one sine after another, learnt by synapses with meta-learnt consolidation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from rulesearch.networks import PlasticNetwork
from rulesearch.outer.bilevel import (
    SGD,
    BilevelTraining,
    ComplexSynapse,
    Contrastive,
    Descent,
    LossProblem,
    MetaParameters,
    Named,
    always,
)
from rulesearch.outer.bilevel.named import detached
from rulesearch.outer.bilevel.networks import Examples, LossOn, named_weights
from rulesearch.outer.seeds import NETWORK, TASK, TEST, generators
from rulesearch.reproduce.base import Job, Measured, Reproduction, Row, RunSettings, Training
from rulesearch.reproduce.strength import Strength
from rulesearch.search.settings import Count
from rulesearch.tasks import IncrementalSines, TaskFamily

__all__ = ["CML_CONTINUAL", "ContinualSettings"]

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
AT_ONCE = 20  # test lifetimes side by side
ROWS: Mapping[str, tuple[str, ...]] = {
    "descent": (),
    "omega": ("omega",),
    "omega-lambda": ("omega", "lambda"),
}
"""Meta-parameters that each row learns."""


class ContinualSettings(RunSettings):
    """Settings of all rows; tasks are those of ``flp-table1``.

    Attributes
    ----------
    hidden : sequence of int
        Units of the hidden layers. All layers learn.
    functions, batches, examples : int
        Sines of a lifetime, steps on each, examples of a step.
    rate, momentum : float
        Of learning.
    beta, strength, meta_rate : float
        Of the contrast; lambda at first; and Adam's step.
    """

    hidden: tuple[Count, ...] = (64, 64, 64, 192, 64, 64)
    functions: Count = 10
    batches: Count = 40
    examples: Count = 32
    rate: Rate = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta: Rate = 0.3
    strength: Strength = 0.1
    meta_rate: Rate = 1e-3


@dataclass(frozen=True, eq=False)
class _Model:
    """A network, the order of its sines, and what of its synapses is meta-learnt."""

    settings: ContinualSettings
    family: TaskFamily
    learnt: tuple[str, ...]

    @property
    def network(self) -> PlasticNetwork:
        """As FLP's, all of its layers plastic."""
        sizes = (self.settings.functions + 1, *self.settings.hidden, 1)
        return PlasticNetwork(
            sizes,
            activation="relu",
            output="linear",
            feedback="symmetric",
            weight_init="kaiming",
            bias=True,
        )

    @cached_property
    def born(self) -> Named:
        """Weights and biases of all seeds."""
        seeds = [(row, 0) for row in range(self.settings.seeds)]
        return named_weights(self.network.init(generators(self.settings.seed, 0, NETWORK, seeds)))

    @property
    def theta(self) -> dict[str, Tensor]:
        """Meta-parameters at first: states at birth, one strength for all."""
        made: Mapping[str, Callable[[Tensor], Tensor]] = {
            "omega": torch.clone,
            "lambda": lambda w: torch.full_like(w, self.settings.strength),
        }
        parts = self.learnt or ("omega",)
        return {f"{part}.{name}": made[part](w) for part in parts for name, w in self.born.items()}

    @property
    def life(self) -> Descent:
        """A step for each batch of the lifetime."""
        s = self.settings
        return Descent(s.functions * s.batches, SGD(s.rate, s.momentum))

    def problem(self, draws: Sequence[torch.Generator]) -> ComplexSynapse[LossProblem]:
        """Lifetimes side by side, those of a seed together; without meta-learning unanchored."""
        batch = self.family.sample(draws)
        x, target = batch.x[:], batch.label

        def learn(step: int | None) -> Examples:
            if step is None:
                return Examples(*(t.transpose(0, 1).flatten(1, 2) for t in (x, target)))
            return Examples(x[step % len(x)], target[step % len(x)])

        judge = always(Examples(batch.x_query, batch.label_query))
        each = len(draws) // self.settings.seeds
        born = {name: w.repeat_interleave(each, 0) for name, w in self.born.items()}
        strength = torch.tensor(self.settings.strength if self.learnt else 0.0)
        task = LossProblem(
            LossOn(self.network, learn), LossOn(self.network, judge), lambda theta: born
        )
        return ComplexSynapse(task, {f"lambda.{name}": strength for name in born})

    def training(self, trained: object) -> BilevelTraining[ComplexSynapse[LossProblem]]:
        """Contrast a lifetime lived once more with one that is nudged meanwhile."""
        s = self.settings
        pairs = [(row, k) for row in range(s.seeds) for k in range(s.episodes)]
        return BilevelTraining(
            MetaParameters(self.theta),
            lambda update: self.problem(generators(s.seed, 0, TASK, pairs, update)),
            Contrastive(self.life, self.life, s.beta, continued=True),
            s.meta_rate,
            s.episodes,
        )

    @torch.no_grad()
    def measure(self, training: Training) -> Measured:
        """Mean squared error on the queries after new lifetimes, ``(seeds, lifetimes)``."""
        assert isinstance(training.model, MetaParameters)
        s, found = self.settings, []
        for first in range(0, s.lifetimes, AT_ONCE):
            members = range(first, min(first + AT_ONCE, s.lifetimes))
            problem = self.problem(
                generators(s.seed, 0, TEST, [(row, k) for row in range(s.seeds) for k in members])
            )
            theta = {
                name: t.repeat_interleave(len(members), 0)
                for name, t in detached(training.model.theta()).items()
            }
            phi = self.life(problem, theta, problem.start(theta))
            found.append(2 * problem.eval_loss(phi, theta).reshape(s.seeds, -1))
        return {"error": torch.cat(found, 1)}


def _jobs(settings: ContinualSettings) -> Sequence[Job]:
    orders: tuple[Literal["iid", "continual"], ...] = ("iid", "continual")
    jobs = []
    for order in orders:
        family = IncrementalSines(
            settings.functions, settings.batches, settings.examples, settings.examples, order
        )
        for row, learnt in ROWS.items():
            model = _Model(settings, family, learnt)
            updates = settings.updates if learnt else 0
            jobs.append(Job(row, order, updates, model.training, model.measure))
    return jobs


CML_CONTINUAL: Reproduction[Any] = Reproduction(
    name="cml-continual",
    title="Beyond CML: incremental sines learnt by complex synapses",
    source="no paper's table; the tasks of Lindsey and Litwin-Kumar 2020, Table 1",
    unit="mean squared error",
    rows=(
        Row("descent", "Gradient descent"),
        Row("omega", "Consolidated state meta-learnt"),
        Row("omega-lambda", "State and strength meta-learnt"),
    ),
    conditions={"iid": "iid", "continual": "continual"},
    settings=ContinualSettings,
    scales={
        "small": {
            "updates": 300,
            "seeds": 2,
            "episodes": 2,
            "functions": 4,
            "batches": 6,
            "hidden": [64, 64, 64, 192, 64, 64],
            "rate": 5e-4,  # from 2e-3 on lifetimes of this network diverge
        },
        "full": {"updates": 20_000, "seeds": 2, "episodes": 4},
    },
    jobs=_jobs,
    notes=(
        "Tasks, their small scale and test lifetimes are those of flp-table1, whose rows stand "
        "for comparison. Here all layers learn, at one rate.",
        "A lifetime is no equilibrium: the nudged phase lives it once more, and so does the one "
        "that it is contrasted with.",
    ),
)
"""Continual learning with meta-learnt consolidation."""
