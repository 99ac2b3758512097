"""Watching a search: followed from another process, and as TensorBoard's curves."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from tiny_search import interrupt_after

from rulesearch import cli
from rulesearch.errors import ConfigError
from rulesearch.report import follow as following
from rulesearch.report.follow import follow
from rulesearch.report.tensorboard import TensorBoard
from rulesearch.search.config import load_config
from rulesearch.search.run import resume_search, start_search


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PAUSE", 0.01)
    monkeypatch.setattr(following, "QUIET", 0.05)


def written(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


# -- followed --


def test_events_begin_each_phase_once(whole: Path) -> None:
    events = written(whole)
    phases = {event["phase"]: event for event in events if event["event"] == "phase"}
    assert [(name, event["updates"]) for name, event in phases.items()] == [
        ("search", 12), ("refit", 6),
    ]  # fmt: skip
    assert [event["event"] for event in events].count("phase") == 2
    assert events[0]["terms"] == ["F0", "F2", "F3"]
    assert events[0]["scales"] == json.loads((whole / "manifest.json").read_text())["scales"]


def test_a_search_is_followed_while_it_runs(tiny: Path, whole: Path, tmp_path: Path) -> None:
    run, seen = tmp_path / "run", list[Mapping[str, Any]]()
    with ThreadPoolExecutor(1) as other:
        search = other.submit(start_search, load_config(tiny), run)
        while not (run / "manifest.json").exists():
            assert not search.done()
        assert follow(run, seen.append)
        search.result()
    assert seen == written(run) == written(whole)


def test_a_search_that_nobody_runs_is_left(tiny: Path, whole: Path, tmp_path: Path) -> None:
    run, seen = tmp_path / "run", list[Mapping[str, Any]]()
    with pytest.raises(KeyboardInterrupt):
        start_search(load_config(tiny), run, [interrupt_after(9)])
    with (run / "events.jsonl").open("ab") as events:
        events.write(b'{"event": "upd')  # torn
    assert not follow(run, seen.append)
    assert seen == written(whole)[: len(seen)]
    resume_search(run)  # the lock was only asked about
    assert written(run) == written(whole)


def edited(old: str, new: str) -> Callable[[Path], object]:
    return lambda events: events.write_text(events.read_text().replace(old, new, 1))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no JSON": (lambda events: events.write_bytes(b"no JSON\n"), ":1: not valid JSON"),
    "no event": (lambda events: events.write_bytes(b"{}\n"), ":1: no event"),
    "no mapping": (lambda events: events.write_bytes(b"[1]\n"), ":1: no event"),
    "no phase": (
        lambda events: events.write_bytes(b'{"event":"phase","phase":"a"}\n'),
        ":1: no phase",
    ),
    "a phase's bit": (edited('"rows"', '"rowz"'), ":1: no phase of a search"),
    "before its phase": (edited('"phase":"search"', '"phase":"serch"'), ":2: no update of its"),
    "a field's bit": (edited('"loss"', '"mess"'), ":2: no update of its phase"),
    "a comma's bit": (edited('"rejected":[0,0]', '"rejected":[0.0]'), ":2: no update of its"),
    "a line end": (edited('"loss"', '"lo\ns"'), ":2: not valid JSON"),
    "deleted": (lambda events: events.unlink(), " cannot be read: No such file"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_events_are_named_and_repaired(
    damage: str, whole: Path, tmp_path: Path, run_main: Any
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    harm, message = DAMAGE[damage]
    harm(run / "events.jsonl")
    status, out, err = run_main("show", run, "--follow")
    last = err.splitlines()[-1]
    assert (status, out) == (2, "")
    assert last.startswith(f"{run}/events.jsonl{message}")
    assert f"'rulesearch resume {run}'" in last
    resume_search(run)
    assert written(run) == written(whole)
    assert follow(run, [].append)


def test_events_that_are_a_folder(whole: Path, tmp_path: Path, run_main: Any) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "events.jsonl").unlink()
    (run / "events.jsonl").mkdir()
    status, _, err = run_main("show", run, "--follow")
    assert status == 2
    assert err.endswith(
        f"events.jsonl cannot be read: Is a directory; remove it, then 'rulesearch resume {run}' "
        "makes it anew\n"
    )


@pytest.fixture
def main(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rulesearch", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0), *capsys.readouterr()

    return run


def test_the_command_shows_what_the_search_does(tiny: Path, tmp_path: Path, main: Any) -> None:
    run = tmp_path / "run"
    ran = main("search", tiny, "--out", run)
    assert ran[0] == 0
    assert ran[2].count("\n") == 12 + 6  # short phases have a line an update
    assert main("show", run, "--follow") == ran
    (run / "result.json").unlink()
    status, out, err = main("show", run, "--follow")
    assert (status, out) == (3, "")
    assert err.splitlines()[-1] == f"no process runs it; continue with: rulesearch resume {run}"
    assert main("show", tmp_path, "--follow")[0] == 2


def test_ctrl_c_leaves_quietly(whole: Path, main: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("rulesearch.search.command.follow", interrupted)
    assert main("show", whole, "--follow") == (0, "", "")


# -- TensorBoard --


class Writer:
    """What TensorBoard's own writer would be told."""

    opened: list[Writer]

    def __init__(self, folder: str, purge_step: int) -> None:
        self.folder, self.purge_step, self.closed = folder, purge_step, False
        self.scalars: dict[tuple[str, int], float] = {}
        Writer.opened.append(self)

    def add_scalar(self, name: str, value: float, step: int) -> None:
        assert not self.closed
        self.scalars[name, step] = value

    def close(self) -> None:
        self.closed = True


def test_events_become_curves(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    Writer.opened, run = [], tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        start_search(load_config(tiny), run, [TensorBoard(run / "tb"), interrupt_after(9)])
    result = resume_search(run, [TensorBoard(run / "tb")])
    first, again, refit = Writer.opened
    assert [Path(w.folder).name for w in Writer.opened] == ["search", "search", "refit"]
    assert [w.purge_step for w in Writer.opened] == [0, 7, 0]  # the eighth update is done anew
    assert again.closed
    assert refit.closed
    curves = result.history["search"]
    drawn = {**{k: v for k, v in first.scalars.items() if k[1] < 7}, **again.scalars}
    assert {step for _, step in drawn} == set(range(12))
    for step in range(12):
        assert drawn["loss", step] == np.median(curves.loss[:, step])
        assert drawn["theta/F2", step] == np.median(curves.theta[:, step, 1])
        assert drawn["rejected", step] == 0


def test_tensorboards_own_files(tiny: Path, tmp_path: Path) -> None:
    """A search broken off and resumed, as TensorBoard itself reads it."""
    reason = "TensorBoard: pip install -e '.[tensorboard]'"
    read = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason=reason
    )
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        start_search(load_config(tiny), run, [TensorBoard(run / "tensorboard"), interrupt_after(9)])
    result = resume_search(run, [TensorBoard(run / "tensorboard")])
    for phase in ("search", "refit"):
        drawn = read.EventAccumulator(str(run / "tensorboard" / phase)).Reload()
        curves = result.history[phase]
        for name, values in (("loss", curves.loss), ("theta/F0", curves.theta[..., 0])):
            middle = np.median(values, axis=0).astype(np.float32).tolist()
            assert [(point.step, point.value) for point in drawn.Scalars(name)] == [
                *enumerate(middle)
            ]


def test_without_tensorboard_the_remedy_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'rulesearch\[tensorboard\]'"):
        TensorBoard(tmp_path)
