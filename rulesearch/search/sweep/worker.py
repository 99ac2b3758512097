"""A worker: takes trials of a study until all are finished, then asks how stable the pick is."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from optuna import TrialPruned

from rulesearch.errors import (
    ConfigError,
    DataError,
    DivergedError,
    GrammarError,
    LearnerError,
    RunError,
)
from rulesearch.outer.fit import usable_device
from rulesearch.report.result import Result
from rulesearch.report.run_data import RunData
from rulesearch.rules import Rule
from rulesearch.search.config import Experiment
from rulesearch.search.evaluation import evaluate_rules, fitted
from rulesearch.search.events import EventSink
from rulesearch.search.folder import RunBusyError, RunFolder
from rulesearch.search.run import resume_search, start_search
from rulesearch.search.sweep.outcome import Score
from rulesearch.search.sweep.spec import LAM
from rulesearch.search.sweep.storage import StorageLostError, database_errors, shown
from rulesearch.search.sweep.study import REPORTS, Study

__all__ = ["work"]

PAUSE = 1.0  # seconds between looks at a study whose trials all have a worker
CHECK = 5.0  # seconds, at least, between looks at the connection that holds the claim
PATIENCE = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)  # seconds between looks for a database that was lost
STREAM = 7  # of the tasks that trials are judged on: no search's, and no later evaluation's


def work(
    url: str,
    name: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    wanted: Callable[[], bool] = lambda: True,
    device: str | None = None,
) -> Path:
    """Run trials until all are finished; those of workers that died go on from their checkpoints.

    Then, if the sweep says so, the picked trial goes on with searches on halves of the tasks. A
    database that is lost on the way is waited for, for a minute.

    Parameters
    ----------
    url : str
        Of the storage.
    name : str, optional
        Of the study, where the storage has several.
    say : callable
        Gets a line for each trial that begins or ends.
    wanted : callable
        Asked after every update; the worker stops as if interrupted once it says no.
    device : str, optional
        Where this worker's lifetimes are lived; by default where the configuration says.

    Returns
    -------
    Path
        The study's folder.

    Raises
    ------
    ConfigError, DataError, RunError
        If there is no such study, this machine lacks its folder, data or device, or the storage
        is gone.
    KeyboardInterrupt
        After a checkpoint; the trial goes on with the next worker.
    """
    pauses: list[float] = []  # none before the storage has answered once
    while True:
        try:
            with database_errors(url), Study.open(url, name) as study:
                return _work(study, say, wanted, pauses, device)
        except StorageLostError:
            if not pauses:
                raise
            if len(pauses) == len(PATIENCE):
                say(f"{shown(url)} does not answer; tried again for {sum(pauses):.0f} s")
            _stop_unless(wanted)
            time.sleep(pauses.pop(0))


def _work(
    study: Study,
    say: Callable[[str], None],
    wanted: Callable[[], bool],
    pauses: list[float],
    device: str | None,
) -> Path:
    """Run trials for as long as the storage answers."""
    clock = _Clock()
    device = device or study.sweep.base.device
    usable_device(device)  # what this machine lacks is no fault of a trial
    study.sweep.check_data()
    while study.left():
        first = study.take()
        pauses[:] = PATIENCE
        if first is None:
            _stop_unless(wanted)
            time.sleep(PAUSE)
            clock = _Clock()
            continue
        try:
            if set(study.unfinished()) & set(study.sweep.batch(first)):
                _run(study, first, say, _Watch(study, first, clock, wanted), device)
            else:
                _settle(study, say, _Watch(study, first, clock, wanted), device)
        except RunBusyError:  # by a worker whose claim went with the database: it will notice
            time.sleep(PAUSE)
        finally:
            study.release(first)
        study.record()
    study.record()
    return study.folder


def _stop_unless(wanted: Callable[[], bool]) -> None:
    if not wanted():
        raise KeyboardInterrupt


def _run(study: Study, first: int, say: Callable[[str], None], watch: _Watch, device: str) -> None:
    """Run a claimed trial, or the rest of it, with those of its batch."""
    points = {number: study.start(number) for number in study.sweep.batch(first)}
    for number, point in points.items():
        values = study.sweep.values(point)
        say(f"trial {number}: {', '.join(f'{key}={value}' for key, value in values.items())}")
    if len(points) > 1:
        watch.lams = {n: study.sweep.values(point)[LAM] for n, point in points.items()}
    left = [number for number in study.unfinished() if number in points]
    try:
        with watch.clock.running():
            experiment = replace(study.sweep.experiment(*points.values()), device=device)
            result = _search(experiment, study.run_folder(first), [watch])
            scores = _scores(study, experiment, result, points)
    except TrialPruned:
        for number in left:
            study.prune(number)
            say(f"trial {number}: pruned")
        return
    except (ConfigError, GrammarError, LearnerError, DataError, DivergedError) as error:
        study.sweep.check_data()  # did it go away, or do the values not fit together?
        for number in left:
            study.fail(number, str(error))
            say(f"trial {number}: failed: {error}")
        return
    study.check()
    seconds = {name: spent / len(left) for name, spent in watch.clock.lap().items()}
    for number in left:
        say(f"trial {number}: {_told(study, number, scores[number], seconds)}")


def _told(study: Study, number: int, score: Score, seconds: Mapping[str, float]) -> str:
    """Write down what a trial achieved; returns it in words."""
    if not np.isfinite(score.loss):
        study.fail(number, f"its rule ({' '.join(score.terms) or 'no term'}) diverges")
        return "failed: its rule diverges"
    study.finish(number, score, seconds)
    return f"loss {score.loss:.4g} with {len(score.terms)} terms"


def _settle(study: Study, say: Callable[[str], None], watch: _Watch, device: str) -> None:
    """Let the picked trial's run go on with searches on halves of the tasks, if asked for.

    The run of a batch also gets to know which of its lambdas was picked.
    """
    for number in study.unproven():
        batch = study.sweep.batch(number)
        experiment = study.sweep.experiment(*(study.start(member) for member in batch))
        lam = study.lam(number) if len(batch) > 1 else None
        say(f"trial {number}: picked")
        run = study.run_folder(number)
        result = resume_search(run, [watch], experiment, lam=lam, device=device)
        if "stability" in result.content:
            found = [row["name"] for row in result.content["stability"]["terms"] if row["stable"]]
            say(f"trial {number}: stable are {' '.join(found) or 'none'}")


def _search(experiment: Experiment, folder: Path, sinks: Sequence[EventSink]) -> Result:
    """Begin a run, or continue it wherever a worker before left it; halves are the pick's alone."""
    again = partial(
        resume_search, folder, sinks, experiment, stability=False, device=experiment.device
    )
    if (folder / "result.json").is_file():
        try:
            return Result.load(folder)
        except RunError:  # damaged: what it follows from is there, and has checksums of its own
            return again()
    if (folder / "manifest.json").is_file():
        return again()
    if folder.exists():  # killed while it was being made
        with RunFolder(folder):  # which nobody does now
            shutil.rmtree(folder)
    return start_search(experiment, folder, sinks, stability=False)


def _scores(
    study: Study, own: Experiment, result: Result, points: Mapping[int, Mapping[str, Any]]
) -> dict[int, Score]:
    """Let the rule of each trial live on the same tasks, whatever the trials' own are.

    They are those of the sweep's configuration, and none of them is drawn for anything else.
    """
    base, entries = study.sweep.base, {}
    network = fitted(own.network, base.tasks)
    for number, point in points.items():
        lam = study.sweep.values(point)[LAM] if len(points) > 1 else result.content["pick"]["lam"]
        [entries[number]] = [entry for entry in result.content["front"] if entry["lam"] == lam]
    rules = {n: Rule(own.pool, entry["coefficients"]) for n, entry in entries.items()}
    found = evaluate_rules(
        {str(number): (rule, network) for number, rule in rules.items()},
        base.tasks,
        study.sweep.spec.lifetimes,
        base.settings.seed,
        STREAM,
        own.device,
    )
    return {
        number: Score.of(rules[number], entries[number]["lam"], one.loss, one.accuracy)
        for number, one in zip(rules, found, strict=True)
    }


class _Clock:
    """How long runs take a worker; the rest of its time is the study's."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._since, self._running = time.monotonic(), 0.0

    @contextmanager
    def running(self, sign: int = 1) -> Iterator[None]:
        """Count what is inside as a run's; with -1, as the study's within a run."""
        start = time.monotonic()
        try:
            yield
        finally:
            self._running += sign * (time.monotonic() - start)

    def lap(self) -> dict[str, float]:
        """Seconds since the last lap, in runs and in the study."""
        spent = {"runs": self._running, "study": time.monotonic() - self._since - self._running}
        self._begin()
        return spent


@dataclass
class _Watch:
    """An event sink: minds the claim, and tells the pruner how the search of the pool does."""

    study: Study
    first: int
    clock: _Clock
    wanted: Callable[[], bool]
    checked: float = field(default_factory=time.monotonic)
    updates: int = 1
    lams: Mapping[int, float] = field(default_factory=dict)  # of a batch's trials
    hopeless: set[int] = field(default_factory=set)

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "phase":
            self.updates = event["updates"]
        if event["event"] == "update":
            _stop_unless(self.wanted)
            with self.clock.running(-1):
                self._minded(event)

    def _minded(self, event: Mapping[str, Any]) -> None:
        if time.monotonic() - self.checked > CHECK:
            self.study.check()
            self.checked = time.monotonic()
        if self.study.sweep.spec.pruner == "none" or event["phase"] != "search":
            return
        done = event["update"] + 1
        step, before = (REPORTS * n // self.updates for n in (done, done - 1))
        if step == before:
            return
        for number, loss in self._losses().items():
            # A verdict stands, whatever the rest of the batch goes on for.
            if number not in self.hopeless and self.study.report(number, step, loss):
                self.hopeless.add(number)
        if self.hopeless.issuperset(self.study.sweep.batch(self.first)):
            raise TrialPruned

    def _losses(self) -> dict[int, float]:
        """Each trial's median since the last report, on tasks that had not been learnt from.

        Read from the run's folder, where they are also after the worker has been another.
        """
        window = max(1, self.updates // REPORTS)
        run = RunData.load(self.study.run_folder(self.first))
        losses = run.curves["search"].loss[:, -window:]
        lost = np.where(np.isfinite(losses), losses, np.inf)
        if not self.lams:
            return {self.first: float(np.median(lost))}
        of_row = np.array([row["lam"] for row in run.manifest["rows"]])
        return {n: float(np.median(lost[of_row == lam])) for n, lam in self.lams.items()}
