"""Random numbers from counters alone, so that a run resumes anywhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

__all__ = [
    "COEFFICIENTS",
    "NETWORK",
    "READOUT",
    "TASK",
    "TEST",
    "VALIDATION",
    "generators",
    "members",
]

TASK, NETWORK, TEST, VALIDATION, READOUT, COEFFICIENTS = 0, 1, 2, 4, 5, 6


def members(seeds: int, count: int = 1, first: int = 0) -> list[tuple[int, int]]:
    """Seed and number of every lifetime, those of a seed together: so many from the first on."""
    return [(seed, k) for seed in range(seeds) for k in range(first, first + count)]


def generators(
    seed: int, stream: int, what: int, lifetimes: Sequence[tuple[int, int]], update: int = 0
) -> list[torch.Generator]:
    """One generator per lifetime.

    Parameters
    ----------
    seed, stream, what : int
        Of the run; of the phase; TASK, NETWORK, TEST, VALIDATION, READOUT or
        COEFFICIENTS.
    lifetimes : sequence of (int, int)
        Seed and member of the meta-batch. Their draws depend neither on each other nor on lambda.
    update : int
    """

    def one(row: int, member: int) -> torch.Generator:
        entropy = np.random.SeedSequence([seed, stream, what, row, update, member])
        return torch.Generator().manual_seed(int(entropy.generate_state(1, np.uint64)[0]))

    return [one(row, member) for row, member in lifetimes]
