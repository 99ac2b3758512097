"""The tape: one step of every connection of a network, as the tables of ``engine/program.h``."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

__all__ = ["FUNCTIONS", "LANES", "LAYOUT", "Life", "Tape", "TapeBuilder", "stride"]

KINDS = (
    "matvec", "matvec_t", "multiply", "dot", "coefficient", "combine", "apply", "subtract",
    "column", "update",
)  # fmt: skip
FUNCTIONS = (
    "tanh", "exp", "abs", "sign", "softplus", "relu", "softmax", "identity", "d_softplus",
    "d_tanh", "d_relu",
)  # fmt: skip

_OP = np.dtype(
    [(name, np.int32) for name in (
        "kind", "out", "a", "b", "matrix", "n", "m", "function", "first", "count",
        "rows", "row_count", "masks", "mask_count", "others", "other_count", "scale", "rate",
        "ahead", "wants_a", "wants_b", "wants_matrix",
    )]
)  # fmt: skip
_ENTRY = np.dtype(
    [("number", np.float64)]
    + [(name, np.int32) for name in (
        "term", "scalar", "vector", "wants_scalar", "wants_vector", "core", "core_count", "pad",
    )]
)  # fmt: skip
_CORE = np.dtype([("matrix", np.int32), ("power", np.int32)])
_GROUPS = (
    ("first", "count"), ("rows", "row_count"), ("masks", "mask_count"), ("others", "other_count"),
)  # fmt: skip
"""Fields of an op that say which entries it reads."""
_NONE = -1


class _Program(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_int32) for name in (
            "n_ops", "n_matrices", "n_plastic", "n_terms", "n_ahead", "frame", "stored", "x",
            "x_size", "target", "target_size", "ones", "ones_size", "pad",
        )]
        + [("beta", ctypes.c_double)]
        + [(name, ctypes.c_void_p) for name in ("ops", "entries", "cores", "rows", "columns")]
    )  # fmt: skip


class Life(ctypes.Structure):
    """The struct of that name in ``engine/engine.cpp``: examples, and how they are lived."""

    _fields_ = (
        [("program", ctypes.c_void_p)]
        + [(name, ctypes.c_int64) for name in ("steps", "lifetimes", "examples", "every")]
        + [(name, ctypes.c_void_p) for name in ("x", "index", "target", "label")]
        + [("share", ctypes.c_double)]
        + [("threads", ctypes.c_int64)]
    )


LAYOUT = (
    _OP.itemsize, _ENTRY.itemsize, _CORE.itemsize, ctypes.sizeof(_Program), ctypes.sizeof(Life),
    len(KINDS), len(FUNCTIONS),
)  # fmt: skip
"""What the headers in ``engine/`` must agree with, as ``layout()`` there returns."""


@dataclass(frozen=True, eq=False)
class Tape:
    """Operations on a frame of numbers, ready to run for whole lifetimes.

    Attributes
    ----------
    ops, entries, cores : ndarray
        Tables of ``Op``, ``Entry`` and ``CoreFactor``.
    shapes : ndarray (matrices, 2)
        Rows and columns of each matrix, the plastic ones first.
    frame : int
        Numbers that one example of a step takes.
    stored : int
        Those that are kept for the backward pass, the first of the frame: products with
        matrices. All others follow from them.
    n_plastic, n_terms, n_ahead : int
        How many matrices an update changes, the length of theta, and the number of products
        with the input alone.
    beta : float
        Sharpness of softplus.
    filled : tuple of int
        Offset and size of x, of the target and of the ones, filled in at every step.
    input_varies : bool
        Whether the adjoint of x is wanted.
    """

    ops: np.ndarray
    entries: np.ndarray
    cores: np.ndarray
    shapes: np.ndarray
    frame: int
    stored: int
    n_plastic: int
    n_terms: int
    n_ahead: int
    beta: float
    filled: tuple[int, ...]
    input_varies: bool

    @property
    def plastic_size(self) -> int:
        """Numbers in the plastic matrices of one lifetime."""
        return int(self.shapes[: self.n_plastic].prod(axis=1).sum())

    @cached_property
    def _tables(self) -> tuple[np.ndarray, ...]:
        rows, columns = (np.ascontiguousarray(self.shapes[:, k]) for k in (0, 1))
        return self.ops, self.entries, self.cores, rows, columns

    @cached_property
    def program(self) -> ctypes.Structure:
        """The C++ struct; valid as long as the tape lives."""
        pointers = (table.ctypes.data for table in self._tables)
        return _Program(
            len(self.ops), len(self.shapes), self.n_plastic, self.n_terms, self.n_ahead,
            self.frame, self.stored, *self.filled, 0, self.beta, *pointers,
        )  # fmt: skip


LANES = 16
"""Vectors begin at multiples of it: 64 bytes of float32."""


def stride(size: int) -> int:
    """Numbers between two examples of a value; scalars lie side by side."""
    return 1 if size == 1 else -(-size // LANES) * LANES


@dataclass
class TapeBuilder:
    """Collects operations on values, and lays the values out in a frame.

    A value is a number that stands for a vector of known size. ``varies`` holds those that
    depend on weights or theta: only they need adjoints.
    """

    n_terms: int
    beta: float
    x: int = field(init=False)
    ops: list[dict[str, int]] = field(default_factory=list)
    entries: list[dict[str, float]] = field(default_factory=list)
    cores: list[tuple[int, int]] = field(default_factory=list)
    shapes: list[tuple[int, int]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    varies: set[int] = field(default_factory=set)
    products: list[int] = field(default_factory=list)
    n_ahead: int = 0

    def value(self, size: int, varies: bool = True) -> int:
        """Declare a value of ``size`` numbers."""
        self.sizes.append(size)
        if varies:
            self.varies.add(len(self.sizes) - 1)
        return len(self.sizes) - 1

    def product(self, size: int) -> int:
        """Declare a product with a matrix, for ``matvec`` to fill."""
        self.products.append(self.value(size))
        return self.products[-1]

    def input(self, size: int, varies: bool) -> int:
        """Declare the input x of the network."""
        self.x = self.value(size, varies)
        return self.x

    def _op(self, kind: str, out: int, **fields: int) -> int:
        self.ops.append(
            {"kind": KINDS.index(kind), "out": out, "ahead": _NONE, "rate": _NONE, **fields}
        )
        return out

    def _wants(self, value: int) -> int:
        return int(value in self.varies)

    def matrix(self, rows: int, columns: int) -> int:
        """Declare a matrix; plastic ones first."""
        self.shapes.append((rows, columns))
        return len(self.shapes) - 1

    def matvec(
        self, matrix: int, x: int, transposed: bool, constant: bool = False, out: int | None = None
    ) -> int:
        """``M x`` or ``M^T x``; ``constant`` takes M out of the gradient."""
        rows, columns = self.shapes[matrix]
        n, m = (columns, rows) if transposed else (rows, columns)
        ahead = _NONE
        if x == self.x and not transposed:
            ahead, self.n_ahead = self.n_ahead, self.n_ahead + 1
        return self._op(
            "matvec_t" if transposed else "matvec", self.product(n) if out is None else out,
            a=x, matrix=matrix, n=n, m=m, ahead=ahead,
            wants_a=self._wants(x), wants_matrix=int(not constant),
        )  # fmt: skip

    def column(self, matrix: int) -> int:
        """The only column of a matrix that no update changes, for every example."""
        n, _ = self.shapes[matrix]
        return self._op("column", self.value(n), matrix=matrix, n=n, m=1, wants_matrix=1)

    def elementwise(self, kind: str, a: int, b: int, out: int | None = None) -> int:
        """``multiply`` or ``subtract``."""
        size = self.sizes[a]
        if out is None:
            out = self.value(size, a in self.varies or b in self.varies)
        wants = {"wants_a": self._wants(a), "wants_b": self._wants(b)}
        return self._op(kind, out, a=a, b=b, n=size, **wants)

    def dot(self, a: int, b: int | None = None) -> int:
        """``a . b``, or the sum of a."""
        varies = a in self.varies or b in self.varies
        wants_b = 0 if b is None else self._wants(b)
        return self._op(
            "dot", self.value(1, varies), a=a, b=_NONE if b is None else b,
            n=self.sizes[a], wants_a=self._wants(a), wants_b=wants_b,
        )  # fmt: skip

    def apply(self, function: str, a: int) -> int:
        """An elementwise function, softmax included."""
        out = self.value(self.sizes[a], a in self.varies)
        index = FUNCTIONS.index(function)
        return self._op("apply", out, a=a, n=self.sizes[a], function=index, wants_a=self._wants(a))

    def coefficient(self, parts: Sequence[tuple[float, int | None, int | None]]) -> int:
        """``sum number * theta[term] * scalar``."""
        varies = any(term is not None or s in self.varies for _, term, s in parts)
        first = len(self.entries)
        for number, term, scalar in parts:
            self._entry(number, term, scalar)
        return self._op("coefficient", self.value(1, varies), first=first, count=len(parts), n=1)

    def combine(self, parts: Sequence[tuple[int, int]]) -> int:
        """``sum scalar * vector``."""
        size = self.sizes[parts[0][1]]
        varies = any(s in self.varies or v in self.varies for s, v in parts)
        first = len(self.entries)
        for scalar, vector in parts:
            self._entry(1.0, None, scalar, vector)
        return self._op("combine", self.value(size, varies), first=first, count=len(parts), n=size)

    def update(
        self,
        matrix: int,
        scale: int | None,
        rows: Sequence[int],
        masks: Sequence[tuple[int, int]],
        outers: Sequence[tuple[int, int]],
        others: Sequence[tuple[int, int, Sequence[tuple[int, int]]]],
        rate: int | None = None,
    ) -> None:
        """The update of a plastic matrix; comes after every other operation.

        ``M <- M + A o (M o (s + p 1^T + P Q^T) + U V^T + sum (p q^T) o E)``; each p of ``rows``
        scales whole rows, and A is the matrix ``rate``, ones where there is none.
        """
        n, m = self.shapes[matrix]
        fields = {"matrix": matrix, "n": n, "m": m}
        fields["scale"] = _NONE if scale is None else scale
        fields["rate"] = _NONE if rate is None else rate
        groups: list[
            tuple[str, str, Sequence[tuple[int, int | None, Sequence[tuple[int, int]]]]]
        ] = [
            ("first", "count", [(u, v, ()) for u, v in outers]),
            ("rows", "row_count", [(p, None, ()) for p in rows]),
            ("masks", "mask_count", [(p, q, ()) for p, q in masks]),
            ("others", "other_count", others),
        ]
        for start, count, products in groups:
            fields[start], fields[count] = len(self.entries), len(products)
            for left, right, core in products:
                self._entry(1.0, None, left, right, core)
        self._op("update", _NONE, **fields)

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

    def build(self, n_plastic: int, target: int, ones: Sequence[int]) -> Tape:
        """Close the tape; x, target and ones are filled in at every step.

        What no update reads, whether itself or through other values, is left out.
        """
        ops, read = self._needed()
        ones = [v for v in ones if v in read]
        products = [v for v in self.products if v in read]
        here = read | {self.x, target}
        last = sorted(here - {*products, *ones})
        scalars = [v for v in last if self.sizes[v] == 1]
        vectors = [v for v in last if self.sizes[v] > 1]
        groups = (products, ones, vectors, scalars)
        offsets, ends = {_NONE: _NONE}, [0]
        for group in groups:
            end = ends[-1]
            for value in group:
                offsets[value] = end
                end += stride(self.sizes[value])
            ends.append(-(-end // LANES) * LANES)
        ops, entries = self._with_entries(ops)
        tape = Tape(
            ops=_table(ops, _OP, ("out", "a", "b", "scale"), offsets),
            entries=_table(entries, _ENTRY, ("scalar", "vector"), offsets),
            cores=np.array(self.cores, dtype=_CORE),
            shapes=np.array(self.shapes, dtype=np.int32).reshape(-1, 2),
            frame=ends[-1],
            stored=ends[1],
            n_plastic=n_plastic,
            n_terms=self.n_terms,
            n_ahead=self.n_ahead,
            beta=self.beta,
            filled=(
                offsets[self.x], self.sizes[self.x], offsets[target], self.sizes[target],
                ends[1], ends[2] - ends[1],
            ),
            input_varies=self.x in self.varies,
        )  # fmt: skip
        _ = tape.program  # made before threads share the tape: each would make its own
        return tape

    def _needed(self) -> tuple[list[dict[str, int]], set[int]]:
        """Return the operations that an update depends on, in order, and all that they read."""
        needed: list[dict[str, int]] = []
        read: set[int] = set()
        for op in reversed(self.ops):
            if op["out"] == _NONE or op["out"] in read:
                needed.append(op)
                read |= {op[name] for name in ("a", "b", "scale") if name in op}
                for _, entries in self._groups(op):
                    read |= {int(entry[side]) for entry in entries for side in ("scalar", "vector")}
        return needed[::-1], read - {_NONE}

    def _with_entries(
        self, ops: Sequence[dict[str, int]]
    ) -> tuple[list[dict[str, int]], list[dict[str, float]]]:
        """Return the operations with their entries alone, numbered anew."""
        numbered, entries = [], list[dict[str, float]]()
        for op in ops:
            begins = {}
            for first, group in self._groups(op):
                begins[first] = len(entries)
                entries += group
            numbered.append(op | begins)
        return numbered, entries

    def _groups(self, op: Mapping[str, int]) -> Iterator[tuple[str, list[dict[str, float]]]]:
        """Give each group of entries of an operation, by the field that says where it begins."""
        for first, count in _GROUPS:
            begin = op.get(first, 0)
            yield first, self.entries[begin : begin + op.get(count, 0)]


def _table(
    rows: Sequence[Mapping[str, float]],
    dtype: np.dtype[np.void],
    values: Sequence[str],
    offsets: Mapping[int, int],
) -> np.ndarray:
    """Rows as an array; fields that name a value get its offset."""
    table = np.zeros(len(rows), dtype)
    for index, row in enumerate(rows):
        for name, number in row.items():
            table[name][index] = offsets[int(number)] if name in values else number
    return table
