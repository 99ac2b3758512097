"""Peak memory of this process, beyond what it held before."""

from __future__ import annotations

import resource
import sys
from importlib import import_module
from pathlib import Path

import torch

__all__ = ["MemoryMeter"]

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


class MemoryMeter:
    """Counts from the moment it is made.

    On a processor it is the resident memory, whose high-water mark Linux lets a process set
    back; elsewhere the peak since the process began stands in. On a GPU it is what torch, or
    JAX, has allocated there.

    Parameters
    ----------
    device : {'cpu', 'cuda'}
    library : {'torch', 'jax'}
        Whose allocations to count on a GPU.
    """

    def __init__(self, device: str, library: str = "torch") -> None:
        self._cuda, self._library = device == "cuda", library
        if self._cuda:
            if library == "torch":
                torch.cuda.reset_peak_memory_stats()
            self.idle = self._on_gpu("allocated_bytes.all.current", "bytes_in_use")
        elif STATUS.exists():
            CLEAR.write_text("5", encoding="ascii")  # sets VmHWM to VmRSS, see proc(5)
            self.idle = _status("VmRSS")
        else:
            self.idle = _peak_since_birth()

    @property
    def peak(self) -> int:
        """Bytes at the highest."""
        if self._cuda:
            return self._on_gpu("allocated_bytes.all.peak", "peak_bytes_in_use")
        return _status("VmHWM") if STATUS.exists() else _peak_since_birth()

    def _on_gpu(self, of_torch: str, of_jax: str) -> int:
        if self._library == "torch":
            return int(torch.cuda.memory_stats()[of_torch])
        return int(import_module("jax").local_devices()[0].memory_stats()[of_jax])


def _status(field: str) -> int:
    for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return _peak_since_birth()


def _peak_since_birth() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
