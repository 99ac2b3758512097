"""A reproduction as it goes, in the terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rich.console import Console

from rulesearch.report.bars import RECENT, Bars

__all__ = ["JobProgress"]


def steps(lengths: Sequence[tuple[int, int]], updates: int) -> int:
    """Steps of the first so many updates, of which ``lengths`` has so many of so many steps."""
    taken = 0
    for several, length in lengths:
        some = min(several, updates)
        taken, updates = taken + some * length, updates - some
    return taken


class JobProgress:
    """Shows which job runs, its updates, the loss of late and the time left.

    An event sink and a context manager. On a terminal it is a live view; elsewhere a line is
    written at every tenth of a job.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._bars = Bars(console, "[bold]{task.description}")
        self._title, self._updates = "", 1
        self._losses: deque[float] = deque(maxlen=RECENT)

    def __enter__(self) -> JobProgress:
        self._bars.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.__exit__()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Take one event."""
        match event["event"]:
            case "run":
                jobs = f"{event['jobs']} jobs, {event['finished']} finished"
                self._bars.say(f"{event['run']}: {jobs}")
            case "job":
                self._begin(event)
            case "update":
                self._update(event)
            case "untaught":
                seeds = ", ".join(map(str, event["seeds"]))
                self._bars.say(
                    f"{event['job']}: each of the first {event['updates']} updates of seed {seeds} "
                    "was rejected, as not finite or not solved; smaller steps may help"
                )
            case "measuring":
                self._show(self._updates, "test lifetimes")

    def _begin(self, event: Mapping[str, Any]) -> None:
        self._title = f"{event['number']}/{event['jobs']} {event['job']}"
        self._updates = event["updates"]
        self._losses.clear()
        lengths = event["lengths"] or [(self._updates, 1)]
        self._bars.begin(self._title, self._updates, event["done"], partial(steps, lengths))

    def _update(self, event: Mapping[str, Any]) -> None:
        self._losses += [loss for loss in event["loss"] if loss is not None]
        done = event["update"] + 1
        if self._bars.worth_telling(done):
            lost = sum(event.get("diverged", event["rejected"]))
            mean = sum(self._losses) / len(self._losses) if self._losses else float("nan")
            self._show(done, f"loss {mean:.4g}" + (f"  rejected {lost}" if lost else ""))

    def _show(self, done: int, status: str) -> None:
        self._bars.reach(done, status)
        if not self._bars.live:
            self._bars.say(f"{self._title}  {done}/{self._updates}  {status}")
