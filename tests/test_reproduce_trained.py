"""Networks of one run measured by another: the same figures, no training, or a clear refusal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_reproduction import tiny

from rulesearch.errors import ConfigError, RunError
from rulesearch.outer.seeds import TEST, generators
from rulesearch.reproduce import make_plan, reproduce, resume_reproduction, trained_model
from rulesearch.tasks import IncrementalSines

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = (
    "updates=3", "hidden=[5, 5, 5]", "functions=3", "batches=3", "examples=4", "lifetimes=3",
    "rate=1e-3", "seeds=2",
)  # fmt: skip
ROWS = ("feature-reuse-1", "flp-3", "gradient-3")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of Table 1 that is finished but for some rows."""
    run = tmp_path_factory.mktemp("trained") / "table1"
    reproduce(make_plan("flp-table1", "small", SETTINGS, ROWS), run)
    return run


# -- in Python --


@pytest.mark.parametrize("row", ROWS)
def test_a_trained_model_has_the_errors_of_its_run(table: Path, row: str) -> None:
    """On the same test lifetimes, of which each seed has three."""
    model = trained_model(table, row, "continual")
    tasks = IncrementalSines(3, 3, 4, 4, order="continual")
    draws = generators(0, 0, TEST, [(seed, k) for seed in range(2) for k in range(3)])
    with torch.no_grad():
        loss = model(tasks.sample(draws)).loss
    measured = load_file(table / "jobs" / f"{row}-continual.safetensors")["measured.error"]
    torch.testing.assert_close(loss.reshape(2, 3), measured)


def test_the_mean_of_the_last_updates_is_what_is_had(tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = (*SETTINGS, "average=2", "conditions=[iid]")
    reproduce(make_plan("flp-table1", "small", settings, ["flp-2"]), run)
    kept = load_file(run / "jobs" / "flp-2-iid.safetensors")
    for key, value in trained_model(str(run), "flp-2", "iid").state_dict().items():
        assert torch.equal(value, kept[f"model.{key}"])


def test_models_that_there_are_not(table: Path, tmp_path: Path) -> None:
    for row, condition, told in (
        ("flp-4", "iid", "no job 'flp-4-iid'; did you mean 'flp-3-iid'"),
        ("oml-3", "whatever", "no job 'oml-3-whatever'; there are feature-reuse-1-continual, "),
    ):
        with pytest.raises(ConfigError, match=told):
            trained_model(table, row, condition)
    with pytest.raises(ConfigError, match="cuda:77"):
        trained_model(table, "flp-3", "iid", device="cuda:77")
    sines = ["hidden=[4]", "functions=2", "batches=2", "examples=3", "updates=1", "seeds=1"]
    plan = make_plan("cml-continual", "small", [*sines, "lifetimes=2"], ["descent"])
    reproduce(plan, tmp_path / "cml")
    with pytest.raises(ConfigError, match="cml-continual trains no networks of FLP"):
        trained_model(tmp_path / "cml", "descent", "continual")


def jobs_of(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    """What each job left, but for the time that it took."""
    found = {file.stem: load_file(file) for file in sorted((run / "jobs").iterdir())}
    return {
        name: {k: v for k, v in tensors.items() if k != "seconds"}
        for name, tensors in found.items()
    }


def same(run: Path, other: Path) -> bool:
    mine, theirs = jobs_of(run), jobs_of(other)
    return mine.keys() == theirs.keys() and all(
        mine[job].keys() == theirs[job].keys()
        and all(torch.allclose(v, theirs[job][k], 0, 0, equal_nan=True) for k, v in own.items())
        for job, own in mine.items()
    )


def test_taken_networks_measure_as_those_trained_again(table: Path, tmp_path: Path) -> None:
    reproduce(make_plan("flp-longer", "small", SETTINGS, ROWS), tmp_path / "again")
    events: list[Mapping[str, Any]] = []
    plan = make_plan("flp-longer", "small", SETTINGS, ROWS, trained=table)
    reproduce(plan, tmp_path / "taken", [events.append])
    assert same(tmp_path / "taken", tmp_path / "again")
    assert not [event for event in events if event["event"] == "update"]
    manifest = json.loads((tmp_path / "taken" / "manifest.json").read_text())
    assert manifest["trained"] == str(table)


def test_what_went_wrong_in_training_is_told_of_taken_networks_too(tmp_path: Path) -> None:
    """Here every update of some seeds is rejected, and some lifetimes of others."""
    settings = (*SETTINGS, "updates=6", "start=0.3", "conditions=[iid]", "seeds=3")
    rows = ("flp-2",)
    first = reproduce(make_plan("flp-table1", "small", settings, rows), tmp_path / "first")
    plan = make_plan("flp-table1", "small", settings, rows, trained=tmp_path / "first")
    taken = reproduce(plan, tmp_path / "taken")
    (figure,), (again,) = (
        [row["ours"]["iid"] for row in outcome.content["rows"]] for outcome in (first, taken)
    )
    assert figure["rejected"] > len(figure["untaught"]) * 6 > 0
    assert {**again, "minutes": 0} == {**figure, "minutes": 0}
    assert same(tmp_path / "first", tmp_path / "taken")


@pytest.mark.parametrize(
    ("name", "row", "trained"),
    [
        ("flp-figure2", "plastic-reuse-3", {"iid"}),  # a control that begins as a network taken
        ("flp-table1", "gradient-3-first-order", {"iid", "continual"}),  # a row beside the others
    ],
)
def test_what_the_other_run_does_not_have_is_trained(
    name: str, row: str, trained: set[str], table: Path, tmp_path: Path
) -> None:
    reproduce(make_plan(name, "small", SETTINGS, (row,)), tmp_path / "again")
    events: list[Mapping[str, Any]] = []
    plan = make_plan(name, "small", SETTINGS, (row,), trained=table)
    reproduce(plan, tmp_path / "taken", [events.append])
    assert same(tmp_path / "taken", tmp_path / "again")
    phases = {event["phase"] for event in events if event["event"] == "update"}
    assert phases == {f"{row}-{condition}" for condition in trained}


def test_resumed_it_still_takes_them(table: Path, tmp_path: Path) -> None:
    run, events = tmp_path / "run", list[Mapping[str, Any]]()

    def interrupt(event: Mapping[str, Any]) -> None:
        if event["event"] == "measuring":
            raise KeyboardInterrupt

    plan = make_plan("flp-longer", "small", SETTINGS, ("flp-3",), trained=table)
    with pytest.raises(KeyboardInterrupt):
        reproduce(plan, run, [interrupt])
    resume_reproduction(run, [events.append])
    assert not [event for event in events if event["event"] == "update"]
    taken, source = jobs_of(run), jobs_of(table)
    for job in ("flp-3-iid", "flp-3-continual"):
        assert torch.equal(taken[job]["model.W.0"], source[job]["model.W.0"])


def test_test_lifetimes_may_differ(table: Path, tmp_path: Path) -> None:
    settings = [*SETTINGS, "lifetimes=2", "checkpoint_every=1", "conditions=[iid]"]
    plan = make_plan("flp-longer", "small", settings, ("flp-3",), trained=table)
    reproduce(plan, tmp_path / "run")
    assert jobs_of(tmp_path / "run")["flp-3-iid"]["measured.error"].shape == (2, 2)


def test_a_row_that_the_other_run_has_not_finished_is_not_trained_again(
    table: Path, tmp_path: Path
) -> None:
    partial = tmp_path / "table1"
    shutil.copytree(table, partial)
    (partial / "jobs" / "flp-3-iid.safetensors").unlink()
    plan = make_plan("flp-table1", "small", SETTINGS, ("gradient-3",), trained=partial)
    with pytest.raises(ConfigError, match="has not trained flp-3-iid; finish it"):
        reproduce(plan, tmp_path / "run")


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [("updates=4", "--set 'updates=3'"), ("hidden=[5, 5, 6]", "--set 'hidden=[5, 5, 5]'")],
)
def test_other_settings_are_refused(setting: str, remedy: str, table: Path, tmp_path: Path) -> None:
    plan = make_plan("flp-longer", "small", [*SETTINGS, setting], ROWS, trained=table)
    with pytest.raises(ConfigError, match="was trained with") as refusal:
        reproduce(plan, tmp_path / "run")
    assert remedy in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_networks_that_are_not_there_are_named(table: Path, tmp_path: Path) -> None:
    partial = tmp_path / "table1"
    shutil.copytree(table, partial)
    (partial / "jobs" / "flp-3-continual.safetensors").unlink()
    plan = make_plan("flp-longer", "small", SETTINGS, ROWS, trained=partial)
    with pytest.raises(ConfigError, match=f"flp-3-continual; .* 'rulesearch resume {partial}'"):
        reproduce(plan, tmp_path / "run")
    everything = make_plan("flp-longer", "small", SETTINGS, trained=table)
    with pytest.raises(ConfigError, match=r"flp-2-iid, .*, flp-2-continual, .*; .* --rows"):
        reproduce(everything, tmp_path / "run")


def test_a_run_of_something_else_is_refused(table: Path, tmp_path: Path) -> None:
    longer = tmp_path / "longer"
    reproduce(make_plan("flp-longer", "small", SETTINGS, ("flp-3",), trained=table), longer)
    plan = make_plan("flp-figure2", "small", SETTINGS, trained=longer)
    with pytest.raises(ConfigError, match=r"is of flp-longer; .* of a run of flp-table1"):
        reproduce(plan, tmp_path / "run")


def test_a_run_begun_by_training_does_not_go_on_with_taken_networks(
    table: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    reproduce(make_plan("flp-longer", "small", SETTINGS, ("flp-3",)), run)
    plan = make_plan("flp-longer", "small", SETTINGS, ("flp-3",), trained=table)
    with pytest.raises(RunError, match="began with trained=None"):
        reproduce(plan, run)


def test_tables_train_their_own(run_main: Any, table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cml-table1 trains its own networks"):
        make_plan("cml-table1", trained=table)
    assert tiny().trained is None
    sets = [word for override in SETTINGS for word in ("--set", override)]
    run = tmp_path / "run"
    command = ["reproduce", "flp-longer", *sets, "--trained", table, "--rows", "flp-3"]
    assert run_main(*command, "--out", run)[0] == 0
    assert run_main("resume", run)[0] == 0
