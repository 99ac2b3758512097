"""Where workers meet: Optuna's storages, and claims on trials.

A claim is a lock that goes with its holder: the kernel lets go of a file's lock, PostgreSQL of an
advisory one, as soon as the process that held it is dead. Whoever holds the claim on a trial runs
it, so that a trial is never run twice at once, and that of a dead worker is free at once. No clock
is involved, as heartbeats would be: a worker that was merely slow has lost nothing.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from zlib import crc32

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from rulesearch.errors import ConfigError, RunError, did_you_mean

__all__ = [
    "JOURNAL",
    "Claims",
    "StorageLostError",
    "database_errors",
    "open_claims",
    "open_storage",
    "shown",
]

JOURNAL = "journal.log"  # in a sweep's folder, if no other storage is named
KNOWN = ("journal", "postgresql")
# A machine that vanished keeps nothing for longer than a minute, on either side of the line.
SERVER = {"tcp_keepalives_idle": 30, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}
CLIENT = {"connect_timeout": 10, "keepalives_idle": 20, "tcp_user_timeout": 30_000}
CLIENT |= {"keepalives_interval": 5, "keepalives_count": 3}


class StorageLostError(RunError):
    """A database that does not answer; it may be back in a moment."""


def open_storage(url: str, create: bool = False) -> BaseStorage:
    """Open the storage of an address.

    Parameters
    ----------
    url : str
        ``journal:///path`` or simply a path: a journal file. ``postgresql://user@host/database``.
    create : bool
        Make a journal that does not exist.

    Raises
    ------
    ConfigError
        If the address is of no kind that is known, or its driver is not installed.
    RunError
        If there is no such journal, or the database cannot be reached.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = _parsed(url)
    if isinstance(found, URL):
        try:
            with database_errors(url), _alone(found):
                return RDBStorage(
                    found.render_as_string(hide_password=False),
                    {"poolclass": NullPool, "connect_args": CLIENT},  # nothing is left open
                )
        except ImportError:
            raise ConfigError(
                "PostgreSQL needs its driver: pip install 'rulesearch[postgres]'"
            ) from None
    if found.is_dir():
        journal = found / JOURNAL
        raise RunError(
            f"{found} is a sweep's folder; its storage is '{journal}'"
            if journal.is_file()
            else f"{found} is a folder, no journal of a sweep"
        )
    if not create and not found.is_file():
        raise RunError(f"{found}: there is no such journal; begin one with 'rulesearch sweep'")
    try:
        found.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(found), _JournalLock(found)))
    except OSError as error:
        raise RunError(f"{found} cannot be written: {error.strerror}") from None
    except (ValueError, KeyError) as error:
        raise RunError(f"{found} is no journal of a study: {error}") from None


@contextmanager
def _alone(url: URL) -> Iterator[None]:
    """One process at a time: Optuna makes its tables where there are none."""
    options = _options({**SERVER, "lock_timeout": 60_000})  # after which the error says so
    engine = create_engine(url, poolclass=NullPool, connect_args={**CLIENT, "options": options})
    with engine.connect() as connection:  # which lets go of the lock when it is closed
        lock = text("SELECT pg_advisory_lock(CAST(:key AS bigint))")
        connection.execute(lock, {"key": crc32(b"rulesearch tables")})
        yield


def _options(settings: Mapping[str, int]) -> str:
    return " ".join(f"-c {name}={value}" for name, value in settings.items())


def shown(url: str) -> str:
    """The address as it may be shown: without a password, a journal's path whole."""
    found = _parsed(url)
    if isinstance(found, URL):
        return found.set(drivername="postgresql").render_as_string()
    return str(found.absolute())


def _parsed(url: str) -> URL | Path:
    """The address of a database, or the path of a journal."""
    kind = re.match(r"([A-Za-z]\w*)(\+\w+)?:", url)
    if kind is None or kind[1] == "journal":
        return Path(re.sub("^journal:(//)?", "", url))
    if kind[1] in ("postgres", "postgresql"):
        try:
            return make_url(url).set(drivername="postgresql+psycopg")
        except (ArgumentError, ValueError):
            raise ConfigError("storage: write postgresql://user@host:port/database") from None
    hint = did_you_mean(kind[1], KNOWN) or "; known are a journal file's path and postgresql://"
    raise ConfigError(f"storage {url}: unknown kind '{kind[1]}'{hint}")


@contextmanager
def database_errors(url: str | None) -> Iterator[None]:
    """Say in one line that a database does not answer, or that a journal takes no more.

    Raises
    ------
    StorageLostError
        If a database does not answer.
    RunError
        If a journal, or another file of the sweep, cannot be written.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = getattr(error, "orig", None) or error.__cause__ or error
        line = str(getattr(cause, "orig", None) or cause).strip().splitlines()[0]
        raise StorageLostError(
            f"{shown(url or '')} does not answer ({line}); see that the server runs and lets this "
            "user into this database, then start again; nothing is lost"
        ) from None
    except OSError as error:
        raise RunError(
            f"{error.filename or _file_of(url)} cannot be written ({error.strerror or error}); "
            "mend that, then start again; nothing is lost"
        ) from None


def _file_of(url: str | None) -> str:
    """What an error that names no file is about: a database has none, a journal is one."""
    if url is None:
        return "the sweep's journal"
    return "a file of the sweep" if isinstance(_parsed(url), URL) else shown(url)


class _JournalLock(JournalFileOpenLock):
    """The journal's own lock, which needs no grace period, for the kernel frees it.

    A line that a killed process left half written is cut away before the next is added.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._file = -1

    def acquire(self) -> bool:
        self._file = os.open(self._path, os.O_RDWR)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        end = os.fstat(self._file).st_size
        if end and os.pread(self._file, 1, end - 1) != b"\n":
            os.ftruncate(self._file, os.pread(self._file, end, 0).rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        os.close(self._file)


class Claims(Protocol):
    """Who may run which trial of one study; a worker takes one at a time."""

    def take(self, number: int) -> bool:
        """Claim a trial; False if another worker has it."""
        ...

    def release(self, number: int) -> None:
        """Leave a trial to others."""
        ...

    def check(self) -> None:
        """Raise where the claim may have been lost, for there is no connection."""
        ...

    def close(self) -> None:
        """Leave all claims."""
        ...


def open_claims(url: str, study: str, folder: Path) -> Claims:
    """Return the claims that go with a storage.

    Raises
    ------
    RunError
        If the database cannot be reached, or the study's folder not be written.
    """
    found = _parsed(url)
    if isinstance(found, URL):
        with database_errors(url):
            return _DatabaseClaims(found, study)
    return _FileClaims(folder / ".claims")


class _FileClaims:
    """One byte of a file for each trial, locked."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("ab")
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error.strerror}") from None

    def take(self, number: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
        except (BlockingIOError, PermissionError):  # POSIX leaves the system the choice
            return False
        return True

    def release(self, number: int) -> None:
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, number)

    def check(self) -> None:
        pass  # the kernel keeps it for as long as the process lives

    def close(self) -> None:
        self._file.close()


class _DatabaseClaims:
    """PostgreSQL's advisory locks, held by a connection of their own."""

    def __init__(self, url: URL, study: str) -> None:
        engine = create_engine(
            url,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={**CLIENT, "options": _options(SERVER)},
        )
        self._connection = engine.connect()
        self._space = crc32(f"rulesearch {study}".encode()) - 2**31  # a signed number of 32 bits

    def take(self, number: int) -> bool:
        return bool(self._ask("pg_try_advisory_lock", number))

    def release(self, number: int) -> None:
        self._ask("pg_advisory_unlock", number)

    def check(self) -> None:
        self._connection.execute(text("SELECT 1"))

    def close(self) -> None:
        self._connection.close()

    def _ask(self, function: str, number: int) -> object:
        query = text(f"SELECT {function}(CAST(:space AS integer), CAST(:number AS integer))")
        return self._connection.execute(query, {"space": self._space, "number": number}).scalar()
