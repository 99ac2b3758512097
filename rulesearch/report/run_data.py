"""A run folder, read: its manifest, its curves and, once there is one, its result."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from rulesearch.analysis import Floats
from rulesearch.errors import RunError
from rulesearch.files import read_manifest, read_sealed
from rulesearch.report.batches import join_batches, search_phases
from rulesearch.report.configuration import resuming
from rulesearch.report.events import read_event

__all__ = ["PHASE_NAMES", "Curves", "Probes", "RunData", "RunTerm", "read_result"]

PHASE_NAMES = {
    "search": "pool with penalty",
    "refit": "survivors, refitted",
    "backprop": "backprop",
    "feedback_alignment": "feedback alignment",
}
"""What the phases of a search are called in tables and figures, in their order."""

Logged = TypeVar("Logged")


@dataclass(frozen=True)
class RunTerm:
    """One candidate term as the manifest tells it."""

    name: str
    latex: str
    locality: str = ""
    about: str = ""
    text: str = ""


@dataclass(frozen=True)
class Curves:
    """What one phase logged at each update; NaN where a lifetime was rejected.

    Attributes
    ----------
    updates : array, shape (updates,)
    accuracy, loss, rejected : array, shape (rows, updates)
        Query accuracy, meta-loss without penalty, rejected lifetimes.
    theta : array, shape (rows, updates, terms)
        Unscaled coefficients after the update.
    terms : tuple of str
        Their names.
    """

    updates: Floats
    accuracy: Floats
    loss: Floats
    theta: Floats
    rejected: Floats
    terms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probes:
    """What one phase measured of its networks now and then.

    Attributes
    ----------
    updates : array, shape (probes,)
    angles : array, shape (rows, probes, L)
        Degrees between the carried error and backprop's, layers 0 to L-1.
    orthonormality : array, shape (rows, probes, L)
        Eq. 10 of the rule-discovery paper, layers 1 to L.
    """

    updates: Floats
    angles: Floats
    orthonormality: Floats


@dataclass(frozen=True)
class RunData:
    """Everything the report shows of one run; see :meth:`load`.

    Attributes
    ----------
    path : Path
    manifest : Mapping
    config : str
        The configuration file's text, empty if the run has none.
    result : Mapping or None
        None while the search is still under way.
    curves, probes : Mapping from phase to Curves, Probes
    """

    path: Path
    manifest: Mapping[str, Any]
    config: str
    result: Mapping[str, Any] | None
    curves: Mapping[str, Curves]
    probes: Mapping[str, Probes]

    @classmethod
    def load(cls, path: str | Path) -> RunData:
        """Read a run folder, finished or not.

        A last line of ``events.jsonl`` that was cut short by a kill is left out; of two
        events for one update, as a resumed run may leave, the later one counts.

        Raises
        ------
        RunError
            If the folder or its manifest is missing, or a file is damaged.
        """
        folder = Path(path)
        manifest = read_manifest(folder)
        missing = [key for key in ("name", "terms", "rows") if key not in manifest]
        if missing:
            raise RunError(f"{folder / 'manifest.json'}: lacks '{missing[0]}'; the run is damaged")
        config_file = folder / "config.yaml"
        events = _read_events(folder / "events.jsonl")
        result = read_result(folder) if (folder / "result.json").exists() else None
        curves = _gather(
            folder, events, "update", Curves, ("accuracy", "loss", "theta", "rejected")
        )
        begun = {e["phase"]: tuple(e.get("terms", ())) for e in events if e["event"] == "phase"}
        curves = {name: replace(of, terms=begun.get(name, ())) for name, of in curves.items()}
        probes = _gather(folder, events, "probe", Probes, ("angles", "orthonormality"))
        if any("batch" in row for row in manifest["rows"]):
            rows = manifest["rows"]
            shown = rows[0]["lam"] if result is None else result["pick"]["lam"]
            lengths = [curves[name].updates.size for name in search_phases(curves)]
            curves = join_batches(curves, rows, lengths, shown)
            probes = join_batches(probes, rows, lengths, shown)
        return cls(
            path=folder,
            manifest=manifest,
            config=config_file.read_text(encoding="utf-8") if config_file.is_file() else "",
            result=result,
            curves=curves,
            probes=probes,
        )

    @cached_property
    def terms(self) -> tuple[RunTerm, ...]:
        """The candidate terms, in pool order."""
        known = RunTerm.__dataclass_fields__
        return tuple(
            RunTerm(**{key: str(value) for key, value in entry.items() if key in known})
            for entry in self.manifest["terms"]
        )

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.manifest["name"])

    @property
    def lambdas(self) -> tuple[float | None, ...]:
        """The penalties searched, each once, in the order of the rows."""
        return tuple(dict.fromkeys(row.get("lam") for row in self.manifest["rows"]))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds searched, each once, in the order of the rows."""
        return tuple(dict.fromkeys(row["seed"] for row in self.manifest["rows"]))

    @property
    def lam(self) -> float | None:
        """The penalty shown: the pick's, or the first one before there is a pick."""
        picked: float | None = (
            self.lambdas[0] if self.result is None else self.result["pick"].get("lam")
        )
        return picked

    @cached_property
    def kept(self) -> frozenset[str]:
        """Names of the terms in the pick; all of them before there is a pick."""
        if self.result is None:
            return frozenset(term.name for term in self.terms)
        return frozenset(row["name"] for row in self.result["table"] if row["kept"])

    @cached_property
    def measure(self) -> str:
        """What a lifetime is judged by: 'accuracy', or 'loss' where targets are no labels."""
        known = (np.isfinite(curves.accuracy).any() for curves in self.curves.values())
        return "accuracy" if any(known) else "loss"

    @cached_property
    def supports(self) -> tuple[tuple[str, ...], ...]:
        """The sets of terms that were refitted, in the order of the refit's rows."""
        if self.result is None:
            return ()
        found = {tuple(entry["terms"]) for entry in self.result["front"] if entry["terms"]}
        return tuple(sorted(found, key=lambda terms: (len(terms), terms)))

    def shown(self, phase: str, values: Floats) -> Floats:
        """Return the rows of a phase's `values` that belong to the pick, one a seed.

        A search has rows for every penalty, a refit for every set of terms that a penalty left;
        controls have one a seed, and so pass whole.
        """
        if phase == "search":
            return values[[row.get("lam") == self.lam for row in self.manifest["rows"]]]
        if phase == "refit" and len(values) == len(self.supports) * len(self.seeds):
            front = () if self.result is None else self.result["front"]
            terms = next(tuple(e["terms"]) for e in front if e["lam"] == self.lam)
            sets = [support for support in self.supports for _ in self.seeds]
            return values[[support == terms for support in sets]]
        return values


def read_result(folder: Path) -> dict[str, Any]:
    """Return what ``result.json`` holds.

    Raises
    ------
    RunError
        If it is damaged, or of another version.
    """
    file = folder / "result.json"
    content = read_sealed(file, f"remove it, then '{resuming(folder)}' makes it anew")
    if content.get("schema") != 1:
        raise RunError(f"{file} is of a schema that is not known here (known: 1)")
    return content


def _read_events(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    *lines, torn = path.read_bytes().split(b"\n")
    events = [
        read_event(path, number, line) for number, line in enumerate(lines, 1) if line.strip()
    ]
    # Only what follows the last newline can be the half-written line of a killed process.
    if _is_json(torn):
        events.append(read_event(path, len(lines) + 1, torn))
    return events


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _gather(
    folder: Path,
    events: Sequence[Mapping[str, Any]],
    kind: str,
    build: Callable[..., Logged],
    fields: tuple[str, ...],
) -> dict[str, Logged]:
    """Stack the events of each phase: updates second, after the rows."""
    gathered = {}
    mine = [event for event in events if event["event"] == kind]
    logged = {event["phase"]: None for event in mine}
    for phase in [*PHASE_NAMES, *(name for name in search_phases(logged) if name != "search")]:
        own = [event for event in mine if event["phase"] == phase]
        if not own:
            continue
        try:
            latest = {event["update"]: event for event in own}
            ordered = [latest[update] for update in sorted(latest)]
            stacked = {
                field: np.swapaxes(np.array([e[field] for e in ordered], dtype=np.float64), 0, 1)
                for field in fields
            }
        except (KeyError, ValueError, TypeError) as error:
            raise RunError(
                f"{folder / 'events.jsonl'}: {kind} events of phase '{phase}' do not have the "
                f"same rows and columns throughout ({error}); the run is damaged, and "
                f"'{resuming(folder)}' repairs it"
            ) from error
        gathered[phase] = build(updates=np.array(sorted(latest), dtype=np.float64), **stacked)
    return gathered
