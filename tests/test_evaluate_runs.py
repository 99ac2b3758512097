"""Runs compared by the command: on whose classes, in whose network, and under which names."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import rulesearch as rs

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
    conditions = [line.split("  ")[0] for line in out.splitlines()[3:]]
    assert conditions == ["as given", "classes=held-out"]


def test_runs_are_judged_on_classes_that_none_knows_or_all_do(search: Any, run_main: Any) -> None:
    last, first = search("last"), search("first", "tasks.hold_out=[0, 1, 2, 3]")
    more = search("more", "tasks.hold_out=5", "network.hidden=[9]")
    for one, other, known in ((last, first, "6, 7, 8, 9"), (first, last, "0, 1, 2, 3")):
        status, out, err = run_main("evaluate", one, other, "--lifetimes", 2)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"as given: {other} was searched on classes of 'digits' that {one} ")
        assert f" never drew ({known}), " in err
    # Both held out 6 to 9; 5 one of them alone.
    status, out, err = run_main("evaluate", last, more, "--lifetimes", 2)
    assert status == 0, err
    note = f"Note: all rules lived in the network of {last}; that of {more} is another."
    assert out.splitlines()[-1] == note
    searched = ("--vary", "classes=searched", "--lifetimes", 2)
    status, _, err = run_main("evaluate", last, more, *searched)
    assert (status, err.split(" never")[0]) == (
        2,
        f"classes=searched: {last} was searched on classes of 'digits' that {more}",
    )


def test_names_that_would_hide_a_rule(search: Any, run_main: Any, tmp_path: Path) -> None:
    run, named = search("last"), tmp_path / "oja.json"
    (rule,) = run.glob("rule.json")
    named.write_bytes(rule.read_bytes())
    shutil.copytree(run, tmp_path / "backprop")
    for arguments, name in (
        ([named, rule, "--rules", "oja", "--tasks", "digits"], "oja"),
        ([run, "--rules", "oja,oja"], "oja"),
        ([run, tmp_path / "backprop"], "backprop"),
        ([named, named, "--tasks", "digits"], str(named)),
    ):
        status, out, err = run_main("evaluate", *arguments, "--lifetimes", 2)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"two rules are called '{name}'; give each once, and rename ")
    status, out, _ = run_main("evaluate", run, "--rules", "backprop", "--lifetimes", 2)
    assert status == 0  # in place of the run's own
    rows = [line.split("  ")[0] for line in out.splitlines()[3:]]
    assert rows == ["rule", "feedback alignment", "backprop"]


def test_symmetric_feedback_has_one_control(search: Any, run_main: Any) -> None:
    run = search("symmetric", "network.feedback=symmetric")
    assert list(rs.load_run(run).content["accuracy"]) == ["search", "backprop"]
    out = run_main("show", run)[1]
    assert "feedback alignment" not in out
    out = run_main("evaluate", run, "--lifetimes", 2)[1]
    assert [line.split("  ")[0] for line in out.splitlines()[3:]] == ["rule", "backprop"]
