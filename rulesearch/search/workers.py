"""Who lives the lifetimes of an update: threads of the CPU side by side, or a GPU in step.

On the CPU a lifetime is long and shares nothing with the next, so it is the right piece of work for
a core; splitting each small tensor operation over the cores leaves them waiting for one another. A
GPU is the other way about: an operation on one lifetime hardly uses it, so that as many run in step
as its memory holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Barrier

import torch
from torch import Tensor

from rulesearch.errors import LearnerError
from rulesearch.learners.memory import limit

__all__ = ["Crew", "Live", "batches", "crew", "fitting"]

MEMORY = 600_000_000  # bytes that the lifetimes of one batch may take on the CPU

Live = Callable[[slice], tuple[Tensor, ...]]
"""Lives some of the lifetimes; returns what came of them, each ``(lifetimes, ...)``."""
Crew = Callable[[Live, int, int], list[Tensor]]
"""Lives so many lifetimes, of so many bytes each; returns what came of all."""


@contextmanager
def crew(device: torch.device) -> Iterator[Crew]:
    """Yield who lives on a device."""
    if device.type != "cpu":
        yield lambda live, count, each: batches(live, count, fitting(device, count, each))
        return
    with _threads() as threads:
        yield partial(_side_by_side, threads)


def fitting(device: torch.device, count: int, each: int) -> int:
    """How many of so many lifetimes run in step: as many as fit, dealt out evenly."""
    most = max(1, limit(device, MEMORY) // each)
    rounds = -(-count // most)
    return -(-count // rounds)


def batches(live: Live, count: int, size: int) -> list[Tensor]:
    """Live one batch after the other, of half the size from where a GPU's memory ends.

    Raises
    ------
    LearnerError
        If not even one lifetime fits.
    """
    found: list[tuple[Tensor, ...]] = []
    begin = 0
    while begin < count:
        some = slice(begin, min(begin + size, count))
        try:
            found.append(live(some))
        except torch.OutOfMemoryError:
            fits = False  # what was begun is let go of before it is tried again
        else:
            fits, begin = True, some.stop
        if not fits:
            if size == 1:
                raise LearnerError(
                    "one lifetime does not fit into what is free of the GPU's memory; free some, "
                    "or use device=cpu"
                )
            size = -(-size // 2)
            torch.cuda.empty_cache()
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def _side_by_side(threads: ThreadPoolExecutor, live: Live, count: int, each: int) -> list[Tensor]:
    """Some lifetimes at a time on each thread."""
    number = torch.get_num_threads()
    size = max(1, min(MEMORY // number // each, -(-count // (2 * number))))
    some = [slice(begin, min(begin + size, count)) for begin in range(0, count, size)]
    found = zip(*threads.map(live, some), strict=True)
    return [torch.cat(parts) for parts in found]


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """As many as torch has, whose own are off inside; what is pending at the end is cancelled."""
    count = torch.get_num_threads()
    executor = ThreadPoolExecutor(count, "rulesearch", _one_thread)
    ready = Barrier(count + 1)
    try:
        for _ in range(count):
            executor.submit(ready.wait)
        ready.wait()  # every worker has begun, so that the next line is about this thread alone
        torch.set_num_threads(count)
        yield executor
    finally:
        ready.abort()  # interrupted as they began, they would wait for ever
        executor.shutdown(cancel_futures=True)


def _one_thread() -> None:
    torch.get_num_threads()  # a thread's first call sets its count anew: make it now
    torch.set_num_threads(1)
