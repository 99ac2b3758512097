"""Sweeps of tiny searches, for the tests of sweeps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import rulesearch as rs
from rulesearch.search.sweep import Study, StudyResult, load_sweep, work
from rulesearch.search.sweep.outcome import Score

HERE = Path(__file__).parent
BASE = """\
name: tiny
grammar: {terms: {F0: {expr: -e_post * y_pre.T, init: 1.0e-3}, F2: -e_post * e_pre.T, F3: -W}}
network: {hidden: [8]}
tasks: {data: digits, ways: 3, shots: 4, queries: 4}
episodes: 12
seeds: 2
refit_episodes: 4
controls: false
optimiser: {rate: 1.0e-3}
checkpoint_every: 4
sweep:
  lifetimes: 20
"""
GRID = BASE + "  over: {penalty.lam: [1, 5], network.hidden: [[8], [8, 6]]}\n"
RANGES = (
    BASE
    + """\
  over:
    penalty.lam: {low: 1, high: 50, log: true}
    optimiser.meta_batch: {low: 1, high: 3}
    network.feedback: [random, symmetric]
  trials: 12
"""
)
RULE = rs.Rule(rs.Grammar.from_yaml("pool10").enumerate(), {"F0": 1e-3, "F9": 2e-3})


def swept(config: Path, folder: Path) -> StudyResult:
    """A sweep with one worker, in this process."""
    with Study.begin(load_sweep(config), folder) as study:
        url = study.url
    return StudyResult.load(work(url))


def told(study: Study, number: int, loss: float, terms: int = 2, taken: bool = False) -> None:
    """Finish a trial without running it; one of a batch is taken with it."""
    assert taken or study.take() == number
    study.start(number)
    score = Score([loss] * 20, 0.5, 1.0, ["F0", "F9", "F3"][:terms], RULE.to_json())
    study.finish(number, score, {"runs": 3.0, "study": 0.06})
    if not taken:
        study.release(number)


def killed(config: Path, folder: Path, url: str, workers: int, kills: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, HERE / "killed_sweep.py", config, folder, url, str(workers), str(kills)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def assert_same(folder: Path, whole: Path, found: dict[str, Any]) -> None:
    """Nothing was lost or run twice, and trials went on from their checkpoints."""
    ours, theirs = (json.loads((f / "study.json").read_text()) for f in (folder, whole))
    assert ours["trials"] == theirs["trials"]
    assert (ours["front"], ours["pick"]) == (theirs["front"], theirs["pick"])
    for trial in sorted(whole.glob("trial-*")):
        for name in ("result.json", "events.jsonl", "rule.json"):
            assert (folder / trial.name / name).read_bytes() == (trial / name).read_bytes()
    assert len(set(found["ends"])) == len(found["ends"])
    events = [path.read_text() for path in whole.glob("trial-*/events.jsonl")]
    needed = sum(text.count('"event":"update"') for text in events)
    assert needed <= found["updates"] <= needed + 4 * found["killed"]  # a checkpoint every 4
