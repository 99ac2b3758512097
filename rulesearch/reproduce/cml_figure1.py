"""CML, Figure 1: how good the contrastive meta-gradient is, by nudging strength and learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rulesearch.analysis import Floats
from rulesearch.networks import PlasticNetwork
from rulesearch.outer.bilevel import (
    SGD,
    ComplexSynapse,
    Contrastive,
    Descent,
    LeastSquares,
    LossProblem,
    draw_ridge,
    exact_ridge_gradient,
)
from rulesearch.outer.bilevel.networks import network_problem
from rulesearch.outer.bilevel.training import BilevelTraining, MetaParameters
from rulesearch.outer.record import UpdateRecord
from rulesearch.outer.seeds import NETWORK, TASK, generators, members
from rulesearch.report.cml_figures import Nudging, figure1
from rulesearch.reproduce.base import Job, Measured, Reproduction, Row, RunSettings, Training
from rulesearch.reproduce.cml_digits import check_digits, draw_digits
from rulesearch.reproduce.cml_figure1_cifar import CIFAR, CifarPanel, cifar_jobs, judged
from rulesearch.reproduce.cml_settings import Momentum, Rate, Tolerance
from rulesearch.reproduce.figures import write_figures
from rulesearch.search.settings import Count, Size

__all__ = ["CML_FIGURE1", "NudgingSettings"]

BETAS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
RIDGE, DIGITS = (30, 90, 150), (30, 100, 300)  # steps of the first phase
FEATURES, RIDGE_EXAMPLES, RIDGE_STRENGTH, RIDGE_RATE = 20, 40, 0.1, 0.3


class NudgingSettings(RunSettings):
    """Settings of both panels.

    Attributes
    ----------
    updates : int
        Of A the problems drawn for each seed; of B the meta-updates.
    lifetimes : int
        One: the network that was meta-trained is the one that is judged.
    hidden, examples, judged : int
        Of B: hidden units, images learnt, and images of the evaluation loss.
    nudged_steps : int
        Of B.
    rate, momentum : float
        Of learning in B, by Nesterov's momentum.
    strength, meta_rate : float
        Of the complex synapses of B: lambda at first, and Adam's step.
    tolerance : float, optional
        The largest residual of learning that an update of B accepts; by default any.
    cifar : CifarPanel, optional
        B as in the paper, on CIFAR-10 in place of digits; it has settings of its own.
    """

    lifetimes: Count = 1
    hidden: Count = 32
    examples: Count = 100
    judged: Count = 300
    nudged_steps: Count = 30
    rate: Rate = 0.1
    momentum: Momentum = 0.9
    strength: Size = 0.01
    meta_rate: Rate = 0.003
    tolerance: Tolerance = None
    cifar: CifarPanel | None = None


@dataclass(eq=False)
class RidgeErrors:
    """Measures the error of the meta-gradient, a new problem for each seed at every update.

    Both phases take as many steps. The nudged one's are shorter by 1 + beta, as the augmented
    loss is steeper, or a strong nudge would diverge.
    """

    beta: float
    steps: int
    seeds: int
    seed: int
    device: torch.device
    updates: int = 0
    model: nn.Module = field(default_factory=nn.Module)

    def __post_init__(self) -> None:
        for name in ("error", "delta"):  # sums over problems
            zero = torch.zeros(self.seeds, dtype=torch.float64, device=self.device)
            self.model.register_buffer(name, zero)

    def update(self) -> UpdateRecord:
        """Draw problems, and compare with the exact gradient."""
        draws = generators(self.seed, 0, TASK, members(self.seeds), self.updates)
        drawn = [draw_ridge(1, FEATURES, RIDGE_EXAMPLES, draw).inner for draw in draws]
        ridge = ComplexSynapse(LeastSquares.side_by_side(drawn).to(self.device))
        zero = torch.zeros(self.seeds, FEATURES, dtype=torch.float64, device=self.device)
        theta = {"omega.W": zero, "lambda.W": zero + RIDGE_STRENGTH}
        free = Descent(self.steps, SGD(RIDGE_RATE))
        nudged = Descent(self.steps, SGD(RIDGE_RATE / (1 + self.beta)))
        found = Contrastive(free, nudged, self.beta)(ridge, theta)
        exact = exact_ridge_gradient(ridge, theta)
        true = torch.cat(list(exact.gradient.values()), 1)
        away = torch.cat([found.gradient[name] for name in exact.gradient], 1) - true
        error = away.norm(dim=1) / true.norm(dim=1)
        self._sums["error"] += error
        self._sums["delta"] += (found.phi["W"] - exact.phi["W"]).norm(dim=1)
        self.updates += 1
        return UpdateRecord(error.cpu(), ~found.accepted.cpu())

    @property
    def _sums(self) -> dict[str, Tensor]:
        return dict(self.model.named_buffers())

    def tensors(self) -> dict[str, Tensor]:
        """The sums so far."""
        return self._sums

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from them."""
        for name, value in self._sums.items():
            value.copy_(tensors[name])
        self.updates = updates

    def measure(self) -> Measured:
        """Means over problems."""
        return {
            "error": self._sums["error"][:, None].cpu() / self.updates,
            "delta": self._sums["delta"].cpu() / self.updates,
        }


def _ridge_job(beta: float, steps: int, settings: NudgingSettings) -> Job:
    def begin(trained: object) -> Training:
        return RidgeErrors(beta, steps, settings.seeds, settings.seed, settings.torch_device)

    def measure(training: Training) -> Measured:
        assert isinstance(training, RidgeErrors)
        return training.measure()

    return Job(_row(beta), f"ridge-{steps}", settings.updates, begin, measure)


Synapses = ComplexSynapse[LossProblem]


def _digits_problem(settings: NudgingSettings) -> Synapses:
    """A network for each seed, with its own images, whose weights are complex synapses."""
    check_digits(settings.examples, settings.judged)
    seeds = members(settings.seeds)
    draws, device = generators(settings.seed, 0, TASK, seeds), settings.torch_device
    learn, judge = draw_digits(draws, settings.examples, settings.judged, torch.float32, device)
    network = PlasticNetwork([64, settings.hidden, 10], activation="tanh")
    born = network.init(generators(settings.seed, 0, NETWORK, seeds), device=device)
    return ComplexSynapse(network_problem(network, born, learn, judge))


def _descent(steps: int, rate: float, settings: NudgingSettings) -> Descent:
    return Descent(steps, SGD(rate, settings.momentum, nesterov=True))


def _digits_job(beta: float, steps: int, problem: Synapses, settings: NudgingSettings) -> Job:
    free = _descent(steps, settings.rate, settings)
    strengths = {
        f"lambda.{name}": torch.full_like(w, settings.strength)
        for name, w in problem.inner.start({}).items()
    }

    def begin(trained: object) -> Training:
        nudged = _descent(settings.nudged_steps, settings.rate / (1 + beta), settings)
        return BilevelTraining(
            MetaParameters(strengths),
            lambda update: problem,
            Contrastive(free, nudged, beta, tolerance=settings.tolerance),
            settings.meta_rate,
        )

    @torch.no_grad()
    def measure(training: Training) -> Measured:
        assert isinstance(training, BilevelTraining)
        return judged(problem, free, training.model.theta(), strengths)

    return Job(_row(beta), f"digits-{steps}", settings.updates, begin, measure)


def _row(beta: float) -> str:
    return f"beta-{beta:g}"


def _jobs(settings: NudgingSettings) -> Sequence[Job]:
    ridge = [_ridge_job(beta, steps, settings) for steps in RIDGE for beta in BETAS]
    if settings.cifar is not None:
        return ridge + cifar_jobs(settings.cifar, settings, BETAS, settings.tolerance)
    problem = _digits_problem(settings)
    return ridge + [_digits_job(b, steps, problem, settings) for steps in DIGITS for b in BETAS]


def _draw(measured: Mapping[str, Measured], run: Path, _: NudgingSettings) -> None:
    """Draw what was run of both panels: strengths that all curves of a panel have."""
    betas = [b for b in BETAS if any(f"{_row(b)}-{c}" in measured for c in CONDITIONS)]

    def curves(kind: str, steps: Sequence[int], quantity: str = "error") -> dict[int, Floats]:
        found = {n: [measured.get(f"{_row(b)}-{kind}-{n}") for b in betas] for n in steps}
        return {
            n: np.stack([job[quantity].double().reshape(-1).numpy() for job in jobs if job], 1)
            for n, jobs in found.items()
            if all(jobs)
        }

    def panel(kind: str, steps: Sequence[int]) -> tuple[dict[int, Floats], dict[int, float]]:
        """Losses, and those without meta-learning, by the steps that were taken."""
        loss, without = curves(kind, steps), curves(kind, steps, "without")
        taken = {n: int(curves(kind, (n,), "steps")[n][0, 0]) for n in loss}
        return (
            {taken[n]: rows for n, rows in loss.items()},
            {taken[n]: float(rows.mean()) for n, rows in without.items()},
        )

    deltas = {n: float(rows.mean()) for n, rows in curves("ridge", RIDGE, "delta").items()}
    digits, cifar = panel("digits", DIGITS), panel("cifar", CIFAR)
    shown, images = (digits, "digits") if digits[0] else (cifar, "CIFAR-10")
    data = Nudging(np.array(betas), curves("ridge", RIDGE), deltas, *shown, images)
    write_figures(run, {"figure1": figure1(data)}, {**asdict(data), "constant": data.constant})


CONDITIONS = {
    **{f"ridge-{n}": f"ridge, {n} steps" for n in RIDGE},
    **{f"digits-{n}": f"digits, {n} steps" for n in DIGITS},
    **{f"cifar-{n}": f"CIFAR-10, {n} steps" for n in CIFAR},
}

CML_FIGURE1 = Reproduction(
    name="cml-figure1",
    title="CML, Figure 1: the contrastive meta-gradient by nudging strength",
    source="Zucchet et al. 2022, Figure 1, which has no numbers",
    unit="relative error; loss",
    rows=tuple(Row(_row(beta), f"beta = {beta:g}") for beta in BETAS),
    conditions=CONDITIONS,
    settings=NudgingSettings,
    scales={
        "small": {"updates": 30, "seeds": 2},
        "full": {"updates": 100, "seeds": 10},
    },
    jobs=_jobs,
    notes=(
        "Ridge (A): error of the meta-gradient of lambda and omega of 20 weights relative to the "
        "exact one, both phases with so many steps of gradient descent; the mean over updates, "
        "each with a new problem. The figure's bound is that of Theorem 1, with delta as measured "
        "of the free phase alone, where the theorem asks it of both, and the least constant with "
        "which it holds everywhere.",
        "B, digits: cross-entropy on the evaluation images after meta-learning lambda of every "
        "weight of a network with one hidden layer, so many steps in the first phase; a small "
        "stand-in for the paper's CIFAR-10.",
        "B, CIFAR-10, in the place of digits with --set 'cifar={data: FOLDER}': the same, of the "
        "network of Table 1; a column's name has the paper's number of steps, of which the "
        "setting cifar takes its share.",
        "Steps of the nudged phase are shorter by 1 + beta, for its loss is steeper by as much.",
        "The figure and its numbers are in the run's folder figures/.",
    ),
    draw=_draw,
)
"""The reproduction of the paper's Figure 1."""
