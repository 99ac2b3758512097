"""Files of runs: written so that a reader never sees half of one, and read only if undamaged."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from rulesearch.errors import RunError

__all__ = [
    "check_run",
    "check_search",
    "claimed",
    "make_folder",
    "numbered",
    "read_manifest",
    "read_sealed",
    "seal",
    "sealed",
    "uninterrupted",
    "write_atomically",
]


def seal(content: Mapping[str, Any], data: bytes = b"") -> str:
    """Return a checksum of JSON values, and of bytes that they are about."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode() + data).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON values with their checksum, so that a flipped bit is noticed."""
    return {**content, "sha256": seal(content)}


def read_sealed(path: Path, remedy: str) -> dict[str, Any]:
    """Return JSON values that were written with their checksum.

    Raises
    ------
    RunError
        If a bit of them is no longer what was written; the message ends with the remedy.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}; {remedy}") from None
    except ValueError as error:
        raise RunError(f"{path} is damaged: it is not valid JSON ({error}); {remedy}") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged: it holds no JSON object; {remedy}")
    if content.pop("sha256", None) != seal(content):
        raise RunError(f"{path} is damaged: its checksum is of something else; {remedy}")
    return content


def check_run(run: Path) -> None:
    """Raise RunError where a folder is no run, and say what it is."""
    if (run / "manifest.json").is_file():
        return
    if (run / "study.json").is_file():
        raise RunError(
            f"{run} is a sweep: name one of its runs, {run}/trial-*, or see 'rulesearch show "
            f"{run}'; the 'rulesearch sweep' that began it also goes on with it"
        )
    raise RunError(f"{run} is not a run: it has no manifest.json")


def check_search(run: Path) -> None:
    """Raise RunError where a folder is no search's, and say what it is."""
    if "reproduction" in read_manifest(run):
        raise RunError(f"{run} is a reproduction, no search; see 'rulesearch show {run}'")


def read_manifest(run: Path) -> dict[str, Any]:
    """Return what a run folder says that the run began with.

    Raises
    ------
    RunError
        If the folder is no run, or its manifest is damaged.
    """
    check_run(run)
    return read_sealed(run / "manifest.json", "give the file back, or begin a new run")


def make_folder(folder: Path) -> Path:
    """Make a folder, and those above it, unless it is there.

    Raises
    ------
    RunError
        If it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be made: {error.strerror}") from None
    return folder


def numbered(name: str, under: Path) -> Iterator[Path]:
    """Yield ``name``, ``name-2``, ``name-3``, ... under a folder, without end."""
    return (under / (name if n == 1 else f"{name}-{n}") for n in count(1))


@contextmanager
def claimed(folders: Iterable[Path], own: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Make the first folder that is not there yet, and nobody else gets it.

    It is removed again if it is empty in the end.

    Parameters
    ----------
    own : callable, optional
        Whether a folder that is there is the one to go on with.

    Raises
    ------
    RunError
        If it cannot be made.
    """
    path = next(path for path in folders if (own is not None and own(path)) or _made(path))
    try:
        yield path
    finally:
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _made(folder: Path) -> bool:
    """Make a folder, unless somebody has; of two who try at once one has made it."""
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        return False
    except OSError as error:
        raise RunError(f"{folder} cannot be made: {error.strerror}") from None
    return True


def write_atomically(path: str | Path, content: str | bytes) -> Path:
    """Write next to ``path``, flush to disk, then rename over it.

    Raises
    ------
    RunError
        If the folder is missing, read-only or full; the old file stays as it was.
    """
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:  # an interrupt leaves nothing either
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from None
    return path


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ignore interrupts, for what has to be done on the way out of a first one."""
    if threading.current_thread() is not threading.main_thread():  # which gets them all
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = {number: handler for number, handler in before.items() if callable(handler)}
    for number in ours:
        signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
