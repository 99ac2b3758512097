"""Tiny sweeps whose workers and database meet faults at random moments, as rows of a table.

``python tests/sweep_faults.py [RUNS]``, by default 20: a sweep of four trials each, by two workers.
All have to end in the bytes of the sweep that met no fault. See faults.py for searches.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import postgres
import torch
from faults import HEADING
from killed_sweep import growing, killed_sweep, worker
from tiny_sweep import GRID, assert_same, swept

from rulesearch.search.sweep import Study, load_sweep

KILLS = 3  # of workers, in each sweep
STOPS = 2  # of the database


def workers_killed(config: Path, folder: Path, url: str, whole: Path, chance: random.Random) -> int:
    """Kill workers in mid-trial, each replaced by another."""
    found = killed_sweep(config, folder, url, 2, KILLS, chance)
    assert_same(folder, whole, found)
    return int(found["killed"])


def database_stopped(
    server: postgres.Server,
) -> Callable[[Path, Path, str, Path, random.Random], int]:
    """Stop the database at once and start it again, the workers waiting for it."""

    def meet(config: Path, folder: Path, url: str, whole: Path, chance: random.Random) -> int:
        log = folder.parent / f"{folder.name}.log"
        with Study.begin(load_sweep(config), folder, url) as study:
            name = study.sweep.name
        running, stops = [worker(url, log, name) for _ in range(2)], 0
        while log.read_text().count(": penalty") < 2:  # both have reached the database once
            time.sleep(0.01)
        while running:
            before = growing(folder)
            time.sleep(0.01 + 0.2 * chance.random())
            if stops < STOPS and growing(folder) != before:  # in mid-trial
                server.stop()
                time.sleep(chance.random())
                server.start()
                stops += 1
            for pid in list(running):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    running.remove(pid)
                    assert status == 0, f"a worker ended with {status}: {log.read_text()}"
        lines = log.read_text().splitlines()
        ends = [line.split()[1].rstrip(":") for line in lines if ": loss" in line]
        told = {"killed": 2 * stops, "updates": lines.count("update"), "ends": ends}
        assert_same(folder, whole, told)
        return stops

    return meet


def main() -> None:
    """Print the rows; an error unless every sweep ended in the same bytes."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    torch.set_num_threads(1)  # a process that has begun more cannot be forked
    programs = postgres.binaries()
    if programs is None:
        raise SystemExit(postgres.MISSING)
    print(HEADING, "|---|---|---|---|---|---|---|", sep="\n", flush=True)
    with TemporaryDirectory() as name, postgres.server(programs) as server:
        config, folder = Path(name) / "tiny.yaml", Path(name) / "study"
        config.write_text(GRID)
        whole = swept(config, Path(name) / "whole").path
        rows = (
            (f"workers of a sweep killed, up to {KILLS}, journal", workers_killed, True),
            ("the same, PostgreSQL", workers_killed, False),
            (f"the database stopped and started, {STOPS} times", database_stopped(server), False),
        )
        for k, (fault, meet, journal) in enumerate(rows):
            met = 0
            for number in range(runs):
                config.write_text(GRID.replace("name: tiny", f"name: tiny-{k}-{number}"))
                url = str(folder / "journal.log") if journal else server.url
                met += meet(config, folder, url, whole, random.Random(number))
                shutil.rmtree(folder)
                Path(f"{folder}.log").unlink()
            print(f"| {fault} | {runs} | {met} | {runs} | 0 | 0 | 0 |", flush=True)


if __name__ == "__main__":
    main()
