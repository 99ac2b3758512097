"""The kinds of problem: lives under a pool, an episode of FLP, strengths of consolidation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rulesearch.bench.consolidation import Consolidation
from rulesearch.bench.episode import Episode
from rulesearch.bench.problem import Problem

__all__ = ["AnyProblem", "content_of", "problem_of"]

AnyProblem = Problem | Episode | Consolidation
KINDS: Mapping[str, type[AnyProblem]] = {"pool": Problem, "plastic": Episode, "beta": Consolidation}
"""By a field that no other kind has."""


def problem_of(content: Mapping[str, Any]) -> AnyProblem:
    """The problem that :func:`content_of` told."""
    kind = next(kind for field, kind in KINDS.items() if field in content)
    return kind(**{**content, "sizes": tuple(content["sizes"])})


def content_of(problem: AnyProblem) -> dict[str, Any]:
    """A problem as JSON values."""
    return {**asdict(problem), "sizes": list(problem.sizes)}
