"""The machine at hand, and whether it can hold what is asked for."""

from __future__ import annotations

import os

from rulesearch.errors import ConfigError

__all__ = ["check_memory", "memory_bytes"]


def memory_bytes() -> int:
    """Memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(what: str, size: int) -> None:
    """Raise ConfigError where things take more bytes than the machine has, in use or not."""
    most = memory_bytes()
    if size > most:
        raise ConfigError(
            f"{what} take {size / 1e9:,.1f} GB of memory, and this machine has "
            f"{most / 1e9:,.1f} GB; choose less"
        )
