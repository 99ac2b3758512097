"""What is left unsolved, by hand; and that what is not solved teaches nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from draws import generator
from test_cml_images import FEW, FIVE, ONE, characters
from tiny_reproduction import left
from torch import Tensor

from rulesearch.errors import ConfigError, GrammarError
from rulesearch.outer.bilevel import (
    SGD,
    BilevelTraining,
    ComplexSynapse,
    ConjugateGradient,
    Contrastive,
    Dense,
    Descent,
    Identity,
    Implicit,
    LeastSquares,
    LossProblem,
    MetaParameters,
    Named,
    Neumann,
    Ridge,
    RidgeSolution,
    draw_ridge,
    exact_ridge_gradient,
)
from rulesearch.reproduce import make_plan, reproduce

pytestmark = pytest.mark.usefixtures("one_thread")


# -- learning that has not converged --


def drawn() -> tuple[Ridge, dict[str, Tensor]]:
    ridge = draw_ridge(2, 4, 10, generator())
    omega = torch.randn(2, 4, generator=generator(1), dtype=torch.float64)
    return ridge, {"omega.W": omega, "lambda.W": torch.full_like(omega, 0.2)}


def by_hand(ridge: Ridge, theta: Named, scheme: list[float], beta: float) -> list[float]:
    """Six steps of descent and four nudged ones, and the slopes that they leave, in numpy."""
    task, found = ridge.inner, []
    for p in range(2):
        x, y, x_, y_ = (t[p].numpy() for t in (task.x, task.y, task.x_eval, task.y_eval))
        omega, lam = (theta[k][p].numpy() for k in ("omega.W", "lambda.W"))

        def slope(w: Any, b: float, parts: Any = (x, y, x_, y_, omega, lam)) -> Any:
            x, y, x_, y_, omega, lam = parts
            learnt = x.T @ (x @ w - y) / 10 + lam * (w - omega)
            return learnt + b * x_.T @ (x_ @ w - y_) / 10

        free = omega.copy()
        for _ in range(6):
            free = free - 0.1 * slope(free, 0.0)
        nudge = np.linalg.norm(x_.T @ (x_ @ free - y_)) / 10 * beta
        worst = 0.0
        for b in scheme:
            w = free
            if b:
                for _ in range(4):
                    w = w - 0.05 * slope(w, b)
            worst = max(worst, np.linalg.norm(slope(w, b)) / nudge)
        found.append(worst)
    return found


@pytest.mark.parametrize(
    ("scheme", "strengths"),
    [("forward", [0.0, 0.3]), ("symmetric", [-0.3, 0.3]), ("three-point", [0.0, 0.3, 0.6])],
)
def test_the_residual_of_learning_by_hand(scheme: str, strengths: list[float]) -> None:
    ridge, theta = drawn()
    contrast = Contrastive(Descent(6, SGD(0.1)), Descent(4, SGD(0.05)), 0.3, scheme)
    found = contrast(ridge, theta).residual["learning"]
    assert found.tolist() == pytest.approx(by_hand(ridge, theta, strengths, 0.3))
    implicit = Implicit(Descent(6, SGD(0.1)), Dense())(ridge, theta).residual["learning"]
    assert implicit.tolist() == pytest.approx(by_hand(ridge, theta, [0.0], 1.0))


def test_where_all_curvatures_are_one_the_error_is_the_residual() -> None:
    """A free phase that stopped early, and a weak nudge that is followed to its end."""
    task = draw_ridge(1, 4, 4, generator(2)).inner
    x = 2 * torch.eye(4, dtype=torch.float64)[None]  # x^T x / 4 is the identity
    ridge = ComplexSynapse(LeastSquares(x, task.y, task.x_eval, task.y_eval))
    theta = {
        "omega.W": torch.zeros(1, 4, dtype=torch.float64),
        "lambda.W": torch.full((1, 4), 0.5, dtype=torch.float64),
    }
    contrast = Contrastive(Descent(10, SGD(0.4)), RidgeSolution(), 1e-3)
    found, exact = contrast(ridge, theta), exact_ridge_gradient(ridge, theta)
    away = found.gradient["omega.W"] - exact.gradient["omega.W"]
    error = float(away.norm() / exact.gradient["omega.W"].norm())
    assert error > 0.1
    assert float(found.residual["learning"]) == pytest.approx(error, rel=0.05)


def test_learning_that_is_too_slow_is_rejected_where_a_tolerance_asks() -> None:
    """One of two problems is flat along an axis, where steps make no way."""
    task = draw_ridge(2, 4, 10, generator(3)).inner
    narrow = torch.ones(2, 1, 4, dtype=torch.float64)
    narrow[1, :, 0] = 0.05
    ridge = ComplexSynapse(LeastSquares(task.x * narrow, task.y, task.x_eval, task.y_eval))
    theta = {"lambda.W": torch.full((2, 4), 1e-3, dtype=torch.float64)}

    def accepted(steps: int, tolerance: float | None) -> list[bool]:
        phase = Descent(steps, SGD(0.3))
        contrast = Contrastive(phase, phase, 0.1, tolerance=tolerance)
        implicit = Implicit(phase, Dense(), tolerance=tolerance and 0.1 * tolerance)
        both = [method(ridge, theta).accepted.tolist() for method in (contrast, implicit)]
        assert both[0] == both[1]
        found: list[bool] = both[0]
        return found

    assert accepted(5, None) == [True, True]
    assert accepted(5, 1e-2) == [False, False]
    assert accepted(200, 1e-2) == [True, False]
    assert accepted(20_000, 1e-2) == [True, True]
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="tolerance, of learning that has not converged"):
            Contrastive(Descent(5), Descent(5), 0.1, tolerance=wrong)
        with pytest.raises(ConfigError, match="tolerance"):
            Implicit(Descent(5), Dense(), tolerance=wrong)


def test_nothing_left_is_zero_of_anything() -> None:
    """At a minimum of both losses nothing is asked, and nothing is left."""
    task = draw_ridge(1, 3, 8, generator(4), noise=0.0).inner
    zero = [torch.zeros_like(y) for y in (task.y, task.y_eval)]
    ridge = ComplexSynapse(LeastSquares(task.x, zero[0], task.x_eval, zero[1]))
    theta = {"lambda.W": torch.full((1, 3), 0.1, dtype=torch.float64)}
    phase = Descent(3, SGD(0.1))
    assert Contrastive(phase, phase, 0.1)(ridge, theta).residual["learning"].tolist() == [0.0]
    found = Implicit(phase, ConjugateGradient(3))(ridge, theta)
    assert {k: v.tolist() for k, v in found.residual.items()} == {"learning": [0], "solver": [0]}


# -- solvers --

DEFINITE = [[4.0, 1.0, 0.0], [1.0, 3.0, 0.5], [0.0, 0.5, 2.0]]
SADDLE = [[4.0, 1.0, 0.0], [1.0, -3.0, 0.5], [0.0, 0.5, 2.0]]
SINGULAR = [[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 1.0]]
G = np.array([1.0, -2.0, 0.5])


def quadratic(*matrices: list[list[float]]) -> tuple[LossProblem, dict[str, Tensor]]:
    """``phi.H phi / 2 - theta.phi``, judged by ``G.phi``: the meta-gradient is what solves Hv = G.

    Parameters are born in a point where nothing is left to learn.
    """
    hessian = torch.tensor(matrices, dtype=torch.float64)
    g = torch.from_numpy(G)
    born = torch.tensor([[0.3, -0.1, 0.2]], dtype=torch.float64).expand(len(matrices), 3)

    def learn(phi: Named, theta: Named, step: int | None) -> Tensor:
        force = torch.einsum("pij,pi,pj->p", hessian, phi["w"], phi["w"]) / 2
        return force - (theta["t"] * phi["w"]).sum(1)

    def judge(phi: Named, theta: Named, step: int | None) -> Tensor:
        return phi["w"] @ g

    theta = {"t": torch.einsum("pij,pj->pi", hessian, born)}
    return LossProblem(learn, judge, lambda theta: {"w": born}), theta


def test_conjugate_gradient_rejects_an_indefinite_hessian_and_no_other() -> None:
    problem, theta = quadratic(DEFINITE, SADDLE)
    found = Implicit(Descent(0), ConjugateGradient(3))(problem, theta)
    assert found.accepted.tolist() == [True, False]
    expected = [np.linalg.solve(np.array(h), G) for h in (DEFINITE, SADDLE)]
    assert found.gradient["t"][0].tolist() == pytest.approx(expected[0].tolist())
    assert found.residual["solver"][0] < 1e-14
    lenient = Implicit(Descent(0), ConjugateGradient(3, strict=False))(problem, theta)
    assert lenient.accepted.tolist() == [True, True]
    assert lenient.gradient["t"][1].tolist() == pytest.approx(expected[1].tolist())
    # Curvature along the first direction is positive: the next tells.
    (h,) = np.array([[[2.0, 0.0], [0.0, -1.0]]])
    start = torch.ones(1, 2, dtype=torch.float64)

    def product(v: Tensor) -> Tensor:
        return v @ torch.from_numpy(h)

    assert [bool(ConjugateGradient(n)(product, start).sound) for n in (1, 2)] == [True, False]


def test_conjugate_gradient_tells_what_too_few_iterations_leave() -> None:
    problem, theta = quadratic(DEFINITE)
    found = Implicit(Descent(0), ConjugateGradient(1))(problem, theta)
    h = np.array(DEFINITE)
    v = (G @ G) / (G @ h @ G) * G  # steepest descent
    assert found.gradient["t"][0].tolist() == pytest.approx(v.tolist())
    left_over = np.linalg.norm(G - h @ v) / np.linalg.norm(G)
    assert found.residual["solver"].tolist() == pytest.approx([left_over])
    assert found.accepted.all()


@pytest.mark.parametrize("terms", [0, 1, 7])
def test_the_residual_of_the_series_is_its_next_term(terms: int) -> None:
    problem, theta = quadratic(DEFINITE)
    found = Implicit(Descent(0), Neumann(terms, 0.1))(problem, theta)
    step = np.eye(3) - 0.1 * np.array(DEFINITE)
    total = sum(np.linalg.matrix_power(step, i) @ G for i in range(terms + 1))
    assert found.gradient["t"][0].tolist() == pytest.approx((0.1 * total).tolist())
    following = np.linalg.matrix_power(step, terms + 1) @ G
    expected = np.linalg.norm(following) / np.linalg.norm(G)
    assert found.residual["solver"].tolist() == pytest.approx([expected])
    assert found.accepted.all()


@pytest.mark.parametrize(
    ("matrix", "alpha"), [(DEFINITE, 0.6), (SADDLE, 0.1), (SINGULAR, 0.1)],
    ids=["alpha too large", "a saddle", "singular"],
)  # fmt: skip
def test_a_series_that_diverges_is_rejected(matrix: list[list[float]], alpha: float) -> None:
    """What it sums up to is finite all the same: in 400 terms it is the last that tells."""
    problem, theta = quadratic(DEFINITE, matrix)
    strict = Implicit(Descent(0), Neumann(400, alpha))(problem, theta)
    assert strict.accepted.tolist() == [alpha < 0.4, False]  # the first has eigenvalues below 5
    assert strict.residual["solver"][1] > 0.5
    lenient = Implicit(Descent(0), Neumann(400, alpha, strict=False))(problem, theta)
    assert lenient.accepted.tolist() == [True, True]


def test_a_series_that_has_converged_to_the_last_bit_is_sound() -> None:
    problem, theta = quadratic(DEFINITE, [[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    found = Implicit(Descent(0), Neumann(5000, 0.2))(problem, theta)
    assert found.accepted.tolist() == [True, True]
    expected = np.linalg.solve(np.array(DEFINITE), G)
    assert found.gradient["t"][0].tolist() == pytest.approx(expected.tolist())


def test_the_identity_relies_on_nothing_and_tells_its_residual() -> None:
    problem, theta = quadratic(DEFINITE, SADDLE)
    found = Implicit(Descent(0), Identity(0.3))(problem, theta)
    assert found.accepted.all()
    expected = [np.linalg.norm(G - 0.3 * np.array(h) @ G) for h in (DEFINITE, SADDLE)]
    assert (found.residual["solver"] * np.linalg.norm(G)).tolist() == pytest.approx(expected)


def test_a_singular_matrix_is_rejected_and_a_saddle_is_none() -> None:
    problem, theta = quadratic(DEFINITE, SINGULAR, SADDLE)
    found = Implicit(Descent(0), Dense())(problem, theta)
    assert found.accepted.tolist() == [True, False, True]
    for row, matrix in ((0, DEFINITE), (2, SADDLE)):
        expected = np.linalg.solve(np.array(matrix), G)
        assert found.gradient["t"][row].tolist() == pytest.approx(expected.tolist())


# -- what becomes of a seed --


def test_to_a_rejected_seed_it_is_as_if_the_update_had_not_been() -> None:
    """Adam by its formulas: the third step of a seed whose second was rejected is its second."""
    rate, start = 0.1, 0.5

    def problems(update: int) -> Ridge:
        ridge = draw_ridge(2, 3, 8, generator(update)).inner
        x = ridge.x.clone()
        if update == 1:
            x[1] = torch.nan
        return ComplexSynapse(LeastSquares(x, ridge.y, ridge.x_eval, ridge.y_eval))

    strengths = {"log_lambda.W": torch.full((2, 3), start, dtype=torch.float64)}
    training = BilevelTraining(
        MetaParameters(strengths), problems, Implicit(RidgeSolution(), Dense()), rate
    )
    slopes, places = [], []
    for update in range(3):
        theta = {k: v.detach().clone() for k, v in training.model.theta().items()}
        places.append(theta["log_lambda.W"][1].numpy())
        gradient = exact_ridge_gradient(problems(update), theta).gradient["log_lambda.W"]
        slopes.append(gradient[1].numpy())
        assert training.update().rejected.tolist() == [False, update == 1]
    first, second = np.zeros(3), np.zeros(3)
    for count, g in enumerate((slopes[0], slopes[2]), 1):
        first, second = 0.9 * first + 0.1 * g, 0.999 * second + 0.001 * g**2
        mean, square = first / (1 - 0.9**count), second / (1 - 0.999**count)
        moved = -rate * mean / (np.sqrt(square) + 1e-8)
        if count == 1:
            np.testing.assert_allclose(places[1] - places[0], moved, rtol=1e-6)
    np.testing.assert_allclose(places[2], (places[0] + places[1]) / 2)
    last = training.model.theta()["log_lambda.W"].detach()[1].numpy()
    np.testing.assert_allclose(last - places[2], moved, rtol=1e-6)


def test_a_run_tells_what_is_left_and_rejects_it_where_it_is_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "rulesearch.reproduce.cml_table3.load", lambda name, *, split, size: characters(split)
    )
    changes = (*FEW, f"one_shot={ONE}", f"five_shot={FIVE}")

    def run(name: str, *overrides: str) -> dict[str, Any]:
        plan = make_plan("cml-table3", "small", (*changes, *overrides), ("synaptic",))
        reproduce(plan, tmp_path / name)
        content: dict[str, Any] = json.loads((tmp_path / name / "result.json").read_text())
        return content["rows"][0]["ours"]["1-shot"]  # type: ignore[no-any-return]

    lenient = run("lenient")
    log = (tmp_path / "lenient" / "events.jsonl").read_text()
    events = [json.loads(line) for line in log.splitlines()]
    told = [e["residual"]["learning"] for e in events if e["phase"] == "synaptic-1-shot"]
    assert len(told) == 2  # three steps leave most of the slope
    assert lenient["residual"]["learning"] == told[-1]
    assert min(told[-1]) > 0.5
    assert lenient["rejected"] == 0
    table = (tmp_path / "lenient" / "table.md").read_text()
    assert "Residual of learning, in units of the nudge, at the last update" in table
    strict = run("strict", "tolerance=0.5")
    assert strict["rejected"] == 8  # two lifetimes of two seeds, twice
    assert "8 lifetimes of meta-training" in (tmp_path / "strict" / "table.md").read_text()
    with pytest.raises(GrammarError, match="tolerance"):
        make_plan("cml-table3", "small", ("tolerance=0",))


def test_what_is_left_survives_an_interruption(tmp_path: Path) -> None:
    changes = (
        "data=digits", "held_out=3", "ways=3", "shots=2", "queries=4", "hidden=[6]", "updates=2",
        "seeds=2", "episodes=2", "lifetimes=3", "steps=4", "nudged_steps=2", "checkpoint_every=1",
    )  # fmt: skip
    plan = make_plan("cml-rules", "small", changes, ("omega",))
    reproduce(plan, tmp_path / "whole")

    def at_the_test(event: Any) -> None:
        if event["event"] == "measuring" and event["job"] == "omega-met":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce(plan, tmp_path / "broken", [at_the_test])
    reproduce(plan, tmp_path / "broken")
    assert repr(left(tmp_path / "broken")) == repr(left(tmp_path / "whole"))
    (row,) = left(tmp_path / "whole")["result"]["rows"]
    assert len(row["ours"]["met"]["residual"]["learning"]) == 2
