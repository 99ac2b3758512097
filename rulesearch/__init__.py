"""Discover how synapses should change: symbolic plasticity rules, found by meta-learning.

Names are imported when first used, so that checking a grammar does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rulesearch import errors, tasks
    from rulesearch.errors import (
        ConfigError,
        DataError,
        DivergedError,
        GrammarError,
        LearnerError,
        RuleSearchError,
        RunError,
    )
    from rulesearch.grammar import Grammar, Term, TermPool
    from rulesearch.learners import Indexed, PlasticityLearner
    from rulesearch.networks import LearntFeedback, NetworkState, PlasticNetwork
    from rulesearch.outer import L1, L2, NoPenalty, ProximalL1
    from rulesearch.report.result import Result
    from rulesearch.rules import Rule
    from rulesearch.search.api import evaluate, load_run, search

__version__ = "0.1.0"

__all__ = [
    "L1",
    "L2",
    "ConfigError",
    "DataError",
    "DivergedError",
    "Grammar",
    "GrammarError",
    "Indexed",
    "LearnerError",
    "LearntFeedback",
    "NetworkState",
    "NoPenalty",
    "PlasticNetwork",
    "PlasticityLearner",
    "ProximalL1",
    "Result",
    "Rule",
    "RuleSearchError",
    "RunError",
    "Term",
    "TermPool",
    "__version__",
    "errors",
    "evaluate",
    "load_run",
    "search",
    "tasks",
]

_HOMES = {
    "rulesearch.errors": (
        "ConfigError",
        "DataError",
        "DivergedError",
        "GrammarError",
        "LearnerError",
        "RuleSearchError",
        "RunError",
    ),
    "rulesearch.grammar": ("Grammar", "Term", "TermPool"),
    "rulesearch.rules": ("Rule",),
    "rulesearch.networks": ("LearntFeedback", "NetworkState", "PlasticNetwork"),
    "rulesearch.learners": ("Indexed", "PlasticityLearner"),
    "rulesearch.outer": ("L1", "L2", "NoPenalty", "ProximalL1"),
    "rulesearch.report.result": ("Result",),
    "rulesearch.search.api": ("evaluate", "load_run"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in ("errors", "search", "tasks"):
        return import_module(f"rulesearch.{name}")
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'rulesearch' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
