"""Runs compared by the command: on whose classes, in whose network, and under which names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_search import POOL, tiny_search

import rulesearch as rs
from rulesearch.tasks import FewShot

SHAPE = {"ways": 2, "shots": 2, "queries": 2}
CONFIG = """\
grammar: {terms: {F0: {expr: -e_post * y_pre.T, init: 1.0e-3}, F3: -W}}
network: {hidden: [6]}
tasks: {data: digits, ways: 2, shots: 2, queries: 2, hold_out: 4}
episodes: 4
seeds: 1
refit_episodes: 0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of runs, and of what they were told."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def search(folder: Path, run_main: Any) -> Any:
    """Return a search's folder, the same for the same settings."""

    def once(name: str, *settings: str) -> Path:
        run, config = folder / name, folder / "config.yaml"
        if not run.exists():
            config.write_text(CONFIG)
            changes = [part for setting in settings for part in ("--set", setting)]
            status, _, err = run_main("search", config, *changes, "--out", run)
            assert status == 0, err
        return run

    return once


def test_what_a_run_on_held_out_classes_lived_on_is_no_evidence(search: Any, run_main: Any) -> None:
    run = search("held-out", "tasks.held_out=true", "controls=false")
    few = ("--lifetimes", 4)
    # It drew 6 to 9, so that 0 to 5 are what it never saw.
    assert "classes=6 of 10" in run_main("evaluate", run, *few)[1]
    assert "classes=6 of 10" in run_main("evaluate", run, "--held-out", *few)[1]
    assert "classes=4 of 10" in run_main("evaluate", run, "--no-held-out", *few)[1]
    named = ("--tasks", "digits", "--shots", 2, "--queries", 2, *few)  # five ways are too many of 4
    assert "classes=6 of 10" in run_main("evaluate", run, *named)[1]
    varied = ("--no-held-out", "--vary", "classes=searched,held-out", *few)
    _, out, _ = run_main("evaluate", run, *varied)
    assert [line.split("  ")[0] for line in out.splitlines()[3:]] == ["as given", "classes=held-out"]
