"""The batches of a path of lambdas, read as the one search that led to the rule shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np

from rulesearch.analysis import Floats

__all__ = ["join_batches", "search_phases"]


Logged = TypeVar("Logged", bound=Any)


def search_phases(found: Mapping[str, object]) -> list[str]:
    """Names of the search's phases, in the order in which a path ran them."""
    names = [name for name in found if name.split("-")[0] == "search"]
    return sorted(names, key=lambda name: (len(name), name))


def join_batches(
    found: Mapping[str, Logged],
    rows: Sequence[Mapping[str, Any]],
    lengths: Sequence[int],
    lam: float | None,
) -> dict[str, Logged]:
    """Put the batches of a path together, up to the one with a penalty.

    A row of a later batch goes back, through the row of its seed that it started from, to the
    first update. What has no value, as a row after its own end, is NaN.

    Parameters
    ----------
    found : mapping from phase to Curves or Probes
        Every field but ``updates`` and ``terms`` is ``(rows of the batch, updates, ...)``.
    rows : sequence of mapping
        Seed, lambda and batch of each row of the search.
    lengths : sequence of int
        Updates of each batch, which those of the batches after it are counted from.
    lam : float or None
        The penalty.
    """
    shown = next(row["batch"] for row in rows if row["lam"] == lam)
    phases = search_phases(found)[:shown]
    others = {name: of for name, of in found.items() if name.split("-")[0] != "search"}
    if not phases:
        return others
    seeds = len({row["seed"] for row in rows})
    sizes = [sum(row["batch"] == k for row in rows) for k in range(1, len(phases) + 1)]
    parts = [found[name] for name in phases]
    starts = np.cumsum([0, *lengths])
    updates = np.concatenate([of.updates + start for of, start in zip(parts, starts, strict=False)])
    joined = {
        field.name: _chained([getattr(of, field.name) for of in parts], sizes, seeds, len(rows))
        for field in fields(parts[0])
        if field.name not in ("updates", "terms")
    }
    return {"search": replace(parts[0], updates=updates, **joined), **others}


def _chained(parts: Sequence[Floats], sizes: Sequence[int], seeds: int, rows: int) -> Floats:
    """Histories ``(rows, updates of all parts, ...)``."""
    chains: list[Floats] = []
    for own, size in zip(parts, sizes, strict=True):
        if chains:
            warm = np.concatenate([chains[-1][-seeds:]] * (size // seeds))
            chains.append(np.concatenate([warm, own], axis=1))
        else:
            chains.append(own)
    whole = np.full((rows, *chains[-1].shape[1:]), np.nan)
    begin = 0
    for chain in chains:
        whole[begin : begin + len(chain), : chain.shape[1]] = chain
        begin += len(chain)
    return whole
