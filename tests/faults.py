"""Tiny searches that meet faults at random points, and what became of each, as a table.

``python tests/faults.py [RUNS]`` lets so many searches (by default 50) meet each fault. All of them
have to end in the bytes of the search that met none.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from killed_run import ended, forked, kill
from tiny_search import TINY, ends

from rulesearch.search import load_config, start_search

EVENTS = 1000  # bytes of them, at most, between a search's start and a kill
KILLS = 4  # of one search


def kills(config: Path, run: Path, chance: random.Random) -> int:
    """Kill a search, and kill what continues it."""
    return sum(kill(config, run, chance, EVENTS) for _ in range(KILLS))


def damaged(harm: Callable[[Path, random.Random], None]) -> Callable[..., int]:
    """Kill a search once, then do harm to a file that it would continue from."""

    def meet(config: Path, run: Path, chance: random.Random) -> int:
        kill(config, run, chance, EVENTS)
        files = [p for p in sorted(run.glob("*")) if p.name.startswith(("checkpoint", "events"))]
        files = [path for path in files if path.stat().st_size]
        if files:
            harm(chance.choice(files), chance)
        return len(files[:1])

    return meet


def flip(path: Path, chance: random.Random) -> None:
    """Flip a bit."""
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def truncate(path: Path, chance: random.Random) -> None:
    """Cut the end off."""
    os.truncate(path, chance.randrange(path.stat().st_size))


def at_once(config: Path, run: Path, chance: random.Random) -> int:
    """Begin a search in two processes: one runs it, the other has to refuse."""
    if sorted(map(ended, [forked(config, run), forked(config, run)])) != ["finished", "refused"]:
        raise SystemExit(f"{run}: not one of two processes ran, and the other refused")
    return 1


FAULTS: dict[str, Callable[[Path, Path, random.Random], int]] = {
    f"SIGKILL, up to {KILLS} times": kills,
    "SIGKILL, then a bit flipped": damaged(flip),
    "SIGKILL, then a file truncated": damaged(truncate),
    "two processes at once": at_once,
}


def outcome(config: Path, run: Path, whole: Path) -> str:
    """Continue a search without faults, and compare its end with the undisturbed one."""
    how = ended(forked(config, run))
    if how != "finished":
        return how
    return "same" if ends(run) == ends(whole) else "different"


def main() -> None:
    """Print the table; exit status 1 unless every search ended in the same bytes."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    right = True
    torch.set_num_threads(1)  # a process that has begun more cannot be forked
    print("| fault | searches | faults met | same bytes | refused | different | crashed |")
    print("|---|---|---|---|---|---|---|")
    with TemporaryDirectory() as folder:
        config, whole = Path(folder) / "tiny.yaml", Path(folder) / "whole"
        config.write_text(TINY)
        start_search(load_config(config), whole)
        for name, meet in FAULTS.items():
            met, ways = 0, Counter[str]()
            for number in range(runs):
                run = Path(folder) / "run"
                met += meet(config, run, random.Random(number))
                ways[outcome(config, run, whole)] += 1
                shutil.rmtree(run)
            found = [ways[how] for how in ("same", "refused", "different", "crashed")]
            print(f"| {name} | {runs} | {met} |", *(f"{n} |" for n in found), flush=True)
            right = right and ways["same"] == runs
    raise SystemExit(not right)


if __name__ == "__main__":
    main()
