"""What ``rulesearch sweep`` and ``rulesearch worker`` do: workers, progress, the way out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from rulesearch.errors import INTERRUPTED, RunError
from rulesearch.outer.fit import usable_device
from rulesearch.search.config import placed, read_config
from rulesearch.search.device import dealt_out
from rulesearch.search.sweep.outcome import StudyResult, is_study
from rulesearch.search.sweep.progress import StudyProgress
from rulesearch.search.sweep.reading import sweep_said
from rulesearch.search.sweep.spec import SweepConfig
from rulesearch.search.sweep.storage import StorageLostError, database_errors, shown
from rulesearch.search.sweep.study import DEATHS, Study
from rulesearch.search.sweep.worker import work

__all__ = ["follow_study", "is_study", "print_study", "run_sweep", "run_worker"]

LOOK = 1.0  # seconds between looks at the workers
MISTAKE = 2


def run_sweep(
    config: Path,
    overrides: Sequence[str],
    url: str | None,
    workers: int,
    out: Path | None,
    device: str | None,
) -> int:
    """Begin or continue a study with some workers, and print what it found.

    Without workers the study is only made, for others to work on.

    Returns
    -------
    int
        The exit status: 0 if all trials are finished, 3 if workers left some.

    Raises
    ------
    RuleSearchError
        For a mistake in the configuration, or one that a worker met; and, below the table, where
        no trial came to a rule.
    """
    document = read_config(config, overrides, SweepConfig)
    sweep = sweep_said(document, config)
    configured = str(sweep.config.get("device", "cpu"))
    if workers:
        with placed(document, "device") if device is None else nullcontext():
            usable_device(device or configured)
    device = device or configured
    with database_errors(url), Study.begin(sweep, out, url) as study:
        _say(
            f"{study.folder}: {len(study.unfinished())} of {sweep.trials} trials to run; "
            f"more workers: rulesearch worker {shown(study.url)}"
        )
        if not workers:  # they are started elsewhere
            return 0
        why = "interrupted"
        try:
            with (
                _Team(study, min(workers, len(study.firsts())), device) as team,
                StudyProgress(sweep.trials) as progress,
            ):
                while team.busy():
                    _look(study, progress)
                    time.sleep(LOOK)
                progress.show(study.trials())
            why = f"workers died again and again, see {study.folder}/worker-*.log"
        except KeyboardInterrupt:
            pass
        study.record()
        left = len(study.left())
    if left:
        _say(f"{why}; {left} trials are left, and the same command goes on with them")
        return INTERRUPTED
    print_study(study.folder)
    if failure := StudyResult.load(study.folder).failure:
        raise RunError(f"{study.folder}: {failure}")
    return 0


def _look(study: Study, progress: StudyProgress) -> None:
    """Show how far it is; what a database does not tell now is for its workers to wait for."""
    try:
        with database_errors(study.url):
            progress.show(study.trials(), study.unproven())
    except StorageLostError:
        progress.lost()


def follow_study(folder: Path) -> int:
    """Show a sweep that workers run, wherever they are, until it ends; returns the exit status.

    Ctrl-C leaves it, and the sweep goes on.

    Raises
    ------
    RunError
        If the storage cannot be reached.
    """
    content = StudyResult.load(folder).content
    # A password is not written down: that of ~/.pgpass or PGPASSWORD is taken.
    url, name = content["storage"].replace(":***@", "@"), content["name"]
    try:
        with database_errors(url), Study.open(url, name) as study:
            with StudyProgress(study.sweep.trials) as progress:
                while study.left():
                    progress.show(study.trials(), study.unproven())
                    time.sleep(LOOK)
                progress.show(study.trials())
            study.record()
    except KeyboardInterrupt:
        return 0
    print_study(folder)
    return 0


def run_worker(url: str, name: str | None, parent: int | None, device: str | None) -> int:
    """Run trials until all are finished.

    Parameters
    ----------
    parent : int or None
        Of a process whose end is an interrupt as well.
    device : str or None
        Where its lifetimes are lived; None: where the configuration says.

    Returns
    -------
    int
        The exit status: 0 if all trials are finished, 3 after an interrupt.
    """

    def wanted() -> bool:
        return parent is None or os.getppid() == parent

    try:
        folder = work(url, name, _say, wanted, device)
    except KeyboardInterrupt:
        _say("interrupted; any worker goes on with the trial")
        return INTERRUPTED
    _say(f"all trials are finished: rulesearch show {folder}")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def print_study(folder: Path, latex: bool = False, as_json: bool = False) -> None:
    """Print the table of a study as far as it got, the picked rule in LaTeX, or all as JSON."""
    result = StudyResult.load(folder)
    if as_json:
        print(json.dumps(result.content, indent=1))
    elif latex:
        print(rf"\Delta \mathbf{{W}}_{{\ell-1,\ell}} = {result.rule.latex()}")
    else:
        print(result.summary(Console().width if sys.stdout.isatty() else 96))
        print(f"\n{folder}: study.json, trial-*")


class _Team:
    """Worker processes, each ``rulesearch worker``; one that dies is replaced.

    A trial that its workers die of is given up by the study, after so many deaths. Twice as many
    for each worker, while no trial ends, are not a trial's doing, and the team gives up.

    Leaving stops those that are left, each at a checkpoint.
    """

    def __init__(self, study: Study, size: int, device: str) -> None:
        self._study, self._device = study, device
        self._deaths, self._size, self._left = 0, size, len(study.unfinished())
        threads = str(max(1, (os.cpu_count() or 1) // max(1, size)))
        self._environment = {"OMP_NUM_THREADS": threads, **os.environ}
        self._running = {k: self._start(k) for k in range(size)}

    def _start(self, k: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "rulesearch", "worker", self._study.url]
        command += ["--study", self._study.sweep.name, "--parent", str(os.getpid())]
        command += ["--device", dealt_out(self._device, k)]
        with self._log(k).open("ab") as log:
            # A group of its own: Ctrl-C comes here alone, and is passed on once.
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self._environment, process_group=0,
            )  # fmt: skip

    def _log(self, k: int) -> Path:
        return self._study.folder / f"worker-{k}.log"

    def busy(self) -> bool:
        """Look after the workers; False when there are none left.

        Raises
        ------
        RunError
            If a worker met a mistake of the user's.
        """
        for k, process in list(self._running.items()):
            status = process.poll()
            if status is None:
                continue
            del self._running[k]
            if status == MISTAKE:
                raise RunError(self._log(k).read_text(errors="replace").strip().splitlines()[-1])
            if status == INTERRUPTED:
                raise KeyboardInterrupt
            if status:
                left = len(self._study.unfinished())
                self._deaths = self._deaths + 1 if left == self._left else 1
                self._left = left
                if self._deaths < 2 * DEATHS * self._size:
                    self._running[k] = self._start(k)
        return bool(self._running)

    def __enter__(self) -> _Team:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            process.wait()
