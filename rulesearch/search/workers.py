"""Threads that each run whole lifetimes, torch's own threads switched off inside them.

A lifetime is long and shares nothing with the next, so it is the right piece of work for a core;
splitting each small tensor operation over the cores leaves them waiting for one another.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier

import torch

__all__ = ["worker_threads"]


@contextmanager
def worker_threads() -> Iterator[ThreadPoolExecutor]:
    """Yield as many workers as torch has threads; what is pending at the end is cancelled."""
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
