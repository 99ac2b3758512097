"""Longer lifetimes: their steps and queries, errors by hand, and a run from start to end."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_reproduction import left
from tiny_search import interrupt_after

from rulesearch.analysis.flp_longer import in_rounds, longer_errors, round_errors
from rulesearch.errors import ConfigError
from rulesearch.outer import SINES, FLPSettings, MetaModel, flp_model
from rulesearch.report.flp_figures import longer_lives
from rulesearch.reproduce import make_plan, reproduce, resume_reproduction
from rulesearch.tasks import IncrementalSines, TaskBatch

pytestmark = pytest.mark.usefixtures("one_thread")

TASKS = IncrementalSines(functions=2, batches=3, examples=4, queries=5)
NETWORK = replace(SINES, widths=(3, 6, 6, 1), plastic_layers=2, rate=1e-3)
SEEDS, LIVES = 2, 3


def draws() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(k) for k in range(SEEDS * LIVES)]


def born(network: FLPSettings = NETWORK) -> MetaModel:
    return flp_model(network, SEEDS, dtype=torch.float64)


def error(model: MetaModel, task: TaskBatch, queries: TaskBatch) -> torch.Tensor:
    """Of a whole life in one go, on the queries of another task."""
    with torch.no_grad():
        state = model.live(task)
        output = model.learner.network(state, model.see(queries.x_query, SEEDS * LIVES))
    return (output - queries.label_query).square().flatten(1).mean(1).reshape(SEEDS, LIVES)


def test_steps_in_rounds() -> None:
    """Two functions with six batches each: three of each, and the other three of each."""
    steps = torch.arange(12)
    task = in_rounds(TaskBatch(steps, 10 * steps, steps, steps), functions=2, rounds=2)
    order = [0, 1, 2, 6, 7, 8, 3, 4, 5, 9, 10, 11]
    assert task.x.tolist() == order
    assert task.label.tolist() == [10 * n for n in order]


def test_lives_of_every_length_have_the_same_sines() -> None:
    longer = replace(TASKS, batches=12)
    usual, long = TASKS.draw(draws(), torch.float64), longer.draw(draws(), torch.float64)
    assert torch.equal(usual.amplitude, long.amplitude)
    assert torch.equal(usual.phase, long.phase)


def test_longer_lives_by_hand() -> None:
    model, usual = born(), TASKS.sample(draws(), torch.float64)
    found = longer_errors(model, TASKS, draws(), [1, 4])
    long = replace(TASKS, batches=12).sample(draws(), torch.float64)
    torch.testing.assert_close(found[..., 0], error(model, usual, usual))
    torch.testing.assert_close(found[..., 1], error(model, long, usual))
    assert (found[..., 0] != found[..., 1]).all()


def test_rounds_by_hand() -> None:
    model, usual = born(), TASKS.sample(draws(), torch.float64)
    found = round_errors(model, TASKS, draws(), [3, 1])
    long = in_rounds(replace(TASKS, batches=9).sample(draws(), torch.float64), 2, 3)
    first = replace(long, x=long.x[: TASKS.steps], label=long.label[: TASKS.steps])
    torch.testing.assert_close(found[..., 0], error(model, long, usual))
    torch.testing.assert_close(found[..., 1], error(model, first, usual))


def test_generators_are_left_as_they_are() -> None:
    mine = draws()
    first = longer_errors(born(), TASKS, mine, [2])
    round_errors(born(), TASKS, mine, [2])
    assert torch.equal(longer_errors(born(), TASKS, mine, [2]), first)


def test_without_rates_nothing_changes() -> None:
    still = born(replace(NETWORK, rate=0.0))
    for measure in (longer_errors, round_errors):
        found = measure(still, TASKS, draws(), [1, 2, 5])
        torch.testing.assert_close(found, found[..., :1].expand_as(found), rtol=0, atol=0)


def test_gradient_descent_for_longer_comes_nearer() -> None:
    descent = born(replace(NETWORK, learning="oml", rate=0.02))
    for measure in (longer_errors, round_errors):
        found = measure(descent, TASKS, draws(), [1, 40]).mean((0, 1))
        assert found[1] < 0.8 * found[0]


@pytest.mark.parametrize("order", ["iid", "mixed"])
def test_rounds_are_of_sines_in_turn_alone(order: Any) -> None:
    with pytest.raises(ConfigError, match=f"the order is '{order}'; use order='continual'"):
        round_errors(born(), replace(TASKS, order=order), draws(), [1, 2])
    assert longer_errors(born(), replace(TASKS, order=order), draws(), [1, 2]).isfinite().all()


# -- from start to end --

TINY = (
    "updates=3", "hidden=[5, 5, 5]", "functions=2", "batches=3", "examples=4", "lifetimes=3",
    "checkpoint_every=2", "rate=1e-5", "times=[1, 2, 4]",
)  # fmt: skip
ROWS = ("flp-2", "gradient-3")


def everything(run: Path) -> dict[str, Any]:
    """What a run left, with its table and figures."""
    files = [run / "longer.md", *sorted((run / "figures").iterdir())]
    return left(run) | {path.name: path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("longer") / "whole"
    reproduce(make_plan("flp-longer", "small", TINY, ROWS), run)
    return run


def test_the_table_is_of_medians(whole: Path) -> None:
    text = (whole / "longer.md").read_text()
    titles = ("iid: more batches", "continual: more batches", "continual: more rounds")
    assert [text.count(title) for title in titles] == [1, 1, 1]
    assert "iid: more rounds" not in text
    job = load_file(whole / "jobs" / "flp-2-continual.safetensors")
    rounds = text.partition("continual: more rounds")[2]
    (line,) = (line for line in rounds.splitlines() if "FLP (2)" in line)
    lives = job["measured.rounds"].sort(1).values[:, 1]  # the middle one of three
    expected = [f"{float(value):.3g}" for value in lives.mean(0)]
    assert [cell.strip() for cell in line.split("|")[2:-1]] == expected
    assert torch.equal(job["measured.error"], job["measured.batches"][..., 0])
    for name in ("longer.svg", "longer.pdf", "numbers.json"):
        assert (whole / "figures" / name).stat().st_size > 500


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        ([1.0, 9.0], "5"), ([9.0, np.nan, 1.0], "9"),
        ([1.0, 2.0, np.nan, np.nan], "diverged"),  # half of them did
    ],
)  # fmt: skip
def test_the_median_is_between_the_two_in_the_middle(
    errors: list[float], told: str, tmp_path: Path
) -> None:
    batches = torch.tensor([errors])[..., None]
    measured = {"flp-2-iid": {"batches": batches, "times": torch.tensor([1])}}
    plan = make_plan("flp-longer")
    assert plan.reproduction.draw is not None
    plan.reproduction.draw(measured, tmp_path, plan.settings)
    assert f"| FLP (2) | {told} |" in (tmp_path / "longer.md").read_text()


def test_a_line_ends_where_a_seed_diverges() -> None:
    errors = np.array([[0.1, 0.2, np.inf, 0.3], [0.3, 0.4, 0.5, 0.6]])
    figure = longer_lives([1, 2, 5, 10], {"continual": {"FLP (2)": errors}})
    (part,) = figure.subfigs
    mean = part.axes[0].lines[2]  # after one for each seed
    assert list(mean.get_xdata()) == [1, 2]
    np.testing.assert_allclose(mean.get_ydata(), [0.2, 0.3])


def test_lifetimes_that_diverge_are_counted(tmp_path: Path) -> None:
    overrides = [*TINY, "gradient_start=1e6"]
    reproduce(make_plan("flp-longer", "small", overrides, ("gradient-3",)), tmp_path / "run")
    numbers = json.loads((tmp_path / "run" / "figures" / "numbers.json").read_text())
    for panel in numbers["diverged"].values():
        assert panel["Gradient (3)"] == [6, 6, 6]
    lines = (tmp_path / "run" / "longer.md").read_text().splitlines()
    rows = [line for line in lines if "Gradient (3)" in line]
    assert rows == ["| Gradient (3) | diverged | diverged | diverged |"] * 3


@pytest.mark.parametrize("events", [2, 4, 11])
def test_interrupted_it_ends_in_the_same_bits(events: int, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        reproduce(make_plan("flp-longer", "small", TINY, ROWS), run, [interrupt_after(events)])
    resume_reproduction(run)
    assert everything(run) == everything(whole)
