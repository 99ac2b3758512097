"""What backward keeps of every step, and what it computes again: a question of memory."""

from __future__ import annotations

import math
from math import prod

import torch

from rulesearch.compile.tape import Tape

__all__ = ["are_stored", "checkpoint_every", "free", "limit"]

CPU = torch.device("cpu")
MEMORY = 2**29
"""Bytes that all lifetimes' stored products may take; beyond it they are computed again."""


def free(device: torch.device) -> int:
    """Bytes of a GPU that nobody uses: the driver's, and what torch holds ready."""
    unused, _ = torch.cuda.mem_get_info(device)
    return unused + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def limit(device: torch.device, usual: int) -> int:
    """Bytes that something may take: as usual or, on a GPU, half of what it has free."""
    return free(device) // 2 if device.type == "cuda" else usual


def are_stored(
    tape: Tape, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device = CPU
) -> bool:
    """Whether the products of all steps are kept for the backward pass.

    Parameters
    ----------
    shape : tuple of int
        Steps, lifetimes and examples a step.
    device : torch.device
        Of whose memory they may take a share.
    """
    return prod(shape) * tape.stored * dtype.itemsize <= limit(device, MEMORY)


def checkpoint_every(
    tape: Tape, shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device = CPU
) -> int:
    """Steps between checkpoints that take the least memory, about.

    Products that are not kept have to be made again for a segment of each lifetime at work, so
    that segments should be short; every lifetime keeps its checkpoints, so that they should be
    few.
    """
    steps, lifetimes, examples = shape
    if are_stored(tape, shape, dtype, device):
        return max(100, -(-steps // 10))
    at_work = min(torch.get_num_threads(), lifetimes) if device.type == "cpu" else lifetimes
    segment = tape.stored * examples * at_work
    return max(10, math.isqrt(lifetimes * steps * tape.plastic_size // segment))
