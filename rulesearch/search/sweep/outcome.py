"""What a sweep's trials add up to: scores, the front, the pick, ``study.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from textwrap import fill, shorten
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from rulesearch.analysis import Floats
from rulesearch.errors import RunError
from rulesearch.files import read_sealed
from rulesearch.report.grid import grid
from rulesearch.report.result import Result
from rulesearch.rules import Rule
from rulesearch.search.selection import group_losses, pick
from rulesearch.search.sweep.spec import Sweep
from rulesearch.search.sweep.storage import JOURNAL

__all__ = ["Score", "StudyResult", "front", "is_study", "run_folder", "study_content"]

STATES = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class Score:
    """What the rule of one trial does on held-out tasks.

    Attributes
    ----------
    losses : list of float
        Medians of the losses of twenty groups of lifetimes, or of as many as have five: a single
        lifetime on the edge of stability can lose millions.
    accuracy : float or None
        Mean over the lifetimes; None where targets are no labels.
    lam : float
        The penalty that the rule was found with.
    rule : dict
        See :meth:`Rule.to_json`.
    """

    losses: list[float]
    accuracy: float | None
    lam: float
    terms: list[str]
    rule: dict[str, Any]

    @classmethod
    def of(cls, rule: Rule, lam: float, loss: Floats, accuracy: Floats) -> Score:
        """Sum up what a rule did in ``(lifetimes,)``."""
        known = accuracy[np.isfinite(accuracy)]
        return cls(
            group_losses(loss).tolist(),
            float(known.mean()) if known.size else None,
            lam,
            list(rule.coefficients),
            rule.to_json(),
        )

    @property
    def loss(self) -> float:
        """The mean over the groups."""
        return math.fsum(self.losses) / len(self.losses)

    @property
    def error(self) -> float:
        """Its standard error."""
        return float(np.std(self.losses, ddof=1)) / math.sqrt(len(self.losses))

    def values(self, objectives: Sequence[str]) -> list[float]:
        """What is minimised."""
        known = {"loss": self.loss, "terms": float(len(self.terms))}
        return [known[name] for name in objectives]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points (both smaller is better) that no other beats, the best first."""
    found: list[int] = []
    for k in sorted(range(len(points)), key=lambda k: points[k]):
        if not found or points[k][1] < points[found[-1]][1]:
            found.append(k)
    return found


def study_content(sweep: Sweep, storage: str, trials: Sequence[FrozenTrial]) -> dict[str, Any]:
    """Return what ``study.json`` holds."""
    rows = [_row(sweep, trial) for trial in trials]
    done = [row for row in rows if row["state"] == "done"]
    best = front([(row["loss"], len(row["terms"])) for row in done])
    counts = [len(row["terms"]) for row in done]
    chosen = pick(counts, [np.array(row["losses"]) for row in done]) if done else None
    return {
        "schema": 1,
        "name": sweep.name,
        "storage": storage,
        "objectives": list(sweep.spec.objectives),
        "over": list(sweep.spec.over),
        "front": [done[k]["number"] for k in best],
        "pick": None if chosen is None else done[chosen]["number"],
        "seconds": _seconds(trials),
        "trials": rows,
        "config": sweep.config,
    }


def _seconds(trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """What workers spent on the trials that are done: in their runs, and in the study."""
    spent = [t.user_attrs["seconds"] for t in trials if t.state == TrialState.COMPLETE]
    return {name: math.fsum(one[name] for one in spent) for name in ("runs", "study")}


def _row(sweep: Sweep, trial: FrozenTrial) -> dict[str, Any]:
    row = {
        "number": trial.number,
        "state": STATES[trial.state],
        "values": sweep.values(trial.params),
    }
    if trial.state == TrialState.COMPLETE:
        score = Score(**trial.user_attrs["score"])
        row |= {"loss": score.loss, "error": score.error, **score.to_json()}
    if trial.state == TrialState.FAIL:
        row["reason"] = trial.user_attrs.get("reason", "")
    return row


def run_folder(study: Path, number: int, batch: int = 1) -> Path:
    """Where a trial of a study runs, alone or with those of its batch."""
    first = number - number % batch
    return study / (f"trial-{first:04d}" + (f"-{first + batch - 1:04d}" if batch > 1 else ""))


def is_study(folder: Path) -> bool:
    """Whether a folder is a sweep's."""
    return (folder / "study.json").is_file()


@dataclass(frozen=True, repr=False)
class StudyResult:
    """What a sweep has found so far; ``print(result)`` is the table.

    Attributes
    ----------
    path : Path
        The study's folder.
    content : mapping
        What ``study.json`` holds.
    """

    path: Path
    content: Mapping[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> StudyResult:
        """Read a study's folder.

        Raises
        ------
        RunError
            If it is none, or is damaged.
        """
        path = Path(path)
        journal = path / JOURNAL
        content = read_sealed(
            path / "study.json",
            f"'rulesearch worker {journal if journal.is_file() else 'URL'}' makes it anew from "
            "the study's storage",
        )
        if content.get("schema") != 1:
            raise RunError(f"{path}/study.json is of a schema that is not known here (known: 1)")
        return cls(path, content)

    @cached_property
    def pick(self) -> Mapping[str, Any] | None:
        """The picked trial: fewest terms of those within one standard error of the best loss."""
        return next(
            (t for t in self.content["trials"] if t["number"] == self.content["pick"]), None
        )

    @cached_property
    def rule(self) -> Rule:
        """The picked rule.

        Raises
        ------
        RunError
            If no trial is done.
        """
        if self.pick is None:
            raise RunError(f"{self.path}: {self.failure or 'no trial is done yet'}")
        return Rule.from_json(self.pick["rule"])

    @property
    def failure(self) -> str | None:
        """Why there is no rule, and will be none; None while there is, or may be."""
        counts = self.counts()
        if set(counts) - {"failed", "pruned"}:
            return None
        told = ", ".join(f"{count} {state}" for state, count in counts.items())
        failed = next((t for t in self.content["trials"] if t["state"] == "failed"), None)
        first = "" if failed is None else f"; trial {failed['number']}: {failed['reason']}"
        return f"no trial came to a rule: {told}{first}"

    def counts(self) -> dict[str, int]:
        """How many trials are in each state."""
        states = [trial["state"] for trial in self.content["trials"]]
        return {state: states.count(state) for state in STATES.values() if state in states}

    def table(self) -> str:
        """Return the trials that are done, least loss first, the front and the pick marked.

        Of two objectives only the front.
        """
        trials, on_front = self.content["trials"], self.content["front"]
        done = sorted((t for t in trials if t["state"] == "done"), key=lambda t: t["loss"])
        if len(self.content["objectives"]) > 1:
            done = [trial for trial in done if trial["number"] in on_front]
        over = [key for key in self.content["over"] if key != "penalty.lam"]
        rows = [["trial", "loss", "accuracy", "lambda", *over, "terms", ""]]
        for t in done:
            values = [_text(t["values"][key]) for key in over]
            mark = "pick" if t["number"] == self.content["pick"] else ""
            mark = mark or ("front" if t["number"] in on_front else "")
            loss = f"{t['loss']:.4g} ± {t['error']:.1g}"
            accuracy = "-" if t["accuracy"] is None else f"{t['accuracy']:.3f}"
            terms = shorten(f"{len(t['terms'])}: {' '.join(t['terms'])}", 48, placeholder=" ...")
            rows.append([str(t["number"]), loss, accuracy, _text(t["lam"]), *values, terms, mark])
        return grid(rows)

    def summary(self, width: int = 96) -> str:
        """Return the table, the picked run's own and what became of the other trials, as text.

        Where that run has been removed there is only its rule.
        """
        counts = ", ".join(f"{count} {state}" for state, count in self.counts().items())
        parts = [f"{self.content['name']}: {len(self.content['trials'])} trials, {counts}"]
        if self.pick is not None:
            runs, study = (self.content["seconds"][name] for name in ("runs", "study"))
            took = timedelta(seconds=round(runs + study))
            parts[0] += f"; {took} of workers, {study / (runs + study):.2%} of it for the study"
        if self.pick is not None:
            parts += [self.table(), f"trial {self.pick['number']}, the pick:"]
            parts.append(self._picked(width))
        if "given_up" in self.content:
            parts.append(f"no worker can tell the pick's stability: {self.content['given_up']}")
        parts += [
            f"trial {t['number']} failed: {t['reason']}"
            for t in self.content["trials"]
            if t["state"] == "failed"
        ]
        return "\n\n".join(parts)

    def _picked(self, width: int) -> str:
        """The picked trial's run; its rule where that is gone, or tells of another lambda yet."""
        assert self.pick is not None
        batch = self.content["config"]["sweep"].get("batch", 1)
        run = run_folder(self.path, self.pick["number"], batch)
        if run.is_dir():
            result = Result.load(run)
            if result.content["pick"]["lam"] == self.pick["lam"]:
                return result.summary(width)
        return fill(f"dW = {self.rule}", width, subsequent_indent="     ")

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"StudyResult({str(self.path)!r}, {len(self.content['trials'])} trials)"


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
