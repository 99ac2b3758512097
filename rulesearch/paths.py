"""Where rulesearch keeps what it can make or download again."""

from __future__ import annotations

import os
from pathlib import Path

import pooch

__all__ = ["cache_dir"]


def cache_dir() -> Path:
    """The folder of the environment's ``RULESEARCH_CACHE``, or the system's cache folder."""
    chosen = os.environ.get("RULESEARCH_CACHE")
    return Path(chosen) if chosen else Path(pooch.os_cache("rulesearch"))
