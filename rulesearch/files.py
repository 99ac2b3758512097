"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rulesearch.errors import RunError

__all__ = ["seal", "sealed", "write_atomically"]


def seal(content: Mapping[str, Any], data: bytes = b"") -> str:
    """Return a checksum of JSON values, and of bytes that they are about."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode() + data).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON values with their checksum, so that a flipped bit is noticed."""
    return {**content, "sha256": seal(content)}


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
