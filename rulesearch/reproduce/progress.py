"""A reproduction as it goes, in the terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["JobProgress"]

RECENT = 20  # updates that the shown loss is averaged over


class JobProgress:
    """Shows which job runs, its updates, the loss of late and the time left.

    An event sink and a context manager. On a terminal it is a live view; elsewhere a line is
    written at every tenth of a job.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bars = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._bar: TaskID | None = None
        self._title, self._updates = "", 1
        self._losses: deque[float] = deque(maxlen=RECENT)

    def __enter__(self) -> JobProgress:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Take one event."""
        match event["event"]:
            case "run":
                self._say(f"{event['run']}: {event['jobs']} jobs, {event['finished']} finished")
            case "job":
                self._begin(event)
            case "update":
                self._update(event)
            case "measuring":
                self._show(self._updates, "test lifetimes")

    def _begin(self, event: Mapping[str, Any]) -> None:
        self._title = f"{event['number']}/{event['jobs']} {event['job']}"
        self._updates = event["updates"]
        self._losses.clear()
        self._bar = self._bars.add_task(
            self._title, total=self._updates, completed=event["done"], status=""
        )

    def _update(self, event: Mapping[str, Any]) -> None:
        self._losses += [loss for loss in event["loss"] if loss is not None]
        done = event["update"] + 1
        lost = sum(event["rejected"])
        mean = sum(self._losses) / len(self._losses) if self._losses else float("nan")
        status = f"loss {mean:.4g}" + (f"  rejected {lost}" if lost else "")
        if self._console.is_terminal or done % max(1, self._updates // 10) == 0:
            self._show(done, status)

    def _show(self, done: int, status: str) -> None:
        if self._bar is not None:
            self._bars.update(self._bar, completed=done, status=status)
        if not self._console.is_terminal:
            self._say(f"{self._title}  {done}/{self._updates}  {status}")

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)
