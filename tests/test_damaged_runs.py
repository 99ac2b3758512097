"""Finished runs of which a file is no longer what was written: what each command says of them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_search import ends, interrupt_after

import rulesearch as rs
from rulesearch.errors import RunError
from rulesearch.search.config import load_config
from rulesearch.search.run import resume_search, start_search


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def change(path: Path, pattern: str, new: str) -> None:
    text, count = re.subn(pattern, new, path.read_text(), count=1)
    assert count
    path.write_text(text)


@pytest.mark.parametrize("command", [("evaluate", "--lifetimes", 2), ("report",), ("resume",)])
def test_a_manifest_that_changed(command: tuple[Any, ...], run: Path, run_main: Any) -> None:
    change(run / "manifest.json", '"beta": 10.0', '"beta": 18.0')
    status, out, err = run_main(command[0], run, *command[1:])
    assert (status, out) == (2, "")
    assert err == (
        f"{run}/manifest.json is damaged: its checksum is of something else; give the file back, "
        "or begin a new run\n"
    )


def test_a_configuration_that_changed(run: Path, run_main: Any) -> None:
    change(run / "config.yaml", "shots: 2", "shots: 3")
    status, out, err = run_main("evaluate", run, "--lifetimes", 2)
    assert (status, out) == (2, "")
    assert err.startswith(f"{run}: 'tasks' is not what the run began with (see manifest.json); ")
    (run / "config.yaml").unlink()
    status, _, err = run_main("evaluate", run, "--lifetimes", 2)
    assert (status, err.count("\n")) == (2, 1)
    assert err.endswith("; give the file back as it was, or begin a new run\n")


@pytest.mark.parametrize("command", ["report", "show"])
def test_a_changed_configuration_is_not_shown(command: str, run: Path, run_main: Any) -> None:
    path = run / "config.yaml"
    text = path.read_text()
    path.write_text("# mine\n" + text.replace("device: cpu", "device: cuda"))  # says the same
    change(path, "root: null", "root: elsewhere")  # a run may be moved, and its data
    assert run_main(command, run)[0] == 0
    change(path, "shots: 2", "shots: 3")
    refused = (
        f"{run}: 'config.yaml' is not what the run began with (see manifest.json); "
        "give it back, or start a new run\n"
    )
    assert run_main(command, run) == (2, "", refused)
    path.write_bytes(b"\xff")
    unreadable = (
        f"{path}:1:1: the file is not UTF-8; save it as UTF-8; "
        "give the file back as it was, or begin a new run\n"
    )
    assert run_main(command, run) == (2, "", unreadable)
    path.write_text(text)
    assert run_main(command, run)[0] == 0


@pytest.mark.parametrize("content", [None, "{}", '{"schema": 1}', "[]", '{"schema": 1, "pi'])
def test_a_result_is_made_anew_as_told(content: str | None, run: Path, run_main: Any) -> None:
    path = run / "result.json"
    before = path.read_bytes()
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_text(content)
    remedy = f"; remove it, then 'rulesearch resume {run}' makes it anew\n"
    for command in ("show", "report", "evaluate"):
        status, out, err = run_main(command, run)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"{path} ")
        assert err.endswith(remedy)
    if content is None:
        path.rmdir()
    assert run_main("resume", run)[0] == 0
    assert path.read_bytes() == before


def test_events_without_their_fields(run: Path) -> None:
    text = (run / "events.jsonl").read_text()
    for old, new in (("update", "updatf"), ("phase", "phasf")):
        (run / "events.jsonl").write_text(text.replace(f'"{old}":', f'"{new}":'))
        with pytest.raises(RunError, match="the run is damaged, and 'rulesearch resume") as told:
            _ = rs.load_run(run).history["search"]
        assert str(run / "events.jsonl") in str(told.value)


def test_a_folder_in_a_checkpoints_place(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        start_search(load_config(whole.parent / "tiny.yaml"), run, [interrupt_after(11)])
    for path in run.glob("checkpoint-*"):
        path.unlink()
        path.mkdir()
    kept = next(run.glob("checkpoint-*.json"))
    (kept / "mine").write_text("")
    with pytest.raises(
        RunError, match=rf"{kept} is a folder.*; mend that, then 'rulesearch resume"
    ):
        resume_search(run)
    (kept / "mine").unlink()
    resume_search(run)
    assert ends(run) == ends(whole)
    assert json.loads((run / "result.json").read_text())["pick"]["lam"] == 0.1


# -- what is too large --


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("network.hidden=[1000000000]", "W and B of 8 networks of 64 x 1000000000 x 10 units "),
        ("network.hidden=[9999999999]", "--set network.hidden:1:1: "),
        ("network.beta=1e308", "--set network.beta:1:1: beta must be from 1e-6 to 1e6, not"),
        ("network.beta=1e-300", "--set network.beta:1:1: beta must be from 1e-6 to 1e6, not"),
        ("network.beta=1e400", "--set network.beta:1:1: 'beta': should be a finite number\n"),
        ("episodes=99999999999999999", "--set episodes:1:1: 'episodes': should be less than"),
        ("seeds=99999999", "--set seeds:1:1: 'seeds': should be less than or equal to 100000"),
    ],
)
def test_what_no_machine_holds(
    setting: str, message: str, whole: Path, tmp_path: Path, run_main: Any
) -> None:
    config, run = whole.parent / "tiny.yaml", tmp_path / "run"
    status, out, err = run_main("search", config, "--set", setting, "--out", run)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(message)
    assert not run.exists()
