"""Where lifetimes are lived: the CPU or a GPU; of several processes each has a GPU of its own."""

from __future__ import annotations

import os

import torch
from torch import distributed as dist

from rulesearch.errors import ConfigError
from rulesearch.outer.fit import usable_device

__all__ = ["dealt_out", "device_here"]


def device_here(name: str, processes: int = 1) -> torch.device:
    """Return the device that a name means in this process.

    Parameters
    ----------
    name : str
        ``cpu``; ``cuda``, which is ``cuda:LOCAL_RANK`` in one of several processes; or ``cuda:1``.
    processes : int
        That share the search.

    Raises
    ------
    ConfigError
        If there is no such device here, not one for each process of this machine, or nothing that
        processes on GPUs could exchange by.
    """
    device = usable_device(name)
    if device.type == "cpu" or processes == 1:
        return device
    if ":" in name:
        raise ConfigError(
            f"device {name}: {processes} processes cannot share one GPU; with device=cuda each "
            "has its own"
        )
    if not dist.is_nccl_available():
        raise ConfigError(
            "device cuda: this build of torch has no NCCL, by which processes on GPUs exchange; "
            "use device=cpu, a single process, or a build that has it"
        )
    local = os.environ.get("LOCAL_RANK")
    if local is None:
        raise ConfigError(
            "device cuda: LOCAL_RANK does not say which of this machine's processes this is; "
            "start them with torchrun"
        )
    # All of a machine are counted, so that all refuse, and none waits for another.
    here, there = int(os.environ.get("LOCAL_WORLD_SIZE", int(local) + 1)), torch.cuda.device_count()
    if here > there:
        raise ConfigError(
            f"device cuda: {here} processes on this machine, and GPUs for {there}; start no more "
            f"with --nproc-per-node {there}, or use device=cpu"
        )
    device = torch.device("cuda", int(local))
    torch.cuda.set_device(device)
    return device


def dealt_out(name: str, worker: int) -> str:
    """Name the device of one of several workers that share nothing: ``cuda`` goes round the GPUs.

    There may be more workers than GPUs; those of one share its memory.
    """
    count = torch.cuda.device_count() if name == "cuda" else 0
    return f"cuda:{worker % count}" if count else name
