"""What the machine is, and how fast it copies and multiplies."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypedDict

import torch

from rulesearch import __version__
from rulesearch.machine import memory_bytes

__all__ = ["Rate", "copy_rates", "cores", "describe", "installed", "matrix_rate", "synchronise"]

COPIED = tuple(1 << n for n in range(20, 29, 2))  # bytes: from inside the cache to far beyond
SIDE = 2048  # of the matrices multiplied
TRIES = 8


class Rate(TypedDict):
    """How fast arrays of a size are copied."""

    bytes: int
    gb_per_s: float


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def installed(package: str) -> str | None:
    """Version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def describe(device: str) -> dict[str, Any]:
    """Processor, cores, memory, versions; bandwidth and matrix rate as measured now."""
    names = ("torch", "numpy", "jax", "jaxlib")
    return {
        "processor": _processor(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(memory_bytes() / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "copies": copy_rates(device),
        "matrix_gflop_per_s": matrix_rate(device) / 1e9,
        "versions": {
            "rulesearch": __version__,
            "python": platform.python_version(),
            **{name: found for name in names if (found := installed(name))},
        },
    }


def copy_rates(device: str) -> list[Rate]:
    """Bytes a second of copies of several sizes, those read and those written both counted."""
    rates: list[Rate] = []
    for size in COPIED:
        source = torch.ones(size // 4, device=device)
        target = torch.empty_like(source)
        times = max(1, COPIED[-1] // (8 * size))
        seconds = _best(partial(_repeat, target, source, times), device)
        rates.append({"bytes": size, "gb_per_s": 2 * size * times / seconds / 1e9})
    return rates


def _repeat(target: torch.Tensor, source: torch.Tensor, times: int) -> None:
    for _ in range(times):
        target.copy_(source)


def matrix_rate(device: str) -> float:
    """Operations a second of a float32 matrix product; the best try."""
    a = torch.ones(SIDE, SIDE, device=device)
    product = torch.empty_like(a)
    return 2 * SIDE**3 / _best(lambda: torch.mm(a, a, out=product), device)


def synchronise(device: str) -> None:
    """Wait until the device has done what it was told."""
    if device == "cuda":
        torch.cuda.synchronize()


def _best(call: Callable[[], object], device: str) -> float:
    seconds = []
    for _ in range(TRIES):
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
