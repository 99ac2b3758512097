"""Panel B of CML's Figure 1 as in the paper: the LeNet of Table 1, on CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rulesearch.named import Named, detached
from rulesearch.outer.bilevel import SGD, BilevelTraining, Contrastive, Descent, MetaParameters
from rulesearch.reproduce.base import Job, Measured, RunSettings, Training
from rulesearch.reproduce.cml_cifar import Cifar, CifarSettings, Synapses, load_cifar
from rulesearch.reproduce.cml_tasks import learnt
from rulesearch.reproduce.photographs import UsualPhotographs
from rulesearch.search.settings import Count, Spec

__all__ = ["CIFAR", "CifarPanel", "cifar_jobs", "judged"]

CIFAR = (500, 1500, 5000)  # steps of the first phase
AT, RATE = 10.0, 1e-4  # the strength of Table 1's nudge, and the rate of its nudged phase


class CifarPanel(Spec):
    """What panel B is measured on, in place of digits; the rest is as in Table 1.

    Attributes
    ----------
    data : str
        Folder with ``train`` and ``test``, folders or zips of class folders.
    examples, judged, batch : int
        Images learnt, images of the evaluation loss, and images of a step.
    shorter : int
        Divides all numbers of steps, and multiplies their rates.
    """

    data: UsualPhotographs = "cifar10"
    examples: Count = 25_000
    judged: Count = 25_000
    batch: Count = 500
    shorter: Count = 1


@dataclass(frozen=True, eq=False)
class _Curve:
    """A nudging strength, and a number of steps of the first phase."""

    cifar: Cifar
    beta: float
    steps: int
    shorter: int

    def descent(self, steps: int, rate: float) -> Descent:
        """By Nesterov's momentum."""
        optimiser = SGD(rate * self.shorter, self.cifar.settings.momentum, nesterov=True)
        return Descent(max(1, steps // self.shorter), optimiser)

    @property
    def free(self) -> Descent:
        """The first phase."""
        return self.descent(self.steps, self.cifar.settings.cml.rate)

    @property
    def nudged(self) -> Descent:
        """Its steps are shorter by 1 + beta, but never longer than those of the first phase."""
        s = self.cifar.settings
        rate = min(s.cml.rate, RATE * (1 + AT) / (1 + self.beta))
        return self.descent(s.nudged_steps, rate)

    def begin(self, trained: object) -> Training:
        """Meta-learn the strength of every weight."""
        method = self.cifar.settings.cml
        return BilevelTraining(
            MetaParameters(self.cifar.strengths(method.strength)),
            self.cifar.problem,
            Contrastive(self.free, self.nudged, self.beta, tolerance=self.cifar.settings.tolerance),
            method.meta_rate,
        )

    @torch.no_grad()
    def measure(self, training: Training) -> Measured:
        """Judge networks that learn with the strengths found."""
        assert isinstance(training, BilevelTraining)
        before = self.cifar.strengths(self.cifar.settings.cml.strength)
        problem = self.cifar.problem(training.updates)
        return judged(problem, self.free, detached(training.model.theta()), before)


def judged(problem: Synapses, free: Descent, theta: Named, before: Named) -> Measured:
    """Loss on the images judged, with the strengths found and with those of before.

    A curve of the figure has one number of steps. Of networks that diverged there is no error.
    """
    phi, settled = learnt(free, problem, theta)
    error = torch.where(settled, problem.eval_loss(phi, theta), torch.nan)
    without = problem.eval_loss(free(problem, before, problem.start(before)), before)
    return {
        "error": error[:, None].cpu(),
        "without": without.cpu(),
        "steps": torch.tensor(free.steps),
    }


def cifar_jobs(
    panel: CifarPanel, settings: RunSettings, betas: Sequence[float], tolerance: float | None
) -> list[Job]:
    """A job for each strength and length, ``beta-1-cifar-500`` and so on."""
    own = {k: getattr(settings, k) for k in ("updates", "seeds", "seed", "device")}
    # The test images are of no use here: one satisfies Table 1.
    images = panel.model_dump(exclude={"shorter"})
    cifar = load_cifar(CifarSettings(**own, **images, tested=1, tolerance=tolerance))
    jobs = []
    for steps in CIFAR:
        for beta in betas:
            curve = _Curve(cifar, beta, steps, panel.shorter)
            name = (f"beta-{beta:g}", f"cifar-{steps}")
            jobs.append(Job(*name, settings.updates, curve.begin, curve.measure))
    return jobs
