"""CML, Table 1: a strength of consolidation for every synapse of a network that sees CIFAR-10."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from rulesearch.errors import ConfigError
from rulesearch.networks import ConvNet
from rulesearch.outer.bilevel import (
    SGD,
    Batches,
    BilevelGradient,
    BilevelTraining,
    ComplexSynapse,
    ConjugateGradient,
    Contrastive,
    Descent,
    Identity,
    Implicit,
    LossProblem,
    MetaParameters,
    Named,
    Neumann,
    UnrolledDescent,
    accuracy,
    classifier_problem,
)
from rulesearch.outer.bilevel.named import detached, spread
from rulesearch.outer.meta_training import UpdateRecord
from rulesearch.outer.seeds import NETWORK, TEST, generators
from rulesearch.reproduce.base import (
    Job,
    Measured,
    Published,
    Reproduction,
    Row,
    RunSettings,
    Training,
)
from rulesearch.search.settings import Count, Size, Spec
from rulesearch.tasks import ImageData, load

__all__ = ["CML_TABLE1", "Cifar", "CifarSettings", "MethodSettings", "load_cifar"]

MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
REFERENCE = 2000  # images learnt whose statistics normalise what is judged

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
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
    """

    lifetimes: Literal[1] = 1
    data: str = "cifar10"
    examples: Count = 25_000
    judged: Count = 25_000
    tested: Count = 10_000
    batch: Count = 500
    channels: tuple[Count, ...] = (6, 16)
    hidden: tuple[Count, ...] = (120, 84)
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
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


@dataclass(frozen=True, eq=False)
class Cifar:
    """The network and the images of every seed.

    Attributes
    ----------
    born : Named
        Weights at birth, the same at every update.
    rows : sequence of Tensor (seeds, images)
        Of `train`, learnt and judged; and of `test`.
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


@dataclass(eq=False)
class SharedStrength:
    """No meta-learning: every update tries one strength for all synapses, and the best is kept."""

    cifar: Cifar
    learner: Descent
    model: MetaParameters
    updates: int = 0
    best: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.best = torch.full((self.cifar.settings.seeds,), torch.inf)

    @torch.no_grad()
    def update(self) -> UpdateRecord:
        """Learn with the next strength."""
        problem = self.cifar.problem(0)
        theta = self.cifar.strengths(self.cifar.settings.shared[self.updates])
        phi = self.learner(problem, theta, problem.start(theta))
        loss = problem.eval_loss(phi, theta)
        better = loss < self.best  # and never where it is not a number
        for name, kept in self.model.theta().items():
            kept.copy_(torch.where(spread(better, kept), theta[name], kept))
        self.best = torch.where(better, loss, self.best)
        self.updates += 1
        return UpdateRecord(loss, ~loss.isfinite())

    def tensors(self) -> dict[str, Tensor]:
        """The best so far."""
        return {"best": self.best, **{k: v.detach() for k, v in self.model.state_dict().items()}}

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from it."""
        self.model.load_state_dict({k: v for k, v in tensors.items() if k != "best"})
        self.best, self.updates = tensors["best"], updates


def load_cifar(settings: CifarSettings) -> Cifar:
    """Load the images, and draw networks and images for each seed."""

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

    seeds = [(row, 0) for row in range(settings.seeds)]
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
    born = network.init(generators(settings.seed, 0, NETWORK, seeds))
    rows = (learnt, judged, draw(test, settings.tested, 1))
    return Cifar(settings, network, born, train, test, rows)


def _meta_gradients(
    cifar: Cifar,
) -> dict[str, tuple[MethodSettings, BilevelGradient[Synapses]]]:
    """Settings and meta-gradient of each row but the one without."""
    s, learner = cifar.settings, cifar.learner
    nudged = Descent(s.nudged_steps, SGD(s.nudged_rate, s.momentum, nesterov=True))
    rows: dict[str, tuple[MethodSettings, BilevelGradient[Synapses]]] = {
        "t1-t2": (s.t1_t2, Implicit(learner(s.t1_t2), Identity())),
        "cg": (s.cg, Implicit(learner(s.cg), ConjugateGradient(s.iterations))),
        "rbp": (s.rbp, Implicit(learner(s.rbp), Neumann(s.terms, s.alpha))),
        "tbptl": (s.tbptl, UnrolledDescent(learner(s.tbptl), s.window)),
    }
    same = {"strength": s.cml.strength, "meta_rate": s.cml.meta_rate}
    control = {
        f"{row}-control": (method.model_copy(update=same), gradient)
        for row, (method, gradient) in rows.items()
    }
    return {"cml": (s.cml, Contrastive(learner(s.cml), nudged, s.beta)), **rows, **control}


def _jobs(settings: CifarSettings) -> Sequence[Job]:
    cifar = load_cifar(settings)

    def begin(
        method: MethodSettings, gradient: BilevelGradient[Synapses] | None, trained: object
    ) -> Training:
        model = MetaParameters(cifar.strengths(method.strength))
        if gradient is None:
            return SharedStrength(cifar, cifar.learner(method), model)
        return BilevelTraining(model, cifar.problem, gradient, method.meta_rate)

    @torch.no_grad()
    def measure(method: MethodSettings, condition: str, training: Training) -> Measured:
        assert isinstance(training.model, MetaParameters)
        theta = detached(training.model.theta())
        problem = cifar.problem(settings.updates)
        phi = cifar.learner(method)(problem, theta, problem.start(theta))
        return {"error": cifar.accuracy(phi, condition)[:, None]}

    rows: dict[str, tuple[MethodSettings, BilevelGradient[Synapses] | None]] = {
        **_meta_gradients(cifar),
        "no-meta": (settings.tbptl, None),
    }
    jobs = []
    for row, (method, gradient) in rows.items():
        make = partial(begin, method, gradient)
        updates = len(settings.shared) if gradient is None else settings.updates
        job = Job(row, "evaluation", updates, make, partial(measure, method, "evaluation"))
        tested = replace(
            job,
            condition="test",
            updates=0,
            begin=partial(_again, make, job.name),
            measure=partial(measure, method, "test"),
            needs=(job.name,),
        )
        jobs += [job, tested]
    return jobs


def _again(
    make: partial[Training], name: str, trained: Mapping[str, Mapping[str, Tensor]]
) -> Training:
    """The training of another job, at its end."""
    training = make({})
    training.model.load_state_dict(dict(trained[name]))
    return training


def _row(key: str, title: str, evaluation: tuple[float, float], test: tuple[float, float]) -> Row:
    return Row(key, title, {"evaluation": Published(*evaluation), "test": Published(*test)})


ROWS = (
    _row("t1-t2", "T1-T2", (64.77, 0.40), (62.57, 0.31)),
    _row("cg", "CG", (57.65, 1.51), (57.51, 0.98)),
    _row("rbp", "RBP", (64.92, 1.32), (62.14, 0.97)),
    _row("cml", "CML", (74.43, 0.53), (66.94, 0.25)),
    _row("no-meta", "No meta", (60.06, 0.37), (60.13, 0.38)),
    _row("tbptl", "TBPTL", (73.17, 0.27), (65.35, 0.36)),
    *(Row(f"{key}-control", f"{title}, begun as CML")
      for key, title in (("t1-t2", "T1-T2"), ("cg", "CG"), ("rbp", "RBP"), ("tbptl", "TBPTL"))),
)  # fmt: skip


def _small(steps: int, rate: float, strength: float, meta_rate: float) -> dict[str, float]:
    return _method(steps, rate, strength, meta_rate).model_dump()


CML_TABLE1 = Reproduction(
    name="cml-table1",
    title="CML, Table 1: the strength of every synapse, on CIFAR-10",
    source="Zucchet et al. 2022, Table 1 (100 updates, 10 seeds)",
    unit="% accuracy",
    rows=ROWS,
    conditions={"evaluation": "Evaluation", "test": "Test"},
    settings=CifarSettings,
    scales={
        "small": {
            "updates": 20,
            "seeds": 2,
            "examples": 500,
            "judged": 500,
            "tested": 1000,
            "batch": 50,
            # Rates grow as steps become fewer: their product is that of the full scale. CML
            # begins with what is the best shared strength for 500 images.
            "cml": _small(60, 2.5e-2, 0.03, 0.04),
            "nudged_steps": 15,
            "nudged_rate": 1.3e-3,
            "t1_t2": _small(60, 5e-2, 2e-4, 1e-2),
            "cg": _small(60, 3.3e-2, 2e-5, 1e-2),
            "iterations": 5,
            "rbp": _small(60, 3.3e-2, 2e-5, 3e-2),
            "terms": 10,
            "alpha": 1.5e-2,
            "tbptl": _small(60, 8e-2, 2e-4, 1e-2),
            "window": 10,
        },
        "full": {"updates": 100, "seeds": 10},
    },
    jobs=_jobs,
    notes=(
        "Accuracy of networks that learnt half of the training images, on the other half, whose "
        "loss meta-learning lowers, and on the test images, which it never sees. One network for "
        "each seed.",
        "The strength is in the paper's convention, 1/2 lambda phi^2.",
        "Rows begun as CML have its lambda and its step of Adam at first, and their own learning.",
        "TBPTL meta-learns strengths alone, on the evaluation images; the released code does so on "
        "the test images, and initial weights too.",
        "No meta: one strength for all synapses, the best of a few by evaluation loss.",
        "Learning normalises by the batch. Images judged are normalised by the statistics of "
        f"{REFERENCE} images learnt, and losses that meta-gradients differentiate by those of all "
        "their images.",
    ),
)
"""The reproduction of the paper's Table 1."""
