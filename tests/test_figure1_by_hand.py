"""CML's Figure 1A by hand: ridge regression, its meta-gradient and its contrast in numpy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from rulesearch.outer.bilevel import draw_ridge
from rulesearch.outer.seeds import TASK, generators, members
from rulesearch.reproduce import Plan, make_plan
from rulesearch.reproduce.base import Measured

pytestmark = pytest.mark.usefixtures("one_thread")

Floats = NDArray[np.float64]

BETAS, STEPS = (0.001, 0.03, 1.0, 30.0), (30, 90, 150)
UPDATES, SEEDS = 2, 2
STRENGTH, RATE = 0.1, 0.3  # lambda of every weight, and the free phase's step


@dataclass(frozen=True)
class ByHand:
    """One problem, whose consolidated state is zero, and its quadratic losses.

    ``matrix`` and ``target`` are those of the gradient ``matrix @ phi - target`` of what is learnt,
    the anchor included, and of what is judged.
    """

    matrix: Floats
    target: Floats
    judged_matrix: Floats
    judged_target: Floats

    def minimum(self, beta: float) -> Floats:
        """Of the augmented loss."""
        matrix = self.matrix + beta * self.judged_matrix
        found: Floats = np.linalg.inv(matrix) @ (self.target + beta * self.judged_target)
        return found

    def descended(self, begun: Floats, beta: float, steps: int, rate: float) -> Floats:
        """Gradient descent contracts the way from its minimum by the same matrix at every step."""
        matrix = np.eye(len(begun)) - rate * (self.matrix + beta * self.judged_matrix)
        best = self.minimum(beta)
        found: Floats = best + np.linalg.matrix_power(matrix, steps) @ (begun - best)
        return found

    @property
    def true(self) -> Floats:
        """The judged loss's gradient in omega and lambda, through the minimum that they move."""
        phi, inverse = self.minimum(0), np.linalg.inv(self.matrix)
        by_omega, by_lambda = STRENGTH * inverse, -inverse * phi  # columns: one meta-parameter each
        slope = self.judged_matrix @ phi - self.judged_target
        return np.concatenate([slope @ by_omega, slope @ by_lambda])

    @staticmethod
    def partial(phi: Floats) -> Floats:
        """Of lambda / 2 (omega - phi)^2 in omega and lambda, where omega is zero."""
        return np.concatenate([-STRENGTH * phi, phi**2 / 2])

    def contrast(self, beta: float, steps: int) -> tuple[Floats, float, float]:
        """The estimate, and how far the free and the nudged solution are from the minima."""
        free = self.descended(np.zeros(len(self.target)), 0, steps, RATE)
        nudged = self.descended(free, beta, steps, RATE / (1 + beta))
        estimate = (self.partial(nudged) - self.partial(free)) / beta
        first, second = free - self.minimum(0), nudged - self.minimum(beta)
        return estimate, float(np.linalg.norm(first)), float(np.linalg.norm(second))

    def constant(self, betas: tuple[float, ...]) -> float:
        """One of Theorem 1: twice the slope of partial derivatives, and the bias of exact minima.

        Every phi on the way is within one of the minimum without a nudge.
        """
        first = self.minimum(0)
        steepest = np.hypot(STRENGTH, np.abs(first).max() + 1)
        bias = [
            (1 + b) / b * np.linalg.norm(
                (self.partial(self.minimum(b)) - self.partial(first)) / b - self.true
            )
            for b in betas
        ]  # fmt: skip
        return float(max(2 * steepest, *bias))


def problems(update: int) -> list[ByHand]:
    """Those that the figure draws at an update, one a seed."""
    draws = generators(0, 0, TASK, members(SEEDS), update)
    tasks = [draw_ridge(1, 20, 40, draw).inner for draw in draws]
    parts = [(part[0].numpy() for part in (t.x, t.y, t.x_eval, t.y_eval)) for t in tasks]
    return [
        ByHand(x.T @ x / 40 + STRENGTH * np.eye(20), x.T @ y / 40, u.T @ u / 40, u.T @ v / 40)
        for x, y, u, v in parts
    ]


def bound(delta: float, beta: float) -> float:
    return (1 + beta) / beta * delta + beta / (1 + beta)


@pytest.fixture(scope="module")
def plan() -> Plan:
    few = (f"updates={UPDATES}", f"seeds={SEEDS}", "examples=12", "judged=20", "hidden=4")
    return make_plan("cml-figure1", "small", few, tuple(f"beta-{beta:g}" for beta in BETAS))


@pytest.fixture(scope="module")
def measured(plan: Plan) -> dict[str, Measured]:
    found = {}
    for job in plan.jobs():
        if job.condition.startswith("ridge"):
            training = job.begin({})
            for _ in range(job.updates):
                training.update()
            found[job.name] = job.measure(training)
    return found


def by_hand(beta: float, steps: int) -> tuple[list[float], list[float]]:
    """Of each seed the relative error and delta, means over updates."""
    errors, deltas = np.empty((2, UPDATES, SEEDS))
    for update in range(UPDATES):
        for seed, problem in enumerate(problems(update)):
            estimate, deltas[update, seed], _ = problem.contrast(beta, steps)
            size = np.linalg.norm(problem.true)
            errors[update, seed] = np.linalg.norm(estimate - problem.true) / size
    return errors.mean(0).tolist(), deltas.mean(0).tolist()


def test_errors_and_distances_are_those_of_ridge_regression_by_hand(
    measured: dict[str, Measured],
) -> None:
    assert len(measured) == len(BETAS) * len(STEPS)
    for beta in BETAS:
        for steps in STEPS:
            found = measured[f"beta-{beta:g}-ridge-{steps}"]
            errors, deltas = by_hand(beta, steps)
            np.testing.assert_allclose(found["error"][:, 0], errors, rtol=1e-7)
            np.testing.assert_allclose(found["delta"], deltas, rtol=1e-7)


def test_the_figures_bound_is_the_theorems(
    plan: Plan, measured: dict[str, Measured], tmp_path: Path
) -> None:
    assert plan.reproduction.draw is not None
    plan.reproduction.draw(measured, tmp_path, plan.settings)
    numbers = json.loads((tmp_path / "figures" / "numbers.json").read_text())
    ratios, deltas = [], {}
    for steps in STEPS:
        found = {beta: by_hand(beta, steps) for beta in BETAS}
        deltas[str(steps)] = float(np.mean(found[1.0][1]))
        ratios += [np.mean(e) / bound(deltas[str(steps)], b) for b, (e, _) in found.items()]
    assert numbers["delta"] == pytest.approx(deltas, rel=1e-5)
    assert numbers["constant"] == pytest.approx(max(ratios), rel=1e-5)


def test_errors_stay_below_the_theorems_bound(measured: dict[str, Measured]) -> None:
    """With delta of the worse of both solutions, and the constants of the problems."""
    drawn = [problems(update) for update in range(UPDATES)]
    for beta in BETAS:
        for steps in STEPS:
            error = measured[f"beta-{beta:g}-ridge-{steps}"]["error"]
            for seed in range(SEEDS):
                most = [
                    p.constant(BETAS) / np.linalg.norm(p.true)
                    * bound(max(p.contrast(beta, steps)[1:]), beta)
                    for p in (some[seed] for some in drawn)
                ]  # fmt: skip
                assert float(error[seed]) <= np.mean(most)
