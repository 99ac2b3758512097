"""One search in several processes: the same bytes as in one, and what becomes of a lost one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_search import TINY, ends

from rulesearch.cli import main
from rulesearch.search.ranks import Ranks
from rulesearch.search.run import resume_search

ROOT = Path(__file__).parent.parent
LONGER = TINY.replace("episodes: 12", "episodes: 60").replace("seeds: 2", "seeds: 3")
CONFIG = LONGER.replace("rate: 1.0e-3", "rate: 1.0e-3, meta_batch: 3")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(CONFIG)
    return path


class Process:
    """``rulesearch ...`` as torchrun starts it, but forked, which spares it the imports."""

    def __init__(self, rank: int, size: int, port: int, said: Path, *arguments: object) -> None:
        self._said = said
        self.pid = os.fork()
        if self.pid:
            return
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{said}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        world = {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({key: str(value) for key, value in world.items()})
        sys.argv = ["rulesearch", *map(str, arguments)]
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        status = 1
        try:
            main()
        except SystemExit as left:
            status = int(left.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def wait(self) -> tuple[int, str, str]:
        """Its exit status, standard output and standard error."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return status, *(Path(f"{self._said}.{name}").read_text() for name in ("out", "err"))


def started(folder: Path, size: int, *arguments: object) -> list[Process]:
    torch.set_num_threads(1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [Process(k, size, port, folder / f"{k}", *arguments) for k in range(size)]


def test_every_lifetime_is_lived_once() -> None:
    for size in (1, 2, 3, 7, 20):
        for count in (1, 2, 3, 8, 9, 20):
            shares = [list(range(count))[Ranks(r, size).share(count)] for r in range(size)]
            assert all(len(share) in (max(1, count // size), -(-count // size)) for share in shares)
            lived = [k for share in shares[: min(size, count)] for k in share]
            assert sorted(lived) == list(range(count))


def test_two_processes_give_the_bytes_of_one(tiny: Path, whole: Path, tmp_path: Path) -> None:
    first, second = started(tmp_path, 2, "search", tiny, "--out", tmp_path / "run")
    status, out, err = first.wait()
    assert status == 0, err
    assert "F0" in out
    assert second.wait() == (0, "", "")
    assert ends(tmp_path / "run") == ends(whole)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_is_killed(victim: int, tiny: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    processes = started(tmp_path, 2, "search", tiny, "--out", run)
    events, deadline = run / "events.jsonl", time.monotonic() + 240
    while not events.exists() or events.stat().st_size < 4000:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(processes[victim].pid, signal.SIGKILL)
    assert processes[victim].wait()[0] == -signal.SIGKILL
    status, out, err = processes[1 - victim].wait()
    assert (status, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith(f"process {1 - victim} of 2: another one is gone; start all again with")
    assert "Traceback" not in err
    assert not (run / "result.json").exists()
    resume_search(run)  # in as many processes as there are now
    assert ends(run) == ends(whole)


def test_a_refusal_is_everyones(tiny: Path, whole: Path, tmp_path: Path) -> None:
    unread = ("--set", "tasks.data=nowhere")  # the folder is refused before data is looked for
    for process in started(tmp_path, 2, "search", tiny, *unread, "--out", whole):
        status, _, err = process.wait()
        assert status == 2
        assert err.count("\n") == 1
        assert "is not empty" in err or "the first process refused the run" in err


def test_torchrun_itself_gives_the_bytes_of_one(tiny: Path, whole: Path, tmp_path: Path) -> None:
    """As a user starts it: a launcher that imports and meets by itself, and no fork of ours."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    search = ["-m", "rulesearch", "search", tiny, "--out", tmp_path / "run"]
    done = subprocess.run(
        [*launcher, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", *search],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("rule.json, events.jsonl") == 1  # the first process alone prints
    assert ends(tmp_path / "run") == ends(whole)
