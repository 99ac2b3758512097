"""A search as it goes, in the terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console, Group
from rich.text import Text

from rulesearch.analysis import Floats, finite_mean
from rulesearch.report.bars import RECENT, Bars
from rulesearch.report.run_data import PHASE_NAMES

__all__ = ["TerminalProgress"]

ALIVE = 0.05  # a term is alive whose scaled coefficient is above this share of the largest


class TerminalProgress:
    """Shows episode, accuracy, terms alive, the best rule so far and the time left.

    An event sink and a context manager. On a terminal it is a live view; elsewhere a line is
    written at every tenth of a phase.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._status = Group()
        self._bars = Bars(console, "[bold]{task.description:<20}", self._status)
        self._terms: Sequence[str] = ()
        self._scales = np.ones(0)
        self._accuracy: deque[list[float]] = deque(maxlen=RECENT)
        self._loss: deque[list[float]] = deque(maxlen=RECENT)
        self._title, self._total = "", 1

    def __enter__(self) -> TerminalProgress:
        self._bars.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.__exit__()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Take one event."""
        if event["event"] == "phase":
            self._begin(event)
        elif event["event"] == "update":
            self._update(event)
        elif event["event"] == "note":
            self._bars.say(f"Note: {event['text']}.")

    def _begin(self, event: Mapping[str, Any]) -> None:
        self._terms, self._total = event["terms"], event["updates"]
        self._scales = np.array(event["scales"])
        self._accuracy.clear()
        self._loss.clear()
        self._title = PHASE_NAMES.get(event["phase"], event["phase"])
        self._bars.begin(self._title, self._total, event["done"])

    def _update(self, event: Mapping[str, Any]) -> None:
        self._accuracy.append([np.nan if a is None else a for a in event["accuracy"]])
        self._loss.append([np.nan if a is None else a for a in event["loss"]])
        done = event["update"] + 1
        self._bars.reach(done)
        if not self._bars.worth_telling(done):
            return
        now = self._now(np.array(event["theta"]), sum(event["rejected"]))
        if self._bars.live:
            status = f"  {now.score} (best {now.best})   terms alive {now.alive}{now.lost}"
            self._status.renderables[:] = [
                Text(line, no_wrap=True, overflow="ellipsis")
                for line in (status, f"  best rule so far: {now.rule}")
            ]
        else:
            line = f"{self._title:<20} {done}/{self._total}  {now.score}  terms {now.alive}"
            self._bars.say(f"{line}{now.lost}")

    def _now(self, theta: Floats, rejected: int) -> _Now:
        accuracy, loss = finite_mean(self._accuracy), finite_mean(self._loss)
        size = np.abs(theta / self._scales)
        alive = (size > ALIVE * size.max(1, keepdims=True)).sum(1)
        low, high = int(alive.min()), int(alive.max())
        # Targets that are no labels have a loss and no accuracy.
        name, score = ("accuracy", accuracy) if np.isfinite(accuracy).any() else ("loss", loss)
        ranked = np.where(np.isfinite(score), score if name == "accuracy" else -score, -np.inf)
        best = int(ranked.argmax())
        kept = [k for k in np.argsort(-size[best]) if size[best, k] > ALIVE * size[best].max()]
        return _Now(
            score=f"{name} {_number(score[np.isfinite(score)])}",
            best=_number(score[best : best + 1]),
            alive=str(low) if low == high else f"{low} to {high}",
            lost=f"   rejected {rejected}" if rejected else "",
            rule="  ".join(f"{self._terms[k]} {theta[best, k]:+.2e}" for k in kept),
        )


class _Now(NamedTuple):
    """What a line of progress says."""

    score: str
    best: str
    alive: str
    lost: str
    rule: str


def _number(values: Floats) -> str:
    """The mean as text; a dash where there is none."""
    return f"{values.mean():.3f}" if np.isfinite(values).any() else "-"
