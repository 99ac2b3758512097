"""Photographs of one's own, which no data set of the package has: their folder is a setting."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from rulesearch.arguments import naming
from rulesearch.errors import DataError
from rulesearch.tasks.image_folder import class_names
from rulesearch.tasks.registry import class_folders

__all__ = ["Photographs", "UsualPhotographs", "check_photographs"]


def _absolute(folder: str) -> str:
    """Wherever a run goes on, its folder is the same; one of RULESEARCH_DATA stays a name."""
    path = Path(folder).expanduser()
    return str(path.resolve()) if path.exists() else folder


Photographs = Annotated[str, AfterValidator(_absolute)]
"""A folder that :func:`check_photographs` looks into."""

UsualPhotographs = Annotated[Photographs, Field(validate_default=True)]
"""The same, of a setting by default too."""


def check_photographs(setting: str, root: str, *, few_shot: bool) -> None:
    """Look into ``train`` and ``test`` before any image is loaded, which may take minutes.

    Parameters
    ----------
    few_shot : bool
        Whether tests are of classes that training has not met.

    Raises
    ------
    DataError
        If one of them is not there or, where tests are few-shot, they share classes; the message
        begins with the setting.
    """
    with naming(f"{setting}={root}:"):
        train, test = (class_folders(root, split) for split in ("train", "test"))
        if not few_shot:
            return
        shared = sorted({*class_names(train)} & {*class_names(test)})
        if shared:
            named = ", ".join(shared[:3]) + (", ..." if len(shared) > 3 else "")
            raise DataError(
                f"train and test share classes ({len(shared)}: {named}), and few-shot tests are of "
                "classes that training has not met; keep the folder of each class in one of the two"
            )
