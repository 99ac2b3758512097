"""Photographs of one's own, which no data set of the package has: their folder is a setting."""

from __future__ import annotations

from rulesearch.arguments import naming
from rulesearch.tasks.registry import class_folders

__all__ = ["check_photographs"]


def check_photographs(setting: str, root: str) -> None:
    """Look for ``train`` and ``test`` before any image is loaded, which may take minutes.

    Raises
    ------
    DataError
        If one of them is not there; the message begins with the setting.
    """
    for split in ("train", "test"):
        with naming(f"{setting}={root}:"):
            class_folders(root, split)
