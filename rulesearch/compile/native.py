"""The fused engine: compiled code that runs a tape, a lifetime at a time.

The files in ``engine/`` are compiled once for this processor, with the system's C++ compiler, and
kept in the cache folder. They know no grammar: a grammar becomes a :class:`Tape`.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from rulesearch.compile.tape import LAYOUT, Life, Tape
from rulesearch.paths import cache_dir

__all__ = ["Examples", "engine_unavailable", "live_backward", "live_forward"]

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp-simd", "-pthread", "-std=c++17")


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


_REAL = {torch.float32: "float", torch.float64: "double"}


_first_use = threading.Lock()  # threads that meet an empty cache start one compiler, not each one


def _library(dtype: torch.dtype = torch.float32) -> tuple[ctypes.CDLL | None, str]:
    """The compiled engine of a type of numbers, or None and the reason."""
    with _first_use:
        return _loaded(dtype)


@lru_cache(maxsize=len(_REAL))
def _loaded(dtype: torch.dtype) -> tuple[ctypes.CDLL | None, str]:
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if not compiler:
        return None, "no C++ compiler (c++, g++ or $CXX) was found"
    sources, flags = _sources(), (*FLAGS, f"-DREAL={_REAL[dtype]}")
    parts = (*sources.values(), *flags, compiler, platform.machine(), _processor())
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    path = cache_dir() / "engine" / f"engine-{name}.so"
    try:
        reason = "" if path.exists() else _build(compiler, flags, sources, path)
        return (None, reason) if reason else (_checked(ctypes.CDLL(str(path))), "")
    except OSError as error:
        return None, f"the engine could not be built or loaded in {path.parent}: {error}"


def _build(compiler: str, flags: Sequence[str], sources: dict[str, str], path: Path) -> str:
    """Compile to ``path``, or return why not; where other processes want it too, one does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as opened:
        fcntl.flock(opened.enter_context((path.parent / ".lock").open("w")), fcntl.LOCK_EX)
        if path.exists():
            return ""
        for left in path.parent.glob("build-*"):  # by a process that was killed
            shutil.rmtree(left)
        print("compiling the engine, once for this machine", file=sys.stderr, flush=True)
        work = opened.enter_context(tempfile.TemporaryDirectory(prefix="build-", dir=path.parent))
        for name, source in sources.items():
            Path(work, name).write_text(source, encoding="utf-8")
        built, main = Path(work, "engine.so"), Path(work, "engine.cpp")
        command = [*shlex.split(compiler), *flags, "-shared", "-fPIC", str(main), "-o", str(built)]
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


def engine_unavailable(dtype: torch.dtype = torch.float32) -> str:
    """Return why the compiled engine cannot be used, or ``""``; warns once if it cannot."""
    reason = _library(dtype)[1]
    if reason:
        _warn(reason)
    return reason


@lru_cache(maxsize=1)
def _warn(reason: str) -> None:
    warnings.warn(f"rulesearch runs without its compiled engine: {reason}", stacklevel=4)


@lru_cache(maxsize=4)
def _workers(threads: int, process: int) -> ThreadPoolExecutor:
    """A pool of this process: after a fork, threads of the parent are not there."""
    return ThreadPoolExecutor(threads, thread_name_prefix="rulesearch")


def _threads_each(lifetimes: int) -> int:
    """How many of torch's threads are left for each of the lifetimes that run at once."""
    threads = torch.get_num_threads()
    return max(1, threads // max(1, min(lifetimes, threads)))


def _each(lifetimes: int, call: Callable[[int], None]) -> None:
    """Run ``call(lifetime)`` for all, on as many threads as torch may use.

    An interrupt does not stop the calls that run, and does not wait for them: ``call`` itself has
    to hold on to all memory that it writes to.
    """
    threads = min(torch.get_num_threads(), lifetimes)
    if threads <= 1:
        for lifetime in range(lifetimes):
            call(lifetime)
    else:
        list(_workers(threads, os.getpid()).map(call, range(lifetimes)))


def _function(name: str, dtype: torch.dtype) -> Callable[..., None]:
    library, reason = _library(dtype)
    if library is None:
        raise RuntimeError(reason)
    function: Callable[..., None] = getattr(library, name)
    function.restype = None  # type: ignore[attr-defined]
    return function


_spare: dict[torch.dtype, list[Tensor]] = defaultdict(list)


def _reused(dtype: torch.dtype, *shape: int) -> Tensor:
    """Memory that is used again once nothing refers to it.

    Fresh pages cost a fifth of the time of a lifetime.
    """
    spare, size = _spare[dtype], prod(shape)
    buffer = spare.pop() if spare else torch.empty(0, dtype=dtype)
    if buffer.numel() < size:
        buffer = torch.empty(size, dtype=dtype)
    view = buffer[:size].view(shape)
    weakref.finalize(view, spare.append, buffer).atexit = False
    return view


@dataclass(frozen=True, eq=False)
class Examples:
    """What all lifetimes see, and how they are lived.

    Attributes
    ----------
    x : Tensor (steps, lifetimes, examples, n), or (rows, n) where there is an index
    index : Tensor (steps, lifetimes, examples) int64, or None
        Row of x.
    label : Tensor (steps, lifetimes, examples) int64, or (steps, lifetimes, examples, n_out)
    every : int
        Steps between checkpoints.
    share : float
        Of each example in the update.
    """

    x: Tensor
    index: Tensor | None
    label: Tensor
    every: int
    share: float

    @property
    def shape(self) -> tuple[int, int, int]:
        """Steps, lifetimes and examples a step."""
        steps, lifetimes, examples = self.label.shape[:3]
        return steps, lifetimes, examples

    @property
    def segments(self) -> int:
        """Stretches between checkpoints."""
        return -(-self.shape[0] // self.every)

    def struct(self, tape: Tape) -> Life:
        """For the engine; valid as long as this object and the tape live."""
        target = self.label if self.label.is_floating_point() else None
        label = None if target is not None else self.label
        return Life(
            ctypes.addressof(tape.program), *self.shape, self.every, _address(self.x),
            _address(self.index), _address(target), _address(label), self.share,
            _threads_each(self.shape[1]),
        )  # fmt: skip


def live_forward(
    tape: Tape,
    examples: Examples,
    theta: Tensor,
    matrices: Sequence[Tensor],
    keep: bool,
    store: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Live: change the plastic ``matrices`` in place.

    Parameters
    ----------
    theta : Tensor (lifetimes, n_terms)
    matrices : sequence of Tensor (lifetimes, rows, columns)
        W of each connection, then B of each; contiguous.
    keep : bool
        Whether to return checkpoints, which :func:`live_backward` needs.
    store : bool
        Whether to return what it can use besides, or else has to compute again.

    Returns
    -------
    stored : Tensor (lifetimes, steps, numbers) or None
        Products with matrices.
    checkpoints : Tensor (lifetimes, segments - 1, plastic numbers) or None
        W at the beginning of each segment but the first.
    """
    steps, lifetimes, per_step = examples.shape
    stored = checkpoints = None
    if keep:
        checkpoints = theta.new_empty(lifetimes, examples.segments - 1, tape.plastic_size)
        if store:
            stored = _reused(theta.dtype, lifetimes, steps, per_step * tape.stored)
    function = _function("live_forward", theta.dtype)

    def live(lifetime: int) -> None:
        function(
            ctypes.byref(examples.struct(tape)), ctypes.c_int64(lifetime), _pointer(theta),
            _pointers(matrices), _pointer(stored), _pointer(checkpoints),
        )  # fmt: skip

    _each(lifetimes, live)
    return stored, checkpoints


def live_backward(
    tape: Tape,
    examples: Examples,
    theta: Tensor,
    born: Sequence[Tensor],
    matrices: Sequence[Tensor],
    adjoints: Sequence[Tensor | None],
    stored: Tensor | None,
    checkpoints: Tensor,
    tolerance: float,
    reversible: bool,
    inputs_bar: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Carry ``adjoints`` of the final matrices back to the first step, in place.

    Parameters
    ----------
    born, matrices : sequence of Tensor (lifetimes, rows, columns)
        The plastic matrices at birth; all matrices at the end of life.
    inputs_bar : Tensor (steps, lifetimes, examples, n) or None
        Filled with the adjoint of the inputs, if it is there.

    Returns
    -------
    theta_bar : Tensor (lifetimes, n_terms)
    drift : Tensor (lifetimes,)
        Largest relative distance of a rebuilt W from its checkpoint.
    recomputed : Tensor (lifetimes,)
        Segments whose weights were recomputed from a checkpoint instead.
    """
    lifetimes = examples.shape[1]
    theta_bar = torch.zeros_like(theta)
    drift = torch.zeros(lifetimes, dtype=torch.float64)
    recomputed = torch.zeros(lifetimes, dtype=torch.int64)
    function = _function("live_backward", theta.dtype)

    def back(lifetime: int) -> None:
        function(
            ctypes.byref(examples.struct(tape)), ctypes.c_int64(lifetime), _pointer(theta),
            _pointers(born), _pointers(matrices), _pointers(adjoints),
            _pointer(theta_bar), _pointer(inputs_bar), _pointer(stored), _pointer(checkpoints),
            ctypes.c_double(tolerance), ctypes.c_int32(reversible),
            _pointer(drift), _pointer(recomputed),
        )  # fmt: skip

    _each(lifetimes, back)
    return theta_bar, drift, recomputed


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(_address(tensor))


def _pointers(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*map(_address, tensors))
