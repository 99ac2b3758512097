"""A worker: takes trials of a study until all are finished, then asks how stable the pick is."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from optuna import TrialPruned

from rulesearch.errors import ConfigError, DataError, DivergedError, GrammarError, LearnerError
from rulesearch.report.result import Result
from rulesearch.report.run_data import RunData
from rulesearch.search.config import Experiment
from rulesearch.search.evaluation import evaluate_rules, network_for, tasks_for
from rulesearch.search.events import EventSink
from rulesearch.search.run import resume_search, start_search
from rulesearch.search.sweep.outcome import Score
from rulesearch.search.sweep.storage import database_errors
from rulesearch.search.sweep.study import REPORTS, Study

__all__ = ["work"]

PAUSE = 1.0  # seconds between looks at a study whose trials all have a worker
CHECK = 5.0  # seconds, at least, between looks at the connection that holds the claim


def work(
    url: str,
    name: str | None = None,
    say: Callable[[str], None] = lambda line: None,
    wanted: Callable[[], bool] = lambda: True,
) -> Path:
    """Run trials until all are finished; those of workers that died go on from their checkpoints.

    Then, if the sweep says so, the picked trial goes on with searches on halves of the tasks.

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

    Returns
    -------
    Path
        The study's folder.

    Raises
    ------
    ConfigError, DataError, RunError
        If there is no such study, this machine lacks its folder or data, or the storage is gone.
    KeyboardInterrupt
        After a checkpoint; the trial goes on with the next worker.
    """
    with database_errors(url), Study.open(url, name) as study:
        study.sweep.experiment({})  # what this machine lacks is no fault of a trial
        clock = _Clock()
        while study.left():
            number = study.take()
            if number is None:
                _stop_unless(wanted)
                time.sleep(PAUSE)
                clock = _Clock()
                continue
            run = _halve if study.unproven() == [number] else _run
            watch = _Watch(study, number, clock, wanted)
            try:
                say(f"trial {number}: {run(study, number, say, watch)}")
            finally:
                study.release(number)
            study.record()
        study.record()
        return study.folder


def _stop_unless(wanted: Callable[[], bool]) -> None:
    if not wanted():
        raise KeyboardInterrupt


def _run(study: Study, number: int, say: Callable[[str], None], watch: _Watch) -> str:
    """Run a claimed trial, or the rest of it; returns how it ended."""
    params = study.start(number)
    values = study.sweep.values(params)
    say(f"trial {number}: {', '.join(f'{key}={value}' for key, value in values.items())}")
    folder = study.run_folder(number)
    try:
        with watch.clock.running():
            score = _score(study, _search(study.sweep.experiment(params), folder, [watch]))
    except TrialPruned:
        study.prune(number)
        return "pruned"
    except (ConfigError, GrammarError, LearnerError, DataError, DivergedError) as error:
        study.fail(number, str(error))
        return f"failed: {error}"
    study.check()
    if not np.isfinite(score.loss):
        study.fail(number, f"its rule ({' '.join(score.terms) or 'no term'}) diverges")
        return "failed: its rule diverges"
    study.finish(number, score, watch.clock.lap())
    return f"loss {score.loss:.4g} with {len(score.terms)} terms"


def _halve(study: Study, number: int, say: Callable[[str], None], watch: _Watch) -> str:
    """Let a finished trial go on with searches on halves of the tasks; returns what is stable."""
    say(f"trial {number}: picked, its stability")
    experiment = study.sweep.experiment(study.start(number))
    result = resume_search(study.run_folder(number), [watch], experiment)
    stable = [row["name"] for row in result.content["stability"]["terms"] if row["stable"]]
    return f"stable are {' '.join(stable) or 'none'}"


def _search(experiment: Experiment, folder: Path, sinks: Sequence[EventSink]) -> Result:
    """Begin a run, or continue it wherever a worker before left it; halves are the pick's alone."""
    if (folder / "result.json").is_file():
        return Result.load(folder)
    if (folder / "manifest.json").is_file():
        return resume_search(folder, sinks, experiment, stability=False)
    if folder.exists():  # killed while it was being made
        shutil.rmtree(folder)
    return start_search(experiment, folder, sinks, stability=False)


def _score(study: Study, result: Result) -> Score:
    """Let the rule live on tasks that its search did not see, of classes held out if there are."""
    run = RunData.load(result.path)
    tasks = tasks_for(run, None, None)
    contender = {"rule": (result.rule, network_for(run, tasks))}
    [found] = evaluate_rules(contender, tasks, study.sweep.spec.lifetimes, run.manifest["seed"])
    return Score.of(result.rule, result.content["pick"]["lam"], found.loss, found.accuracy)


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
    number: int
    clock: _Clock
    wanted: Callable[[], bool]
    checked: float = field(default_factory=time.monotonic)
    updates: int = 1

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
        done = event["update"] + 1
        step, before = (REPORTS * n // self.updates for n in (done, done - 1))
        if event["phase"] == "search" and step > before:
            loss = self._loss()
            if np.isfinite(loss) and self.study.report(self.number, step, loss):
                raise TrialPruned

    def _loss(self) -> float:
        """The median since the last report, of lifetimes on tasks that had not been learnt from.

        Read from the run's folder, where it is also after the worker has been another.
        """
        window = max(1, self.updates // REPORTS)
        losses = RunData.load(self.study.run_folder(self.number)).curves["search"].loss[:, -window:]
        return float(np.median(np.where(np.isfinite(losses), losses, np.inf)))
