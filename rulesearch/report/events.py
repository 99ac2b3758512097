"""The lines of a run's ``events.jsonl``, read and checked one after another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from rulesearch.errors import RunError
from rulesearch.report.configuration import resuming

__all__ = ["EventReader", "read_event"]

PHASE = {"updates": int, "done": int, "rows": int, "terms": list, "scales": list}


def read_event(file: Path, number: int, line: bytes) -> dict[str, Any]:
    """Return the event of a line.

    Raises
    ------
    RunError
        ``file:line: message``, if it is none.
    """
    try:
        event = json.loads(line)
    except ValueError:
        raise damaged(file, number, "not valid JSON") from None
    if not isinstance(event, dict) or not all(
        isinstance(event.get(key), str) for key in ("event", "phase")
    ):
        raise damaged(file, number, "no event")
    return event


def damaged(file: Path, number: int, what: str) -> RunError:
    """What to raise where a line is not what was written, and how to go on."""
    return RunError(
        f"{file}:{number}: {what}; the run is damaged, and '{resuming(file.parent)}' repairs it"
    )


class EventReader:
    """Reads a search's events in their order; an update has the rows and terms of its phase.

    Parameters
    ----------
    file : Path
    """

    def __init__(self, file: Path) -> None:
        self._file, self._number = file, 0
        self._shapes: dict[str, tuple[int, int]] = {}

    def read(self, line: bytes) -> dict[str, Any]:
        """Return the event of the next line.

        Raises
        ------
        RunError
            If it is damaged.
        """
        self._number += 1
        event = read_event(self._file, self._number, line)
        if event["event"] == "phase":
            self._begin(event)
        elif event["event"] == "update":
            self._check(event)
        return event

    def _begin(self, event: dict[str, Any]) -> None:
        sound = all(isinstance(event.get(key), kind) for key, kind in PHASE.items())
        if not sound or len(event["scales"]) != len(event["terms"]):
            raise damaged(self._file, self._number, "no phase of a search")
        self._shapes[event["phase"]] = event["rows"], len(event["terms"])

    def _check(self, event: dict[str, Any]) -> None:
        shape = self._shapes.get(event["phase"], (0, 0))
        expected = dict.fromkeys(("accuracy", "loss", "rejected"), shape[:1]) | {"theta": shape}
        try:
            found = {key: np.array(event[key], np.float64).shape for key in expected}
        except (KeyError, TypeError, ValueError):
            found = {}
        if found != expected or not isinstance(event.get("update"), int):
            raise damaged(self._file, self._number, "no update of its phase")
