"""Tiny searches that meet faults at random points, and what became of each, as a table.

``python benchmarks/faults.py [RUNS]`` lets so many searches (by default 50) meet each fault. All of
them have to end in the bytes of the search that met none. Processes are forked from this one, which
has run one already, so that each costs only its own work.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from rulesearch.errors import RuleSearchError
from rulesearch.search import load_config, resume_search, start_search

CONFIG = """\
name: tiny
grammar: {terms: {F0: {expr: -e_post * y_pre.T, init: 1.0e-3}, F2: -e_post * e_pre.T, F3: -W}}
network: {hidden: [6]}
tasks: {data: digits, ways: 2, shots: 2, queries: 2}
episodes: 12
seeds: 2
refit_episodes: 6
controls: false
penalty: {lam: 0.1}
optimiser: {rate: 1.0e-3}
checkpoint_every: 3
"""
ENDS = ("rule.json", "result.json", "events.jsonl")
KILLS = 4  # of one search


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


def kill(config: Path, run: Path, chance: random.Random) -> int:
    """Kill a search at a random moment; returns how often it was killed (once, or it was over)."""
    events = run / "events.jsonl"
    before = events.stat().st_size if events.exists() else 0
    wanted = chance.randrange(1000)  # bytes of events more, which takes as long on any machine
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


def kills(config: Path, run: Path, chance: random.Random) -> int:
    """Kill a search, and kill what continues it."""
    return sum(kill(config, run, chance) for _ in range(KILLS))


def damaged(harm: Callable[[Path, random.Random], None]) -> Callable[..., int]:
    """Kill a search once, then do harm to a file that it would continue from."""

    def meet(config: Path, run: Path, chance: random.Random) -> int:
        kill(config, run, chance)
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
    same = all((run / name).read_bytes() == (whole / name).read_bytes() for name in ENDS)
    return "same" if same else "different"


def main() -> None:
    """Print the table; exit status 1 unless every search ended in the same bytes."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    right = True
    torch.set_num_threads(1)  # a process that has begun more cannot be forked
    print("| fault | searches | faults met | same bytes | refused | different | crashed |")
    print("|---|---|---|---|---|---|---|")
    with TemporaryDirectory() as folder:
        config, whole = Path(folder) / "tiny.yaml", Path(folder) / "whole"
        config.write_text(CONFIG)
        start_search(load_config(config), whole)
        for name, meet in FAULTS.items():
            met, ends = 0, Counter[str]()
            for number in range(runs):
                run = Path(folder) / "run"
                met += meet(config, run, random.Random(number))
                ends[outcome(config, run, whole)] += 1
                shutil.rmtree(run)
            found = [ends[how] for how in ("same", "refused", "different", "crashed")]
            print(f"| {name} | {runs} | {met} |", *(f"{n} |" for n in found), flush=True)
            right = right and ends["same"] == runs
    raise SystemExit(not right)


if __name__ == "__main__":
    main()
