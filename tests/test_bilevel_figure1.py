"""CML's Figure 1: a tiny run of both panels, resumed and drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rulesearch.errors import ConfigError
from rulesearch.outer.bilevel import best_beta, error_bound
from rulesearch.report.cml_figures import Nudging, figure1
from rulesearch.reproduce import Plan, load_outcome, make_plan, reproduce, resume_reproduction
from rulesearch.reproduce.cml_figure1 import BETAS, DIGITS, RIDGE, RidgeErrors
from rulesearch.reproduce.tables import latex, markdown

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = ("updates=2", "examples=12", "judged=20", "hidden=4", "nudged_steps=3", "checkpoint_every=2")
ROWS = ("beta-0.03", "beta-1")


def tiny(*overrides: str) -> Plan:
    return make_plan("cml-figure1", "small", (*TINY, *overrides), ROWS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("figure1") / "whole"
    reproduce(tiny(), run)
    return run


def jobs(run: Path) -> dict[str, list[float]]:
    return {
        f"{file.stem}: {key}": tensor.tolist()
        for file in sorted((run / "jobs").iterdir())
        for key, tensor in load_file(file).items()
        if key != "seconds"
    }


def test_a_tiny_run_draws_its_numbers(whole: Path) -> None:
    numbers = json.loads((whole / "figures" / "numbers.json").read_text())
    assert numbers["betas"] == [0.03, 1.0]
    assert set(numbers["error"]) == {str(n) for n in RIDGE}
    assert set(numbers["loss"]) == {str(n) for n in DIGITS}
    found = jobs(whole)
    for k, row in enumerate(ROWS):
        for kind, steps in (("error", RIDGE), ("loss", DIGITS)):
            for n in steps:
                job = f"{row}-{'ridge' if kind == 'error' else 'digits'}-{n}"
                drawn = [seed[k] for seed in numbers[kind][str(n)]]
                measured = np.ravel(found[f"{job}: measured.error"])
                np.testing.assert_allclose(drawn, measured, rtol=1e-5)
    for form in ("svg", "pdf"):
        assert (whole / "figures" / f"figure1.{form}").stat().st_size > 5000


def test_tables_leave_out_a_paper_without_figures(whole: Path) -> None:
    content = load_outcome(whole).content
    for text in (markdown(content), latex(content)):
        table = text.split("Paper:")[0] if "tabular" not in text else text.split("tabular", 1)[1]
        assert "paper" not in table
    header = next(line for line in markdown(content).splitlines() if line.startswith("| "))
    assert header.count("ours") == 6


def test_interrupted_it_ends_in_the_same_bits(whole: Path, tmp_path: Path) -> None:
    run, updates = tmp_path / "run", 0

    def interrupt(event: object) -> None:
        nonlocal updates
        updates += isinstance(event, dict) and event["event"] == "update"
        if updates in (3, 18):  # within a job of ridge, and within one of digits
            updates += 1
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            reproduce(tiny(), run, [interrupt])
    resume_reproduction(run)
    assert jobs(run) == jobs(whole)


def test_error_is_least_near_the_best_strength() -> None:
    """Of ridge regression; delta is measured, not assumed."""
    for steps in (60, 120):
        errors = {}
        for beta in BETAS:
            measured = RidgeErrors(beta, steps, seeds=4, seed=0, device=torch.device("cpu"))
            for _ in range(2):
                measured.update()
            errors[beta] = float(measured.measure()["error"].mean())
        delta = float(measured.measure()["delta"].mean())
        best = min(errors, key=lambda b: errors[b])
        assert 0.2 < best / best_beta(delta) < 5
        assert errors[BETAS[-1]] == pytest.approx(1, abs=0.02)  # the estimate goes as 1 / beta


def test_a_seed_does_not_depend_on_how_many_there_are() -> None:
    one, two = (RidgeErrors(0.1, 30, seeds=k, seed=0, device=torch.device("cpu")) for k in (1, 2))
    for _ in range(2):
        one.update()
        two.update()
    for name, of_one in one.measure().items():
        torch.testing.assert_close(two.measure()[name][:1], of_one, rtol=1e-10, atol=0)


def test_the_constant_is_the_least_that_holds() -> None:
    betas, deltas = np.array([0.01, 0.1, 1.0]), {10: 1e-2, 20: 1e-4}
    rng = np.random.default_rng(0)
    error = {n: rng.uniform(0.1, 2, (3, 3)) for n in deltas}
    data = Nudging(betas, error, deltas, {})
    slack = [
        data.constant * error_bound(deltas[n], b) - e
        for n, rows in error.items()
        for b, e in zip(betas.tolist(), rows.mean(0), strict=True)
    ]
    assert min(slack) == pytest.approx(0, abs=1e-12)
    assert len(figure1(data).axes) == 1  # no data for B
    assert len(figure1(Nudging(betas, error, deltas, error)).axes) == 2


def test_one_strength_alone_is_drawn_as_points() -> None:
    rows = {10: np.array([[0.5], [0.7]])}
    a, b = figure1(Nudging(np.array([0.1]), rows, {10: 1e-2}, rows)).axes
    for ax in (a, b):
        points = [line.get_xydata().tolist() for line in ax.lines if line.get_marker() == "o"]
        assert points[-1] == [[0.1, pytest.approx(0.6)]]


def test_more_images_than_there_are() -> None:
    with pytest.raises(ConfigError, match="examples and judged are 2012 images, of 1797"):
        tiny("examples=2000", "judged=12").jobs()
