"""Reproductions broken off, damaged, and begun again elsewhere: they end in the same bits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_reproduction import ROWS, TINY, left, tiny, whole_run

from rulesearch.errors import ConfigError, GrammarError, RunError
from rulesearch.files import sealed
from rulesearch.reproduce import (
    load_outcome,
    load_plan,
    make_plan,
    reproduce,
    resume_reproduction,
    run_folder,
)
from rulesearch.search.folder import RunBusyError, RunFolder

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_run(tmp_path_factory.mktemp("reproduce") / "whole")


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from rulesearch.reproduce import load_plan, make_plan, reproduce, resume_reproduction

torch.set_num_threads(1)
run, overrides, rows, kills = Path(sys.argv[1]), *(a.split(";") for a in sys.argv[2:])

def child(most):
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    count = 0
    def sink(event):
        nonlocal count
        count += 1
        if count == most:
            os.kill(os.getpid(), signal.SIGKILL)
    if (run / "manifest.json").exists():
        resume_reproduction(run, [sink])
    else:
        reproduce(make_plan("flp-table1", "small", overrides, rows), run, [sink])
    os._exit(0)

killed = sum(os.WIFSIGNALED(child(int(most))) for most in kills)
assert child(10**9) == 0
print(killed)
"""


def test_killed_at_any_event_it_ends_in_the_same_bits(whole: Path, tmp_path: Path) -> None:
    """Before the first checkpoint, within a job, while measuring, between jobs."""
    kills = (3, 8, 6, 9)
    run = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(run), ";".join(TINY), ";".join(ROWS),
         ";".join(map(str, kills))],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(kills)
    assert left(run) == left(whole)


@pytest.mark.parametrize("moment", [2, 3, 5, 8, 9, 12])
def test_interrupted_it_goes_on_where_it_was(moment: int, whole: Path, tmp_path: Path) -> None:
    run, seen = tmp_path / "run", list[Mapping[str, Any]]()

    def interrupt(event: Mapping[str, Any]) -> None:
        seen.append(event)
        if len(seen) == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce(tiny(), run, [interrupt])
    again: list[Mapping[str, Any]] = []
    resume_reproduction(run, [again.append])
    # An update that was told of may have to be done again: it was not finished.
    done = sum(e["event"] == "update" and e["phase"] == again[1]["job"] for e in seen)
    assert again[1]["done"] >= done - (seen[-1]["event"] == "update")
    assert left(run) == left(whole)


def test_an_interrupt_in_the_middle_of_a_step(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When Adam has moved the meta-parameters, and the update has not been counted."""
    step, count = torch.optim.Adam.step, 0

    def broken(self: Any, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        found = step(self, *arguments)
        if count == 4:
            raise KeyboardInterrupt
        return found

    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.Adam, "step", broken)
        with pytest.raises(KeyboardInterrupt):
            reproduce(tiny(), run)
    assert (run / "checkpoint-flp-3-iid-000003.json").is_file()
    resume_reproduction(run)
    assert left(run) == left(whole)


@pytest.mark.parametrize("file", ["flp-3-iid.safetensors", "table.md"])
def test_a_full_disk_says_how_to_go_on(
    file: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, run = os.replace, tmp_path / "run"

    def full(source: str, target: Path) -> None:
        if target.name == file:
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(RunError) as refused:
            reproduce(tiny(), run)
    said = f"{file} cannot be written: No space left on device; mend that, then 'rulesearch resume"
    assert f"{refused.value}".endswith(f"{said} {run}'")
    resume_reproduction(run)
    assert left(run) == left(whole)


def test_a_run_under_way_can_be_shown(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def interrupt(event: Mapping[str, Any]) -> None:
        if event["event"] == "job" and event["number"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce(tiny(), run, [interrupt])
    content = load_outcome(run).content
    assert list(content["conditions"]) == ["iid"]
    assert content == json.loads((run / "result.json").read_text())


def test_a_damaged_job_is_named(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    plan = tiny(rows=("oml-3",))
    reproduce(plan, run)
    expected = left(run)["jobs"]
    file = run / "jobs" / "oml-3-iid.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(RunError, match=r"oml-3-iid\.safetensors cannot be read.*remove it"):
        reproduce(plan, run)
    file.unlink()
    reproduce(plan, run)
    assert left(run)["jobs"] == expected


def test_a_flipped_bit_of_a_job_is_noticed(whole: Path, tmp_path: Path, run_main: Any) -> None:
    """Wherever it is: in the values, the tensors' names, or what says that there is a checksum."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    file = run / "jobs" / "flp-3-iid.safetensors"
    data = file.read_bytes()
    remedy = f"; remove it, then 'rulesearch resume {run}' makes it anew\n"
    for place in (len(data) - 1, data.index(b"measured.error"), data.index(b"sha256")):
        flipped = bytearray(data)
        flipped[place] ^= 1
        file.write_bytes(flipped)
        status, out, err = run_main("show", run)
        assert (status, out) == (2, "")
        assert err == f"{file} is damaged: its checksum is of something else{remedy}"
    file.unlink()
    assert run_main("resume", run)[0] == 0
    assert left(run)["jobs"] == left(whole)["jobs"]


def test_half_a_manifest_is_told_as_such(whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    os.truncate(run / "manifest.json", 200)
    taking = make_plan("flp-figure2", "small", TINY, ROWS, run)
    for plan, folder in ((tiny(), run), (taking, tmp_path / "taking")):
        with pytest.raises(RunError, match=r"run/manifest\.json is damaged: .*; give the fi"):
            reproduce(plan, folder)


def test_jobs_of_before_they_had_a_checksum_are_read(
    whole: Path, tmp_path: Path, run_main: Any
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    for file in (run / "jobs").iterdir():
        save_file(load_file(file), file)
    assert run_main("show", run, "--json") == run_main("show", whole, "--json")


def test_another_plan_in_the_same_folder_is_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"began with updates=5, not 6.*--out.*resume"):
        reproduce(tiny("updates=6"), whole)
    with pytest.raises(RunError, match="began with rows="):
        reproduce(tiny(rows=("oml-3",)), whole)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(RunError, match="not empty"):
        reproduce(tiny(), tmp_path / "other")
    (tmp_path / "config.yaml").write_text(tiny().to_yaml())
    with pytest.raises(RunError, match="no result yet"):
        load_outcome(tmp_path)


def test_a_folder_is_refused_before_data_is_loaded(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_main: Any
) -> None:
    def loaded(*_: object) -> None:
        raise AssertionError("data was loaded")

    monkeypatch.setattr("rulesearch.reproduce.plan.Plan.jobs", loaded)
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "file").touch()
    told = f"{occupied} exists and is not empty; choose another folder\n"
    assert run_main("reproduce", "flp-table1", "--out", occupied) == (2, "", told)
    status, _, err = run_main("reproduce", "flp-table1", "--out", whole)
    assert (status, f"{whole} began with " in err) == (2, True)
    with RunFolder.open(whole), pytest.raises(RunBusyError, match="is writing this run"):
        resume_reproduction(whole)


def test_the_default_folder_is_its_own_or_free(tmp_path: Path) -> None:
    plan, other = tiny(rows=("oml-3",)), tiny("updates=6", rows=("oml-3",))
    with run_folder(plan, tmp_path) as first:
        assert first == tmp_path / "flp-table1-small"
        reproduce(plan, first)
    with run_folder(plan, tmp_path) as again:
        assert again == first
    with run_folder(other, tmp_path) as second, run_folder(other, tmp_path) as third:
        assert second == tmp_path / "flp-table1-small-2"
        assert third == tmp_path / "flp-table1-small-3"  # of two begun at the same moment
    assert list(tmp_path.iterdir()) == [first]  # nothing is left of those that came to nothing


def test_damaged_configurations(whole: Path, tmp_path: Path) -> None:
    config = (whole / "config.yaml").read_text()
    path = tmp_path / "config.yaml"
    for content, error, message in (
        (
            config.replace("reproduction:", "reproductoin:"),
            RunError,
            "holds no reproduction .* give the file back",
        ),
        (config.replace("flp-table1", "flp-table9"), ConfigError, "did you mean"),
        (config.replace("updates: 5", "updates: five"), GrammarError, "config.yaml:"),
        (config.replace("flp-3", "flp-4"), ConfigError, "unknown row"),
    ):
        assert content != config
        path.write_text(content)
        with pytest.raises(error, match=message):
            load_plan(tmp_path)
    path.write_text(config)
    assert load_plan(tmp_path).content == load_plan(whole).content


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("updates: 5\n", "updates: 5000\n", "updates=5000, the run began with updates=5;"),
        ("scale: small\n", "scale: full\n", 'scale="full", the run began with scale="small";'),
        ("seeds: 2\n", "seeds: 20\n", "seeds=20, the run began with seeds=2;"),
        ("- gradient-3\n", "", 'rows=["flp-3"], the run began with rows=["flp-3", "gradient-3"];'),
        ("clip: 2.0\n", "clip: null\n", "clip=null, the run began with clip=2.0;"),
    ],
)
def test_a_changed_configuration_is_refused(
    old: str, new: str, told: str, whole: Path, tmp_path: Path, run_main: Any
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    path = run / "config.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    refused = f"{run}: config.yaml says {told} put it back, or begin another run\n"
    assert run_main("show", run) == (2, "", refused)
    assert run_main("resume", run) == (2, "", refused)
    again = ("reproduce", "flp-table1", "--trained", run, "--out", tmp_path / "again")
    assert run_main(*again) == (2, "", refused)


def test_what_a_configuration_may_say_otherwise(whole: Path, tmp_path: Path, run_main: Any) -> None:
    """It may be laid out anew; and of a run from before manifests held the plan, anything."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    config, path = (run / "config.yaml").read_text(), run / "manifest.json"
    (run / "config.yaml").write_text("# mine\n" + config.replace("device: cpu", "device: cuda"))
    assert run_main("show", run, "--json") == run_main("show", whole, "--json")
    manifest = json.loads(path.read_text())
    older = {k: v for k, v in manifest.items() if k not in ("rows", "settings", "sha256")}
    path.write_text(json.dumps(sealed(older)))
    (run / "config.yaml").write_text(config.replace("updates: 5", "updates: 6"))
    assert load_plan(run).settings.updates == 6


def test_a_setting_that_there_was_not_yet_is_what_it_is_by_default(
    whole: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    path = run / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"], manifest["settings"]["mixing_start"]
    path.write_text(json.dumps(sealed(manifest)))
    assert load_plan(run).content == load_plan(whole).content
