"""What a search found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from textwrap import fill
from typing import Any

from rulesearch.arguments import check_path
from rulesearch.errors import RunError
from rulesearch.files import check_search
from rulesearch.report.configuration import resuming
from rulesearch.report.run_data import Curves, RunData, read_result
from rulesearch.report.table import latex_table, text_table
from rulesearch.rules import Rule

__all__ = ["Result", "notes_of"]

DIVERGED = 0.2  # share of lifetimes from which on the result says so


@dataclass(frozen=True, repr=False)
class Result:
    """The rule that a search picked, and the evidence for it; ``print(result)`` is the table.

    Attributes
    ----------
    path : Path
        The run folder.
    content : mapping
        What ``result.json`` holds: pick, front over lambda, table of terms, accuracies.
    """

    path: Path
    content: Mapping[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> Result:
        """Read a finished run.

        Raises
        ------
        RunError
            If the folder is no run, or its search has not ended.
        """
        check_path("a run", path)
        path = Path(path)
        check_search(path)
        if not (path / "result.json").exists():
            raise RunError(f"{path} has no result yet; continue it with '{resuming(path)}'")
        return cls(path, read_result(path))

    @cached_property
    def rule(self) -> Rule:
        """The picked rule, its coefficients refitted without penalty and averaged over seeds."""
        return Rule.from_json(self.content["rule"])

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the picked terms."""
        return tuple(self.content["pick"]["terms"])

    @property
    def shares(self) -> dict[str, float]:
        """Share of the seeds that kept each term, at the picked lambda."""
        return {row["name"]: row["share"] for row in self.content["table"]}

    @property
    def loss(self) -> float:
        """Loss of the pick at the end, the median over the seeds: refitted, where anything was."""
        return self._ended("loss")

    @property
    def accuracy(self) -> float:
        """Accuracy of the pick, as :attr:`loss`, but the mean; NaN where targets are no labels."""
        return self._ended("accuracy")

    def _ended(self, what: str) -> float:
        pick = self.content["pick"]["lam"]
        entry = next(e for e in self.content["front"] if e["lam"] == pick)
        value = entry.get(f"refit_{what}", entry[what])
        return math.nan if value is None else float(value)

    @cached_property
    def history(self) -> dict[str, Curves]:
        """Accuracy, loss and coefficients at every update, by phase."""
        data = RunData.load(self.path)
        return dict(data.curves)

    @property
    def notes(self) -> tuple[str, ...]:
        """What speaks against trusting the result, or made it slow, a line each."""
        return notes_of(self.content)

    def summary(self, width: int = 96) -> str:
        """Return the table, the rule and the notes as text."""
        broken = partial(fill, width=width, break_long_words=False)
        rule = broken(f"dW = {self.rule}", subsequent_indent="     ")
        notes = (broken(note, subsequent_indent="      ") for note in self.notes)
        return "\n\n".join([self.table(width), rule, *notes])

    def table(self, width: int = 96) -> str:
        """Return the table as text."""
        return text_table(self.content, width)

    def latex_table(self) -> str:
        """Return the table for a paper, with booktabs."""
        return latex_table(self.content)

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"Result({str(self.path)!r}, rule: {', '.join(self.terms) or 'none'})"

    def _repr_latex_(self) -> str:
        return self.rule._repr_latex_()


def notes_of(content: Mapping[str, Any]) -> tuple[str, ...]:
    """What speaks against trusting a result, or made it slow, a line each."""
    engine = content.get("engine", {"path": "fused"})
    compiled = engine["path"] == "fused" or "device" in engine  # on a GPU nobody expects it
    slow = f"Note: lifetimes ran without the compiled engine: {engine.get('reason')}."
    diverged = (
        f"Note: {share:.0%} of the lifetimes of '{phase}' diverged at the end; lower "
        "optimiser.rate or optimiser.scale_cap."
        for phase, share in content.get("rejected", {}).items()
        if share > DIVERGED
    )
    told = (f"Note: {note}." for note in content.get("notes", ()))
    return (*told, *diverged, *[slow] * (not compiled))
