"""Which reproduction is run, at which scale and with which settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rulesearch import __version__
from rulesearch.arguments import naming
from rulesearch.errors import ConfigError, Place, RunError, did_you_mean
from rulesearch.files import claimed, numbered, read_manifest
from rulesearch.grammar.reader import Document, read_document
from rulesearch.grammar.validation import validate
from rulesearch.grammar.writer import yaml_text
from rulesearch.outer.fit import usable_device
from rulesearch.report.configuration import REMEDY
from rulesearch.reproduce.base import Job, Reproduction, RunSettings
from rulesearch.reproduce.registry import find_reproduction
from rulesearch.search.config import parsed_override, with_value
from rulesearch.search.settings import Spec

__all__ = [
    "Plan",
    "first_difference",
    "is_reproduction",
    "load_plan",
    "make_plan",
    "run_folder",
]

CONTENT = ("reproduction", "scale", "rows", "settings")  # of a plan as plain data

# Settings that a table tells of itself, or that its figures do not depend on.
TOLD = {
    *("updates", "episodes", "seeds", "lifetimes", "conditions"),
    *("checkpoint_every", "device"),
}


@dataclass(frozen=True)
class Plan:
    """A reproduction, ready to run.

    Attributes
    ----------
    rows : tuple of str
        Keys of the rows asked for; none means all.
    trained : Path or None
        Run whose networks are measured, where it has trained those of a job.
    """

    reproduction: Reproduction[Any]
    scale: str
    settings: RunSettings
    rows: tuple[str, ...] = ()
    trained: Path | None = None

    def jobs(self) -> list[Job]:
        """The jobs of the rows asked for, and those that they need; loads data.

        Raises
        ------
        ConfigError, DataError
            If settings do not fit together, or data cannot be had.
        """
        jobs = list(self.reproduction.jobs(self.settings))
        wanted = {job.name for job in jobs if not self.rows or job.row in self.rows}
        for job in reversed(jobs):  # a job stands after those that it needs
            if job.name in wanted:
                wanted.update(job.needs)
        return [job for job in jobs if job.name in wanted]

    def on(self, device: str) -> Plan:
        """The same plan on another device.

        Raises
        ------
        ConfigError
            If there is no such device here.
        """
        usable_device(device)
        return replace(self, settings=self.settings.model_copy(update={"device": device}))

    @property
    def changed(self) -> dict[str, Any]:
        """Settings that are not those of the scale; all, where no scale has the name any more."""
        r, usual = self.reproduction, {}
        if self.scale in r.scales:
            usual = r.settings.model_validate(r.scales[self.scale]).model_dump(mode="json")
        return _apart(self.settings.model_dump(mode="json", exclude=TOLD), usual)

    @property
    def content(self) -> dict[str, Any]:
        """As plain data: what ``config.yaml`` holds."""
        return {
            "reproduction": self.reproduction.name,
            "scale": self.scale,
            "rows": list(self.rows),
            "settings": self.settings.model_dump(mode="json"),
            **({} if self.trained is None else {"trained": str(self.trained)}),
        }

    def to_yaml(self) -> str:
        """Everything that :func:`load_plan` needs to make it again."""
        return yaml_text(self.content)

    def manifest(self) -> dict[str, Any]:
        """What a run that begins now says of itself: the plan, and what runs it."""
        return {
            **self.content,
            "settings": self.settings.model_dump(mode="json", exclude={"device"}),
            "rulesearch": __version__,
            "torch": str(torch.__version__),
            "machine": {
                "threads": torch.get_num_threads(),
                "devices": [self.settings.device],
            },
        }


def _apart(now: Mapping[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    """What differs, within what is itself a mapping too."""
    found = {}
    for key, value in now.items():
        before = usual.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping) and value != before:
            found[key] = _apart(value, before)
        elif key not in usual or value != before:
            found[key] = value
    return found


def make_plan(
    name: str,
    scale: str = "small",
    overrides: Sequence[str] = (),
    rows: Sequence[str] = (),
    trained: str | Path | None = None,
) -> Plan:
    """Make a plan of names and overrides.

    Parameters
    ----------
    overrides : sequence of str
        ``key=value``, dots for nesting, values in YAML: ``updates=1000``, ``one_shot.steps=50``.
    rows : sequence of str
        Keys of rows; by default all.
    trained : path, optional
        Run whose networks are measured in place of training the same; what it has to hold is
        seen when the plan is run.

    Raises
    ------
    ConfigError, GrammarError
        For an unknown name, scale, row or setting, or a value that makes no sense; or for
        networks of another run where every job trains its own.
    """
    reproduction = find_reproduction(name)
    scales = reproduction.scales
    if scale not in scales:
        raise ConfigError(
            f"{name}: scale is {' or '.join(scales)}, not '{scale}'{did_you_mean(scale, scales)}"
        )
    _check_rows(reproduction, rows)
    if trained is not None and reproduction.trained_by is None:
        raise ConfigError(f"{name} trains its own networks; leave out --trained {trained}")
    document = Document(dict(scales[scale]), name, {}, {})
    for override in overrides:
        document = _overridden(document, override, reproduction.settings)
    settings = validate(reproduction.settings, document, "settings are a mapping")
    origin = None if trained is None else Path(trained).resolve()
    return Plan(reproduction, scale, settings, tuple(rows), origin)


def _overridden(document: Document, override: str, settings: type[RunSettings]) -> Document:
    """Return the settings with one of them changed, whose place is then ``--set key``.

    Those beside it on its level are what they are otherwise, of the scale or by default.
    """
    steps, value, here = parsed_override(override, "updates=1000")
    first, *rest = steps
    known = settings.model_fields.get(first)
    if rest and known is not None and isinstance(known.default, Spec):
        beside = document.data.get(first, known.default.model_dump())
        document = replace(document, data={**document.data, first: beside})
    with naming(f"{here}:"):
        return with_value(document, steps, value, Place(here, 1, 1))


def load_plan(run: Path) -> Plan:
    """Read the plan of a run, with the device that the run was last on.

    Raises
    ------
    RunError, GrammarError, ConfigError
        If the folder is no reproduction, its ``config.yaml`` or manifest is damaged, or the former
        no longer says what the run began with.
    """
    path = run / "config.yaml"
    try:
        document = read_document(path.read_bytes(), str(path))
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}; {REMEDY}") from None
    data = document.data
    if (
        not isinstance(data, dict)
        or data.keys() - {"trained"} != set(CONTENT)
        or not isinstance(data["rows"], list)
    ):
        raise RunError(f"{path}: holds no reproduction ({', '.join(CONTENT)}); {REMEDY}")
    plan = _planned(document)
    manifest = read_manifest(run) if (run / "manifest.json").is_file() else {}
    _check_begun(plan, manifest, run)
    devices = manifest.get("machine", {}).get("devices")
    moved = {"device": devices[-1]} if devices else {}
    return replace(plan, settings=plan.settings.model_copy(update=moved))


def _planned(document: Document) -> Plan:
    """The plan that was written down as plain data."""
    data = document.data
    reproduction = find_reproduction(str(data["reproduction"]))
    _check_rows(reproduction, data["rows"])
    settings = validate(reproduction.settings, document.part("settings"), "settings are a mapping")
    origin = Path(str(data["trained"])) if "trained" in data else None
    return Plan(reproduction, str(data["scale"]), settings, tuple(data["rows"]), origin)


def _check_begun(plan: Plan, manifest: Mapping[str, Any], run: Path) -> None:
    """Raise RunError where a run began with another plan than ``config.yaml`` says now.

    Settings that there were not yet when it began are what they are by default.
    """
    if "settings" not in manifest:  # of a run from before manifests held them
        return
    begun = _planned(Document(manifest, str(run / "manifest.json"), {}, {}))
    if (found := first_difference(plan, begun)) is not None:
        key, now, before = found
        raise RunError(
            f"{run}: config.yaml says {key}={json.dumps(now)}, the run began with "
            f"{key}={json.dumps(before)}; put it back, or begin another run"
        )


def first_difference(now: Plan, before: Plan) -> tuple[str, Any, Any] | None:
    """Return what first differs between two plans, but for the device: a key and its values."""
    new, old = ({**p.content, **p.content["settings"]} for p in (now, before))
    for key in {**old, **new}:
        if key not in ("settings", "device") and new.get(key) != old.get(key):
            return key, new.get(key), old.get(key)
    return None


def is_reproduction(run: Path) -> bool:
    """Whether a run folder is a reproduction's rather than a search's."""
    try:
        manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # whoever opens it as a search says what is wrong
    return isinstance(manifest, dict) and "reproduction" in manifest


def run_folder(plan: Plan, under: Path = Path("runs")) -> AbstractContextManager[Path]:
    """Open the first of ``NAME-SCALE``, ``NAME-SCALE-2``, ... that is this plan's, or a new one.

    A new one is nobody else's, and is removed again if nothing came to be in it.
    """
    name = f"{plan.reproduction.name}-{plan.scale}"
    return claimed(numbered(name, under), lambda path: _is_of(path, plan))


def _is_of(run: Path, plan: Plan) -> bool:
    config = run / "config.yaml"
    return is_reproduction(run) and config.is_file() and config.read_text() == plan.to_yaml()


def _check_rows(reproduction: Reproduction[Any], rows: Sequence[str]) -> None:
    known = [row.key for row in reproduction.rows if row.key not in reproduction.quoted]
    for row in rows:
        if row in reproduction.quoted:
            raise ConfigError(f"{reproduction.name}: '{row}' is quoted from the paper, never run")
        if row not in known:
            hint = did_you_mean(str(row), known) or f"; there are {', '.join(known)}"
            raise ConfigError(f"{reproduction.name}: unknown row '{row}'{hint}")
