"""Every error that a user can cause, under one root.

The command line turns a :class:`RuleSearchError` into one line and exit status 2;
anything else is a defect of rulesearch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Self

__all__ = [
    "INTERRUPTED",
    "ConfigError",
    "DataError",
    "DivergedError",
    "GrammarError",
    "LearnerError",
    "Place",
    "RuleSearchError",
    "RunError",
    "did_you_mean",
]

INTERRUPTED = 3  # exit status of what can be resumed


@dataclass(frozen=True)
class Place:
    """Where something stands in a text: file, line and column, the last two from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class RuleSearchError(Exception):
    """Root of the errors that a user can cause and mend.

    Attributes
    ----------
    message : str
    place : Place or None
        Where the mistake stands, if it was read from a file; it then precedes the message.
    keys : tuple of str
        The way to the argument at fault, where that is known.
    """

    keys: tuple[str, ...] = ()

    def __init__(self, message: str, place: Place | None = None) -> None:
        self.message, self.place = message, place
        super().__init__(message if place is None else f"{place}: {message}")

    def about(self, *keys: str) -> Self:
        """Name the argument at fault."""
        self.keys = keys
        return self

    def at(self, place: Place) -> Self:
        """Return the same error, with its place."""
        return type(self)(self.message, place)


class GrammarError(RuleSearchError):
    """A mistake in a grammar; its message reads ``file:line:col: message``."""


class ConfigError(RuleSearchError):
    """A mistake in a search configuration or in an argument."""


class DataError(RuleSearchError):
    """A data set that is missing, corrupt or too small for the task."""


class LearnerError(RuleSearchError):
    """Tensors, rules or networks that do not fit together."""


class RunError(RuleSearchError):
    """A run folder that cannot be written, read or resumed."""


class DivergedError(RunError):
    """A search in which a lifetime diverged, where that is not to be overlooked."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known word in either case, or ``""``."""
    folded = {name.lower(): name for name in sorted(known)}
    close = get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    return f"; did you mean '{folded[close[0]]}'?" if close else ""
