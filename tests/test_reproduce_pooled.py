"""Rows and seeds of several runs in one table: the figures of their errors, each seed once."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_reproduction import errors, tiny

from rulesearch.errors import ConfigError
from rulesearch.reproduce import load_outcome, pooled, reproduce

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two seeds of a row at once, a third alone under one condition, and another row."""
    folder = tmp_path_factory.mktemp("pooled")
    plans = {
        "two": tiny("seeds=2", rows=("flp-3",)),
        "third": tiny("seeds=1", "seed=7", "conditions=[continual]", rows=("flp-3",)),
        "oml": tiny("seeds=1", "checkpoint_every=1", rows=("oml-3",)),
    }
    for name, plan in plans.items():
        reproduce(plan, folder / name)
    return {name: folder / name for name in plans}


def figure(content: dict[str, Any], row: str, condition: str) -> dict[str, Any]:
    (found,) = (each for each in content["rows"] if each["row"] == row)
    ours: dict[str, Any] = found["ours"][condition]
    return ours


def test_seeds_are_pooled_and_rows_stand_together(runs: dict[str, Path]) -> None:
    content = pooled(list(runs.values()))
    assert [row["row"] for row in content["rows"]] == ["flp-3", "oml-3"]
    means = np.concatenate([errors(runs[r], "flp-3-continual") for r in ("two", "third")]).mean(1)
    shown = figure(content, "flp-3", "continual")
    assert (shown["networks"], len(means)) == (3, 3)
    np.testing.assert_allclose(shown["value"], means.mean(), rtol=1e-12)
    np.testing.assert_allclose(shown["sem"], means.std(ddof=1) / np.sqrt(3), rtol=1e-12)
    minutes = [
        figure(load_outcome(runs[r]).content, "flp-3", "continual")["minutes"]
        for r in ("two", "third")
    ]
    np.testing.assert_allclose(shown["minutes"], sum(minutes), atol=0.011)  # each is rounded
    alone = load_outcome(runs["two"]).content
    assert figure(content, "flp-3", "iid") == figure(alone, "flp-3", "iid")
    assert figure(content, "oml-3", "iid")["sem"] is None


def test_settings_that_differ_are_left_out(runs: dict[str, Path]) -> None:
    settings = pooled(list(runs.values()))["settings"]
    assert settings["seeds"] == 3
    assert not settings.keys() & {"seed", "conditions", "checkpoint_every"}
    assert settings["updates"] == 5


def test_one_run_is_shown_as_it_is(runs: dict[str, Path]) -> None:
    assert pooled([runs["two"]]) == load_outcome(runs["two"]).content


def test_the_table_tells_which_rows_have_fewer_seeds(run_main: Any, runs: dict[str, Path]) -> None:
    status, out, _ = run_main("show", *runs.values())
    assert status == 0
    assert "seeds=3" in out
    assert "FLP (3), iid: seeds=2." in out
    assert "FLP (3), continual: seeds=" not in out
    assert "Original OML (3), iid: seeds=1." in out
    assert all(f"{run}: result.json" in out for run in runs.values())
    assert json.loads(run_main("show", *runs.values(), "--json")[1]) == pooled(list(runs.values()))
    assert "Original OML" in run_main("show", *runs.values(), "--latex")[1]


def test_lifetimes_that_died_are_counted_over_all(runs: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(runs["third"], broken)
    file = broken / "jobs" / "flp-3-continual.safetensors"
    tensors = load_file(file)
    tensors["measured.error"][0, 1] = float("nan")
    tensors["rejected"] += 4
    save_file(tensors, file)
    shown = figure(pooled([runs["two"], broken]), "flp-3", "continual")
    assert (shown["diverged"], shown["rejected"]) == (1, 4)
    third = np.nanmean(tensors["measured.error"].double().numpy(), 1)
    means = np.concatenate([errors(runs["two"], "flp-3-continual").mean(1), third])
    np.testing.assert_allclose(shown["value"], means.mean(), rtol=1e-12)


def test_the_same_seed_with_other_errors_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(runs["two"], copy)
    file = copy / "jobs" / "flp-3-continual.safetensors"
    tensors = load_file(file)
    tensors["measured.error"][0, 1] += 1e-3
    save_file(tensors, file)
    with pytest.raises(ConfigError, match="both have flp-3-continual of seed=0, with other errors"):
        pooled([runs["two"], copy])


def test_networks_that_a_run_took_of_another_count_once(
    run_main: Any, runs: dict[str, Path], tmp_path: Path
) -> None:
    """A row beside others, trained later from the same networks."""
    taken = tmp_path / "taken"
    plan = replace(tiny("seeds=2", rows=("gradient-3",)), trained=runs["two"])
    reproduce(plan, taken)
    before = load_outcome(runs["two"]).content
    for both in ([runs["two"], taken], [taken, runs["two"]]):
        content = pooled(both)
        assert [row["row"] for row in content["rows"]] == ["flp-3", "gradient-3"]
        for condition in ("iid", "continual"):  # the time of training, too
            shown = figure(content, "flp-3", condition)
            assert shown == figure(before, "flp-3", condition)
            assert figure(content, "gradient-3", condition)["networks"] == 2
        assert run_main("show", *both)[0] == 0


def test_other_settings_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    reproduce(tiny("lifetimes=2", "seed=9", rows=("flp-3",)), other)
    with pytest.raises(ConfigError, match=r"two has lifetimes=3, .*other lifetimes=2; show them"):
        pooled([runs["two"], other])


def test_other_kinds_of_runs_are_refused(
    run_main: Any, runs: dict[str, Path], tmp_path: Path
) -> None:
    told = f"{tmp_path} is not a run: it has no manifest.json\n"
    assert run_main("show", runs["two"], tmp_path) == (2, "", told)
    status, out, err = run_main("show", runs["two"], runs["third"], "--follow")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "--follow watches one run" in err


def test_a_run_from_before_residuals_were_kept(runs: dict[str, Path], tmp_path: Path) -> None:
    later = tmp_path / "later"
    shutil.copytree(runs["third"], later)
    file = later / "jobs" / "flp-3-continual.safetensors"
    save_file(load_file(file) | {"residual.learning": torch.tensor([0.5])}, file)
    assert figure(pooled([later]), "flp-3", "continual")["residual"] == {"learning": [0.5]}
    for order in ([later, runs["two"]], [runs["two"], later]):
        assert figure(pooled(order), "flp-3", "continual")["residual"] == {}
