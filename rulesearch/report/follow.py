"""A search that another process runs, read from its events as they are written."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rulesearch.errors import RunError
from rulesearch.files import check_search
from rulesearch.report.configuration import resuming
from rulesearch.report.events import EventReader

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
    check_search(run)
    file = run / "events.jsonl"
    reader = EventReader(file)
    while True:
        over = (run / "result.json").is_file()  # asked first: then no event is still to come
        whole = _beyond(file, read).rpartition(b"\n")[0]
        for line in whole.split(b"\n") if whole else ():
            sink(reader.read(line))
        if over:
            return True
        if whole:
            read, since = read + len(whole) + 1, time.monotonic()
        elif time.monotonic() - since >= QUIET:
            if not _being_written(run):
                return (run / "result.json").is_file()
            since = time.monotonic()
        time.sleep(PAUSE)


def _beyond(file: Path, start: int) -> bytes:
    try:
        with file.open("rb") as events:
            events.seek(start)
            return events.read()
    except OSError as error:
        remedy = f"'{resuming(file.parent)}' makes it anew"
        remove = "remove it, then " if file.exists() else ""
        raise RunError(f"{file} cannot be read: {error.strerror}; {remove}{remedy}") from None


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
