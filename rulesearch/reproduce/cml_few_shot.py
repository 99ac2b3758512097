"""Jobs of CML's few-shot tables: complex synapses, or modulated channels, learn each task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor

from rulesearch.named import copied
from rulesearch.networks import ConvNet
from rulesearch.outer.averaged import Averaged
from rulesearch.outer.bilevel import (
    SGD,
    ComplexSynapse,
    Contrastive,
    CrossEntropy,
    Descent,
    LossProblem,
    MetaParameters,
    Named,
    accuracy,
    always,
    classifier_problem,
    fast_and_slow,
)
from rulesearch.outer.bilevel.networks import Examples
from rulesearch.reproduce.base import Job, Measured, Row, RunSettings, Training
from rulesearch.reproduce.cml_settings import Momentum, Rate, Strength, Tolerance, Ways
from rulesearch.reproduce.cml_tasks import Draws, births, learnt, meta_training, on_tests
from rulesearch.search.settings import Count, Spec
from rulesearch.tasks import ImageData, OnlineFewShot, TaskFamily

__all__ = [
    "FAST",
    "NOTES",
    "FewShotSettings",
    "Images",
    "PhaseSettings",
    "control_row",
    "few_shot_jobs",
    "rotated",
]

FAST: Mapping[str, tuple[str, ...]] = {"synaptic": (), "modulatory": ("gain", "shift", "head")}
"""What learns, by row: ends of names, and all where there are none."""

UNTRAINED = "untrained"  # the control of a row: its meta-parameters as they are born

AT_ONCE = 10  # test tasks side by side


class PhaseSettings(Spec):
    """How tasks of one condition are learnt.

    Attributes
    ----------
    shots : int
        Images of each class to learn from.
    steps, nudged_steps : int
        Of the free phase, and of each of the two nudged ones.
    beta : float
    strength : float
        Lambda, which is not learnt.
    meta_rate : float
        Adam's step.
    milestones : sequence of int
        Updates after which Adam's step is halved.
    """

    shots: Count
    steps: Count
    nudged_steps: Count
    beta: Rate
    strength: Strength
    meta_rate: Rate
    milestones: tuple[Count, ...] = ()


class Images(NamedTuple):
    """What tasks are made of."""

    train: ImageData
    test: ImageData


class FewShotSettings(RunSettings):
    """Settings of both tables.

    Attributes
    ----------
    ways, queries : int
        Classes of a task, and images of each to evaluate on.
    size : int
        Height and width of an image.
    channels : sequence of int
        Of the blocks of convolution.
    rate, momentum : float
        Of learning, by Nesterov's momentum.
    average : int
        Last updates whose meta-parameters are averaged.
    tolerance : float, optional
        The largest residual of learning that an update accepts; by default any.
    """

    ways: Ways
    queries: Count = 15
    size: Count
    channels: tuple[Count, ...]
    rate: Rate = 0.01
    momentum: Momentum = 0.9
    average: Count = 124
    tolerance: Tolerance = None


@dataclass(frozen=True, eq=False)
class _Model:
    """What learns and what meta-learns, in one row under one condition."""

    settings: FewShotSettings
    phase: PhaseSettings
    network: ConvNet
    fast: tuple[str, ...]

    @cached_property
    def born(self) -> tuple[Named, Named]:
        """Weights of every seed at birth: those that learn, and those that do not."""
        weights = self.network.init(births(self.settings), self.settings.torch_device)
        return fast_and_slow(weights, self.fast) if self.fast else (weights, {})

    @property
    def theta(self) -> dict[str, Tensor]:
        """Meta-parameters at first: consolidated states of what learns, and slow weights."""
        fast, slow = self.born
        return {**{f"omega.{name}": w for name, w in fast.items()}, **slow}

    def descent(self, steps: int) -> Descent:
        """Learn for so many steps."""
        return Descent(steps, SGD(self.settings.rate, self.settings.momentum, nesterov=True))

    def problem(self, family: TaskFamily, draws: Draws) -> ComplexSynapse[LossProblem]:
        """Tasks side by side, those of a seed together."""
        device = self.settings.torch_device
        batch = family.sample(draws).to(device)
        assert isinstance(batch.x, Tensor)
        learn = Examples(batch.x.transpose(0, 1), batch.label.T)
        judge = Examples(batch.x_query, batch.label_query)
        each = len(draws) // self.settings.seeds
        born = copied(self.born[0], each)
        strength = torch.tensor(self.phase.strength, device=device)
        fixed = {f"lambda.{name}": strength for name in born}
        problem = classifier_problem(self.network, born, always(learn), always(judge))
        return ComplexSynapse(problem, fixed)

    def training(self, family: TaskFamily, trained: object) -> Averaged[MetaParameters]:
        """Contrast solutions nudged either way."""
        s, phase = self.settings, self.phase
        free, nudged = self.descent(phase.steps), self.descent(phase.nudged_steps)
        contrast: Contrastive[ComplexSynapse[LossProblem]] = Contrastive(
            free, nudged, phase.beta, "symmetric", tolerance=s.tolerance
        )
        problem = partial(self.problem, family)
        training = meta_training(
            s, self.theta, problem, contrast, phase.meta_rate, phase.milestones
        )
        return Averaged(training, max(0, s.updates - s.average))

    def judge(self, family: TaskFamily, draws: Draws, theta: Named) -> Tensor:
        """Share of a new task's queries that are classified rightly; NaN where one diverged."""
        problem = self.problem(family, draws)
        phi, settled = learnt(self.descent(self.phase.steps), problem, theta)
        judged = problem.inner.evaluate
        assert isinstance(judged, CrossEntropy)
        right = accuracy(self.network, {**theta, **phi}, judged.source)
        return torch.where(settled, right, torch.nan)

    def measure(self, family: TaskFamily, training: Training) -> Measured:
        """Accuracy in percent on new tasks, ``(seeds, lifetimes)``."""
        assert isinstance(training, Averaged)
        training.choose()
        right = on_tests(self.settings, training.model, partial(self.judge, family), AT_ONCE)
        return {"error": 100 * right.cpu()}


def few_shot_jobs(
    settings: FewShotSettings, conditions: Mapping[str, PhaseSettings], images: Images
) -> list[Job]:
    """Both rows under every condition, and what each has without meta-training."""
    channels, height, width = images.train.channels, *images.train.shape[-2:]
    network = ConvNet((channels, height, width), settings.ways, settings.channels)
    jobs = []
    for condition, phase in conditions.items():
        train, test = (
            OnlineFewShot(
                data, ways=settings.ways, shots=phase.shots, queries=settings.queries, order="iid"
            )
            for data in images
        )
        for row, fast in FAST.items():
            model = _Model(settings, phase, network, fast)
            begin = partial(model.training, train)
            measure = partial(model.measure, test)
            jobs.append(Job(row, condition, settings.updates, begin, measure))
            jobs.append(Job(f"{row}-{UNTRAINED}", condition, 0, begin, measure))
    return jobs


def control_row(key: str) -> Row:
    """Title the control of a row, of which the paper has no figures."""
    return Row(f"{key}-{UNTRAINED}", f"The same, untrained ({key})")


def rotated(data: ImageData) -> ImageData:
    """Four times as many classes: the images as they are, and turned by quarters."""
    square = data.images.reshape(-1, *data.shape)
    turned = [square.rot90(k, (-2, -1)).reshape(data.images.shape) for k in range(4)]
    names = tuple(f"{name}, {90 * k} degrees" for k in range(4) for name in data.class_names)
    labels = torch.cat([data.labels + k * data.n_classes for k in range(4)])
    return replace(
        data,
        images=torch.cat(turned),
        labels=labels,
        n_classes=4 * data.n_classes,
        class_names=names,
    )


NOTES = (
    "Accuracy on queries of tasks whose classes were not met before; queries are normalised by "
    "their own statistics, as the paper's are. The paper's standard errors are its standard "
    "deviations over 5 seeds divided by the root of 5.",
    "Synaptic: all weights learn, and their consolidated states are meta-learnt. Modulatory: "
    "gain and shift of every channel and the readout learn, with consolidated states of their "
    "own, and convolutions are meta-learnt. The paper does not tell its modulatory network, nor "
    "its settings; those of the synaptic one are used.",
    "Rows as published are those that the paper quotes from others, of which nothing is run here.",
    "Untrained: meta-parameters as they are born, from which the same test tasks are learnt in the "
    "same way.",
    "The meta-parameters are the mean of those of the last updates, as many as average says. The "
    "released code has 124, an epoch, and also picks the best epoch by {picked}.",
)
