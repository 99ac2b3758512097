"""How much more each row of a table has than one of them, lifetime by lifetime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rulesearch.errors import ConfigError, did_you_mean
from rulesearch.reproduce.base import Reproduction, Row
from rulesearch.reproduce.outcome import Finished

__all__ = ["differences", "of_differences"]


def of_differences(reproduction: Reproduction[Any], against: str) -> Reproduction[Any]:
    """Return the table whose figures are differences, without the row that they are taken from.

    Raises
    ------
    ConfigError
        If there is no such row, or none that can be run.
    """
    titles = {row.key: row.title for row in reproduction.rows if row.key not in reproduction.quoted}
    if against not in titles:
        raise ConfigError(
            f"--against: {reproduction.name} runs no row '{against}'"
            f"{did_you_mean(against, titles)}; its rows are {', '.join(titles)}"
        )
    return replace(
        reproduction,
        title=f"{reproduction.title}; each row less '{titles[against]}'",
        rows=tuple(Row(key, title) for key, title in titles.items() if key != against),
        quoted=(),
        notes=(
            f"Each row less '{titles[against]}': differences are of the same seed on the same test "
            "lifetime; one that diverged in either row is left out.",
            *reproduction.notes,
        ),
    )


def differences(
    reproduction: Reproduction[Any], finished: Mapping[str, Finished], against: str
) -> dict[str, Finished]:
    """Return jobs of the other rows less that of this row under the same condition, if both are.

    Raises
    ------
    ConfigError
        If a row was not judged on as many lifetimes as that one.
    """
    return {
        job: _less(job, finished[job], f"{against}-{condition}", finished[f"{against}-{condition}"])
        for row in reproduction.rows
        for condition in reproduction.conditions
        if (job := f"{row.key}-{condition}") in finished
        and f"{against}-{condition}" in finished
        and row.key != against
    }


def _less(job: str, one: Finished, base: str, other: Finished) -> Finished:
    """Of the seeds that both have."""
    mine, theirs = one.measured["error"], other.measured["error"]
    if mine.shape[1:] != theirs.shape[1:]:
        raise ConfigError(
            f"--against: {job} and {base} were not judged on the same lifetimes, "
            f"{mine.shape[1]} and {theirs.shape[1]} of a seed"
        )
    n = min(len(mine), len(theirs))
    return one._replace(measured={"error": mine[:n] - theirs[:n]})
