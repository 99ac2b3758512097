"""Tiny searches that meet faults at random points, and what became of each, as a table.

``python tests/faults.py [RUNS] [PART OF A FAULT'S NAME]`` lets so many searches (by default 50)
meet each fault. All of them have to end in the bytes of the search that met none. Disks are file
systems of their own, for which it needs the right to mount; faults that it cannot make it leaves
out, and says so. Sweeps have theirs in sweep_faults.py.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from killed_run import ended, forked, kill
from tiny_search import TINY, ends

from rulesearch.search import load_config, start_search

EVENTS = 1000  # bytes of them, at most, between a search's start and a kill
KILLS = 4  # of one search
SIZE = 400_000  # bytes of the disk
HEADING = "| fault | runs | faults met | same bytes | refused | different | crashed |"
EXPLODING = {
    "overflow at once": "{expr: y_post * y_pre.T, init: 1.0e+6}",
    "exponentials of weights": "{expr: 'exp(hadamard(W, W))', init: 1.0}",
    "cubes of weights": "{expr: 'hadamard(W, hadamard(W, W))', init: 1.0e+3}",
    "infinity less infinity": "{expr: exp(exp(W)) - exp(exp(2 * W)), init: 1.0e+2}",
}


def kills(config: Path, run: Path, chance: random.Random) -> int:
    """Kill a search, and kill what continues it."""
    return sum(kill(config, run, chance, EVENTS) for _ in range(KILLS))


def kill_once(config: Path, run: Path, chance: random.Random) -> int:
    """Kill a search once."""
    return int(kill(config, run, chance, EVENTS))


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


def full(config: Path, run: Path, chance: random.Random) -> int:
    """Let the disk fill up under a search, and under what continues it: each has to refuse."""
    state, filler = os.statvfs(run.parent), run.parent / "filler"
    filler.write_bytes(bytes(state.f_bavail * state.f_bsize - chance.randrange(1, 9) * 4096))
    met = [ended(forked(config, run)) for _ in range(2)]
    filler.unlink()
    if met != ["refused"] * 2:
        raise SystemExit(f"{run}: on a full disk two searches {' and '.join(met)}")
    return 2


def read_only(config: Path, run: Path, chance: random.Random) -> int:
    """Kill a search, and let what continues it find the disk read-only: it has to refuse."""
    kill(config, run, chance, EVENTS)
    subprocess.run(["mount", "-o", "remount,ro", run.parent], check=True)
    met = ended(forked(config, run))
    subprocess.run(["mount", "-o", "remount,rw", run.parent], check=True)
    if met != "refused":
        raise SystemExit(f"{run}: on a read-only disk a search {met}")
    return 1


def clock(config: Path, run: Path, chance: random.Random) -> int:
    """Kill a search whose clock jumps all the time, and shuffle the times of its files."""
    if all(abs(time.time() - time.time()) < 86_400 for _ in range(9)):
        raise SystemExit("the clock does not jump")
    kill(config, run, chance, EVENTS)
    for path in run.glob("*"):
        os.utime(path, (0, chance.randrange(2**31)))
    return 1


DISK = ("a full disk", "a read-only disk")
CLOCK = "a clock that jumps"
FAULTS: dict[str, Callable[[Path, Path, random.Random], int]] = {
    f"SIGKILL, up to {KILLS} times": kills,
    "SIGKILL, then a bit flipped": damaged(flip),
    "SIGKILL, then a file truncated": damaged(truncate),
    "two processes at once": at_once,
    DISK[0]: full,
    DISK[1]: read_only,
    CLOCK: clock,
    **{f"{name}, SIGKILL": kill_once for name in EXPLODING},
}


def outcome(config: Path, run: Path, whole: Path) -> str:
    """Continue a search without faults, and compare its end with the undisturbed one."""
    how = ended(forked(config, run))
    if how != "finished":
        return how
    for line in (run / "events.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=_not_finite)
    return "same" if ends(run) == ends(whole) else "different"


def _not_finite(text: str) -> None:
    raise SystemExit(f"a search wrote {text}")


def row(name: str, runs: int, folder: Path, disk: Path) -> bool:
    """Print a fault's row; whether every search ended in the same bytes."""
    config, whole, run = folder / "tiny.yaml", folder / "whole", disk / "run"
    term = next((term for cause, term in EXPLODING.items() if name.startswith(cause)), "-W")
    config.write_text(TINY.replace("F3: -W", f"F3: {term}"))
    shutil.rmtree(whole, ignore_errors=True)
    start_search(load_config(config), whole)
    met, ways = 0, Counter[str]()
    for number in range(runs):
        met += FAULTS[name](config, run, random.Random(number))
        ways[outcome(config, run, whole)] += 1
        shutil.rmtree(run)
    found = [ways[how] for how in ("same", "refused", "different", "crashed")]
    print(f"| {name} | {runs} | {met} |", *(f"{n} |" for n in found), flush=True)
    return ways["same"] == runs


def jumping(folder: Path) -> Path | None:
    """The library that makes the clock of a process jump; None where it cannot be made."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return None
    made = folder / "jumping_clock.so"
    source = Path(__file__).with_name("jumping_clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, source], check=True)
    return made


@contextmanager
def own_disk(folder: Path) -> Iterator[Path | None]:
    """A file system of its own; None where that may not be."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", disk]
    if (
        sys.platform != "linux"
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        yield None
        return
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def main() -> None:
    """Print the table; exit status 1 unless every search ended in the same bytes."""
    runs, part = int(sys.argv[1]) if len(sys.argv) > 1 else 50, "".join(sys.argv[2:3])
    right = True
    torch.set_num_threads(1)  # a process that has begun more cannot be forked
    if not part:
        print(HEADING)
        print("|---|---|---|---|---|---|---|", flush=True)
    with TemporaryDirectory() as name, own_disk(Path(name)) as disk:
        folder = Path(name)
        for fault in FAULTS:
            if part not in fault:
                continue
            if fault == CLOCK and "LD_PRELOAD" not in os.environ:
                library = jumping(folder)
                if library is None:
                    print(f"{fault}: needs Linux and a compiler", file=sys.stderr)
                    continue
                again = [sys.executable, __file__, str(runs), CLOCK]
                environment = {**os.environ, "LD_PRELOAD": str(library)}
                right &= not subprocess.run(again, env=environment, check=False).returncode
            elif fault in DISK and disk is None:
                print(f"{fault}: needs Linux, and the right to mount", file=sys.stderr)
            else:
                right &= row(fault, runs, folder, disk or folder)
    raise SystemExit(not right)


if __name__ == "__main__":
    main()
