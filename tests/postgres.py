"""A real PostgreSQL server in a folder of its own; for tests alone."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

MISSING = "no initdb in PATH or /usr/lib/postgresql: install Debian's package 'postgresql'"


def binaries() -> Path | None:
    """Where the server's programs are; None where there are none."""
    inside = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = shutil.which("initdb") or (inside[-1] if inside else None)
    return None if found is None else Path(found).resolve().parent


def _user() -> str | None:
    """Whom the server runs as: it refuses root. None: whoever runs the tests."""
    if os.getuid():
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


class Server:
    """A server that can be stopped and started again."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self._programs, self._user = folder, programs, _user()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"postgresql://tester@127.0.0.1:{self.port}/postgres"
        folder.mkdir(mode=0o700)
        if self._user is not None:
            shutil.chown(folder, self._user)
        self._run("initdb", "-A", "trust", "-U", "tester", "-E", "UTF8", "--no-sync")

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k '' -F"
        self._run("pg_ctl", "-w", "-o", options, "-l", str(self.folder / "log"), "start")

    def stop(self) -> None:
        """Stop it at once, its connections cut."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        # Not the caller's folder, which the server's user may be unable to enter.
        subprocess.run(
            [self._programs / program, "-D", self.folder, *arguments],
            user=self._user, cwd="/", check=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip


@contextmanager
def server(programs: Path) -> Iterator[Server]:
    """Run a server for as long as the ``with`` lasts."""
    with TemporaryDirectory() as folder:  # not pytest's, which the server's user may not enter
        os.chmod(folder, 0o755)
        running = Server(Path(folder) / "data", programs)
        running.start()
        try:
            yield running
        finally:
            running.stop()
