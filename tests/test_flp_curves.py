"""Learning within a lifetime of images: the curves, by hand, and how they are drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_data import write_characters
from torch import Tensor

from rulesearch.networks import NetworkState
from rulesearch.outer import MetaModel
from rulesearch.outer.flp_presets import by_oml
from rulesearch.outer.seeds import TEST, generators
from rulesearch.report.flp_figures import image_curves
from rulesearch.reproduce import make_plan, reproduce
from rulesearch.reproduce.flp import new_lives, restored
from rulesearch.reproduce.flp_table2 import ImageSettings, image_network, image_tasks
from rulesearch.reproduce.oml import with_new_readout
from rulesearch.tasks import TaskBatch

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = (
    "updates=2", "lifetimes=4", "ways=3", "shots=2", "size=12", "channels=[2, 3]",
    "strides=[2, 1]", "hidden=4", "outputs=6", "oml_shots=3", "start=[0.3, 0.3]",
    "gradient_start=0.3", "oml_test_rate=[0.3, 0.3]",
)  # fmt: skip
SEEDS, LIVES, STEPS = 2, 4, 3 * 2


@pytest.fixture(scope="module", autouse=True)
def characters(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Random images where Omniglot's would be."""
    folder = tmp_path_factory.mktemp("data")
    write_characters(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RULESEARCH_DATA", str(folder))
        yield folder


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("curves") / "table2"
    reproduce(make_plan("flp-table2", "small", SETTINGS), run)
    return run


@pytest.fixture(scope="module")
def events() -> list[Mapping[str, Any]]:
    """What happened while the curves were measured."""
    return []


@pytest.fixture(scope="module")
def run(table: Path, events: list[Mapping[str, Any]]) -> Path:
    """The curves of the table's networks."""
    path = table.parent / "curves"
    reproduce(make_plan("flp-curves", "small", SETTINGS, trained=table), path, [events.append])
    return path


def job(run: Path, name: str) -> dict[str, Tensor]:
    return load_file(run / "jobs" / f"{name}.safetensors")


def learnt(run: Path, name: str) -> dict[str, Tensor]:
    return {
        key.removeprefix("model."): value
        for key, value in job(run, name).items()
        if key.startswith("model.")
    }


def wrong(model: MetaModel, state: NetworkState, task: TaskBatch) -> Tensor:
    """Percentage of the queries of each lifetime that are taken for another class."""
    output = model.learner.network(state, model.see(task.x_query, SEEDS * LIVES))
    right = [
        sum(int(o.argmax()) == int(c) for o, c in zip(outputs, classes, strict=True))
        for outputs, classes in zip(output, task.label_query, strict=True)
    ]
    return torch.tensor([100 * (1 - n / STEPS) for n in right]).reshape(SEEDS, LIVES)


def by_hand(model: MetaModel, born: NetworkState, task: TaskBatch) -> Tensor:
    """Live so many steps from birth, then ask, for every number of steps."""
    points = [wrong(model, born, task)]
    for t in range(1, STEPS + 1):
        begun = replace(task, x=task.x[:t], label=task.label[:t])
        points.append(wrong(model, model.live(begun, born), task))
    return torch.stack(points, -1)


def test_curves_end_in_the_tables_errors(
    run: Path, table: Path, events: list[Mapping[str, Any]]
) -> None:
    names = {file.stem for file in (table / "jobs").iterdir()}
    assert len(names) == 14  # seven rows in two orders
    for name in names:
        found, errors = job(run, name), job(table, name)["measured.error"]
        assert found["measured.query"].shape == (SEEDS, LIVES, STEPS + 1)
        assert torch.equal(found["measured.query"][..., -1], errors)
        assert torch.equal(found["measured.error"], errors)
    assert events
    assert not [event for event in events if event["event"] == "update"]
    rows = [json.loads((path / "result.json").read_text())["rows"] for path in (run, table)]
    assert [[r["ours"][c]["value"] for c in r["ours"]] for r in rows[0]] == [
        [r["ours"][c]["value"] for c in r["ours"]] for r in rows[1]
    ]


@pytest.mark.parametrize("condition", ["iid", "continual"])
@pytest.mark.parametrize(("row", "layers"), [("flp-2", 2), ("feature-reuse-1", 1)])
@torch.no_grad()
def test_curves_by_hand(row: str, layers: int, condition: str, run: Path) -> None:
    settings = make_plan("flp-curves", "small", SETTINGS).settings
    assert isinstance(settings, ImageSettings)
    network = image_network(settings, condition, layers)
    model = restored(network, settings, learnt(run, f"{row}-{condition}"))
    members = [(seed, life) for seed in range(SEEDS) for life in range(LIVES)]
    draws = generators(settings.seed, 0, TEST, members)
    task = image_tasks(settings)[condition].test.sample(draws, model.dtype)
    curve = job(run, f"{row}-{condition}")["measured.query"]
    torch.testing.assert_close(curve, by_hand(model, model.born(LIVES), task))
    assert (curve != curve[..., :1]).any((0, 1)).sum() > 1  # they move along the way


@torch.no_grad()
def test_a_readout_drawn_anew_is_where_omls_curve_begins(run: Path) -> None:
    settings = make_plan("flp-curves", "small", SETTINGS).settings
    assert isinstance(settings, ImageSettings)
    flp = image_network(settings, "iid", 2)
    trained = learnt(run, "oml-2-iid")
    wide = replace(flp, widths=(*flp.widths[:-1], trained["W.1"].shape[1]))
    before = restored(by_oml(wide, settings.oml_rate), settings, trained)
    model = with_new_readout(before, by_oml(flp, settings.oml_test_rate[0]))
    test = image_tasks(settings)["iid"].test
    ((task, born),) = new_lives(model, test, LIVES, settings.seed, fresh_readout=True)
    assert not torch.equal(born.W[-1], model.born(LIVES).W[-1])
    curve = job(run, "oml-2-iid")["measured.query"]
    torch.testing.assert_close(curve, by_hand(model, born, task))


def test_the_figure_shows_the_means(run: Path) -> None:
    figures = run / "figures"
    assert {f.name for f in figures.iterdir()} == {"curves.svg", "curves.pdf", "numbers.json"}
    numbers = json.loads((figures / "numbers.json").read_text())
    assert list(numbers) == ["Omniglot", "Omniglot (continual)"]
    for condition, title in (("iid", "Omniglot"), ("continual", "Omniglot (continual)")):
        assert len(numbers[title]) == 7
        curve = job(run, f"gradient-2-random-{condition}")["measured.query"]
        np.testing.assert_allclose(numbers[title]["Gradient (2), random"], curve.mean(1), 1e-5)


def test_one_condition_and_some_rows_alone(table: Path, tmp_path: Path) -> None:
    told = (*SETTINGS, "conditions=[continual]")
    plan = make_plan("flp-curves", "small", told, ["flp-2"], trained=table)
    reproduce(plan, tmp_path / "run")
    numbers = json.loads((tmp_path / "run" / "figures" / "numbers.json").read_text())
    assert {title: list(rows) for title, rows in numbers.items()} == {
        "Omniglot (continual)": ["FLP (2)"]
    }


@pytest.mark.parametrize("titles", [("a",), ("a", "b"), ("a", "b", "c")])
def test_a_panel_for_each_condition(titles: tuple[str, ...]) -> None:
    g = np.random.default_rng(0)
    data = {t: {"FLP (2)": 100 * g.random((2, 7)), "Gradient (2)": np.full((2, 7), np.nan)}
            for t in titles}  # fmt: skip
    figure = image_curves(data)
    axes = [ax for part in figure.subfigs for ax in part.axes]
    assert [ax.get_title("left") for ax in axes] == list(titles)
    for ax, rows in zip(axes, data.values(), strict=True):
        first, second, mean = ax.lines[:3]
        curves = rows["FLP (2)"]
        for line, values in ((first, curves[0]), (second, curves[1]), (mean, curves.mean(0))):
            np.testing.assert_allclose(line.get_ydata(), values)
            np.testing.assert_array_equal(line.get_xdata(), np.arange(7))
        assert first.get_linewidth() < mean.get_linewidth()
