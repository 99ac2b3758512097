"""CIFAR-10 and the LeNet of CML's Table 1 and Figure 1, a complex synapse for each weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from rulesearch.errors import ConfigError
from rulesearch.networks import ConvNet
from rulesearch.outer.bilevel import (
    SGD,
    Batches,
    ComplexSynapse,
    Descent,
    LossProblem,
    Named,
    accuracy,
    classifier_problem,
)
from rulesearch.outer.seeds import NETWORK, TEST, generators, members
from rulesearch.reproduce.base import RunSettings
from rulesearch.reproduce.cml_settings import Momentum, Rate, Tolerance
from rulesearch.reproduce.photographs import UsualPhotographs, check_photographs
from rulesearch.search.settings import Count, Size, Spec
from rulesearch.tasks import ImageData, load

__all__ = ["REFERENCE", "Cifar", "CifarSettings", "MethodSettings", "Synapses", "load_cifar"]

MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
REFERENCE = 2000  # images learnt whose statistics normalise what is judged

Synapses = ComplexSynapse[LossProblem]


class MethodSettings(Spec):
    """How one row learns and meta-learns.

    Attributes
    ----------
    steps : int
        Of learning.
    rate : float
        Of learning, by Nesterov's momentum.
    strength : float
        Lambda at first; the paper's code leaves out the factor 1/2, and has half of it.
    meta_rate : float
        Adam's step, in lambda.
    """

    steps: Count
    rate: Rate
    strength: Size
    meta_rate: Rate


def _method(steps: int, rate: float, strength: float, meta_rate: float) -> MethodSettings:
    return MethodSettings(steps=steps, rate=rate, strength=strength, meta_rate=meta_rate)


class CifarSettings(RunSettings):
    """Settings of all rows.

    Attributes
    ----------
    data : str
        Folder with ``train`` and ``test``, folders or zips of class folders, 32 x 32 pixels.
    examples, judged, tested : int
        Images learnt, images of the evaluation loss, and test images.
    batch : int
        Images of a step.
    channels, hidden : sequence of int
        Of LeNet's convolutions and of its full layers.
    momentum : float
    cml, t1_t2, cg, rbp, tbptl : MethodSettings
    nudged_steps, nudged_rate, beta
        Of CML's nudged phase.
    iterations : int
        Of conjugate gradient.
    terms, alpha
        Of the Neumann series.
    window : int
        Steps that TBPTL backpropagates through.
    shared : sequence of float
        Strengths to choose from without meta-learning, learnt with TBPTL's steps and rate.
    tolerance : float, optional
        The largest residual of learning that CML and the implicit rows accept; by default any.
    strict : bool
        Whether conjugate gradient and the Neumann series reject a Hessian that shows itself not
        positive definite; the released code does not ask.
    """

    lifetimes: Literal[1] = 1
    data: UsualPhotographs = "cifar10"
    examples: Count = 25_000
    judged: Count = 25_000
    tested: Count = 10_000
    batch: Count = 500
    channels: tuple[Count, ...] = (6, 16)
    hidden: tuple[Count, ...] = (120, 84)
    momentum: Momentum = 0.9
    cml: MethodSettings = _method(5000, 3e-4, 0.2, 0.06)
    nudged_steps: Count = 200
    nudged_rate: Rate = 1e-4
    beta: Rate = 10.0
    t1_t2: MethodSettings = _method(3000, 1e-3, 2e-4, 2e-3)
    cg: MethodSettings = _method(2000, 1e-3, 2e-5, 2e-3)
    iterations: Count = 100
    rbp: MethodSettings = _method(2000, 1e-3, 2e-5, 6e-3)
    terms: Count = 500
    alpha: Rate = 3e-4
    tbptl: MethodSettings = _method(5000, 1e-3, 2e-4, 2e-3)
    window: Count = 200
    shared: Annotated[tuple[Size, ...], Field(min_length=1)] = (
        0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3,
    )  # fmt: skip
    tolerance: Tolerance = None
    strict: bool = False


@dataclass(frozen=True, eq=False)
class Cifar:
    """The network and the images of every seed.

    Attributes
    ----------
    born : Named
        Weights at birth, the same at every update.
    rows : sequence of Tensor (seeds, images)
        Of `train`, learnt and judged; and of `test`.

    All tensors are on the device of the settings.
    """

    settings: CifarSettings
    network: ConvNet
    born: Named
    train: ImageData
    test: ImageData
    rows: Sequence[Tensor]

    def problem(self, update: int) -> Synapses:
        """What is learnt at an update: the same images in another order."""
        batch = self.settings.batch
        learn = Batches(self.train, self.rows[0], batch, shuffle=(self.settings.seed, update))
        judge = Batches(self.train, self.rows[1], min(batch, self.settings.judged))
        return ComplexSynapse(classifier_problem(self.network, self.born, learn, judge))

    def learner(self, method: MethodSettings) -> Descent:
        """Of the free phase."""
        return Descent(method.steps, SGD(method.rate, self.settings.momentum, nesterov=True))

    def strengths(self, value: float) -> dict[str, Tensor]:
        """Lambda of every weight, bias, gain and shift."""
        return {f"lambda.{name}": torch.full_like(w, value) for name, w in self.born.items()}

    def accuracy(self, phi: Named, condition: str) -> Tensor:
        """Accuracy in percent on images judged or on test images, ``(seeds,)``."""
        data, rows = (
            (self.test, self.rows[2]) if condition == "test" else (self.train, self.rows[1])
        )
        shown = self.rows[0][:, :REFERENCE]
        judged, reference = (
            Batches(d, r, r.shape[1]) for d, r in ((data, rows), (self.train, shown))
        )
        return 100 * accuracy(self.network, phi, judged, reference)


def load_cifar(settings: CifarSettings) -> Cifar:
    """Load the images, and draw networks and images for each seed.

    Raises
    ------
    ConfigError, DataError
        If a batch would have more images than are learnt; if images are missing, or too few.
    """
    device = settings.torch_device
    if settings.batch > settings.examples:
        raise ConfigError(f"batch is {settings.batch} images, of examples={settings.examples}")
    check_photographs("data", settings.data, few_shot=False)

    def images(split: str) -> ImageData:
        normalise = (MEAN, DEVIATION)
        return load(
            "image_folder",
            root=settings.data,
            split=split,
            size=32,
            colour=True,
            normalise=normalise,
        )

    def draw(data: ImageData, count: int, what: int) -> Tensor:
        if count > len(data.labels):
            raise ConfigError(
                f"{settings.data}: {count} {data.split} images are asked for (examples, judged, "
                f"tested), and there are {len(data.labels)}"
            )
        draws = generators(settings.seed, what, TEST, seeds)
        return torch.stack([torch.randperm(len(data.labels), generator=g)[:count] for g in draws])

    seeds = members(settings.seeds)
    train, test = images("train"), images("test")
    used = draw(train, settings.examples + settings.judged, 0)
    learnt, judged = used[:, : settings.examples], used[:, settings.examples :]
    network = ConvNet(
        (3, 32, 32),
        train.n_classes,
        settings.channels,
        kernel=5,
        padding=0,
        hidden=settings.hidden,
        born="uniform",
    )
    born = network.init(generators(settings.seed, 0, NETWORK, seeds), device)
    rows = [part.to(device) for part in (learnt, judged, draw(test, settings.tested, 1))]
    return Cifar(settings, network, born, train.to(device), test.to(device), rows)
