"""What was measured, as JSON that a person can read."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rulesearch.bench.floor import floor
from rulesearch.bench.kinds import AnyProblem, content_of, problem_of
from rulesearch.bench.peers.registry import OURS
from rulesearch.bench.problem import Problem
from rulesearch.errors import RunError
from rulesearch.files import write_atomically

__all__ = ["FLOORS", "Results", "median"]

Json = dict[str, Any]
FORMAT = 1
FLOORS = {"floor": "a pass for each product", "floor, fused": "passes fused"}


@dataclass
class Results:
    """Everything that one machine measured.

    Attributes
    ----------
    machine : dict
        As :func:`rulesearch.bench.machine.describe` gives it.
    rows : list of dict
        One per suite, problem and peer: what was measured, or why not.
    references : list of dict
        One per problem: loss and gradient in float64, and the check of how they were found.
    first_use : dict
        Of the engine; empty where it was not measured.
    """

    machine: Json
    rows: list[Json] = field(default_factory=list)
    references: list[Json] = field(default_factory=list)
    first_use: Json = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> Results:
        """Read a file that :meth:`save` wrote.

        Raises
        ------
        RunError
            If it is missing or something else.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content.pop("format") != FORMAT:
                raise RunError(f"{path} is of another version; measure again")
            return cls(**content)
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, AttributeError):
            raise RunError(f"{path} is no file of 'rulesearch bench --out'") from None

    def save(self, path: str | Path) -> Path:
        """Write the file, at once as a whole."""
        content = {"format": FORMAT, **vars(self)}
        return write_atomically(path, json.dumps(content, indent=1) + "\n")

    def put(self, row: Json) -> None:
        """Add a row; it takes the place of an earlier one of the same suite, point and peer."""
        same = ("suite", "value", "peer")
        self.rows = [r for r in self.rows if any(r[k] != row[k] for k in same)] + [row]

    def reference(self, problem: AnyProblem) -> Json | None:
        """What is known of a problem in float64."""
        content = content_of(problem)
        return next((r for r in self.references if r["problem"] == content), None)

    def suites(self) -> list[str]:
        """Names of the suites that have rows, in the order in which they were measured."""
        return list(dict.fromkeys(row["suite"] for row in self.rows))

    def points(self, suite: str) -> list[int]:
        """Values on a suite's axis, rising."""
        return sorted({row["value"] for row in self.rows if row["suite"] == suite})

    def at(self, suite: str, value: int) -> list[Json]:
        """Rows of one problem, and the floors where they are counted."""
        rows = [r for r in self.rows if (r["suite"], r["value"]) == (suite, value)]
        problem = problem_of(rows[0]["problem"])
        if not isinstance(problem, Problem):
            return rows
        counted = floor(problem)
        return rows + [
            {
                **{key: rows[0][key] for key in ("suite", "axis", "value", "problem")},
                "peer": name,
                "status": "floor",
                "reason": about,
                "seconds": [counted.seconds(self.machine, fused=name != "floor")],
            }
            for name, about in FLOORS.items()
        ]

    def ours(self, suite: str, value: int) -> float | None:
        """Median seconds of this library's engine."""
        found = (median(row) for row in self.at(suite, value) if row["peer"] == OURS)
        return next(found, None)


def median(row: Json) -> float | None:
    """Median seconds of a row, if it has any."""
    return statistics.median(row["seconds"]) if row.get("seconds") else None
