"""The fused engine: a tape of operations, run by compiled code a lifetime at a time.

The files in ``engine/`` are compiled once for this processor, with the system's C++ compiler, and
kept in the cache folder. They know no grammar: a grammar becomes a :class:`Tape`.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rulesearch.paths import cache_dir

__all__ = ["Tape", "TapeBuilder", "engine_unavailable"]

FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fopenmp-simd", "-std=c++17")
KINDS = (
    "matvec", "matvec_t", "multiply", "dot", "coefficient", "combine", "apply", "subtract",
    "update",
)  # fmt: skip
FUNCTIONS = (
    "tanh", "exp", "abs", "sign", "softplus", "relu", "softmax", "identity", "d_softplus",
    "d_tanh", "d_relu",
)  # fmt: skip

_OP = np.dtype(
    [(name, np.int32) for name in (
        "kind", "out", "a", "b", "matrix", "n", "m", "function", "first", "count", "masks",
        "mask_count", "others", "other_count", "scale", "wants_a", "wants_b", "wants_matrix",
    )]
)  # fmt: skip
_ENTRY = np.dtype(
    [("number", np.float64)]
    + [(name, np.int32) for name in (
        "term", "scalar", "vector", "wants_scalar", "wants_vector", "core", "core_count", "pad",
    )]
)  # fmt: skip
_CORE = np.dtype([("matrix", np.int32), ("power", np.int32)])
_NONE = -1


class _Program(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_int32) for name in (
            "n_ops", "n_matrices", "n_plastic", "frame", "n_terms", "x", "x_size", "target",
            "target_size", "ones", "ones_size", "pad",
        )]
        + [("beta", ctypes.c_double)]
        + [(name, ctypes.c_void_p) for name in ("ops", "entries", "cores", "rows", "columns")]
    )  # fmt: skip


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
    text = "\n".join(parts)
    folder = cache_dir() / "engine"
    library = folder / f"engine-{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"
    if not library.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as work:
                for name, source in sources.items():
                    Path(work, name).write_text(source, encoding="utf-8")
                built, main = Path(work, "engine.so"), Path(work, "engine.cpp")
                command = [compiler, *FLAGS, "-shared", "-fPIC", str(main), "-o", str(built)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    reason = (done.stderr.strip() or "no message").splitlines()[0]
                    return None, f"{compiler} failed: {reason}"
                built.replace(library)
        except OSError as error:
            return None, f"the engine could not be built in {folder}: {error}"
    return ctypes.CDLL(str(library)), ""


@lru_cache(maxsize=1)
def engine_unavailable() -> str:
    """Return why the compiled engine cannot be used, or ``""``; warns once if it cannot."""
    reason = _library()[1]
    if reason:
        warnings.warn(f"rulesearch runs without its compiled engine: {reason}", stacklevel=2)
    return reason


@lru_cache(maxsize=4)
def _workers(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="rulesearch")


def _each(lifetimes: int, call: Callable[[int], None]) -> None:
    """Run ``call(lifetime)`` for all, on as many threads as torch may use."""
    threads = min(torch.get_num_threads(), lifetimes)
    if threads <= 1:
        for lifetime in range(lifetimes):
            call(lifetime)
    else:
        list(_workers(threads).map(call, range(lifetimes)))


@dataclass
class TapeBuilder:
    """Collects operations and lays their values out in a frame.

    A value is an offset into the frame. ``varies`` holds those that depend on weights or
    theta: only they need adjoints.
    """

    n_terms: int
    beta: float
    ops: list[dict[str, int]] = field(default_factory=list)
    entries: list[dict[str, float]] = field(default_factory=list)
    cores: list[tuple[int, int]] = field(default_factory=list)
    shapes: list[tuple[int, int]] = field(default_factory=list)
    sizes: dict[int, int] = field(default_factory=dict)
    varies: set[int] = field(default_factory=set)
    frame: int = 0

    def allocate(self, size: int, varies: bool = True) -> int:
        """Reserve ``size`` numbers, on a 64-byte boundary of float32."""
        offset = self.frame
        self.frame += -(-size // 16) * 16
        self.sizes[offset] = size
        if varies:
            self.varies.add(offset)
        return offset

    def _op(self, kind: str, out: int, **fields: int) -> int:
        self.ops.append({"kind": KINDS.index(kind), "out": out, **fields})
        return out

    def _wants(self, value: int) -> int:
        return int(value in self.varies)

    def matrix(self, rows: int, columns: int) -> int:
        """Declare a matrix; plastic ones first."""
        self.shapes.append((rows, columns))
        return len(self.shapes) - 1

    def matvec(self, matrix: int, x: int, transposed: bool, constant: bool = False) -> int:
        """``M x`` or ``M^T x``; ``constant`` takes M out of the gradient."""
        rows, columns = self.shapes[matrix]
        n, m = (columns, rows) if transposed else (rows, columns)
        return self._op(
            "matvec_t" if transposed else "matvec", self.allocate(n),
            a=x, matrix=matrix, n=n, m=m,
            wants_a=self._wants(x), wants_matrix=int(not constant),
        )  # fmt: skip

    def elementwise(self, kind: str, a: int, b: int) -> int:
        """``multiply`` or ``subtract``."""
        varies = a in self.varies or b in self.varies
        size = self.sizes[a]
        out = self.allocate(size, varies)
        wants = {"wants_a": self._wants(a), "wants_b": self._wants(b)}
        return self._op(kind, out, a=a, b=b, n=size, **wants)

    def dot(self, a: int, b: int | None = None) -> int:
        """``a . b``, or the sum of a."""
        varies = a in self.varies or b in self.varies
        wants_b = 0 if b is None else self._wants(b)
        return self._op(
            "dot", self.allocate(1, varies), a=a, b=_NONE if b is None else b,
            n=self.sizes[a], wants_a=self._wants(a), wants_b=wants_b,
        )  # fmt: skip

    def apply(self, function: str, a: int) -> int:
        """An elementwise function, softmax included."""
        out = self.allocate(self.sizes[a], a in self.varies)
        index = FUNCTIONS.index(function)
        return self._op(
            "apply", out, a=a, n=self.sizes[a], function=index, wants_a=self._wants(a)
        )

    def coefficient(self, parts: Sequence[tuple[float, int | None, int | None]]) -> int:
        """``sum number * theta[term] * scalar``."""
        varies = any(term is not None or s in self.varies for _, term, s in parts)
        first = len(self.entries)
        for number, term, scalar in parts:
            self._entry(number, term, scalar)
        return self._op("coefficient", self.allocate(1, varies), first=first, count=len(parts))

    def combine(self, parts: Sequence[tuple[int, int]]) -> int:
        """``sum scalar * vector``."""
        size = self.sizes[parts[0][1]]
        varies = any(s in self.varies or v in self.varies for s, v in parts)
        first = len(self.entries)
        for scalar, vector in parts:
            self._entry(1.0, None, scalar, vector)
        return self._op(
            "combine", self.allocate(size, varies), first=first, count=len(parts), n=size
        )

    def update(
        self,
        matrix: int,
        scale: int | None,
        masks: Sequence[tuple[int, int]],
        outers: Sequence[tuple[int, int]],
        others: Sequence[tuple[int, int, Sequence[tuple[int, int]]]],
    ) -> None:
        """The update of a plastic matrix; comes after every other operation."""
        rows, columns = self.shapes[matrix]
        fields = {"matrix": matrix, "n": rows, "m": columns}
        fields["scale"] = _NONE if scale is None else scale
        groups: list[tuple[str, str, Sequence[tuple[int, int, Sequence[tuple[int, int]]]]]] = [
            ("first", "count", [(u, v, ()) for u, v in outers]),
            ("masks", "mask_count", [(p, q, ()) for p, q in masks]),
            ("others", "other_count", others),
        ]
        for start, count, products in groups:
            fields[start], fields[count] = len(self.entries), len(products)
            for left, right, core in products:
                self._entry(1.0, None, left, right, core)
        self._op("update", 0, **fields)

    def _entry(
        self,
        number: float,
        term: int | None,
        scalar: int | None,
        vector: int | None = None,
        core: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.entries.append(
            {
                "number": number,
                "term": _NONE if term is None else term,
                "scalar": _NONE if scalar is None else scalar,
                "vector": _NONE if vector is None else vector,
                "wants_scalar": 0 if scalar is None else self._wants(scalar),
                "wants_vector": 0 if vector is None else self._wants(vector),
                "core": len(self.cores),
                "core_count": len(core),
            }
        )
        self.cores.extend(core)

    def build(self, n_plastic: int, x: int, target: int, ones: tuple[int, int]) -> Tape:
        """Close the tape; x, target and ones (offset, size) are filled in at every step."""
        return Tape(
            ops=_table(self.ops, _OP),
            entries=_table(self.entries, _ENTRY),
            cores=np.array(self.cores, dtype=_CORE),
            shapes=np.array(self.shapes, dtype=np.int32).reshape(-1, 2),
            frame=self.frame,
            n_plastic=n_plastic,
            n_terms=self.n_terms,
            beta=self.beta,
            filled=(x, self.sizes[x], target, self.sizes[target], *ones),
        )


def _table(rows: Sequence[dict[str, int]] | Sequence[dict[str, float]], dtype: np.dtype[np.void]) -> np.ndarray:
    table = np.zeros(len(rows), dtype)
    for index, row in enumerate(rows):
        for name, value in row.items():
            table[index][name] = value
    return table


@dataclass(frozen=True, eq=False)
class Tape:
    """One step of every connection of a network, ready to run for whole lifetimes."""

    ops: np.ndarray
    entries: np.ndarray
    cores: np.ndarray
    shapes: np.ndarray
    frame: int
    n_plastic: int
    n_terms: int
    beta: float
    filled: tuple[int, ...]

    @cached_property
    def _tables(self) -> tuple[np.ndarray, ...]:
        rows, columns = (np.ascontiguousarray(self.shapes[:, k]) for k in (0, 1))
        return self.ops, self.entries, self.cores, rows, columns

    @cached_property
    def _program(self) -> _Program:
        x, x_size, target, target_size, ones, ones_size = self.filled
        pointers = (table.ctypes.data for table in self._tables)
        return _Program(
            len(self.ops), len(self.shapes), self.n_plastic, self.frame, self.n_terms,
            x, x_size, target, target_size, ones, ones_size, 0, self.beta, *pointers,
        )  # fmt: skip

    def _function(self, name: str, dtype: torch.dtype) -> Callable[..., None]:
        library = _library()[0]
        if library is None:
            raise RuntimeError(engine_unavailable())
        suffix = {torch.float32: "f32", torch.float64: "f64"}[dtype]
        function = getattr(library, f"{name}_{suffix}")
        function.restype = None
        return function  # type: ignore[no-any-return]

    def forward(
        self,
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
            Whether to return the frames and checkpoints that :meth:`backward` needs.
        """
        steps, lifetimes = x.shape[:2]
        plastic = int((self.shapes[: self.n_plastic, 0] * self.shapes[: self.n_plastic, 1]).sum())
        tape = x.new_empty(lifetimes, steps, self.frame) if keep else None
        segments = -(-steps // every)
        checkpoints = x.new_empty(lifetimes, segments, plastic) if keep else None
        function = self._function("live_forward", x.dtype)
        pointers = _pointers(matrices)

        def live(lifetime: int) -> None:
            function(
                ctypes.byref(self._program), *_int64(lifetimes, steps, every, lifetime, lifetime + 1),
                _pointer(x), _pointer(target), _pointer(theta), pointers,
                _pointer(tape), _pointer(checkpoints),
            )  # fmt: skip

        _each(lifetimes, live)
        return tape, checkpoints

    def backward(
        self,
        theta: Tensor,
        matrices: Sequence[Tensor],
        adjoints: Sequence[Tensor | None],
        tape: Tensor,
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
        lifetimes, steps = tape.shape[:2]
        theta_bar = torch.zeros_like(theta)
        drift = torch.zeros(lifetimes, dtype=torch.float64)
        recomputed = torch.zeros(lifetimes, dtype=torch.int64)
        function = self._function("live_backward", tape.dtype)
        held, held_adjoints = _pointers(matrices), _pointers(adjoints)

        def back(lifetime: int) -> None:
            function(
                ctypes.byref(self._program), *_int64(steps, every, lifetime, lifetime + 1),
                _pointer(theta), held, held_adjoints, _pointer(theta_bar), _pointer(tape),
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
