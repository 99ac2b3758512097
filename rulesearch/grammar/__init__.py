"""YAML to a grammar to a pool of terms; never torch."""

from rulesearch.grammar.grammar import Grammar, bundled_grammars
from rulesearch.grammar.pool import TermPool
from rulesearch.grammar.term import Term

__all__ = ["Grammar", "Term", "TermPool", "bundled_grammars"]
