"""The terms that come along, by name."""

from __future__ import annotations

from functools import cache

from rulesearch.grammar.grammar import Grammar
from rulesearch.grammar.pool import TermPool

__all__ = ["catalogue"]


@cache
def catalogue() -> TermPool:
    """Terms of the bundled grammar ``catalogue``, read once."""
    return Grammar.from_yaml("catalogue").enumerate()
