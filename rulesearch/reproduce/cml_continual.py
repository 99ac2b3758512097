"""Beyond CML: one sine after another, learnt by synapses with meta-learnt consolidation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor

from rulesearch.named import copied
from rulesearch.networks import PlasticNetwork
from rulesearch.outer.bilevel import (
    SGD,
    BilevelTraining,
    Chain,
    ComplexSynapse,
    Contrastive,
    ContrastiveChain,
    Descent,
    LossProblem,
    Named,
    Newton,
    always,
)
from rulesearch.outer.bilevel.networks import Examples, LossOn, Source, named_weights
from rulesearch.reproduce.base import Job, Measured, Reproduction, Row, RunSettings, Training
from rulesearch.reproduce.cml_settings import Momentum, Rate, Strength, Tolerance
from rulesearch.reproduce.cml_tasks import Draws, births, learnt, meta_training, on_tests, synapses
from rulesearch.search.settings import Count
from rulesearch.tasks import IncrementalSines, TaskFamily

__all__ = ["CML_CONTINUAL", "ContinualSettings"]

AT_ONCE = 20  # test lifetimes side by side
PARTS = ("W", "bias")  # of a layer
ROWS: Mapping[str, tuple[str, ...]] = {
    "descent": (),
    "omega": ("omega",),
    "omega-lambda": ("omega", "lambda"),
}
"""Meta-parameters that each row of whole networks learns."""
READOUTS: Mapping[str, tuple[str, ...]] = {
    "readout-born": (),
    "readout": ("omega", "slow"),
    "readout-lambda": ("omega", "slow", "lambda"),
    "readout-last": ("omega", "slow"),
}
"""And each row of readouts on slow features."""


class ContinualSettings(RunSettings):
    """Settings of all rows; tasks are those of ``flp-table1``.

    Attributes
    ----------
    hidden : sequence of int
        Units of the hidden layers.
    functions, batches, examples : int
        Sines of a lifetime, batches of each, examples of a batch.
    repeats : int
        Steps of descent on each batch, one after another.
    rate, momentum : float
        Of learning where it is by descent.
    beta, strength, meta_rate : float
        Of the contrast; lambda at first; and Adam's step.
    tolerance : float, optional
        The largest residual of learning that an update accepts; by default any.
    """

    hidden: tuple[Count, ...] = (64, 64, 64, 192, 64, 64)
    functions: Count = 10
    batches: Count = 40
    examples: Count = 32
    repeats: Count = 1
    rate: Rate = 0.01
    momentum: Momentum = 0.9
    beta: Rate = 0.3
    strength: Strength = 0.1
    meta_rate: Rate = 1e-3
    tolerance: Tolerance = None


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
        draws, device = births(self.settings), self.settings.torch_device
        return named_weights(self.network.init(draws, device=device))

    @property
    def theta(self) -> dict[str, Tensor]:
        """Meta-parameters at first."""
        return synapses(self.born, self.learnt, self.settings.strength)

    @property
    def life(self) -> Descent:
        """So many steps for each batch of the lifetime."""
        s = self.settings
        return Descent(s.functions * s.batches * s.repeats, SGD(s.rate, s.momentum))

    def problem(self, draws: Draws) -> ComplexSynapse[LossProblem]:
        """Lifetimes side by side, those of a seed together; without meta-learning unanchored."""
        device = self.settings.torch_device
        batch = self.family.sample(draws).to(device)
        x, target = batch.x[:], batch.label

        def learn(step: int | None) -> Examples:
            if step is None:
                return Examples(*(t.transpose(0, 1).flatten(1, 2) for t in (x, target)))
            turn = step // self.settings.repeats % len(x)
            return Examples(x[turn], target[turn])

        judge = always(Examples(batch.x_query, batch.label_query))
        each = len(draws) // self.settings.seeds
        born = copied(self.born, each)
        strength = torch.tensor(self.settings.strength if self.learnt else 0.0, device=device)
        task = LossProblem(
            LossOn(self.network, learn), LossOn(self.network, judge), lambda theta: born
        )
        return ComplexSynapse(task, {f"lambda.{name}": strength for name in born})

    def judge(self, draws: Draws, theta: Named) -> Tensor:
        """Loss on the queries after a lifetime each; NaN where one diverged."""
        problem = self.problem(draws)
        phi, settled = learnt(self.life, problem, theta)
        return torch.where(settled, problem.eval_loss(phi, theta), torch.nan)

    def training(self, trained: object) -> BilevelTraining[ComplexSynapse[LossProblem]]:
        """Contrast a lifetime lived once more with one that is nudged meanwhile."""
        s, life = self.settings, self.life
        contrast: Contrastive[ComplexSynapse[LossProblem]] = Contrastive(
            life, life, s.beta, continued=True, tolerance=s.tolerance
        )
        return meta_training(s, self.theta, self.problem, contrast, s.meta_rate)


@dataclass(frozen=True)
class _LossAbove:
    """Loss of a network whose readout is phi, and all below it theta."""

    network: PlasticNetwork
    source: Source

    def __call__(self, phi: Named, theta: Named, step: int | None) -> Tensor:
        """Return the loss, ``(lifetimes,)``."""
        both, layers = {**theta, **phi}, range(len(self.network.sizes) - 1)
        whole = {f"{part}{k}": both[f"{part}{k}"] for part in PARTS for k in layers}
        return LossOn(self.network, self.source)(whole, theta, step)


@dataclass(frozen=True, eq=False)
class _Readout:
    """Only the readout learns: every batch to the end, held to what the one before has left.

    Where nothing is ``kept`` batches begin at the state at birth, so that only the last counts.
    """

    whole: _Model
    kept: bool = True

    @property
    def top(self) -> tuple[str, ...]:
        """Names of what learns."""
        last = len(self.whole.settings.hidden)
        return tuple(f"{part}{last}" for part in PARTS)

    @property
    def theta(self) -> dict[str, Tensor]:
        """Meta-parameters at first: the state at birth, features, and strengths if learnt."""
        born, strength = self.whole.born, self.whole.settings.strength
        found = {k if k not in self.top else f"omega.{k}": w for k, w in born.items()}
        if "lambda" in self.whole.learnt:
            found |= {f"lambda.{k}": torch.full_like(born[k], strength) for k in self.top}
        return found

    def problem(self, draws: Draws) -> Chain[LossProblem]:
        """A stage for each batch of the lifetime."""
        whole = self.whole
        device = whole.settings.torch_device
        batch = whole.family.sample(draws).to(device)
        each = len(draws) // whole.settings.seeds
        born = copied({name: whole.born[name] for name in self.top}, each)
        fixed = {} if "lambda" in whole.learnt else {
            f"lambda.{name}": torch.tensor(whole.settings.strength, device=device) for name in born
        }  # fmt: skip
        judge = _LossAbove(whole.network, always(Examples(batch.x_query, batch.label_query)))
        stages = []
        met = slice(None) if self.kept else slice(-1, None)
        for x, target in zip(batch.x[:][met], batch.label[met], strict=True):
            learn = _LossAbove(whole.network, always(Examples(x, target)))
            stages.append(ComplexSynapse(LossProblem(learn, judge, lambda theta: born), fixed))
        return Chain(stages)

    def judge(self, draws: Draws, theta: Named) -> Tensor:
        """Loss on the queries after a lifetime each: minima do not run away, however poor."""
        chain = self.problem(draws)
        return chain.stages[-1].eval_loss(chain.live(Newton(), theta)[-1], theta)

    def training(self, trained: object) -> BilevelTraining[Chain[LossProblem]]:
        """Contrast the solutions of every batch, from the last to the first."""
        s = self.whole.settings
        contrast: ContrastiveChain[LossProblem] = ContrastiveChain(
            Newton(), Newton(), s.beta, s.tolerance
        )
        return meta_training(s, self.theta, self.problem, contrast, s.meta_rate)


def _measure(settings: ContinualSettings, model: _Model | _Readout, training: Training) -> Measured:
    """Mean squared error on the queries after new lifetimes, ``(seeds, lifetimes)``."""
    return {"error": 2 * on_tests(settings, training.model, model.judge, AT_ONCE).cpu()}


def _jobs(settings: ContinualSettings) -> Sequence[Job]:
    orders: tuple[Literal["iid", "continual"], ...] = ("iid", "continual")
    jobs = []
    for order in orders:
        family = IncrementalSines(
            settings.functions, settings.batches, settings.examples, settings.examples, order
        )
        rows: dict[str, _Model | _Readout] = {
            **{row: _Model(settings, family, learnt) for row, learnt in ROWS.items()},
            **{
                row: _Readout(_Model(settings, family, part), kept=row != "readout-last")
                for row, part in READOUTS.items()
            },
        }
        for row, model in rows.items():
            updates = settings.updates if {**ROWS, **READOUTS}[row] else 0
            measure = partial(_measure, settings, model)
            jobs.append(Job(row, order, updates, model.training, measure))
    return jobs


CML_CONTINUAL: Reproduction[Any] = Reproduction(
    name="cml-continual",
    title="Beyond CML: incremental sines learnt by complex synapses",
    source="none; the tasks of Lindsey and Litwin-Kumar 2020, Table 1",
    unit="mean squared error",
    rows=(
        Row("descent", "Gradient descent"),
        Row("omega", "Lifetimes contrasted: state meta-learnt"),
        Row("omega-lambda", "Lifetimes contrasted: state and strength"),
        Row("readout-born", "Readout to its minimum, as born"),
        Row("readout", "Readout to its minimum: features and state meta-learnt"),
        Row("readout-lambda", "Readout to its minimum: strength too"),
        Row("readout-last", "Readout to the minimum of the last batch: features and state"),
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
        "Tasks and test lifetimes are those of flp-table1 with the same settings, whose rows stand "
        "for comparison. In the first three rows all layers learn, at one rate.",
        "Lifetimes contrasted: a lifetime is no equilibrium, and the nudged phase lives it once "
        "more, as does the one that it is contrasted with.",
        "Readout to its minimum: a batch is learnt by the last layer alone, to the end, held to "
        "the weights that the batch before has left; features are slow weights. Minima are "
        "contrasted from the last batch to the first. The last row keeps nothing of earlier "
        "batches: it is drawn to the meta-learnt state and learns the last batch alone.",
    ),
)
"""Continual learning with meta-learnt consolidation."""
