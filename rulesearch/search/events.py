"""The seam to whoever watches a search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["EventSink"]


class EventSink(Protocol):
    """Takes events as they happen: see the run folder's ``events.jsonl`` for their fields."""

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Take one event."""
        ...
