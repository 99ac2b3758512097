"""What ``rulesearch bench`` does: measure with progress, print, draw."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeft

from rulesearch.bench.figures import write_figures
from rulesearch.bench.parent import Limits
from rulesearch.bench.peers.registry import find_peers
from rulesearch.bench.results import Results
from rulesearch.bench.run import run_benchmarks, started
from rulesearch.bench.suites import find_suites
from rulesearch.bench.suites import quick as made_quick
from rulesearch.bench.tables import print_tables, tables_in_markdown
from rulesearch.errors import INTERRUPTED, ConfigError, RunError

__all__ = ["draw", "measure", "print_results", "run_bench", "show_bench"]

WIDE = 150  # columns of a table that goes into a file


def run_bench(
    measured: Callable[[], tuple[Results, bool]],
    out: Path | None,
    markdown: bool,
    figures: Path | None,
) -> int:
    """Measure, print the tables and draw the figures; returns the exit status.

    Parameters
    ----------
    measured : callable
        :func:`measure`, with what is to be measured.
    """
    try:
        results, finished = measured()
    except KeyboardInterrupt:
        print("interrupted before anything was measured", file=sys.stderr)
        return INTERRUPTED
    print_results(results, markdown)
    draw(results, figures)
    if finished:
        return 0
    kept = f"; what was measured is in {out}" if out else ""
    print(f"interrupted{kept}", file=sys.stderr)
    return INTERRUPTED


def show_bench(file: Path, markdown: bool, figures: Path | None) -> None:
    """Print and draw what was measured before."""
    results = Results.load(file)
    print_results(results, markdown)
    draw(results, figures)


def measure(
    suites: Sequence[str],
    peers: Sequence[str] | None,
    repeats: int,
    quick: bool,
    device: str,
    most: tuple[float, float],
    out: Path | None,
) -> tuple[Results, bool]:
    """Measure, showing progress; return what there is, and whether it is all.

    Parameters
    ----------
    most : (float, float)
        Seconds and gigabytes beyond which a peer is skipped.

    Raises
    ------
    ConfigError
        For an unknown suite, peer or device.
    RunError
        If what is measured could not be written.
    """
    if out is not None and not out.parent.is_dir():
        raise RunError(f"{out} cannot be written: there is no folder {out.parent}; make it first")
    chosen, others = find_suites(suites), find_peers(peers)
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"device is cpu or cuda, not '{device}'")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("torch finds no CUDA device here; leave --device out")
    if quick:
        chosen, repeats = [made_quick(suite) for suite in chosen], min(repeats, 2)
    if peers:  # named by the user: in every suite
        chosen = [replace(suite, peers=None) for suite in chosen]
    limits = Limits(*most)
    results = started(out, device, limits)
    console = Console(stderr=True)
    columns = (
        BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeLeft(), TextColumn("{task.description}"),
    )  # fmt: skip
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
            bar = bars.add_task("measures the machine", total=None)

            def told(what: str, done: int, total: int) -> None:
                bars.update(bar, description=what, completed=done, total=total)
                if not console.is_terminal:
                    console.print(f"{done}/{total}  {what}", highlight=False, soft_wrap=True)

            run_benchmarks(results, chosen, others, repeats, limits, device, out, told)
    except KeyboardInterrupt:
        return results, False
    return results, True


def print_results(results: Results, markdown: bool) -> None:
    """Print the tables."""
    if markdown:
        print(tables_in_markdown(results))
    else:
        print_tables(results, Console(width=None if sys.stdout.isatty() else WIDE))


def draw(results: Results, folder: Path | None) -> None:
    """Draw the figures where a folder is given, and say where they are."""
    if folder is not None:
        for path in write_figures(results, folder):
            print(path)
