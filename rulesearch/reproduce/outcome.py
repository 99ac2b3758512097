"""What a reproduction found, beside what the paper reports."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from rulesearch.errors import RunError
from rulesearch.files import seal, write_atomically
from rulesearch.named import under
from rulesearch.reproduce.base import Published
from rulesearch.reproduce.plan import Plan
from rulesearch.reproduce.tables import latex, markdown

__all__ = [
    "REJECTED",
    "RESIDUAL",
    "SECONDS",
    "UNTAUGHT",
    "Finished",
    "Outcome",
    "finished_bytes",
    "finite",
    "read_finished",
    "seeds_of",
]

SECONDS = "seconds"  # a job's word for the time that it took, and a checkpoint's for that so far
REJECTED = "rejected"  # and for the lifetimes of its updates that taught nothing
UNTAUGHT = "untaught"  # and for the seeds of which every update was rejected
RESIDUAL = "residual."  # and for what its last update left unsolved, by kind


class Finished(NamedTuple):
    """What a finished job left.

    Attributes
    ----------
    model, measured : mapping
        Meta-parameters, and what was measured.
    seconds : float
        That it took.
    rejected : int
        Lifetimes of its updates that diverged, or were not solved as asked, and taught nothing.
    residual : mapping
        What was left unsolved at the last update, ``(seeds,)`` by kind.
    untaught : Tensor (seeds,) bool, or None
        Seeds of which every update was rejected; None where there is no such.
    """

    model: Mapping[str, Tensor]
    measured: Mapping[str, Tensor]
    seconds: float
    rejected: int
    residual: Mapping[str, Tensor]
    untaught: Tensor | None = None


def finished_bytes(tensors: dict[str, Tensor]) -> bytes:
    """What a finished job leaves, as the bytes of its file: safetensors with their checksum."""
    return save(tensors, {"sha256": _header_and_seal(save(tensors))[1]})


def _header_and_seal(data: bytes) -> tuple[dict[str, Any], str]:
    """What a file of safetensors says besides its tensors, and a checksum of these."""
    start = 8 + int.from_bytes(data[:8], "little")  # where the header, JSON, ends
    header = json.loads(data[8:start])
    return header.pop("__metadata__", {}), seal(header, data[start:])


def read_finished(file: Path) -> Finished:
    """What a finished job left.

    Raises
    ------
    RunError
        If it cannot be read, or is no longer what was written.
    """
    remedy = f"remove it, then 'rulesearch resume {file.parent.parent}' makes it anew"
    try:
        data = file.read_bytes()
        tensors = load(data)
        about, checksum = _header_and_seal(data)
        if about and about.get("sha256") != checksum:  # files of older runs are about nothing
            raise RunError(f"{file} is damaged: its checksum is of something else; {remedy}")
        seconds, rejected = float(tensors.pop(SECONDS)), int(tensors.pop(REJECTED, 0))
        untaught = tensors.pop(UNTAUGHT, None)
    except (OSError, KeyError, SafetensorError) as error:
        raise RunError(f"{file} cannot be read ({error}); {remedy}") from None
    model, measured, residual = (under(p, tensors) for p in ("model.", "measured.", RESIDUAL))
    return Finished(model, measured, seconds, rejected, residual, untaught)


@dataclass(frozen=True)
class Outcome:
    """A reproduction's figures; those of jobs still to come are missing."""

    plan: Plan
    finished: Mapping[str, Finished]

    @property
    def content(self) -> dict[str, Any]:
        """As plain data: what ``result.json`` holds."""
        r, settings = self.plan.reproduction, self.plan.settings
        found = {
            (row.key, condition): self._figure(f"{row.key}-{condition}")
            for row in r.rows
            for condition in r.conditions
            if f"{row.key}-{condition}" in self.finished
        }
        shown = {key for place in found for key in place} | set(r.quoted if found else ())
        conditions = {c: title for c, title in r.conditions.items() if c in shown}
        return {
            "schema": "reproduction-1",
            "reproduction": r.name,
            "title": r.title,
            "source": r.source,
            "unit": r.unit,
            "scale": self.plan.scale,
            "settings": settings.model_dump(mode="json"),
            "changed": self.plan.changed,
            "notes": list(r.notes),
            "conditions": conditions,
            "rows": [
                {
                    "row": row.key,
                    "title": row.title,
                    "paper": {c: _published(row.published.get(c)) for c in conditions},
                    "ours": {c: found.get((row.key, c)) for c in conditions},
                }
                for row in r.rows
                if row.key in shown
            ],
        }

    def _figure(self, job: str) -> dict[str, Any]:
        """Mean over a seed's lifetimes, then over seeds, with the standard error of the latter."""
        done, settings = self.finished[job], self.plan.settings
        error = done.measured["error"].double()
        alive = error.isfinite()
        lived = [e[a] for e, a in zip(error, alive, strict=True) if a.any()]
        means = [float(e.mean()) for e in lived]
        n = len(means)
        mean = math.fsum(means) / n if n else None
        sem = None
        if mean is not None and n > 1:
            sem = math.sqrt(math.fsum((m - mean) ** 2 for m in means) / (n - 1) / n)
        return {
            "value": mean,
            "sem": sem,
            "sem_lifetimes": _sem_lifetimes(lived),
            "seeds": means,
            "networks": error.shape[0],
            "lifetimes": error.shape[1],
            "diverged": int((~alive).sum()),
            "rejected": done.rejected,
            "untaught": [] if done.untaught is None else seeds_of(done.untaught),
            "residual": {kind: finite(left) for kind, left in done.residual.items()},
            "episodes": settings.updates * settings.episodes,
            "minutes": round(done.seconds / 60, 2),
        }

    def save(self, run: Path) -> None:
        """Write ``result.json``, ``table.md`` and ``table.tex``."""
        content = self.content
        write_atomically(run / "result.json", json.dumps(content, indent=1) + "\n")
        write_atomically(run / "table.md", markdown(content))
        write_atomically(run / "table.tex", latex(content))


def _sem_lifetimes(seeds: Sequence[Tensor]) -> float | None:
    """Standard error of the mean of these seeds for want of more test lifetimes of each."""
    if not seeds or any(len(lived) < 2 for lived in seeds):
        return None
    return math.sqrt(math.fsum(float(lived.var()) / len(lived) for lived in seeds)) / len(seeds)


def seeds_of(which: Tensor) -> list[int]:
    """Numbers of the seeds that a mask holds for."""
    return [seed for seed, holds in enumerate(which.tolist()) if holds]


def finite(values: Tensor) -> list[float | None]:
    """For JSON, which knows no other numbers."""
    alive = values.isfinite().tolist()
    return [v if known else None for v, known in zip(values.tolist(), alive, strict=True)]


def _published(figure: Published | None) -> dict[str, float | None] | None:
    return None if figure is None else figure._asdict()
