"""The kinds of problem: lives under a pool, an episode of FLP, strengths of consolidation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rulesearch.bench.consolidation import Consolidation
from rulesearch.bench.episode import Episode
from rulesearch.bench.problem import Problem

__all__ = ["AnyProblem", "problem_of"]

AnyProblem = Problem | Episode | Consolidation
KINDS: Mapping[str, type[AnyProblem]] = {"pool": Problem, "plastic": Episode, "beta": Consolidation}
"""By a field that no other kind has."""


def problem_of(content: Mapping[str, Any]) -> AnyProblem:
    """The problem that the ``to_json`` of one of them wrote."""
    return next(kind for field, kind in KINDS.items() if field in content).from_json(content)
