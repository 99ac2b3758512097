"""Paths of lambdas: warm starts, the pick on held-out tasks, kill and resume, what is shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_search import ends, interrupt_after

import rulesearch as rs
from rulesearch.errors import ConfigError
from rulesearch.report.batches import join_batches
from rulesearch.report.page import write_report
from rulesearch.report.path_figure import has_path, penalty_path
from rulesearch.report.run_data import Curves, RunData
from rulesearch.search.config import load_config
from rulesearch.search.evaluation import evaluate_rules
from rulesearch.search.run import HELD_OUT, HELD_OUT_STREAM, resume_search, start_search
from rulesearch.search.selection import group_losses, pick, standard_error
from rulesearch.search.settings import settings_from

TINY = """\
name: path
grammar: pool10
network: {hidden: [8]}
tasks: {data: digits, ways: 3, shots: 4, queries: 4}
episodes: 12
seeds: 2
refit_episodes: 4
penalty: {lam: {values: [40, 1, 5], batch: 2, episodes: 7}}
optimiser: {rate: 1.0e-3, meta_batch: 2, scale_cap: 2}
controls: false
checkpoint_every: 4
probe_every: 7
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("path") / "path.yaml"
    path.write_text(TINY)
    return path


def events_of(run: Path, phase: str) -> list[dict[str, Any]]:
    events = map(json.loads, (run / "events.jsonl").read_text().splitlines())
    return [e for e in events if e["event"] == "update" and e["phase"] == phase]


# -- what a path is --


def test_a_series_is_geometric() -> None:
    settings = settings_from(lams={"low": 1, "high": 16, "number": 5, "batch": 2}, episodes=30)
    assert settings.lams == (1.0, 2.0, 4.0, 8.0, 16.0)
    assert settings.batches == ((1.0, 2.0), (4.0, 8.0), (16.0,))
    assert settings.later_episodes == 10
    assert settings_from(lams=[3.0, 1.0]).batches == ((3.0, 1.0),)
    assert settings_from(lams={"values": [3, 1, 2]}).batches == ((1.0,), (2.0,), (3.0,))


@pytest.mark.parametrize(
    ("lams", "message"),
    [
        ({"low": 1, "high": 2}, "needs 'low', 'high' and 'number', or 'values' alone"),
        ({"low": 1, "high": 2, "number": 3, "values": [1, 2]}, "needs 'low'"),
        ({}, "needs 'low'"),
        ({"low": 2, "high": 1, "number": 3}, "'low' below 'high'"),
        ({"low": 0, "high": 1, "number": 3}, "low=0: input should be greater than 0"),
        ({"values": [1, 1]}, "should not name one lambda twice"),
        ({"values": [1, 2], "batch": 0}, "batch=0"),
    ],
)
def test_paths_that_make_no_sense(lams: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        settings_from(lams=lams)
    assert message in str(raised.value)


def test_a_path_in_a_file_is_told_its_mistakes_place(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("grammar: pool10\npenalty: {lam: {low: 1, hihg: 3, number: 4}}\n")
    with pytest.raises(rs.RuleSearchError, match=r":2:25: unknown key 'hihg'; did you mean 'high'"):
        load_config(path)


# -- the search --


def test_batches_start_where_the_one_before_ended(whole: Path) -> None:
    manifest = json.loads((whole / "manifest.json").read_text())
    assert [(r["lam"], r["batch"]) for r in manifest["rows"][::2]] == [(1, 1), (5, 1), (40, 2)]
    first, second = events_of(whole, "search"), events_of(whole, "search-2")
    assert (len(first), len(second)) == (12, 7)
    assert (len(first[0]["theta"]), len(second[0]["theta"])) == (4, 2)
    # Adam's moments come along, so that a first step is a step like those before it: no longer
    # than the rate, scaled, and the threshold of the penalty.
    start, after = np.array(first[-1]["theta"])[2:], np.array(second[0]["theta"])
    scales = np.array(manifest["scales"])
    assert np.abs((after - start) / scales).max() < 5e-3
    # The larger penalty leaves each seed no more than the smaller one it started from.
    alive = [(np.array(e["theta"]) != 0).sum(1) for e in (first[-1], second[-1])]
    assert (alive[1] <= alive[0][2:]).all()


def test_a_path_of_one_batch_is_a_list_in_order(tiny: Path, tmp_path: Path) -> None:
    def rows(name: str, lam: str) -> list[dict[str, Any]]:
        settings = [f"penalty.lam={lam}", "refit_episodes=0", "episodes=4"]
        return events_of(start_search(load_config(tiny, settings), tmp_path / name).path, "search")

    assert rows("path", "{values: [9, 1], batch: 2}") == rows("list", "[1, 9]")


def test_the_pick_follows_from_held_out_tasks(tiny: Path, whole: Path) -> None:
    content = rs.load_run(whole).content
    experiment = load_config(tiny)
    losses, counts = [], []
    for entry in content["front"]:
        rule = rs.Rule(experiment.pool, entry["coefficients"])
        [score] = evaluate_rules(
            {"rule": (rule, experiment.network)}, experiment.tasks, HELD_OUT, 0, HELD_OUT_STREAM
        )
        groups = np.median(np.where(np.isfinite(score.loss), score.loss, np.inf).reshape(20, 10), 1)
        assert entry["held_out_loss"] == pytest.approx(groups.mean())
        assert entry["held_out_error"] == pytest.approx(groups.std(ddof=1) / np.sqrt(20))
        losses.append(entry["held_out_loss"])
        counts.append(len(rule))
    best = int(np.argmin(losses))
    limit = losses[best] + content["front"][best]["held_out_error"]
    fewest = min(counts[k] for k, loss in enumerate(losses) if loss <= limit)
    chosen = [e["lam"] for e in content["front"]].index(content["pick"]["lam"])
    assert counts[chosen] == fewest == len(content["pick"]["terms"])


def test_one_standard_error_on_constructed_fronts() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(size=20)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    error = 0.2 / np.sqrt(20)  # of the best, 1.0 on average with a deviation of 0.2
    best = 1.0 + 0.2 * noise
    assert standard_error(best) == pytest.approx(error)
    assert (
        pick([9, 4, 2], [best, np.full(20, 1 + 0.99 * error), np.full(20, 1 + 1.01 * error)]) == 1
    )
    assert pick([9, 4, 2], [best, np.full(20, 2.0), np.full(20, 1 + 0.99 * error)]) == 2
    # One group in which a rule diverges is a loss of everything, not one loss the less.
    lucky = np.where(np.arange(20) == 0, np.inf, 0.5)
    assert pick([9, 1], [best, lucky]) == 0
    loss = np.concatenate([np.full(9, 1.0), [np.nan], np.full(5, 3.0), [np.inf] * 5])
    np.testing.assert_array_equal(group_losses(loss, 2), [1.0, np.inf])
    sizes = {n: group_losses(np.ones(n)).shape for n in (3, 20, 40, 99, 100, 200)}
    assert sizes == {3: (1,), 20: (4,), 40: (8,), 99: (19,), 100: (20,), 200: (20,)}


# -- killed --


def test_a_killed_path_ends_in_the_same_bytes(tiny: Path, whole: Path, tmp_path: Path) -> None:
    script = Path(__file__).with_name("killed_run.py")
    done = subprocess.run(
        [sys.executable, script, tiny, tmp_path / "run", "4", "1"],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2
    assert ends(tmp_path / "run") == ends(whole)


@pytest.mark.parametrize("events", [14, 16, 19])
def test_interrupted_where_batches_meet(
    events: int, tiny: Path, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        start_search(load_config(tiny), tmp_path / "run", [interrupt_after(events)])
    resume_search(tmp_path / "run")
    assert ends(tmp_path / "run") == ends(whole)


# -- what is shown --


def test_batches_are_joined_along_their_warm_starts() -> None:
    rows = [
        {"seed": s, "lam": lam, "batch": b} for lam, b in ((1, 1), (2, 1), (3, 2)) for s in (0, 1)
    ]

    def curves(values: np.ndarray[Any, Any]) -> Curves:
        updates = np.arange(values.shape[1], dtype=float)
        return Curves(updates, values, values, values[..., None], values)

    first = np.arange(8.0).reshape(4, 2)
    second = np.array([[10.0, 11.0, 12.0], [20.0, 21.0, 22.0]])
    found = {"search": curves(first), "search-2": curves(second), "refit": curves(first)}
    joined = join_batches(found, rows, [2, 3], 3)
    assert joined.keys() == {"search", "refit"}
    np.testing.assert_array_equal(joined["search"].updates, range(5))
    np.testing.assert_array_equal(joined["search"].loss[4], [4, 5, 10, 11, 12])
    np.testing.assert_array_equal(joined["search"].loss[5], [6, 7, 20, 21, 22])
    np.testing.assert_array_equal(joined["search"].loss[0], [0, 1, np.nan, np.nan, np.nan])
    early = join_batches(found, rows, [2, 3], 1)["search"]
    assert early.loss.shape == (6, 2)
    assert np.isnan(early.loss[4:]).all()


def test_the_table_and_the_report(whole: Path) -> None:
    result, run = rs.load_run(whole), RunData.load(whole)
    heading, _, *lines = result.table().splitlines()
    assert "held-out loss" in heading
    assert [line.split()[0] == ">" for line in lines[:3]].count(True) == 1
    assert all("±" in line for line in lines[:3])
    searched = 12 if result.content["pick"]["lam"] < 40 else 19
    search, refit = result.history["search"], result.history["refit"]
    assert search.theta.shape == (6, searched, 10)
    assert search.terms == tuple(f"F{k}" for k in range(10))
    assert len(refit.terms) == refit.theta.shape[2]
    assert set(refit.terms) == {name for e in result.content["front"] for name in e["terms"]}
    pick = next(e for e in result.content["front"] if e["lam"] == result.content["pick"]["lam"])
    assert result.loss == pick["refit_loss"]
    assert result.accuracy == pick["refit_accuracy"]
    assert has_path(run)
    left, right = penalty_path(run).axes
    shown = np.array([e["held_out_loss"] for e in result.content["front"]])
    assert any(np.array_equal(line.get_ydata(), shown) for line in right.get_lines())
    assert left.get_xscale() == "log"
    assert "From penalty to penalty" in write_report(whole).read_text()
