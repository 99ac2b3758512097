"""A search that another process runs, read from its events as they are written."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rulesearch.errors import RunError

__all__ = ["follow"]

PAUSE = 0.25  # seconds between looks
QUIET = 5.0  # seconds without an event after which to ask whether anyone still writes


def follow(run: str | Path, sink: Callable[[Mapping[str, Any]], None]) -> bool:
    """Hand every event to a sink, from the first to those yet to come.

    A search that is resumed cuts the events after its checkpoint and writes the same again, so
    that a place between two of them, once reached, is a place for good.

    Returns
    -------
    bool
        True once the search is finished; False if no process runs it any more.

    Raises
    ------
    RunError
        If it is no run, or its events are damaged.
    """
    run, read, since = Path(run), 0, time.monotonic() - QUIET
    if not (run / "manifest.json").is_file():
        raise RunError(f"{run} is not a run: it has no manifest.json")
    while True:
        over = (run / "result.json").is_file()  # asked first: then no event is still to come
        with (run / "events.jsonl").open("rb") as events:
            events.seek(read)
            whole = events.read().rpartition(b"\n")[0]
        for line in whole.splitlines():
            sink(_event(run, line))
        if over:
            return True
        if whole:
            read, since = read + len(whole) + 1, time.monotonic()
        elif time.monotonic() - since >= QUIET:
            if not _being_written(run):
                return (run / "result.json").is_file()
            since = time.monotonic()
        time.sleep(PAUSE)


def _event(run: Path, line: bytes) -> dict[str, Any]:
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError as error:
        raise RunError(f"{run}/events.jsonl is damaged: {error}") from None
    return event


def _being_written(run: Path) -> bool:
    """Whether a process holds the run's lock; asking takes it for a moment, so ask seldom."""
    try:
        with (run / ".lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
