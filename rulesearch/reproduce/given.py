"""Rules and grammars that settings name: those that come along, and files of one's own."""

from __future__ import annotations

from os.path import isfile
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from rulesearch.errors import ConfigError, did_you_mean
from rulesearch.grammar import Grammar, TermPool
from rulesearch.rules import Rule

__all__ = ["GrammarName", "RuleName", "named_rule", "term_or_rule"]


def _catalogue() -> TermPool:
    return Grammar.from_yaml("catalogue").enumerate()


def named_rule(name: str) -> Rule:
    """The rule of a term of the catalogue, or of a file that :meth:`Rule.save` wrote.

    Raises
    ------
    ConfigError
        If there is neither.
    RuleSearchError
        If the file is no rule.
    """
    catalogue = _catalogue()
    if name in catalogue:
        return Rule(catalogue, {name: 1.0})
    if not isfile(name):
        hint = did_you_mean(name, catalogue.names) or f"; known are {', '.join(catalogue.names)}"
        raise ConfigError(f"rule={name}: no term of the catalogue and no file has this name{hint}")
    return Rule.load(name)


def term_or_rule(name: str) -> str | Rule:
    """The same for ``FLPSettings``, to which a term of the catalogue is its name."""
    return name if name in _catalogue() else named_rule(name)


def _absolute(path: str) -> str:
    """Wherever a run goes on, its files are the same."""
    return str(Path(path).resolve()) if isfile(path) else path


def _rule_name(name: str) -> str:
    return name if name in _catalogue() else _absolute(name)


RuleName = Annotated[str, AfterValidator(_rule_name)]
"""A term of the catalogue, or a ``rule.json``: what :func:`named_rule` takes."""

GrammarName = Annotated[str, AfterValidator(_absolute)]
"""What :meth:`rulesearch.Grammar.from_yaml` takes."""
