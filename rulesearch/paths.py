"""Where rulesearch keeps what it can make or download again."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_dir"]


def cache_dir() -> Path:
    """The folder of the environment's ``RULESEARCH_CACHE``, or the system's cache folder."""
    import pooch  # slow to import, and needed here alone

    return Path(os.environ.get("RULESEARCH_CACHE") or pooch.os_cache("rulesearch")).expanduser()
