"""Rules and grammars that settings name: those that come along, and files of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from os.path import isfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from rulesearch.arguments import naming
from rulesearch.errors import ConfigError, did_you_mean
from rulesearch.grammar import Grammar, Term, TermPool
from rulesearch.grammar.catalogue import catalogue
from rulesearch.rules import Rule

__all__ = [
    "RANDOM",
    "GrammarName",
    "RuleName",
    "ThetaStart",
    "candidates",
    "named_rule",
    "term_or_rule",
]


Finite = Annotated[float, Field(allow_inf_nan=False)]
RANDOM = "random"


def _kind(start: object) -> str:
    """Which form a value has: a plain union reports the mistakes of its first member."""
    if start is None:
        return "own"
    return "terms" if isinstance(start, Mapping) else RANDOM


ThetaStart = Annotated[
    Annotated[dict[str, Finite], Tag("terms")]
    | Annotated[Literal["random"], Tag(RANDOM)]
    | Annotated[None, Tag("own")],
    Discriminator(_kind),
]
"""Coefficients by name, those of others being zero; drawn at random; or the grammar's own."""


def named_rule(name: str) -> Rule:
    """The rule of a term of the catalogue, or of a file that :meth:`Rule.save` wrote.

    Raises
    ------
    ConfigError
        If there is neither.
    RuleSearchError
        If the file is no rule.
    """
    known = catalogue()
    if name in known:
        return Rule(known, {name: 1.0})
    if not isfile(name):
        hint = did_you_mean(name, known.names) or f"; known are {', '.join(known.names)}"
        raise ConfigError(f"rule={name}: no term of the catalogue and no file has this name{hint}")
    return Rule.load(name)


def term_or_rule(name: str) -> str | Rule:
    """The same for ``FLPSettings``, to which a term of the catalogue is its name."""
    return name if name in catalogue() else named_rule(name)


def _absolute(path: str) -> str:
    """Wherever a run goes on, its files are the same."""
    return str(Path(path).resolve()) if isfile(path) else path


def _rule_name(name: str) -> str:
    return name if name in catalogue() else _absolute(name)


RuleName = Annotated[str, AfterValidator(_rule_name)]
"""A term of the catalogue, or a ``rule.json``: what :func:`named_rule` takes."""


def candidates(grammar: str, start: ThetaStart = None) -> TermPool:
    """The terms of a grammar, with the coefficients that a search begins with.

    Raises
    ------
    GrammarError
        If there is no such grammar, or it is none.
    ConfigError
        If it has no term of a name, or all coefficients are zero.
    """
    pool = Grammar.from_yaml(grammar).enumerate()
    if isinstance(start, Mapping):
        with naming(f"theta_start: grammar={grammar} has"):
            pool.subset(start)
        pool = TermPool(
            Term(term.name, term.expr, start.get(term.name, 0.0), term.about) for term in pool
        )
    if start != RANDOM and not any(pool.init):
        raise ConfigError(
            f"grammar={grammar}: no term begins with a coefficient, and the largest is held at "
            f"one; name one, as theta_start={{{pool.names[0]}: 1}}, or say theta_start={RANDOM}"
        )
    return pool


GrammarName = Annotated[str, AfterValidator(_absolute)]
"""What :meth:`rulesearch.Grammar.from_yaml` takes."""
