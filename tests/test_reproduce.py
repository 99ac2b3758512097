"""Reproductions: the registry, a tiny run from start to end, the tables."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from tiny_reproduction import ROWS, check_jobs, tiny, whole_run

from rulesearch.outer.seeds import TEST, generators
from rulesearch.reproduce import (
    REPRODUCTIONS,
    Outcome,
    load_outcome,
    load_plan,
    make_plan,
    pooled,
    reproduce,
)
from rulesearch.reproduce.flp import restored
from rulesearch.reproduce.flp_table1 import FLP_TABLE1, SineSettings, sine_network, sine_tasks
from rulesearch.reproduce.progress import JobProgress
from rulesearch.reproduce.tables import latex, markdown

IMAGES = (  # data that may not be at hand
    "flp-table2", "flp-curves", "flp-rules-omniglot", "cml-table1", "cml-table2", "cml-table3",
    "cml-rules",
)  # fmt: skip
SINES = tuple(name for name in REPRODUCTIONS if name not in IMAGES)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_run(tmp_path_factory.mktemp("reproduce") / "whole")


# -- what there is --


@pytest.mark.parametrize(
    ("name", "scale"), [(name, scale) for name in SINES for scale in REPRODUCTIONS[name].scales]
)
def test_every_job_has_a_place_and_follows_what_it_needs(name: str, scale: str) -> None:
    check_jobs(make_plan(name, scale))


def test_full_scale_is_the_papers() -> None:
    sines = make_plan("flp-table1", "full").settings.model_dump()
    assert {key: sines[key] for key in ("updates", "seeds", "episodes", "lifetimes")} == {
        "updates": 20_000, "seeds": 2, "episodes": 1, "lifetimes": 50,
    }  # fmt: skip
    assert sines["hidden"] == (300, 300, 300, 300, 300, 900, 300, 300)
    assert (sines["forward"], sines["rate"], sines["pool"], sines["clip"]) == (
        1e-4, 1e-8, None, None,
    )  # fmt: skip
    images = make_plan("flp-table2", "full").settings.model_dump()
    assert (images["updates"], images["seeds"], images["lifetimes"]) == (40_000, 5, 500)
    assert (images["size"], images["channels"], images["outputs"]) == (84, (128,) * 6, 1000)


def test_published_figures() -> None:
    """As printed in the tables of the paper, mean and standard error."""
    printed = {
        "flp-table1": {
            "feature-reuse-1": {"iid": (0.050, 7e-3), "continual": (0.035, 3e-3)},
            "flp-2": {"iid": (0.00093, 3e-5), "continual": (0.0016, 6e-5)},
            "flp-3": {"iid": (0.00051, 8e-5), "continual": (0.0068, 2e-3)},
            "gradient-3": {"iid": (0.00057, 2e-5), "continual": (0.069, 0.02)},
            "oml-3": {"iid": (0.072, None), "continual": (0.40, None)},
        },
        "flp-table2": {
            "feature-reuse-1": {
                "iid": (4.6, 0.1), "continual": (5.0, 0.1), "mini-imagenet": (48.2, 0.1),
            },
            "flp-2": {"iid": (3.0, 0.1), "continual": (2.7, 0.1), "mini-imagenet": (42.5, 0.6)},
            "gradient-2": {
                "iid": (3.2, 0.1), "continual": (3.4, 0.1), "mini-imagenet": (42.5, 0.3),
            },
            "oml-2": {"iid": (3.5, None), "continual": (7.0, None), "mini-imagenet": (52.0, None)},
        },
    }  # fmt: skip
    for name, table in printed.items():
        rows = {row.key: row.published for row in REPRODUCTIONS[name].rows}
        for key, figures in table.items():
            assert {c: tuple(figure) for c, figure in rows[key].items()} == figures


def test_rows_bring_what_they_need() -> None:
    assert {job.row for job in tiny(rows=("gradient-3",)).jobs()} == {"flp-3", "gradient-3"}
    assert {job.row for job in tiny(rows=("oml-3",)).jobs()} == {"oml-3"}
    assert {job.row for job in tiny(rows=()).jobs()} == {row.key for row in FLP_TABLE1.rows}


def test_controls_change_the_tasks_of_meta_training_alone() -> None:
    settings = make_plan("flp-table1", overrides=["pool=400", "order=mixed"]).settings
    assert isinstance(settings, SineSettings)
    tasks = sine_tasks(settings)
    assert tasks["iid"].train.describe()["pool"] == 400
    assert tasks["iid"].test.describe()["pool"] is None
    assert [t.describe()["order"] for t in tasks["iid"][:2]] == ["mixed", "mixed"]
    assert [t.describe()["order"] for t in tasks["continual"][:2]] == ["continual", "continual"]


def test_networks_learn_as_their_rows_say() -> None:
    jobs = {job.name: job for job in tiny("gradient_start=0.002", rows=()).jobs()}
    trained = {
        name: jobs[name].begin({}).model.state_dict() for name in ("flp-3-iid", "flp-3-continual")
    }

    def training(name: str) -> Any:
        return jobs[f"{name}-iid"].begin(trained)

    layers = {
        name: len(training(name).model.W) for name in ("feature-reuse-1", "flp-2", "flp-3", "oml-3")
    }
    assert layers == {"feature-reuse-1": 1, "flp-2": 2, "flp-3": 3, "oml-3": 3}
    methods = {name: training(name).model.learner.method for name in ("flp-3", "gradient-3")}
    assert set(methods.values()) == {"reversible"}
    for name in ("gradient-3-first-order", "gradient-3-random-first-order", "oml-3"):
        assert training(name).model.learner.method == "first-order"
    oml, gradient = training("oml-3"), training("gradient-3")
    assert all(rate.eq(0.001).all() and not rate.requires_grad for rate in oml.model.rate)
    assert all(rate.eq(0.002).all() and rate.requires_grad for rate in gradient.model.rate)
    assert torch.equal(gradient.model.W[1], trained["flp-3-iid"]["W.1"])
    begun = {job.name: job for job in tiny("start=0.03", rows=()).jobs()}
    for name, start in (("flp-3", 0.03), ("feature-reuse-1", 0.03), ("oml-3", 0.001)):
        rates = begun[f"{name}-iid"].begin({}).model.rate
        assert all(rate.eq(start).all() for rate in rates)


# -- a run from start to end --


def test_a_tiny_run(whole: Path) -> None:
    result = json.loads((whole / "result.json").read_text())
    assert [row["row"] for row in result["rows"]] == list(ROWS)
    plan = load_plan(whole)
    assert isinstance(plan.settings, SineSettings)
    flp = sine_network(plan.settings, 3)
    for row in result["rows"]:
        for condition, figure in row["ours"].items():
            assert figure["diverged"] == 0
            assert figure["episodes"] == 5
            seeds = np.array(figure["seeds"])
            assert figure["value"] == pytest.approx(seeds.mean())
            assert figure["sem"] == pytest.approx(seeds.std(ddof=1) / math.sqrt(2))
            errors = load_file(whole / "jobs" / f"{row['row']}-{condition}.safetensors")
            np.testing.assert_allclose(errors["measured.error"].mean(1), seeds, rtol=1e-6)
            lived = errors["measured.error"].double().numpy()
            within = math.sqrt((lived.var(1, ddof=1) / 3).sum()) / 2
            assert figure["sem_lifetimes"] == pytest.approx(within)
    # FLP's errors once more, a lifetime at a time.
    tensors = load_file(whole / "jobs" / "flp-3-continual.safetensors")
    model = restored(
        flp,
        plan.settings,
        {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")},
    )
    tasks = sine_tasks(plan.settings)["continual"].test
    for member in range(3):
        task = tasks.sample(generators(0, 0, TEST, [(row, member) for row in range(2)]))
        with torch.no_grad():
            state = model.live(task)
            output = model.learner.network(state, model.see(task.x_query, 2))
        error = (output - task.label_query).square().flatten(1).mean(1)
        torch.testing.assert_close(error, tensors["measured.error"][:, member])


def test_the_tables_show_the_paper_beside_ours(whole: Path) -> None:
    content = load_outcome(whole).content
    ours = {
        (row["title"], c): f"{figure['value']:.3g}"
        for row in content["rows"]
        for c, figure in row["ours"].items()
    }
    for text in (markdown(content), latex(content)):
        (line,) = (line for line in text.splitlines() if "FLP (3)" in line and "0.00051" in line)
        assert "0.00051 (8e-5)" in line
        assert "0.0068 (0.002)" in line
        assert ours["FLP (3)", "iid"] in line
        assert ours["FLP (3)", "continual"] in line
        assert "updates=5" in text
        assert "seeds=2" in text
    assert (whole / "table.md").read_text() == markdown(content)
    assert (whole / "table.tex").read_text() == latex(content)
    assert r"\toprule" in latex(content)
    assert r"\% error & paper & ours" in latex({**content, "unit": "% error"})


@pytest.mark.parametrize("lifetimes", [1, 3])
def test_the_error_of_one_seed_is_over_its_lifetimes(tmp_path: Path, lifetimes: int) -> None:
    told = ("seeds=1", f"lifetimes={lifetimes}", "conditions=[iid]")
    content = reproduce(tiny(*told, rows=("oml-3",)), tmp_path / "run").content
    lived = load_file(tmp_path / "run" / "jobs" / "oml-3-iid.safetensors")["measured.error"]
    figure = content["rows"][0]["ours"]["iid"]
    assert figure["sem"] is None
    note = "One seed: the standard error is over its test lifetimes"
    assert (note in markdown(content)) == (note in latex(content)) == (lifetimes > 1)
    cell = f"{figure['value']:.3g}"
    if lifetimes > 1:
        cell += f" ({float(lived.std()) / math.sqrt(lifetimes):.1g})"
        assert cell + r"\textdagger{} &" in latex(content)
        cell += "†"
    assert f"| {cell} |" in markdown(content)


def test_finished_jobs_are_not_done_again(whole: Path) -> None:
    before = {file: file.read_bytes() for file in sorted((whole / "jobs").iterdir())}
    seen: list[Mapping[str, Any]] = []
    outcome = reproduce(tiny(), whole, [seen.append])
    assert [event["event"] for event in seen] == ["run"]
    assert seen[0]["finished"] == seen[0]["jobs"] == 4
    assert {file: file.read_bytes() for file in sorted((whole / "jobs").iterdir())} == before
    assert outcome.content == json.loads((whole / "result.json").read_text())


def test_lifetimes_that_diverge_are_told(tmp_path: Path) -> None:
    outcome = reproduce(tiny("oml_rate=1e6", rows=("oml-3",)), tmp_path / "run")
    (row,) = outcome.content["rows"]
    figure = row["ours"]["iid"]
    assert (figure["value"], figure["sem"], figure["diverged"]) == (None, None, 6)
    assert "6 of 6 test lifetimes diverged" in markdown(outcome.content)
    events = (tmp_path / "run" / "events.jsonl").read_text()
    updates = [json.loads(line) for line in events.splitlines()]
    assert updates[0]["loss"] == [None, None]
    assert updates[0]["rejected"] == [True, True]


def test_a_mean_of_more_updates_than_there_are_is_of_all(tmp_path: Path) -> None:
    """As where only ``updates`` of a scale that averages is changed."""
    found = {}
    for average in (1, 5, 6):
        plan = tiny(f"average={average}", "conditions=[iid]", rows=("flp-3",))
        reproduce(plan, tmp_path / str(average))
        note = (
            f"average={average} is more than updates=5: the mean is of the meta-parameters of all"
        )
        assert (note in (tmp_path / str(average) / "table.md").read_text()) == (average > 5)
        found[average] = load_file(tmp_path / str(average) / "jobs" / "flp-3-iid.safetensors")
    assert found[6]["model.W.0"].equal(found[5]["model.W.0"])
    assert not found[5]["model.W.0"].equal(found[1]["model.W.0"])


def test_seeds_that_no_update_taught_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    plan = tiny("oml_rate=1e6", "updates=3", "conditions=[iid]", rows=("oml-3",))
    with JobProgress(Console(width=200)) as progress:
        outcome = reproduce(plan, run, [progress])
    told = "oml-3-iid: each of the first 3 updates of seed 0, 1 was rejected, as not finite or not"
    assert capsys.readouterr().out.count(told) == 1
    note = "Original OML (3), iid: every update of seed 0, 1 was rejected, as not finite or not"
    assert note in (run / "table.md").read_text()
    assert outcome.content["rows"][0]["ours"]["iid"]["untaught"] == [0, 1]
    file = run / "jobs" / "oml-3-iid.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"untaught": torch.tensor([False, True])}, file)
    assert note.replace("0, 1", "1") in markdown(load_outcome(run).content)
    assert note.replace("0, 1", "1") in markdown(pooled([run]))
    del tensors["untaught"]  # of a run before there was such a count
    save_file(tensors, file)
    assert "every update" not in markdown(load_outcome(run).content)


def test_seeds_that_an_update_taught_are_not(whole: Path) -> None:
    assert "every update" not in (whole / "table.md").read_text()
    assert load_outcome(whole).content["rows"][0]["ours"]["iid"]["untaught"] == []


def test_figures_are_drawn_at_the_end(tmp_path: Path) -> None:
    drawn: list[set[str]] = []

    def draw(measured: Mapping[str, Any], run: Path, settings: SineSettings) -> None:
        drawn.append(set(measured))
        assert settings.updates == 5
        assert measured["oml-3-iid"]["error"].shape == (2, 3)
        assert (run / "result.json").is_file()

    plan = replace(tiny(rows=("oml-3",)), reproduction=replace(FLP_TABLE1, draw=draw))
    reproduce(plan, tmp_path / "run")
    assert drawn == [{"oml-3-iid", "oml-3-continual"}]


# -- images --


def test_an_outcome_without_jobs_is_empty() -> None:
    assert Outcome(tiny(), {}).content["rows"] == []
