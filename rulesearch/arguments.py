"""What public calls are given: of the right kind, or one line that says what it should be."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from os import PathLike
from typing import SupportsFloat, SupportsIndex

from rulesearch.errors import ConfigError, RuleSearchError, did_you_mean

__all__ = [
    "check_choice",
    "check_kind",
    "check_path",
    "check_positive",
    "check_takes",
    "naming",
    "number",
    "real",
    "whole",
]


def check_kind(
    name: str,
    value: object,
    kind: type | tuple[type, ...],
    wanted: str,
    error: type[RuleSearchError] = ConfigError,
) -> None:
    """Refuse what is of another kind, or a kind itself; ``wanted`` says what it should be."""
    if isinstance(value, type) or not isinstance(value, kind):
        raise error(f"{name} should be {wanted}, not of type {type(value).__name__}")


def check_path(name: str, value: object) -> None:
    """Refuse what names no file and no folder; a number is none, nor is None."""
    check_kind(name, value, (str, PathLike), "the name of a file or folder")


def check_choice(name: str, value: object, known: Collection[str]) -> None:
    """Refuse what is none of a few names."""
    if value not in tuple(known):
        hint = did_you_mean(str(value), known)
        raise ConfigError(f"{name} is one of {', '.join(known)}, not '{value}'{hint}")


def check_positive(name: str, value: SupportsFloat) -> None:
    """Refuse what is no finite number above zero."""
    if not 0 < number(value) < math.inf:
        raise ConfigError(f"{name} must be a positive number, not {value!r}")


def check_takes(name: str, function: Callable[..., object], *arguments: str) -> None:
    """Refuse a function that cannot be called with these arguments in this order."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # some of those written in C have none that could be read
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        wanted = ", ".join(arguments)
        raise ConfigError(f"{name} should take ({wanted}), not {signature}: {error}") from None


@contextmanager
def naming(argument: str) -> Iterator[None]:
    """Begin what a mistake is told by with the argument, or the option, that it is in."""
    try:
        yield
    except RuleSearchError as error:
        raise type(error)(f"{argument} {error}") from None


def whole(name: str, value: SupportsIndex, least: int) -> int:
    """Return a whole number of at least ``least``; a float is none."""
    try:
        found = operator.index(value)
    except TypeError:
        raise ConfigError(f"{name} is {value!r}; give a whole number") from None
    if found < least:
        raise ConfigError(f"{name} must be at least {least}, not {found}")
    return found


def number(value: SupportsFloat) -> float:
    """Return a number, and NaN for what is none, as text; for those who say what they want."""
    try:
        return math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def real(name: str, value: SupportsFloat) -> float:
    """Return a finite number; text is none."""
    found = number(value)
    if not math.isfinite(found):
        raise ConfigError(f"{name} is {value!r}; give a finite number")
    return found
