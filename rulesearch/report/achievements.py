"""What each phase of a search achieves over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rulesearch.analysis import Floats, Statistic, bootstrap_interval, mann_whitney
from rulesearch.report.run_data import PHASE_NAMES

__all__ = ["Achievement", "achievement_note", "achievements", "measure"]

Result = Mapping[str, Any]


class Achievement(NamedTuple):
    """What one phase achieves over the seeds, with a 98% bootstrap interval.

    ``centre`` is the mean of accuracies, or the median of losses, which are heavy in the tail.
    Both are of the ``finite`` ones of so many ``seeds``, the others having diverged, and NaN where
    all have; of a single one there is no interval. ``p`` is the one-sided Mann-Whitney
    probability that feedback alignment does as well, a seed that diverged ranked last; None for
    feedback alignment itself or without that control.
    """

    phase: str
    name: str
    centre: float
    low: float | None
    high: float | None
    p: float | None
    finite: int
    seeds: int


def measure(result: Result) -> str:
    """What lifetimes were judged by: 'accuracy', or 'loss' where targets are no labels."""
    accuracies = result["accuracy"].values()
    return "accuracy" if any(v is not None for seeds in accuracies for v in seeds) else "loss"


def achievements(result: Result) -> list[Achievement]:
    """What each phase achieves over the seeds: accuracy, or loss where there is none."""
    name = measure(result)
    statistic: Statistic = "mean" if name == "accuracy" else "median"
    measured = {
        phase: np.array(result.get(name, {}).get(phase) or [], dtype=np.float64)
        for phase in PHASE_NAMES
    }
    control = measured["feedback_alignment"]

    def good(values: Floats) -> Floats:
        return np.where(np.isfinite(values), values if name == "accuracy" else -values, -np.inf)

    rows = []
    for phase, values in measured.items():
        if not values.size:
            continue
        finite = values[np.isfinite(values)]
        interval = bootstrap_interval(finite if finite.size else values, statistic=statistic)
        centre, low, high = (float(part) for part in interval)
        p = None
        if phase != "feedback_alignment" and control.size:
            p = mann_whitney(good(values), good(control)).p
        counts = finite.size, values.size
        row = Achievement(phase, PHASE_NAMES[phase], centre, low, high, p, *counts)
        rows.append(row if finite.size > 1 else row._replace(low=None, high=None))
    return rows


def achievement_note(found: Sequence[Achievement]) -> str:
    """What a table of achievements has to say of seeds that diverged; nothing where none did."""
    if all(row.finite == row.seeds for row in found):
        return ""
    tested = any(row.p is not None for row in found)
    ranked = ", in p the others rank last" if tested else ""
    return f"those that did not diverge, of how many; figures are over them{ranked}"
