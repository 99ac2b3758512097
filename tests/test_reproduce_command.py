"""``rulesearch reproduce`` as it is typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_reproduction import TINY

from rulesearch.reproduce import (
    REPRODUCTIONS,
    load_outcome,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_list(run_main: Any) -> None:
    status, out, _ = run_main("reproduce", "list")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()[::2]] == list(REPRODUCTIONS)
    rows = out.splitlines()[2 * list(REPRODUCTIONS).index("cml-table2") + 1]  # none that is quoted
    assert rows.strip() == ("rows: synaptic, synaptic-untrained, modulatory, modulatory-untrained")


@pytest.mark.parametrize(
    "option",
    [("--scale", "full"), ("--set", "seeds=3"), ("--rows", "flp-3"), ("--trained", "runs/x")],
)
def test_list_takes_no_options(option: tuple[str, str], run_main: Any) -> None:
    line = f"'list' takes no {option[0]}; name a reproduction in its place\n"
    assert run_main("reproduce", "list", *option) == (2, "", line)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["list"], "'list' takes no --out; name a reproduction in its place"),
        (["flp-tabel1"], "unknown reproduction 'flp-tabel1'; did you mean 'flp-table1'?"),
        (
            ["flp-table2", "--scale", "ful"],
            "small or narrow or full, not 'ful'; did you mean 'full'?",
        ),
        (["flp-table1", "--rows", "flp3"], "unknown row 'flp3'; did you mean 'flp-3'?"),
        (["flp-table1", "--set", "update=3"], "unknown key 'update'; did you mean 'updates'?"),
        (["flp-table1", "--set", "updates"], "--set updates: write key=value"),
        (["flp-table1", "--set", "updates=none"], "--set updates:1:1: 'updates': should be a"),
        (["flp-table1", "--set", "hidden=[4, 4]"], "'hidden': should have at least 3"),
        (["flp-table2", "--set", "rate=[1e-3]"], "'rate': needs 2 values, found 1"),
        (["flp-table1", "--set", "betas=[]"], "'betas': needs 2 values, found 0"),
        (["flp-table1", "--set", "clip=1"], "'clip': should be a number above 1, as 2: the usual"),
        (["flp-table1", "--set", "pool=3"], "the pool 3; enlarge the pool"),
        (["flp-table1", "--set", "order=random"], "'order': should be 'iid' or 'mixed'"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, run_main: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    status, out, err = run_main("reproduce", *arguments, "--out", run)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not run.exists()


def test_the_command(run_main: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    sets = [word for override in TINY for word in ("--set", override)]
    command = ["reproduce", "flp-table1", *sets, "--rows", "oml-3", "--out", run]
    status, out, err = run_main(*command)
    assert status == 0
    assert "Original OML (3)" in out
    assert "0.072" in out
    assert "2/2 oml-3-continual  5/5  test lifetimes" in err
    assert run_main(*command)[0] == 0
    assert run_main("resume", run)[:2] == run_main("show", run)[:2]
    status, out, _ = run_main("show", run, "--latex")
    assert (status, out) == (0, (run / "table.tex").read_text())
    assert json.loads(run_main("show", run, "--json")[1]) == load_outcome(run).content
    for refused in (["report", run], ["evaluate", run]):
        status, out, err = run_main(*refused)
        assert (status, out, err.count("\n")) == (2, "", 1)


def under_way(run: Path) -> subprocess.Popen[str]:
    """A reproduction that another process runs, some updates after its start."""
    sets = [word for override in (*TINY, "updates=100000") for word in ("--set", override)]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "rulesearch", "reproduce", "flp-table1", *sets,
         "--out", str(run)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    events = run / "events.jsonl"
    deadline = time.monotonic() + 120
    while not (events.is_file() and events.stat().st_size > 500):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_with_status_3(number: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = under_way(run)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert out == ""
    assert err.splitlines()[-1] == f"interrupted; continue with: rulesearch resume {run}"
    updates = len((run / "events.jsonl").read_bytes().splitlines())
    (newest,) = sorted(run.glob("checkpoint-*.json"))[-1:]
    assert updates - 1 <= json.loads(newest.read_text())["update"] <= updates


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_more_interrupts_on_the_way_out_change_nothing(number: int, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with under_way(run) as process:
        process.send_signal(number)
        assert process.stderr is not None
        lines = iter(process.stderr)
        told = f"interrupted; continue with: rulesearch resume {run}\n"
        assert any(line == told for line in lines)
        while process.poll() is None:
            process.send_signal(number)
            time.sleep(0.005)
        assert process.returncode == 3
        assert "Traceback" not in "".join(lines)
