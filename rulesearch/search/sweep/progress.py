"""A sweep as it goes, in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from textwrap import shorten

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

__all__ = ["StudyProgress"]


class StudyProgress:
    """Shows trials done, running and failed, the best so far and the time left.

    A context manager. On a terminal it is a live line; elsewhere one is written whenever a trial
    has ended.
    """

    def __init__(self, trials: int) -> None:
        self._trials, self._most = trials, 1  # the most that ran at once: as one ends, fewer do
        self._console = Console(stderr=True)
        self._bars = Progress(
            TextColumn("[bold]trials"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._bar = self._bars.add_task("", total=trials, status="")
        self._told = (0, 0)  # trials that had ended, and that were searching on halves

    def __enter__(self) -> StudyProgress:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def show(self, trials: Sequence[FrozenTrial], halving: Sequence[int] = ()) -> None:
        """Show where the trials stand, and which of them is searching on halves of the tasks."""
        ended = [trial for trial in trials if trial.state.is_finished()]
        status = self._status(trials, ended)
        status += "".join(f"   stability of trial {number}" for number in halving)
        self._bars.update(self._bar, completed=len(ended), status=status)
        now = (len(ended), len(halving))
        if not self._console.is_terminal and now > self._told:
            line = f"trials {len(ended)}/{self._trials}  {status}"
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)
        self._told = now

    def lost(self) -> None:
        """Show that the storage does not answer."""
        self._bars.update(self._bar, status="the storage does not answer")

    def _status(self, trials: Sequence[FrozenTrial], ended: Sequence[FrozenTrial]) -> str:
        count = {state: sum(t.state == state for t in trials) for state in TrialState}
        running = count[TrialState.RUNNING]
        self._most = max(self._most, running)
        parts = [f"running {running}"]
        if count[TrialState.PRUNED]:
            parts.append(f"pruned {count[TrialState.PRUNED]}")
        if count[TrialState.FAIL]:
            parts.append(f"failed {count[TrialState.FAIL]}")
        done = [trial for trial in ended if trial.state == TrialState.COMPLETE]
        if done:
            best = min(done, key=lambda trial: trial.values[0])
            terms = shorten(" ".join(best.user_attrs["score"]["terms"]), 40, placeholder=" ...")
            parts.append(f"best {best.values[0]:.4g} ({terms})")
        took = [trial.duration for trial in ended if trial.duration is not None]
        if took and len(ended) < self._trials:
            mean = sum(took, timedelta()) / len(took)
            left = mean * (self._trials - len(ended)) / self._most
            parts.append(f"left about {timedelta(seconds=round(left.total_seconds()))}")
        return "   ".join(parts)
