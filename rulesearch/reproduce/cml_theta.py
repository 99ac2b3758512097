"""Beyond CML: the coefficients of a rule that descends an objective, contrasted and unrolled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field

from rulesearch.grammar.catalogue import catalogue
from rulesearch.named import copied, detached
from rulesearch.networks import PlasticNetwork
from rulesearch.outer.bilevel import (
    SGD,
    BilevelTraining,
    CoefficientProblem,
    Contrastive,
    Descent,
    MetaParameters,
    UnrolledDescent,
    always,
)
from rulesearch.outer.bilevel.coefficients import THETA
from rulesearch.outer.bilevel.residual import LEARNING, within
from rulesearch.outer.seeds import TEST, generators, members
from rulesearch.reproduce.base import Job, Measured, Reproduction, Row, RunSettings, Training
from rulesearch.reproduce.cml_digits import check_digits, draw_digits
from rulesearch.reproduce.cml_settings import Momentum, Tolerance
from rulesearch.search.settings import Count, Size

__all__ = ["CML_THETA", "ThetaSettings"]

BETAS = (0.001, 0.003, 0.01, 0.03, 0.1)
STEPS = (20, 60, 180)


class ThetaSettings(RunSettings):
    """Settings of all rows.

    Attributes
    ----------
    updates : int
        None are made: gradients are compared at one theta.
    lifetimes : int
        Problems of each seed.
    hidden : sequence of int
    examples, judged : int
        Digits to learn, and digits of the evaluation loss.
    momentum : float
    gradient, decay : float
        The rule's coefficients.
    tolerance : float, optional
        The largest residual of learning of what is compared; by default any.
    """

    updates: Annotated[int, Field(ge=0)] = 0
    hidden: tuple[Count, ...] = ()
    examples: Count = 100
    judged: Count = 200
    momentum: Momentum = 0.9
    gradient: Size = 0.1
    decay: Size = 0.005
    tolerance: Tolerance = None


@dataclass(frozen=True)
class _Comparison:
    """Of one strength of the nudge and one length of learning."""

    settings: ThetaSettings
    beta: float
    steps: int

    @property
    def learner(self) -> Descent:
        """The rule itself, with momentum."""
        return Descent(self.steps, SGD(1.0, self.settings.momentum))

    def problem(self, draws: Sequence[torch.Generator]) -> CoefficientProblem:
        """A network with its own digits for each generator."""
        s = self.settings
        network = PlasticNetwork((64, *s.hidden, 10), activation="tanh", feedback="symmetric")
        device = s.torch_device
        learn, judge = draw_digits(draws, s.examples, s.judged, torch.float64, device)
        pool = catalogue().subset(["pseudo_gradient", "decay"])
        born = network.init(draws, torch.float64, device)
        return CoefficientProblem(network, pool, born, always(learn), always(judge))

    def begin(self, trained: object) -> Training:
        """Nothing is trained: theta is where it is compared."""
        s = self.settings
        theta = torch.tensor([s.gradient, s.decay], dtype=torch.float64, device=s.torch_device)
        return BilevelTraining(
            MetaParameters({THETA: theta.expand(s.seeds, -1)}),
            lambda update: self.problem(()),
            Contrastive(
                self.learner,
                self.learner,
                self.beta,
                "symmetric",
                tolerance=s.tolerance,
            ),
            rate=1.0,
        )

    def measure(self, training: Training) -> Measured:
        """Relative error of the contrast, and its cosine with the exact gradient.

        NaN where learning has not converged as far as is asked.
        """
        assert isinstance(training, BilevelTraining)
        s = self.settings
        draws = generators(s.seed, 0, TEST, members(s.seeds, s.lifetimes))
        problem, at = self.problem(draws), copied(detached(training.model.theta()), s.lifetimes)
        estimate = training.meta_gradient(problem, at)
        found = estimate.gradient[THETA]
        exact = UnrolledDescent(self.learner)(problem, at).gradient[THETA]
        error = (found - exact).norm(dim=1) / exact.norm(dim=1)
        error = torch.where(within(estimate.residual[LEARNING], s.tolerance), error, torch.nan)
        cosine = torch.cosine_similarity(found, exact, 1)
        return {
            "error": error.reshape(s.seeds, -1).cpu(),
            "cosine": cosine.reshape(s.seeds, -1).cpu(),
        }


def _jobs(settings: ThetaSettings) -> Sequence[Job]:
    check_digits(settings.examples, settings.judged)
    found = []
    for beta in BETAS:
        for steps in STEPS:
            one = _Comparison(settings, beta, steps)
            found.append(Job(f"beta-{beta:g}", str(steps), 0, one.begin, one.measure))
    return found


CML_THETA: Reproduction[Any] = Reproduction(
    name="cml-theta",
    title="Beyond CML: coefficients of a rule by contrast, against unrolling",
    source="none",
    unit="relative error of the meta-gradient",
    rows=tuple(Row(f"beta-{beta:g}", f"beta = {beta:g}") for beta in BETAS),
    conditions={str(steps): f"{steps} steps" for steps in STEPS},
    settings=ThetaSettings,
    scales={
        "small": {"seeds": 2, "lifetimes": 3},
        "full": {"seeds": 5, "lifetimes": 20, "hidden": [32]},
    },
    jobs=_jobs,
    notes=(
        "The rule is the pseudo-gradient with symmetric feedback, and decay: it descends the loss "
        "and the weights' length. Networks learn digits; the gradient is that of other digits' "
        "loss in both coefficients.",
        "Contrasted symmetrically, a nudged phase as long as the free one; the exact gradient is "
        "unrolled through the same free phase, in float64.",
    ),
)
"""How good a contrast is for the rule itself."""
