"""Rows less one of them: means of differences on the same lifetimes, taken by numpy."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file
from tiny_reproduction import errors, tiny

from rulesearch.errors import ConfigError, RunError
from rulesearch.reproduce import pooled, reproduce
from rulesearch.reproduce.tables import print_outcome

pytestmark = pytest.mark.usefixtures("one_thread")
ROWS = ("oml-3", "flp-3")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two seeds of two rows, rows in runs of their own; a third seed of both; one row's fourth."""
    folder = tmp_path_factory.mktemp("differences")
    plans = {
        "oml": tiny("seeds=2", rows=("oml-3",)),
        "flp": tiny("seeds=2", rows=("flp-3",)),
        "third": tiny("seed=7", "seeds=1", rows=ROWS),
        "fourth": tiny("seed=8", "seeds=1", rows=("oml-3",)),
    }
    for name, plan in plans.items():
        reproduce(plan, folder / name)
    return {name: folder / name for name in plans}


@pytest.mark.parametrize("condition", ["iid", "continual"])
def test_seeds_are_compared_each_with_itself(runs: dict[str, Path], condition: str) -> None:
    """Wherever its rows were run, and whatever seeds one row alone has."""
    order = [runs[name] for name in ("fourth", "third", "oml", "flp")]
    content = pooled(order, against="flp-3")
    (row,) = content["rows"]
    assert row["row"] == "oml-3"
    pairs = [("third", "third"), ("oml", "flp")]
    less = [
        errors(runs[one], f"oml-3-{condition}") - errors(runs[other], f"flp-3-{condition}")
        for one, other in pairs
    ]
    means = np.concatenate(less).mean(1)
    ours = row["ours"][condition]
    np.testing.assert_allclose(ours["value"], means.mean(), rtol=1e-5)
    np.testing.assert_allclose(ours["sem"], means.std(ddof=1) / np.sqrt(3), rtol=1e-5)
    assert ours["networks"] == 3
    assert row["paper"] == {"iid": None, "continual": None}


def test_what_died_in_either_row_is_left_out(runs: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(runs["third"], broken)
    for row, lifetime in (("oml-3", 0), ("flp-3", 2)):
        file = broken / "jobs" / f"{row}-iid.safetensors"
        tensors = load_file(file)
        tensors["measured.error"][0, lifetime] = float("nan")
        save_file(tensors, file)
    (row,) = pooled([broken], against="flp-3")["rows"]
    left = (errors(runs["third"], "oml-3-iid") - errors(runs["third"], "flp-3-iid"))[0, 1]
    assert row["ours"]["iid"]["diverged"] == 2
    np.testing.assert_allclose(row["ours"]["iid"]["value"], left, rtol=1e-5)


def test_the_table_says_what_is_taken_from_what(run_main: Any, runs: dict[str, Path]) -> None:
    status, out, _ = run_main("show", runs["third"], "--against", "flp-3")
    assert status == 0
    assert "each row less 'FLP (3)'" in " ".join(out.split())
    assert "on the same test lifetime" in out
    assert "│ Original OML (3) " in out
    assert "│ FLP (3)" not in out
    assert "paper" not in out.split("┡")[0]  # whose differences would have no errors
    told = json.loads(run_main("show", runs["third"], "--against", "flp-3", "--json")[1])
    assert told == pooled([runs["third"]], against="flp-3")
    for row in ("flp-3", "oml-3"):
        latex = run_main("show", runs["third"], "--against", row, "--latex")[1]
        assert "% Each row less '" in latex
        (figures,) = (figure["ours"].values() for figure in pooled([runs["third"]], row)["rows"])
        below = [figure["value"] < 0 for figure in figures]
        (line,) = (line for line in latex.splitlines() if line.endswith(r"\\") and "(3) &" in line)
        assert [cell.startswith(" $-$") for cell in line.split("&")[1:-1]] == below


def test_rows_that_cannot_be_compared_are_told(run_main: Any, runs: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="runs no row 'flp-33'; did you mean 'flp-3'"):
        pooled([runs["third"]], against="flp-33")
    with pytest.raises(RunError, match="no job of 'flp-3' is finished beside one of another row"):
        pooled([runs["fourth"]], against="flp-3")
    status, _, err = run_main("show", runs["third"], "--against", "flp-3", "--follow")
    assert (status, err) == (2, "--follow watches a run; leave out --against\n")
    status, _, err = run_main("show", runs["fourth"].parent, "--against", "flp-3")
    assert status == 2
    assert err.startswith("--against is for rows of a reproduction, and ")


def test_rows_of_other_lifetimes_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    fewer = tmp_path / "fewer"
    shutil.copytree(runs["third"], fewer)
    file = fewer / "jobs" / "flp-3-iid.safetensors"
    tensors = load_file(file)
    tensors["measured.error"] = tensors["measured.error"][:, :2].contiguous()
    save_file(tensors, file)
    with pytest.raises(ConfigError, match="oml-3-iid and flp-3-iid were not judged on the same"):
        pooled([fewer], against="flp-3")


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_breaks_titles_and_no_figure(runs: dict[str, Path], width: int) -> None:
    content = pooled([runs[name] for name in ("oml", "flp", "third")])

    def figures(width: int) -> list[str]:
        shown = io.StringIO()
        print_outcome(content, Console(width=width, file=shown))
        assert "…" not in shown.getvalue()
        return re.findall(r" ([\d.]\S* \(\S+\)|[\d.]+) +[│\n]", shown.getvalue())

    whole = figures(300)
    assert len(whole) == 2 * 4 + 2  # the paper's and ours of both conditions; minutes
    assert figures(width) == whole
