"""Run a search in processes that are killed again and again; started by test_search.py.

``python killed_run.py CONFIG RUN KILLS SEED`` prints how many processes were killed. Processes
are forked from this one, which has imported everything, so that each costs only its own work.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from rulesearch.report.result import Result
from rulesearch.search import load_config, resume_search, start_search


def child(config: Path, run: Path) -> int:
    """Start or continue in a forked process; returns its id."""
    pid = os.fork()
    if not pid:
        if (run / "manifest.json").exists():
            resume_search(run)
        else:
            start_search(load_config(config), run)
        os._exit(0)
    return pid


def main() -> None:
    config, run = Path(sys.argv[1]), Path(sys.argv[2])
    kills, chance = int(sys.argv[3]), random.Random(int(sys.argv[4]))
    killed = 0
    while killed < kills:
        events = run / "events.jsonl"
        before = events.stat().st_size if events.exists() else 0
        pid = child(config, run)
        # At least one checkpoint further than the process before got, then any moment.
        while os.waitpid(pid, os.WNOHANG)[0] == 0:
            grown = (events.stat().st_size if events.exists() else 0) - before
            if grown > chance.randrange(20_000):
                time.sleep(chance.random() * 0.02)
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                killed += 1
                break
            time.sleep(0.002)
        else:
            break
    if not (run / "result.json").exists():
        resume_search(run)
    print(killed, len(Result.load(run).rule))


if __name__ == "__main__":
    main()
