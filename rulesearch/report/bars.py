"""Progress bars of one stage after another, on a terminal or in a file."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["RECENT", "Bars"]

RECENT = 20  # updates that a shown loss or accuracy is averaged over
Effort = Callable[[int], int]


def _equal(updates: int) -> int:
    return updates


class Bars:
    """A live view on a terminal; elsewhere nothing but the lines that it is told to say.

    Parameters
    ----------
    console : Console, optional
        By default standard error.
    title : str
        How the title of a stage is set, in Rich's markup.
    below : RenderableType, optional
        What stands below the bars.
    """

    def __init__(
        self, console: Console | None, title: str, below: RenderableType | None = None
    ) -> None:
        self.console = console or Console(stderr=True)
        self._bars = Progress(
            TextColumn(title),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", style="progress.download"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            console=self.console,
        )
        shown = self._bars if below is None else Group(self._bars, below)
        self._live = Live(shown, console=self.console, refresh_per_second=4)
        self._bar: TaskID | None = None
        self._total = 1
        self._effort: Effort = _equal

    def __enter__(self) -> Bars:
        if self.live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            self._live.stop()

    @property
    def live(self) -> bool:
        """Whether a terminal is looked at."""
        return self.console.is_terminal

    def begin(self, title: str, total: int, done: int, effort: Effort = _equal) -> None:
        """Add the bar of a stage; ``effort`` tells what its first so many updates take in all."""
        self._total, self._effort = total, effort
        self._bar = self._bars.add_task(
            title,
            total=effort(total),
            completed=effort(done),
            status="",
            count=f"{done}/{total}",
        )

    def reach(self, done: int, status: str = "") -> None:
        """Move the bar of the stage, and show a word at its end."""
        if self._bar is not None:
            count = f"{done}/{self._total}"
            self._bars.update(self._bar, completed=self._effort(done), status=status, count=count)

    def worth_telling(self, done: int) -> bool:
        """Whether to show how far a stage is: always on a terminal, else at every tenth of it."""
        return self.live or done % max(1, self._total // 10) == 0 or done == self._total

    def say(self, line: str) -> None:
        """Write a line."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)
