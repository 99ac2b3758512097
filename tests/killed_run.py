"""Searches in processes that are killed at random; for tests of faults.

``python killed_run.py CONFIG RUN KILLS SEED`` kills a search up to so many times, lets it end, and
prints how many kills it met. Processes are forked from this one, which has imported everything, so
that each costs only its own work.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from rulesearch.errors import RuleSearchError
from rulesearch.search import load_config, resume_search, start_search

EVENTS = 8000  # bytes of them, at most, between the start of a process and its end


def forked(config: Path, run: Path) -> int:
    """Begin or continue a search in a process of its own; returns its id.

    Its exit status is 0, or 2 if it refused with a message.
    """
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if (run / "manifest.json").exists():
            resume_search(run)
        else:
            start_search(load_config(config), run)
        status = 0
    except RuleSearchError:
        status = 2
    finally:
        os._exit(status)


def ended(pid: int) -> str:
    """Wait for a process, and say how it ended."""
    _, status = os.waitpid(pid, 0)
    names = {0: "finished", 2: "refused", -signal.SIGKILL: "killed"}
    return names.get(os.waitstatus_to_exitcode(status), "crashed")


def kill(config: Path, run: Path, chance: random.Random, most: int) -> bool:
    """Kill a search once it has written up to `most` bytes of events more, unless it ends before.

    Bytes take as long on any machine.
    """
    events = run / "events.jsonl"
    before = events.stat().st_size if events.exists() else 0
    wanted = chance.randrange(most)
    pid = forked(config, run)
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if (events.stat().st_size if events.exists() else 0) - before >= wanted:
            time.sleep(chance.random() * 0.01)
            break
        time.sleep(0.0005)
    os.kill(pid, signal.SIGKILL)
    how = ended(pid)
    if run.exists() and not (run / "manifest.json").exists():
        shutil.rmtree(run)  # killed while the folder was made; its message says to take another
    return how == "killed"


def main() -> None:
    config, run = Path(sys.argv[1]), Path(sys.argv[2])
    kills, chance = int(sys.argv[3]), random.Random(int(sys.argv[4]))
    killed = sum(kill(config, run, chance, EVENTS) for _ in range(kills))
    how = ended(forked(config, run))
    if how != "finished":
        raise SystemExit(f"{run}: {how}")
    print(killed)


if __name__ == "__main__":
    main()
