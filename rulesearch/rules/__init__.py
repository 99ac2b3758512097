"""Rules: terms with coefficients."""

from rulesearch.rules.rule import Rule

__all__ = ["Rule"]
