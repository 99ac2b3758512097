"""The fused engine: compiled code that runs a tape, a lifetime at a time.

The files in ``engine/`` are compiled once for this processor, with the system's C++ compiler, and
kept in the cache folder. They know no grammar: a grammar becomes a :class:`Tape`.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import warnings
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.resources import files
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from rulesearch.compile.tape import LAYOUT, Tape
from rulesearch.paths import cache_dir

__all__ = ["engine_unavailable", "live_backward", "live_forward"]

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp-simd", "-std=c++17")


def _sources() -> dict[str, str]:
    folder = files("rulesearch.compile").joinpath("engine")
    return {
        entry.name: entry.read_text(encoding="utf-8")
        for entry in sorted(folder.iterdir(), key=lambda e: e.name)
        if entry.name.endswith((".h", ".cpp"))
    }


def _processor() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


@lru_cache(maxsize=1)
def _library() -> tuple[ctypes.CDLL | None, str]:
    """The compiled engine, or None and the reason."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if not compiler:
        return None, "no C++ compiler (c++, g++ or $CXX) was found"
    sources = _sources()
    parts = (*sources.values(), *FLAGS, compiler, platform.machine(), _processor())
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    path = cache_dir() / "engine" / f"engine-{name}.so"
    try:
        reason = "" if path.exists() else _build(compiler, sources, path)
        return (None, reason) if reason else (_checked(ctypes.CDLL(str(path))), "")
    except OSError as error:
        return None, f"the engine could not be built or loaded in {path.parent}: {error}"


def _build(compiler: str, sources: dict[str, str], path: Path) -> str:
    """Compile to ``path``, or return why not; safe where other processes do the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        for name, source in sources.items():
            Path(work, name).write_text(source, encoding="utf-8")
        built, main = Path(work, "engine.so"), Path(work, "engine.cpp")
        command = [*shlex.split(compiler), *FLAGS, "-shared", "-fPIC", str(main), "-o", str(built)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            return f"the C++ compiler {compiler} cannot be run: {error.strerror}"
        if done.returncode:
            reason = (done.stderr.strip() or "no message").splitlines()[0]
            return f"{compiler} failed: {reason}"
        built.replace(path)
    return ""


def _checked(library: ctypes.CDLL) -> ctypes.CDLL:
    """Return the library if its structs are those of :mod:`rulesearch.compile.tape`."""
    library.layout.restype = ctypes.c_int64
    found = tuple(library.layout(i) for i in range(len(LAYOUT)))
    if found != LAYOUT:
        raise RuntimeError(f"program.h has layout {found}, tape.py {LAYOUT}: they must agree")
    return library


@lru_cache(maxsize=1)
def engine_unavailable() -> str:
    """Return why the compiled engine cannot be used, or ``""``; warns once if it cannot."""
    reason = _library()[1]
    if reason:
        warnings.warn(f"rulesearch runs without its compiled engine: {reason}", stacklevel=2)
    return reason


@lru_cache(maxsize=4)
def _workers(threads: int, process: int) -> ThreadPoolExecutor:
    """A pool of this process: after a fork, threads of the parent are not there."""
    return ThreadPoolExecutor(threads, thread_name_prefix="rulesearch")


def _each(lifetimes: int, call: Callable[[int], None]) -> None:
    """Run ``call(lifetime)`` for all, on as many threads as torch may use."""
    threads = min(torch.get_num_threads(), lifetimes)
    if threads <= 1:
        for lifetime in range(lifetimes):
            call(lifetime)
    else:
        list(_workers(threads, os.getpid()).map(call, range(lifetimes)))


def _function(name: str, dtype: torch.dtype) -> Callable[..., None]:
    library, reason = _library()
    if library is None:
        raise RuntimeError(reason)
    suffix = {torch.float32: "f32", torch.float64: "f64"}[dtype]
    function = getattr(library, f"{name}_{suffix}")
    function.restype = None
    return function  # type: ignore[no-any-return]


_spare: dict[torch.dtype, list[Tensor]] = defaultdict(list)


def _frames(dtype: torch.dtype, *shape: int) -> Tensor:
    """Memory for frames, used again once nothing refers to them.

    Fresh pages cost a fifth of the time of a lifetime.
    """
    spare, size = _spare[dtype], prod(shape)
    buffer = spare.pop() if spare else torch.empty(0, dtype=dtype)
    if buffer.numel() < size:
        buffer = torch.empty(size, dtype=dtype)
    frames = buffer[:size].view(shape)
    weakref.finalize(frames, spare.append, buffer).atexit = False
    return frames


def live_forward(
    tape: Tape,
    x: Tensor,
    target: Tensor,
    theta: Tensor,
    matrices: Sequence[Tensor],
    every: int,
    keep: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Live: change the plastic ``matrices`` in place.

    Parameters
    ----------
    x, target : Tensor (steps, lifetimes, n)
    theta : Tensor (lifetimes, n_terms)
    matrices : sequence of Tensor (lifetimes, rows, columns)
        W of each connection, then B of each; contiguous.
    every : int
        Steps between checkpoints.
    keep : bool
        Whether to return the frames and checkpoints that :func:`live_backward` needs.

    Returns
    -------
    frames : Tensor (lifetimes, steps, frame) or None
    checkpoints : Tensor (lifetimes, segments, plastic numbers) or None
    """
    steps, lifetimes = x.shape[:2]
    segments = -(-steps // every)
    frames = _frames(x.dtype, lifetimes, steps, tape.frame) if keep else None
    checkpoints = x.new_empty(lifetimes, segments, tape.plastic_size) if keep else None
    function = _function("live_forward", x.dtype)
    program, held = ctypes.byref(tape.program), _pointers(matrices)

    def live(lifetime: int) -> None:
        function(
            program, *_int64(lifetimes, steps, every, lifetime, lifetime + 1),
            _pointer(x), _pointer(target), _pointer(theta), held,
            _pointer(frames), _pointer(checkpoints),
        )  # fmt: skip

    _each(lifetimes, live)
    return frames, checkpoints


def live_backward(
    tape: Tape,
    theta: Tensor,
    matrices: Sequence[Tensor],
    adjoints: Sequence[Tensor | None],
    frames: Tensor,
    checkpoints: Tensor,
    every: int,
    tolerance: float,
    reversible: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Carry ``adjoints`` of the final matrices back to the first step, in place.

    Returns
    -------
    theta_bar : Tensor (lifetimes, n_terms)
    drift : Tensor (lifetimes,)
        Largest relative distance of a rebuilt W from its checkpoint.
    recomputed : Tensor (lifetimes,)
        Segments whose weights were recomputed from a checkpoint instead.
    """
    lifetimes, steps = frames.shape[:2]
    theta_bar = torch.zeros_like(theta)
    drift = torch.zeros(lifetimes, dtype=torch.float64)
    recomputed = torch.zeros(lifetimes, dtype=torch.int64)
    function = _function("live_backward", frames.dtype)
    program, held, bars = ctypes.byref(tape.program), _pointers(matrices), _pointers(adjoints)

    def back(lifetime: int) -> None:
        function(
            program, *_int64(steps, every, lifetime, lifetime + 1),
            _pointer(theta), held, bars, _pointer(theta_bar), _pointer(frames),
            _pointer(checkpoints), ctypes.c_double(tolerance), ctypes.c_int32(reversible),
            _pointer(drift), _pointer(recomputed),
        )  # fmt: skip

    _each(lifetimes, back)
    return theta_bar, drift, recomputed


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def _pointers(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*(None if t is None else t.data_ptr() for t in tensors))


def _int64(*values: int) -> tuple[ctypes.c_int64, ...]:
    return tuple(ctypes.c_int64(v) for v in values)
