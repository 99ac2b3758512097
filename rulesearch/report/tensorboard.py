"""A search's events as TensorBoard's curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rulesearch.errors import ConfigError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["TensorBoard"]


class TensorBoard:
    """An event sink: medians over the rows, a folder for each phase.

    TensorBoard takes a folder for a run of its own, and so draws the phases over one another.
    What a resumed search does again replaces what was drawn of it before.

    Raises
    ------
    ConfigError
        If tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError(
                "TensorBoard is not installed: pip install 'rulesearch[tensorboard]'"
            ) from None
        self._folder, self._open = Path(folder), SummaryWriter
        self._writer: SummaryWriter | None = None
        self._terms: list[str] = []

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Take one event."""
        if event["event"] in ("phase", "done") and self._writer is not None:
            self._writer.close()
            self._writer = None
        if event["event"] == "phase":
            folder = str(self._folder / event["phase"])
            self._writer = self._open(folder, purge_step=event["done"])
            self._terms = event["terms"]
        elif event["event"] == "update" and self._writer is not None:
            for name, value in self._scalars(event).items():
                self._writer.add_scalar(name, value, event["update"])

    def _scalars(self, event: Mapping[str, Any]) -> dict[str, float]:
        """What is drawn of an update."""
        found = {"rejected": float(sum(event["rejected"]))}
        for name in ("accuracy", "loss"):
            known = [value for value in event[name] if value is not None]
            if known:
                found[name] = float(np.median(known))
        middle = np.median(np.array(event["theta"]), axis=0)
        return found | {
            f"theta/{term}": float(value) for term, value in zip(self._terms, middle, strict=True)
        }
