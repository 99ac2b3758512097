"""Whether a study may begin in a folder, or go on with what it began with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rulesearch.errors import ConfigError, RunError
from rulesearch.search.sweep.outcome import StudyResult
from rulesearch.search.sweep.spec import Sweep
from rulesearch.search.sweep.storage import JOURNAL

__all__ = ["check_free", "check_same"]


def check_free(folder: Path, name: str, storage: str) -> RunError | None:
    """Raise RunError where a folder holds another study, or anything else.

    Returns
    -------
    RunError or None
        What is wrong with a ``study.json`` that cannot be read: to be raised too, unless the
        storage has the study, from which it is then written anew.
    """
    if (folder / "study.json").is_file():
        try:
            held = StudyResult.load(folder).content
        except RunError as damage:
            if "://" not in storage and not Path(storage).is_file():  # a journal that is not there
                raise
            return damage
        if (held["name"], held["storage"]) != (name, storage):
            raise RunError(
                f"{folder} holds the study '{held['name']}' of {held['storage']}; go on with that, "
                "or choose another folder with --out"
            )
    # A study that was killed as it began has left its journal, and files with a dot.
    elif folder.exists() and any(p.name[0] != "." and p.name != JOURNAL for p in folder.iterdir()):
        raise RunError(f"{folder} exists and is no study; choose another folder with --out")
    return None


def check_same(sweep: Sweep, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ConfigError where a study would go on with something else; more trials are welcome.

    So is another device, which workers have each for themselves.
    """

    def comparable(content: Mapping[str, Any]) -> dict[str, Any]:
        config = content["config"]
        swept = {**config["sweep"], "trials": None}
        config = {key: value for key, value in config.items() if key != "device"}
        return {**config, "sweep": swept, "grammars": content["grammars"]}

    old, new = comparable(before), comparable(now)
    for key in {**old, **new}:
        if old.get(key) != new.get(key):
            raise ConfigError(
                f"'{key}' is not what the study '{sweep.name}' began with; give it back, or "
                "another name with --set name=NAME"
            )
    if (before["config"]["sweep"].get("trials") or 0) > sweep.trials:
        raise ConfigError(f"the study '{sweep.name}' has more trials already; there are no fewer")
    if before["folder"] != now["folder"]:
        raise ConfigError(
            f"the study '{sweep.name}' has its runs in {before['folder']}; leave --out"
        )
