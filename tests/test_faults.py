"""Faults: kills at random, a full disk, a read-only one, a clock that jumps, terms that explode.

Damage to single files is in test_search_resume.py, a database that goes away in
test_sweep_postgres.py.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import CLOCK, DISK, EXPLODING, FAULTS
from tiny_search import TINY, ends, interrupt_after

from rulesearch.errors import RuleSearchError, RunError
from rulesearch.report.result import Result
from rulesearch.search.config import load_config
from rulesearch.search.manifest import check_same
from rulesearch.search.run import resume_search, start_search
from rulesearch.search.sweep import Study, load_sweep, work
from rulesearch.search.sweep.storage import database_errors

SCRIPT = Path(__file__).with_name("faults.py")


@pytest.fixture(scope="module")
def whole(tiny: Path) -> dict[str, bytes]:
    """The files of a search that met no fault."""
    return ends(start_search(load_config(tiny), tiny.parent / "whole").path)


def test_random_faults_cost_no_bit() -> None:
    """Two searches for each fault; fifty are counted in docs/runs.md, by the same script."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "2"], capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[2:]]
    made = set(FAULTS) - set(DISK if "right to mount" in done.stderr else ())
    made -= {CLOCK} if "a compiler" in done.stderr else set()
    assert {row[0] for row in rows} == made
    for _, searches, met, *found in rows:
        assert int(met) >= int(searches) == 2
        assert found == ["2", "0", "0", "0"]


# -- disks --


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder]
    if (
        sys.platform != "linux"
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("a file system of its own needs Linux, and the right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path, free: int) -> Path:
    """Leave so many bytes free."""
    filler = disk / "filler"
    state = os.statvfs(disk)
    filler.write_bytes(bytes(state.f_bavail * state.f_bsize - free))
    return filler


def test_a_full_disk(disk: Path, tiny: Path, whole: dict[str, bytes]) -> None:
    resumed = 0
    for pages in range(1, 9):
        run, filler = disk / "run", fill(disk, pages * 4096)
        with pytest.raises(RunError, match="No space left on device") as full:
            start_search(load_config(tiny), run)
        assert "\n" not in str(full.value)
        if (run / "manifest.json").exists():
            assert str(full.value).endswith(f"; mend that, then 'rulesearch resume {run}'")
            with pytest.raises(RunError, match="No space left on device"):
                resume_search(run)
            filler.unlink()
            resume_search(run)
            resumed += 1
        else:  # it had not begun, and nothing is in the way of the same command
            filler.unlink()
            start_search(load_config(tiny), run)
        assert ends(run) == whole
        shutil.rmtree(run)
    assert 3 <= resumed < 8


def test_a_full_disk_under_a_sweep(disk: Path, tmp_path: Path) -> None:
    config = tmp_path / "sweep.yaml"
    config.write_text(TINY + "sweep: {lifetimes: 20, over: {penalty.lam: [1, 5]}}\n")
    filler = fill(disk, 0)
    with pytest.raises(RunError, match="No space left on device"), database_errors(None):
        Study.begin(load_sweep(config), disk / "study")
    filler.unlink()
    with Study.begin(load_sweep(config), disk / "study") as study:
        url = study.url
    for pages in (0, 2, 8):
        filler = fill(disk, pages * 4096)
        with pytest.raises(RunError, match="No space left on device") as full:
            work(url)
        assert "\n" not in str(full.value)
        filler.unlink()
    filler = fill(disk, 0)
    with Study.open(url) as study, pytest.raises(RunError) as full:
        study.record()
    assert str(full.value).startswith(f"{disk}/study/study.json cannot be written: No space left")
    assert str(full.value).endswith("; mend that, then start again; nothing is lost")
    filler.unlink()
    content = json.loads((work(url) / "study.json").read_text())
    assert [trial["state"] for trial in content["trials"]] == ["done", "done"]


def test_a_read_only_disk(disk: Path, tiny: Path, whole: dict[str, bytes]) -> None:
    run = disk / "run"
    with pytest.raises(KeyboardInterrupt):
        start_search(load_config(tiny), run, [interrupt_after(8)])
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    with pytest.raises(RunError, match=r"run cannot be written: Read-only file system; mend that"):
        resume_search(run)
    with pytest.raises(RunError, match="other cannot be made: Read-only file system"):
        start_search(load_config(tiny), disk / "other")
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    resume_search(run)
    assert ends(run) == whole


# -- clocks --


def test_the_times_of_files_are_believed_by_nobody(
    tiny: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """A clock that jumps under a whole process is among the faults of the script."""
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        start_search(load_config(tiny), run, [interrupt_after(11)])
    checkpoints = sorted(run.glob("checkpoint-*"))
    assert len(checkpoints) == 4
    for age, path in enumerate(checkpoints):  # the newest is the oldest by its file's time
        os.utime(path, (2e9 - 1e8 * age, 2e9 - 1e8 * age))
    told: list[Mapping[str, Any]] = []
    resume_search(run, [told.append])
    assert told[0]["done"] == 9  # the newest checkpoint, not the one before
    assert ends(run) == whole


# -- terms that explode --


@pytest.mark.parametrize("term", EXPLODING)
def test_terms_that_explode(term: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(TINY.replace("F3: -W", f"F3: {EXPLODING[term]}"))
    result = start_search(load_config(path), tmp_path / "run")
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    events = [json.loads(line, parse_constant=pytest.fail) for line in lines]  # no NaN, no Infinity
    updates = [event for event in events if event["event"] == "update"]
    assert sum(sum(event["rejected"]) for event in updates if event["phase"] == "search") > 0
    assert np.isfinite([event["theta"] for event in updates if event["phase"] == "search"]).all()
    assert all(np.isfinite(value) for value in result.rule.coefficients.values())
    assert "diverged" in str(result)


# -- messages --


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("postgresql://me@host/base", (122, "Quota", "/runs/x/.lock"), "/runs/x/.lock .*Quota"),
        ("postgresql://me@host/base", (5, "Input/output"), "a file of the sweep .*Input/output"),
        ("/runs/journal.log", (5, "Input/output"), "/runs/journal.log .*Input/output"),
    ],
)
def test_a_database_is_not_blamed_for_a_file(url: str, error: Any, message: str) -> None:
    with pytest.raises(RunError, match=f"^{message.replace(' .', ' cannot be written .')}"):
        with_errors(url, OSError(*error))


def with_errors(url: str, error: OSError) -> None:
    with database_errors(url):
        raise error


def test_a_folder_that_vanishes_is_told_in_a_line(tiny: Path, tmp_path: Path) -> None:
    run, updates = tmp_path / "run", []

    def vanishes(event: Mapping[str, Any]) -> None:
        updates.append(event)
        if len(updates) == 5:
            shutil.rmtree(run)

    with pytest.raises(RunError, match=rf"^{run} cannot be written: No such file or directory; "):
        start_search(load_config(tiny), run, [vanishes])


# -- bits of what is not a checkpoint --


def flipped(text: bytes, chance: random.Random) -> bytes:
    data = bytearray(text)
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def without_root(text: str) -> list[str]:
    """A configuration but for where its data lie, whose fingerprint is in the manifest."""
    return [line for line in text.splitlines() if not line.strip().startswith("root:")]


def test_any_bit_of_a_configuration(tiny: Path, whole: dict[str, bytes]) -> None:
    """Whatever a run goes on with means what it began with, or is refused."""
    path = tiny.parent / "whole" / "config.yaml"
    text, meant = path.read_bytes(), load_config(path).to_yaml()
    manifest = json.loads((path.parent / "manifest.json").read_text())
    refused, chance = 0, random.Random(0)
    for _ in range(150):
        path.write_bytes(flipped(text, chance))
        try:
            found = load_config(path)
            check_same(manifest, found, "run")
        except RuleSearchError:
            refused += 1
        else:
            assert without_root(found.to_yaml()) == without_root(meant)
    path.write_bytes(text)
    assert refused > 100


def test_any_bit_of_a_result(tiny: Path, whole: dict[str, bytes]) -> None:
    path = tiny.parent / "whole" / "result.json"
    text, meant = path.read_bytes(), Result.load(path.parent).content
    refused, chance = 0, random.Random(0)
    for _ in range(300):
        path.write_bytes(flipped(text, chance))
        try:
            found = Result.load(path.parent).content
        except RunError:
            refused += 1
        else:  # a space, or the name of the checksum itself
            assert {name: found[name] for name in meant} == meant
    path.write_bytes(text)
    assert refused > 150
