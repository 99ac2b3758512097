"""CML, Table 1: a strength of consolidation for every synapse of a network that sees CIFAR-10."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from rulesearch.errors import ConfigError
from rulesearch.named import detached, spread
from rulesearch.outer.bilevel import (
    SGD,
    BilevelGradient,
    BilevelTraining,
    ConjugateGradient,
    Contrastive,
    Descent,
    Identity,
    Implicit,
    InverseHessian,
    MetaParameters,
    Neumann,
    UnrolledDescent,
)
from rulesearch.outer.record import UpdateRecord
from rulesearch.reproduce.base import Job, Measured, Published, Reproduction, Row, Training
from rulesearch.reproduce.cml_cifar import (
    REFERENCE,
    Cifar,
    CifarSettings,
    MethodSettings,
    Synapses,
    load_cifar,
)
from rulesearch.reproduce.cml_tasks import learnt

__all__ = ["CML_TABLE1", "SharedStrength"]


@dataclass(eq=False)
class SharedStrength:
    """No meta-learning: every update tries one strength for all synapses, and the best is kept."""

    cifar: Cifar
    learner: Descent
    model: MetaParameters
    updates: int = 0
    best: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.best = torch.full((self.cifar.settings.seeds,), torch.inf, device=self.model.device)

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
        return UpdateRecord(loss.cpu(), ~loss.isfinite().cpu())

    def tensors(self) -> dict[str, Tensor]:
        """The best so far."""
        return {"best": self.best, **{k: v.detach() for k, v in self.model.state_dict().items()}}

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from it."""
        self.model.load_state_dict({k: v for k, v in tensors.items() if k != "best"})
        self.best, self.updates = tensors["best"].to(self.model.device), updates


def _meta_gradients(
    cifar: Cifar,
) -> dict[str, tuple[MethodSettings, BilevelGradient[Synapses]]]:
    """Settings and meta-gradient of each row but the one without."""
    s, learner, limit = cifar.settings, cifar.learner, cifar.settings.tolerance
    solvers: dict[str, tuple[MethodSettings, InverseHessian]] = {
        "t1-t2": (s.t1_t2, Identity()),
        "cg": (s.cg, ConjugateGradient(s.iterations, s.strict)),
        "rbp": (s.rbp, Neumann(s.terms, s.alpha, s.strict)),
    }
    rows: dict[str, tuple[MethodSettings, BilevelGradient[Synapses]]] = {
        row: (method, Implicit(learner(method), solver, tolerance=limit))
        for row, (method, solver) in solvers.items()
    }
    rows["tbptl"] = (s.tbptl, UnrolledDescent(learner(s.tbptl), s.window))
    same = {"strength": s.cml.strength, "meta_rate": s.cml.meta_rate}
    control = {
        f"{row}-control": (method.model_copy(update=same), gradient)
        for row, (method, gradient) in rows.items()
    }
    nudged = Descent(s.nudged_steps, SGD(s.nudged_rate, s.momentum, nesterov=True))
    contrast: Contrastive[Synapses] = Contrastive(learner(s.cml), nudged, s.beta, tolerance=limit)
    return {"cml": (s.cml, contrast), **rows, **control}


def _jobs(settings: CifarSettings) -> Sequence[Job]:
    if settings.window > settings.tbptl.steps:
        raise ConfigError(
            f"window is {settings.window} steps, of tbptl.steps={settings.tbptl.steps}"
        )
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
        phi, settled = learnt(cifar.learner(method), problem, theta)
        right = torch.where(settled, cifar.accuracy(phi, condition), torch.nan)
        return {"error": right[:, None].cpu()}

    rows: dict[str, tuple[MethodSettings, BilevelGradient[Synapses] | None]] = {
        **_meta_gradients(cifar),
        "no-meta": (settings.tbptl, None),
        "no-meta-control": (settings.cml, None),
    }
    rows["cml-born"] = rows["cml"]
    jobs = []
    for row, (method, gradient) in rows.items():
        updates = len(settings.shared) if gradient is None else settings.updates
        updates = 0 if row == "cml-born" else updates
        job = Job(
            row,
            "evaluation",
            updates,
            partial(begin, method, gradient),
            partial(measure, method, "evaluation"),
        )
        jobs += [job, job.again("test", partial(measure, method, "test"))]
    return jobs


def _row(key: str, title: str, evaluation: tuple[float, float], test: tuple[float, float]) -> Row:
    return Row(key, title, {"evaluation": Published(*evaluation), "test": Published(*test)})


ROWS = (
    _row("t1-t2", "T1-T2", (64.77, 0.40), (62.57, 0.31)),
    _row("cg", "CG", (57.65, 1.51), (57.51, 0.98)),
    _row("rbp", "RBP", (64.92, 1.32), (62.14, 0.97)),
    _row("cml", "CML", (74.43, 0.53), (66.94, 0.25)),
    _row("no-meta", "No meta", (60.06, 0.37), (60.13, 0.38)),
    _row("tbptl", "TBPTL", (73.17, 0.27), (65.35, 0.36)),
    Row("cml-born", "CML, as born"),
    Row("no-meta-control", "No meta, learning as CML"),
    *(Row(f"{key}-control", f"{title}, begun as CML")
      for key, title in (("t1-t2", "T1-T2"), ("cg", "CG"), ("rbp", "RBP"), ("tbptl", "TBPTL"))),
)  # fmt: skip


def _small(steps: int, rate: float, strength: float, meta_rate: float) -> dict[str, float]:
    return MethodSettings(
        steps=steps, rate=rate, strength=strength, meta_rate=meta_rate
    ).model_dump()


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
            # begins with a strength that is good for 500 images if all synapses share it.
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
        "Accuracy of networks on training images that they have not learnt, whose loss "
        "meta-learning lowers, and on test images, which it never sees. The paper's learn half of "
        "the training images. One network for each seed.",
        "The strength is in the paper's convention, 1/2 lambda phi^2.",
        "Rows begun as CML have its lambda and its step of Adam at first, and their own learning.",
        "TBPTL meta-learns strengths alone, on the evaluation images; the released code does so on "
        "the test images, and initial weights too. Momentum lives through its window; there it "
        "begins anew.",
        "CML, as born: before its first update. No meta: one strength for all synapses, the best "
        "of a few by evaluation loss, learning at the rate and for the steps of TBPTL, or of CML.",
        "Learning normalises by the batch. Images judged are normalised by the statistics of "
        f"images learnt, {REFERENCE} at most, and losses that meta-gradients differentiate by "
        "those of all their images.",
    ),
)
"""The reproduction of the paper's Table 1."""
