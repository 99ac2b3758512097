"""The compiled engine: built once, safely, checked when loaded, and done without where it must."""

from __future__ import annotations

import os
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from plain_lives import POOL

from rulesearch.compile import native, tape
from rulesearch.learners import PlasticityLearner
from rulesearch.networks import PlasticNetwork


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache and no engine loaded; what was loaded is loaded again afterwards."""
    monkeypatch.setenv("RULESEARCH_CACHE", str(tmp_path / "cache"))
    native._loaded.cache_clear()
    native._warn.cache_clear()
    yield tmp_path / "cache" / "engine"
    native._loaded.cache_clear()
    native._warn.cache_clear()


def script(path: Path, *lines: str) -> str:
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return str(path)


def live() -> PlasticityLearner:
    network = PlasticNetwork((4, 3, 2))
    learner = PlasticityLearner(network, POOL)
    state = learner.init(2)
    theta = torch.full((10,), 1e-3, requires_grad=True)
    final = learner.live(state, theta, torch.rand(3, 2, 4), torch.zeros(3, 2, dtype=torch.int64))
    final.W[0].sum().backward()
    assert theta.grad is not None
    assert theta.grad.isfinite().all()
    return learner


def broken_compilers(folder: Path) -> dict[str, tuple[str, str]]:
    """What CXX says, and the reason that should be given."""
    failing = script(folder / "failing", "echo 'engine.cpp:1: no such standard' >&2", "exit 1")
    return {
        "absent": (str(folder / "nothing"), "cannot be run: No such file"),
        "failing": (failing, "failed: engine.cpp:1: no such standard"),
        "silent": (script(folder / "silent", "exit 3"), "failed: no message"),
        "idle": (script(folder / "idle", "exit 0"), "could not be built or loaded"),
        "nonsense": (
            script(folder / "nonsense", 'for last; do :; done; echo text > "$last"'),
            "could not be built or loaded",
        ),
    }


@pytest.mark.parametrize("case", ["absent", "failing", "silent", "idle", "nonsense"])
def test_without_a_compiler_lifetimes_run_in_torch(
    case: str, fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler, reason = broken_compilers(tmp_path)[case]
    monkeypatch.setenv("CXX", compiler)
    with pytest.warns(UserWarning, match="without its compiled engine") as caught:
        learner = live()
    assert len(caught) == 1
    assert learner.report is not None
    assert learner.report.path == "torch"
    assert reason in learner.report.reason
    assert "\n" not in learner.report.reason
    again = live()  # a second time without a warning
    assert again.report is not None
    assert again.report.reason == learner.report.reason


def test_no_compiler_on_the_path(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler"):
        assert native.engine_unavailable() == "no C++ compiler (c++, g++ or $CXX) was found"


def test_a_cache_that_cannot_be_written(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh.parent.mkdir(parents=True)
    fresh.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="could not be built or loaded"):
        assert "File exists" in native.engine_unavailable()


def compiled() -> Path:
    """The real engine, from wherever it is cached."""
    library, reason = native._library()
    if library is None:
        pytest.skip(reason)
    return Path(library._name)


def test_built_once_and_loaded_from_the_cache(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = compiled()
    fresh = request.getfixturevalue("fresh")
    log = tmp_path / "log"
    lines = (f"echo x >> {log}", "sleep 0.3", 'for last; do :; done; cp "$REAL" "$last"')
    monkeypatch.setenv("REAL", str(real))
    monkeypatch.setenv("CXX", script(tmp_path / "c++", *lines) + " -fsome-flag")
    build = partial(native._loaded.__wrapped__, torch.float32)
    with ThreadPoolExecutor(4) as pool:  # as if four processes began at the same moment
        results = list(pool.map(lambda _: build(), range(4)))
    assert all(library is not None and not reason for library, reason in results)
    assert len(list(fresh.glob("[!.]*"))) == 1  # one library, and nothing half-made
    assert log.read_text() == "x\n"  # whoever came later waited for it
    assert build()[1] == ""
    assert log.read_text() == "x\n"


def test_processes_that_build_at_the_same_moment(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = compiled()
    fresh = request.getfixturevalue("fresh")
    monkeypatch.setenv("REAL", str(real))
    copy = ('for last; do :; done; head -c 1000 "$REAL" > "$last"', "sleep 0.2")
    monkeypatch.setenv("CXX", script(tmp_path / "c++", *copy, 'cp "$REAL" "$last"'))
    code = (
        "import sys, time; from rulesearch.compile.native import _library\n"
        "time.sleep(max(0, float(sys.argv[1]) - time.time())); sys.exit(_library()[1] or 0)"
    )
    start = str(time.time() + 2.5)
    running = [subprocess.Popen([sys.executable, "-c", code, start]) for _ in range(2)]
    assert [process.wait(60) for process in running] == [0, 0]
    assert [path.suffix for path in fresh.glob("[!.]*")] == [".so"]


def test_what_a_killed_compiler_left_is_removed(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("REAL", str(compiled()))
    fresh = request.getfixturevalue("fresh")
    waits = ('for last; do :; done; cp "$REAL" "$last"', f"touch {tmp_path}/began", "sleep 60")
    monkeypatch.setenv("CXX", script(tmp_path / "slow", *waits))
    code = "from rulesearch.compile.native import _library; _library()"
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as killed:
        while not (tmp_path / "began").exists():
            assert killed.poll() is None
            time.sleep(0.02)
        os.killpg(killed.pid, signal.SIGKILL)
    assert [path.name[:6] for path in fresh.glob("[!.]*")] == ["build-"]
    capfd.readouterr()
    monkeypatch.setenv("CXX", script(tmp_path / "c++", waits[0]))
    assert native.engine_unavailable() == ""
    assert capfd.readouterr().err == "compiling the engine, once for this machine\n"
    assert [path.suffix for path in fresh.glob("[!.]*")] == [".so"]
    native._loaded.cache_clear()
    assert native.engine_unavailable() == ""
    assert capfd.readouterr().err == ""


def test_structs_that_disagree_stop_at_load(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the ordinary cache
    compiled()
    native._loaded.cache_clear()
    monkeypatch.setattr(native, "LAYOUT", (tape.LAYOUT[0] + 4, *tape.LAYOUT[1:]))
    with pytest.raises(RuntimeError, match=r"program.h has layout \(\d+, .*they must agree"):
        native._library()


def test_threads_that_meet_an_empty_cache_start_one_compiler(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REAL", str(compiled()))
    request.getfixturevalue("fresh")
    lines = (
        f"echo x >> {tmp_path / 'log'}",
        "sleep 0.3",
        'for last; do :; done; cp "$REAL" "$last"',
    )
    monkeypatch.setenv("CXX", script(tmp_path / "c++", *lines))
    with ThreadPoolExecutor(4) as pool:
        assert not any(pool.map(lambda _: native.engine_unavailable(), range(4)))
    assert (tmp_path / "log").read_text().count("x") == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_has_its_own_threads() -> None:
    """After a fork the parent's threads are not there; whoever waited for them would hang."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        expected = live_on_threads()
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            signal.alarm(30)  # should it wait for threads that are not there
            try:
                os.write(write, struct.pack("d", live_on_threads()))
            finally:
                os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert struct.unpack("d", os.read(read, 8))[0] == expected
    finally:
        torch.set_num_threads(before)


def live_on_threads() -> float:
    """Something of four lifetimes, without a gradient, which torch keeps threads of its own for."""
    learner = PlasticityLearner(PlasticNetwork((4, 3, 2)), POOL)
    x, label = torch.ones(3, 4, 4), torch.zeros(3, 4, dtype=torch.int64)
    final = learner.live(learner.init(4), torch.full((10,), 1e-3), x, label)
    assert learner.report is not None
    assert learner.report.path == "fused"
    return float(final.W[0].double().sum())
