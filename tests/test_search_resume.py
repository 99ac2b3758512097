"""Runs that are killed, interrupted and damaged, and what becomes of them."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_search import SMALL, ends, interrupt_after

import rulesearch as rs
from rulesearch.errors import RunError
from rulesearch.search.config import load_config
from rulesearch.search.folder import RunFolder
from rulesearch.search.run import resume_search, start_search

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(SMALL)
    return path


def test_killed_at_any_moment_it_ends_in_the_same_bytes(
    tiny: Path, whole: Path, tmp_path: Path
) -> None:
    script = Path(__file__).with_name("killed_run.py")
    done = subprocess.run(
        [sys.executable, script, tiny, tmp_path / "run", "6", "0"],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3
    assert ends(tmp_path / "run") == ends(whole)
    assert not [p for p in (tmp_path / "run").glob(".*.*") if p.name != ".lock"]


@pytest.mark.parametrize("events", [0, 1, 2, 3, 6, 25, 33, 41, 60])
def test_interrupted_between_any_two_events(
    events: int, tiny: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        start_search(load_config(tiny), run, [interrupt_after(events)])
    with pytest.raises(KeyboardInterrupt):
        resume_search(run, [interrupt_after(3)])
    resume_search(run)
    assert ends(run) == ends(whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_interrupt_waits_for_the_checkpoint(
    number: int, tiny: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, run, met = os.replace, tmp_path / "run", list[str]()

    def again(source: str, target: Path) -> None:
        if target.name.startswith("checkpoint-search-000015"):
            met.append(target.suffix)
            os.kill(os.getpid(), number)
        replace(source, target)

    before = signal.signal(number, signal.default_int_handler)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", again)
            with pytest.raises(KeyboardInterrupt):
                start_search(load_config(tiny), run, [interrupt_after(19)])
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert met == [".safetensors", ".json"]
    assert newest(run, "json").name == "checkpoint-search-000015.json"
    resume_search(run)
    assert ends(run) == ends(whole)


@pytest.fixture
def broken_off(tiny: Path, tmp_path: Path) -> Path:
    """A run interrupted in the search, with checkpoints at 12 and 15 updates."""
    with pytest.raises(KeyboardInterrupt):
        start_search(load_config(tiny), tmp_path / "run", [interrupt_after(19)])
    return tmp_path / "run"


def flip(path: Path, where: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 0x04
    path.write_bytes(data)


def extend(path: Path, data: bytes) -> None:
    path.write_bytes(path.read_bytes() + data)


def newest(run: Path, ending: str) -> Path:
    return max(run.glob(f"checkpoint-*.{ending}"))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "torn last line": lambda run: extend(run / "events.jsonl", b'{"event": "upd'),
    "later events": lambda run: extend(run / "events.jsonl", b'{"event": "x"}\n' * 9),
    "tensor bit": lambda run: flip(newest(run, "safetensors"), 0.8),
    "header bit": lambda run: flip(newest(run, "safetensors"), 0.05),
    "short tensors": lambda run: os.truncate(newest(run, "safetensors"), 40),
    "no tensors": lambda run: newest(run, "safetensors").unlink(),
    "empty description": lambda run: os.truncate(newest(run, "json"), 0),
    "description bit": lambda run: flip(newest(run, "json"), 0.45),
    "description of another kind": lambda run: newest(run, "json").write_text("[1]"),
    "short events": lambda run: os.truncate(run / "events.jsonl", 4000),
    "half a file": lambda run: (run / ".rule.json.x1").write_bytes(b"{"),
    "undescribed": lambda run: (run / "checkpoint-search-000099.safetensors").write_bytes(b"x"),
    "every checkpoint": lambda run: [flip(p, 0.5) for p in run.glob("checkpoint-*.safetensors")],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_costs_at_most_some_updates(damage: str, broken_off: Path, whole: Path) -> None:
    assert len(list(broken_off.glob("checkpoint-*.json"))) == 2
    DAMAGE[damage](broken_off)
    resume_search(broken_off)
    assert ends(broken_off) == ends(whole)


def test_what_is_done_after_damage_is_kept(broken_off: Path, whole: Path) -> None:
    flip(broken_off / "events.jsonl", 0.05)  # which both checkpoints seal
    with pytest.raises(KeyboardInterrupt):
        resume_search(broken_off, [interrupt_after(7)])
    assert newest(broken_off, "json").name == "checkpoint-search-000005.json"
    done: list[int] = []
    resume_search(broken_off, [lambda event: done.append(event.get("done", -1))])
    assert next(count for count in done if count >= 0) == 5
    assert ends(broken_off) == ends(whole)


def test_a_finished_run_resumes_to_itself(whole: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(whole, tmp_path / "copy")
    told: list[Mapping[str, Any]] = []
    result = resume_search(copy, [told.append])
    assert ends(copy) == ends(whole)
    assert {event["event"] for event in told} == {"phase", "done"}
    assert str(result) == str(rs.load_run(whole))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("manifest.json", b"{", "manifest.json is damaged: .* give the file back, or begin a new"),
        ("manifest.json", b"[]", "manifest.json is damaged"),
        ("config.yaml", b"", "a configuration is a mapping .* give the file back"),
        ("config.yaml", b"grammar: pool10\n\xff", "not UTF-8"),
        ("config.yaml", None, "config.yaml: cannot be read: .*; give the file back as it was"),
        ("manifest.json", None, "is not a run: it has no manifest.json"),
    ],
)
def test_a_damaged_run_is_refused(
    name: str, content: bytes | None, message: str, broken_off: Path
) -> None:
    (broken_off / name).unlink()
    if content is not None:
        (broken_off / name).write_bytes(content)
    with pytest.raises(rs.RuleSearchError, match=message):
        resume_search(broken_off)


def test_a_bit_of_the_manifest(broken_off: Path) -> None:
    """Scales turn into a rule's coefficients: one that changed would give another rule."""
    path = broken_off / "manifest.json"
    content = json.loads(path.read_text())
    content["scales"][1] *= 1 + 2**-52
    path.write_text(json.dumps(content, indent=1) + "\n")
    with pytest.raises(RunError, match=r"manifest.json is damaged: its checksum .* a new run"):
        resume_search(broken_off)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("seeds: 2", "seeds: 3", "rows"),
        ("rate: 0.001", "rate: 0.01", "settings"),
        ("ways: 3", "ways: 4", "tasks"),
        ("- 8", "- 9", "network"),
        ("init: 0.001", "init: 0.002", "terms"),
    ],
)
def test_a_run_goes_on_only_as_it_began(old: str, new: str, named: str, broken_off: Path) -> None:
    config = broken_off / "config.yaml"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new, 1))
    with pytest.raises(RunError, match=f"'{named}' is not what the run began with"):
        resume_search(broken_off)


def test_one_writer_at_a_time(broken_off: Path, whole: Path) -> None:
    with (
        RunFolder.open(broken_off),
        pytest.raises(RunError, match="another process is writing this run"),
    ):
        resume_search(broken_off)
    resume_search(broken_off)
    assert ends(broken_off) == ends(whole)


def test_a_run_never_overwrites(tiny: Path, whole: Path, tmp_path: Path) -> None:
    before = ends(whole)
    with pytest.raises(RunError, match="continue it with 'rulesearch resume"):
        start_search(load_config(tiny), whole)
    assert ends(whole) == before
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(RunError, match=r"is not empty; choose another folder$"):
        start_search(load_config(tiny), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("written", [0, 1])
def test_interrupted_while_it_is_made(
    written: int, tiny: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by Ctrl-C while the configuration, or the manifest, is on its way to the disk."""
    left, fsync = iter(range(written)), os.fsync

    def interrupted(file: int) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        fsync(file)

    monkeypatch.setattr(os, "fsync", interrupted)
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        start_search(load_config(tiny), run)
    monkeypatch.undo()
    assert list(run.iterdir()) == []
    assert ends(start_search(load_config(tiny), run).path) == ends(whole)


HALF_MADE = {".lock": b"", "events.jsonl": b"", ".config.yaml.x1": b"na", "config.yaml": b"name: x"}


@pytest.mark.parametrize("names", [[*HALF_MADE][:k] for k in range(1, 5)])
def test_killed_while_it_was_made(
    names: list[str], tiny: Path, whole: Path, tmp_path: Path
) -> None:
    for name in [*names, ".manifest.json.x2"]:
        (tmp_path / name).write_bytes(HALF_MADE.get(name, b"{"))
    assert ends(start_search(load_config(tiny), tmp_path).path) == ends(whole)
    assert not list(tmp_path.glob(".*.x?"))


@pytest.mark.parametrize(
    "files",
    [{"config.yaml": b"name: mine"}, {".lock": b"", "events.jsonl": b"{}\n"},
     {**HALF_MADE, "mine.txt": b""}],
)  # fmt: skip
def test_what_a_person_may_want_is_not_overwritten(
    files: dict[str, bytes], tiny: Path, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match="is not empty; choose another folder"):
        start_search(load_config(tiny), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == files


@pytest.mark.parametrize("where", ["file/run", "file"])
def test_a_folder_that_cannot_be(where: str, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be made: \w"):
        start_search(load_config(tiny), tmp_path / where)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tiny: Path, whole: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(whole, tmp_path / "copy")
    (copy / "events.jsonl").chmod(0o400)
    copy.chmod(0o500)
    with pytest.raises(RunError, match="cannot be written: Permission denied"):
        resume_search(copy)
    with pytest.raises(RunError, match="cannot be made: Permission denied"):
        start_search(load_config(tiny), copy / "run")
    copy.chmod(0o700)


def test_nothing_is_unpickled(broken_off: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    result = resume_search(broken_off)
    assert rs.Rule.load(broken_off / "rule.json") == result.rule
    rs.load_run(broken_off)


def test_no_file_names_pickle_or_evaluates() -> None:
    for path in (ROOT / "rulesearch").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            alias.name.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        } | {
            (node.module or "").split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
        }
        assert not imported & {"pickle", "dill", "joblib", "shelve", "marshal"}, path
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not called & {"eval", "torch.load", "np.load", "sympy.sympify", "parse_expr"}, path
