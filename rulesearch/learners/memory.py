"""What backward keeps of every step, and what it computes again: a question of memory."""

from __future__ import annotations

import math
from math import prod

import torch

from rulesearch.compile.tape import Tape

__all__ = ["are_stored", "checkpoint_every"]

MEMORY = 2**29
"""Bytes that all lifetimes' stored products may take; beyond it they are computed again."""


def are_stored(tape: Tape, shape: tuple[int, int, int], dtype: torch.dtype) -> bool:
    """Whether the products of all steps are kept for the backward pass.

    Parameters
    ----------
    shape : tuple of int
        Steps, lifetimes and examples a step.
    """
    return prod(shape) * tape.stored * dtype.itemsize <= MEMORY


def checkpoint_every(tape: Tape, shape: tuple[int, int, int], dtype: torch.dtype) -> int:
    """Steps between checkpoints that take the least memory, about.

    Products that are not kept have to be made again for a segment of each lifetime at work, so
    that segments should be short; every lifetime keeps its checkpoints, so that they should be
    few.
    """
    steps, lifetimes, examples = shape
    if are_stored(tape, shape, dtype):
        return max(100, -(-steps // 10))
    segment = tape.stored * examples * min(torch.get_num_threads(), lifetimes)
    return max(10, math.isqrt(lifetimes * steps * tape.plastic_size // segment))
