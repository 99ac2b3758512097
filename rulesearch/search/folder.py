"""The run folder: what a search leaves, and what it resumes from.

Files are replaced atomically, so a reader sees the old or the new one. Events are appended; a
checkpoint says how many bytes of them belong to it, and seals them; a resumed run cuts the rest, so
that it ends in the same bytes as one that was never interrupted. No clock is asked for anything.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What is else imported at the first checkpoint, where the engine is first asked for, and at some
# first gradient. An interrupt within an import ends the process, without a word on how to go on.
import numpy.ctypeslib  # noqa: F401
import pooch  # noqa: F401
import torch.fx.experimental.symbolic_shapes  # noqa: F401
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rulesearch.errors import RunError
from rulesearch.files import (
    check_run,
    make_folder,
    read_manifest,
    seal,
    sealed,
    uninterrupted,
    write_atomically,
)
from rulesearch.report.configuration import resuming

__all__ = ["Checkpoint", "RunBusyError", "RunFolder", "check_free"]

KEEP = 2  # checkpoints; the one before the last is there should the last be damaged
BEGUN = ("config.yaml", "events.jsonl", ".lock")  # what a run has before its manifest


class RunBusyError(RunError):
    """A run that another process is writing."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands: ``update`` meta-updates of ``phase`` are done.

    Attributes
    ----------
    events : int
        Bytes of events that belong to it; those after it are done anew.
    """

    phase: str
    update: int
    events: int
    tensors: dict[str, Tensor]


class RunFolder:
    """A run's files, open for one writer.

    Use :meth:`create` or :meth:`open`, and ``close`` or ``with``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with ExitStack() as opened:
            try:
                lock = opened.enter_context((path / ".lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._events = opened.enter_context((path / "events.jsonl").open("ab", 0))
            except BlockingIOError:
                raise RunBusyError(f"{path}: another process is writing this run") from None
            except OSError as error:
                raise RunError(
                    f"{path} cannot be written: {error.strerror}; mend that, or choose another "
                    "folder"
                ) from None
            self._opened = opened.pop_all()

    @classmethod
    def create(cls, path: str | Path, config: str, manifest: Mapping[str, Any]) -> RunFolder:
        """Make a new run.

        Raises
        ------
        RunError
            If the folder exists and is not empty: a run never overwrites another.
        """
        path = Path(path)
        check_free(path)
        make_folder(path)
        folder = cls(path)
        try:
            if (path / "manifest.json").exists():  # of a process that began between the two looks
                raise _occupied(path)
            folder._tidy()
            write_atomically(path / "config.yaml", config)
            cls._write_manifest(path, manifest)
        except BaseException:  # an interrupt too leaves nothing that is in the way
            if not (path / "manifest.json").exists():
                for name in BEGUN:
                    (path / name).unlink(missing_ok=True)
            folder.close()
            raise
        return folder

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open an existing run."""
        path = Path(path)
        check_run(path)
        folder = cls(path)
        try:
            with folder.writing():
                folder._tidy()
        except RunError:
            folder.close()
            raise
        return folder

    @property
    def manifest(self) -> dict[str, Any]:
        """What the run began with; refused where a bit of it is no longer what was written."""
        return read_manifest(self.path)

    def on(self, device: str | None) -> str:
        """Name the device that the run goes on on, by default that it was on, and write it down."""
        manifest = self.manifest
        devices = manifest.setdefault("machine", {}).setdefault("devices", ["cpu"])
        if device in (None, devices[-1]):
            return str(devices[-1])
        devices.append(device)
        with self.writing():
            self._write_manifest(self.path, manifest)
        return str(device)

    @staticmethod
    def _write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
        content = json.dumps(sealed(manifest), indent=1) + "\n"
        write_atomically(path / "manifest.json", content)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process write."""
        self._opened.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Say how to go on where the disk refuses.

        Raises
        ------
        RunError
        """
        try:
            yield
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be written: {error.strerror}; {self._remedy}"
            ) from None
        except RunError as error:
            raise RunError(f"{error}; {self._remedy}") from None

    @property
    def _remedy(self) -> str:
        return f"mend that, then '{resuming(self.path)}'"

    # -- events --

    @property
    def size(self) -> int:
        """Bytes of events so far."""
        return self._events.tell()

    def append(self, event: Mapping[str, Any]) -> None:
        """Add an event, one JSON object on one line."""
        line = json.dumps(event, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        with self.writing():
            while line:  # nothing is buffered, and a disk that is almost full takes a part
                line = line[self._events.write(line) :]

    def events(self) -> list[dict[str, Any]]:
        """All events so far."""
        path = self.path / "events.jsonl"
        try:
            return [json.loads(line) for line in path.read_bytes().splitlines()]
        except ValueError as error:
            raise RunError(f"{path} is damaged: {error}; begin a new run") from None

    def _cut(self, size: int) -> None:
        """Drop events that came after a checkpoint."""
        with self.writing():
            self._events.truncate(size)
            self._events.seek(size)

    # -- checkpoints --

    def _tidy(self) -> None:
        """Remove what a killed process was writing: temporary files, undescribed tensors."""
        for half in self.path.glob(".*.*"):
            half.unlink()
        for folder in filter(Path.is_dir, self.path.glob("checkpoint-*")):
            try:
                folder.rmdir()
            except OSError:
                raise RunError(f"{folder} is a folder in a checkpoint's place") from None
        for tensors in self.path.glob("checkpoint-*.safetensors"):
            if not tensors.with_suffix(".json").exists():
                tensors.unlink()

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint and drop all but the last two."""
        name = f"checkpoint-{checkpoint.phase}-{checkpoint.update:06d}"
        data = save({k: v.contiguous() for k, v in checkpoint.tensors.items()})
        with self.writing():
            about = {
                "phase": checkpoint.phase,
                "update": checkpoint.update,
                "events": checkpoint.events,
                "events_sha256": self._events_sha256(checkpoint.events),
            }
            about["sha256"] = seal(about, data)
            os.fsync(self._events.fileno())
            write_atomically(self.path / f"{name}.safetensors", data)
            write_atomically(self.path / f"{name}.json", json.dumps(about) + "\n")
            for old in self._descriptions()[:-KEEP]:
                self._remove(old)

    @contextmanager
    def keeping(self, every: int, last: int) -> Iterator[Callable[[Checkpoint], None]]:
        """Take a checkpoint of every update: some are saved, and the newest on an interrupt.

        Parameters
        ----------
        every, last : int
            Updates between checkpoints that are saved, and the update that is saved in any case.
        """
        unsaved: Checkpoint | None = None

        def keep(checkpoint: Checkpoint) -> None:
            nonlocal unsaved
            unsaved = checkpoint
            if checkpoint.update % every == 0 or checkpoint.update == last:
                self.save(checkpoint)
                unsaved = None

        try:
            yield keep
        except KeyboardInterrupt:
            if unsaved is not None:
                with uninterrupted():
                    self.save(unsaved)
            raise

    def _events_sha256(self, size: int) -> str:
        """A checksum of the first events, read anew: what counts is what the disk holds."""
        with (self.path / "events.jsonl").open("rb") as events:
            return hashlib.sha256(events.read(size)).hexdigest()

    @staticmethod
    def _remove(description: Path) -> None:
        description.unlink()
        description.with_suffix(".safetensors").unlink(missing_ok=True)

    def _descriptions(self) -> list[Path]:
        """Descriptions of checkpoints, oldest first: events only ever grow."""
        found = self.path.glob("checkpoint-*.json")
        return sorted(found, key=lambda path: (self._events_of(path), path.stat().st_mtime_ns))

    @staticmethod
    def _events_of(path: Path) -> int:
        try:
            return int(json.loads(path.read_text())["events"])
        except (OSError, ValueError, KeyError, TypeError):
            return -1

    def restore(self) -> Checkpoint | None:
        """Return the newest whole checkpoint, events cut to it; None starts from scratch.

        Damaged ones that are newer are removed: those to come would be dropped as older than they.
        """
        for description in reversed(self._descriptions()):
            checkpoint = self._load(description)
            if checkpoint is not None:
                self._cut(checkpoint.events)
                return checkpoint
            with self.writing():
                self._remove(description)
        self._cut(0)
        return None

    def _load(self, description: Path) -> Checkpoint | None:
        try:
            about = json.loads(description.read_text())
            data = description.with_suffix(".safetensors").read_bytes()
            if about.pop("sha256") != seal(about, data):
                return None
            if about.pop("events_sha256") != self._events_sha256(about["events"]):
                return None
            return Checkpoint(**about, tensors=load(data))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
            return None  # damaged: the checkpoint before it is taken


def check_free(path: Path) -> None:
    """Raise RunError where a folder holds anything, so that no run can begin in it.

    What a process left that was killed before the manifest was there is no run.
    """
    try:
        occupied = path.exists() and any(path.iterdir()) and not _half_made(path)
    except OSError as error:
        raise RunError(f"{path} cannot be made: {error.strerror}") from None
    if occupied:
        raise _occupied(path)


def _half_made(path: Path) -> bool:
    """Whether a folder holds what a killed process made of a run, short of its manifest."""
    names, events = {p.name for p in path.iterdir()}, path / "events.jsonl"
    parts = {n for n in names if n.startswith((".config.yaml.", ".manifest.json."))}
    if ".lock" not in names or names - parts - set(BEGUN):
        return False
    return not events.exists() or not events.stat().st_size


def _occupied(path: Path) -> RunError:
    is_run = (path / "manifest.json").is_file()
    other = f", or continue it with '{resuming(path)}'" if is_run else ""
    return RunError(f"{path} exists and is not empty; choose another folder{other}")
