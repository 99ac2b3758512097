"""What ``rulesearch reproduce`` does: list, run with progress, print."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from rulesearch.reproduce.plan import Plan
from rulesearch.reproduce.pooled import pooled
from rulesearch.reproduce.progress import JobProgress
from rulesearch.reproduce.registry import REPRODUCTIONS
from rulesearch.reproduce.run import reproduce
from rulesearch.reproduce.tables import latex, print_outcome
from rulesearch.search.command import interrupted

__all__ = ["list_reproductions", "print_runs", "run_and_print"]

WIDE = 150  # columns of a table that goes into a file


def list_reproductions() -> None:
    """Print every reproduction with the rows that it can run."""
    width = max(map(len, REPRODUCTIONS))
    for each in REPRODUCTIONS.values():
        rows = ", ".join(row.key for row in each.rows if row.key not in each.quoted)
        print(f"{each.name:<{width}}  {each.title}\n{'':<{width}}  rows: {rows}")


def run_and_print(plan: Plan, run: Path) -> int:
    """Begin or continue a run, showing progress, and print its table; returns the exit status."""
    try:
        with JobProgress() as progress:
            outcome = reproduce(plan, run, [progress])
    except KeyboardInterrupt:
        return interrupted(run)
    _print_table(outcome.content, [run])
    return 0


def print_runs(
    runs: Sequence[Path], as_latex: bool, as_json: bool, against: str | None = None
) -> None:
    """Print the table of runs as far as they got, or the same in LaTeX or JSON.

    Where a row to take them from is named, of the differences from it.
    """
    content = pooled(runs, against)
    if as_json:
        print(json.dumps(content, indent=1))
    elif as_latex:
        print(latex(content), end="")
    else:
        _print_table(content, runs)


def _print_table(content: Mapping[str, Any], runs: Sequence[Path]) -> None:
    print_outcome(content, Console(width=None if sys.stdout.isatty() else WIDE))
    print()
    for run in runs:
        figures = ", figures/" if (run / "figures").is_dir() else ""
        print(f"{run}: result.json, table.md, table.tex, jobs/{figures}")
