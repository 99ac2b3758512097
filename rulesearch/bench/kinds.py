"""The kinds of problem: lives under a pool, or an episode of FLP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rulesearch.bench.episode import Episode
from rulesearch.bench.problem import Problem

__all__ = ["AnyProblem", "problem_of"]

AnyProblem = Problem | Episode


def problem_of(content: Mapping[str, Any]) -> AnyProblem:
    """The problem that either's ``to_json`` wrote; only lives under a pool have a pool."""
    return (Problem if "pool" in content else Episode).from_json(content)
