"""What ``rulesearch search``, ``resume`` and ``show`` do: run, watch, print."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from rulesearch.errors import INTERRUPTED
from rulesearch.files import claimed, numbered, read_manifest
from rulesearch.outer.fit import usable_device
from rulesearch.report.configuration import check_configuration, resuming
from rulesearch.report.follow import follow
from rulesearch.report.progress import TerminalProgress
from rulesearch.report.result import Result
from rulesearch.report.tensorboard import TensorBoard
from rulesearch.search.api import RUNS
from rulesearch.search.config import experiment_from, placed, read_config
from rulesearch.search.events import EventSink
from rulesearch.search.folder import check_free
from rulesearch.search.ranks import Ranks, joined
from rulesearch.search.run import resume_search, start_search

__all__ = ["follow_run", "interrupted", "print_run", "run_resume", "run_search"]


def run_search(
    config: Path,
    overrides: Sequence[str],
    out: Path | None,
    tensorboard: bool,
    device: str | None,
) -> int:
    """Run a search in a new folder, and print its table; returns the exit status."""
    document = read_config(config, overrides)
    with joined() as ranks:
        if out is not None:
            ranks.check(partial(check_free, out))  # before data is read
        experiment = experiment_from(document, config.parent, config.stem)
        if device is None:
            with placed(document, "device"):
                usable_device(experiment.device)
        experiment = replace(experiment, device=device or experiment.device)
        with _folder(out, experiment.name, ranks) as run:
            search = partial(start_search, experiment, run, ranks=ranks)
            return _watched(run, tensorboard, search, ranks)


def _folder(out: Path | None, name: str, ranks: Ranks) -> AbstractContextManager[Path]:
    """The folder that is named or, in the process that writes it, one of its own."""
    if out is None and not ranks.rank:
        return claimed(numbered(name, RUNS))
    return nullcontext(out or RUNS / name)


def run_resume(run: Path, tensorboard: bool, device: str | None) -> int:
    """Continue a search, and print its table; returns the exit status."""
    with joined() as ranks:
        search = partial(resume_search, run, ranks=ranks, device=device)
        return _watched(run, tensorboard, search, ranks)


def _watched(
    run: Path, tensorboard: bool, search: Callable[[Sequence[EventSink]], Result], ranks: Ranks
) -> int:
    """Run with progress; of several processes the first alone shows and prints anything."""
    try:
        if ranks.rank:
            search(())
            return 0
        boards: list[EventSink] = [TensorBoard(run / "tensorboard")] if tensorboard else []
        with TerminalProgress() as progress:
            result = search([progress, *boards])
    except KeyboardInterrupt:
        return INTERRUPTED if ranks.rank else interrupted(run)
    _print_table(result)
    return 0


def interrupted(run: Path) -> int:
    """Say how to go on; returns the exit status."""
    if (run / "manifest.json").is_file():
        print(f"interrupted; continue with: rulesearch resume {run}", file=sys.stderr)
    else:
        print("interrupted before the run began", file=sys.stderr)
    return INTERRUPTED


def print_run(run: Path, as_latex: bool, as_json: bool) -> None:
    """Print a finished search's table, its rule in LaTeX, or everything as JSON."""
    check_configuration(run, read_manifest(run))
    result = Result.load(run)
    if as_json:
        print(json.dumps(result.content, indent=1))
    elif as_latex:
        print(rf"\Delta \mathbf{{W}}_{{\ell-1,\ell}} = {result.rule.latex()}")
    else:
        _print_table(result)


def follow_run(run: Path) -> int:
    """Show a search that another process runs, until it ends; returns the exit status.

    Ctrl-C leaves it, and the search goes on.
    """
    try:
        with TerminalProgress() as progress:
            finished = follow(run, progress)
    except KeyboardInterrupt:
        return 0
    if not finished:
        print(f"no process runs it; continue with: {resuming(run)}", file=sys.stderr)
        return INTERRUPTED
    _print_table(Result.load(run))
    return 0


def _print_table(result: Result) -> None:
    width = Console().width if sys.stdout.isatty() else 96
    print(result.summary(width))
    print(f"\n{result.path}: rule.json, events.jsonl; 'rulesearch report {result.path}' draws it")
