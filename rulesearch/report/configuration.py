"""A run's ``config.yaml``: whether it says what the run began with, and how it is continued."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rulesearch.errors import GrammarError, RunError
from rulesearch.files import seal
from rulesearch.grammar.reader import read_document

__all__ = ["REMEDY", "check_configuration", "no_longer", "resuming", "said"]

REMEDY = "give the file back as it was, or begin a new run"


def said(text: bytes | str, file: str = "config.yaml") -> str:
    """Return a checksum of what a configuration says, however it is laid out.

    Where the search runs and where its data lie is no part of that: a run may be moved.
    """
    content = read_document(text, file).data
    if isinstance(content, dict):
        content.pop("device", None)
        if isinstance(content.get("tasks"), dict):
            content["tasks"].pop("root", None)
    return seal({"config": content})


def check_configuration(run: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse to speak of a run whose ``config.yaml`` says something else than when it began.

    Needs no data, which to make the search again would. A run without the file is let pass.

    Raises
    ------
    RunError
    """
    path, begun = run / "config.yaml", manifest.get("config_sha256")
    if begun is None or not path.exists():
        return
    try:
        now = said(path.read_bytes(), str(path))
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}; {REMEDY}") from None
    except GrammarError as error:
        raise RunError(f"{error}; {REMEDY}") from None
    if now != begun:
        raise no_longer(run, path.name)


def resuming(run: Path) -> str:
    """Return what continues a run: a command or, where Python made the tasks, a call.

    A configuration that cannot be read is told of by the command.
    """
    path = run / "config.yaml"
    try:
        content = read_document(path.read_bytes(), str(path)).data
    except (OSError, GrammarError):
        content = {}
    tasks = content.get("tasks") if isinstance(content, dict) else None
    if isinstance(tasks, dict) and tasks.get("family") == "python":
        return f'rulesearch.search(..., out="{run}", resume=True)'
    return f"rulesearch resume {run}"


def no_longer(run: str | Path, what: str) -> RunError:
    """Return the error of a part of a run that is not what it was."""
    return RunError(
        f"{run}: '{what}' is not what the run began with (see manifest.json); "
        "give it back, or start a new run"
    )
