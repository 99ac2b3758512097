"""Why a rule works: alignment of its errors, orthonormality of its weights, significance."""

from __future__ import annotations

from rulesearch.analysis.alignment import alignment_angles, angle
from rulesearch.analysis.orthonormality import orthonormality_error
from rulesearch.analysis.statistics import (
    Floats,
    Interval,
    RankTest,
    Statistic,
    bootstrap_interval,
    finite_mean,
    holm,
    mann_whitney,
    running_mean,
    running_median,
)

__all__ = [
    "Floats",
    "Interval",
    "RankTest",
    "Statistic",
    "alignment_angles",
    "angle",
    "bootstrap_interval",
    "finite_mean",
    "holm",
    "mann_whitney",
    "orthonormality_error",
    "running_mean",
    "running_median",
]
