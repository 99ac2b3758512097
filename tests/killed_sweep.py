"""Run a sweep with workers that are killed again and again; started by the tests of sweeps.

``python killed_sweep.py CONFIG STUDY URL WORKERS KILLS`` prints how many were killed, how many
updates were done in all, and which trials came to an end. Workers are forked from this process,
which has imported everything, so that each costs only its own work.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from rulesearch.search.sweep import Study, load_sweep, work


def worker(url: str, log: Path, name: str) -> int:
    """Start a worker in a forked process, which logs its updates and ends; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def updated() -> bool:
        os.write(file, b"update\n")
        return True

    status = 1
    try:
        work(url, name, lambda line: os.write(file, f"{line}\n".encode()) and None, updated)
        status = 0
    except BaseException:
        os.write(file, traceback.format_exc().encode())
    finally:
        os._exit(status)


def growing(folder: Path) -> list[int]:
    """Sizes of the trials' events, a figure that changes while any trial runs."""
    return [path.stat().st_size for path in sorted(folder.glob("trial-*/events.jsonl"))]


def killed_sweep(
    config: Path, folder: Path, url: str, workers: int, kills: int, chance: random.Random
) -> dict[str, Any]:
    """Run a sweep whose workers are killed: what is printed of it."""
    killed, log = 0, folder.parent / f"{folder.name}.log"
    with Study.begin(load_sweep(config), folder, url) as study:
        name = study.sweep.name
    running = [worker(url, log, name) for _ in range(workers)]
    while running:
        before = growing(folder)
        time.sleep(0.01 + 0.04 * chance.random())
        if killed < kills and growing(folder) != before:  # in mid-trial
            victim = running.pop(chance.randrange(len(running)))
            os.kill(victim, signal.SIGKILL)
            os.waitpid(victim, 0)
            running.append(worker(url, log, name))
            killed += 1
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                running.remove(pid)
                assert status == 0, f"a worker ended with {status}"
    lines = log.read_text().splitlines()
    ends = [line.split()[1].rstrip(":") for line in lines if ": loss" in line]
    return {"killed": killed, "updates": lines.count("update"), "ends": ends}


def main() -> None:
    config, folder, url = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    workers, kills = int(sys.argv[4]), int(sys.argv[5])
    print(json.dumps(killed_sweep(config, folder, url, workers, kills, random.Random(0))))


if __name__ == "__main__":
    main()
