"""A tape read for torch: operations by name, and which of them can be made in one call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

from rulesearch.compile.tape import FUNCTIONS, KINDS, Tape, stride

__all__ = ["PRODUCTS", "Entry", "Op", "Plan", "Side", "Span", "merged", "plan_of"]

PRODUCTS = ("matvec", "matvec_t")
CHUNK_PRODUCTS = 36
"""Outer products of a matrix that a chunk of steps may defer."""


@dataclass(frozen=True)
class Op:
    """A row of ``Tape.ops``; values are offsets into a frame, and -1 is none."""

    kind: str
    out: int
    a: int
    b: int
    matrix: int
    n: int
    m: int
    function: str
    first: int
    count: int
    rows: int
    row_count: int
    masks: int
    mask_count: int
    others: int
    other_count: int
    scale: int
    rate: int
    ahead: int
    wants_a: int
    wants_b: int
    wants_matrix: int


@dataclass(frozen=True)
class Entry:
    """A row of ``Tape.entries``."""

    number: float
    term: int
    scalar: int
    vector: int
    wants_scalar: int
    wants_vector: int
    core: int
    core_count: int
    pad: int


class Span(NamedTuple):
    """Neighbouring values taken as one: their width together, where operands begin, each size."""

    width: int
    starts: tuple[int, ...]
    sizes: tuple[int, ...]


def merged(parts: Iterable[tuple[int, tuple[int, ...]]], scalars: int = 0) -> tuple[Span, ...]:
    """Join parts, (size, starts), whose every operand begins where the last one ended.

    The last ``scalars`` operands are single numbers, whatever the size of the others.
    """
    return _joined(tuple(parts), scalars)


@lru_cache(maxsize=4096)  # every step of a chunk asks for the same
def _joined(parts: tuple[tuple[int, tuple[int, ...]], ...], scalars: int) -> tuple[Span, ...]:
    joined: list[Span] = []
    end: tuple[int, ...] = ()
    for size, starts in parts:
        if joined and starts == end:
            _, first, sizes = joined.pop()
            joined.append(Span(starts[0] - first[0] + size, first, (*sizes, size)))
        else:
            joined.append(Span(size, starts, (size,)))
        vectors = len(starts) - scalars
        end = tuple(s + (stride(size) if i < vectors else 1) for i, s in enumerate(starts))
    return tuple(joined)


class Side:
    """Where each connection's part begins in vectors of all connections, side by side."""

    def __init__(self, sizes: Sequence[int]) -> None:
        padded = [stride(n) for n in sizes]
        self.sizes, self.width = tuple(sizes), sum(padded)
        self.starts = tuple(sum(padded[:k]) for k in range(len(sizes)))

    def of(self, k: int, tensor: Tensor) -> Tensor:
        """The part of connection k."""
        return tensor[..., self.starts[k] : self.starts[k] + self.sizes[k]]


class Plan:
    """What a tape does, whatever the numbers.

    Attributes
    ----------
    ops, entries : list of Op, list of Entry
    constant : set of int
        Coefficients of theta alone: the same at every step.
    groups : list of list of Op
        Neighbours that differ in nothing but what they read and write; none reads another.
    wide : dict of (int, int) to int
        For each part of each combination, by the combination's value and the part's number,
        where its scalar is kept once for every number of the vector.
    wide_width : int
        Numbers that all of them take.
    updates : list of Op
        One a connection.
    low_rank, grows, steady : bool
        Whether no update multiplies weights one by one; whether it multiplies whole rows; and
        whether that is by the same factor at every step.
    rank : int
        Outer products of an update, the most.
    uses : list of list of Op
        Products with each plastic matrix that its adjoint hears of.
    feedback : list of Op
        Products with matrices that are not plastic.
    ordinal : dict of int
        How many transposed products with the same matrix come before one.
    post, pre : Side
        Of the connections.
    """

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.ops = [_operation(row) for row in tape.ops.tolist()]
        self.entries = [Entry(*row) for row in tape.entries.tolist()]
        self.constant = {
            op.out
            for op in self.ops
            if op.kind == "coefficient" and all(e.scalar < 0 for e in self.entries_of(op))
        }
        self.groups = list(self._groups())
        self.wide, self.wide_width = self._wide()
        updates = self.updates = [op for op in self.ops if op.kind == "update"]
        self.low_rank = not any(op.mask_count or op.other_count for op in updates)
        self.grows = self.low_rank and any(op.scale >= 0 or op.row_count for op in updates)
        self.steady = all(
            not op.row_count and (op.scale < 0 or op.scale in self.constant) for op in updates
        )
        self.rank = max(op.count for op in updates)
        products = [op for op in self.ops if op.kind in PRODUCTS and op.wants_matrix]
        self.uses = [[op for op in products if op.matrix == k] for k in range(tape.n_plastic)]
        self.feedback = [op for op in products if op.matrix >= tape.n_plastic]
        times: Counter[int] = Counter()
        self.ordinal = {}
        for op in self.ops:
            if op.kind == "matvec_t":
                self.ordinal[op.out] = times[op.matrix]
                times[op.matrix] += 1
        self.post, self.pre = Side([op.n for op in updates]), Side([op.m for op in updates])

    def steps(self, examples: int) -> int:
        """Length of a chunk."""
        widest = max(1, self.rank, *map(len, self.uses))
        return max(1, CHUNK_PRODUCTS // (widest * examples)) if self.low_rank else 1

    def entries_of(self, op: Op) -> list[Entry]:
        """Parts of a coefficient or of a combination, or outer products of an update."""
        return self.entries[op.first : op.first + op.count]

    def _groups(self) -> Iterator[list[Op]]:
        group: list[Op] = []
        written: set[int] = set()
        for op in self.ops:
            if group and (self._kind(op) != self._kind(group[0]) or written & self._reads(op)):
                yield group
                group, written = [], set()
            group.append(op)
            written.add(op.out)
        yield group

    def _kind(self, op: Op) -> tuple[object, ...]:
        parts: object = None
        if op.kind == "coefficient":
            entries = self.entries_of(op)
            parts = tuple((e.number, e.term, e.scalar < 0, e.wants_scalar) for e in entries)
        elif op.kind == "combine":
            parts = tuple(e.scalar in self.constant for e in self.entries_of(op))
        elif op.kind != "apply":
            parts = op.b < 0, op.wants_a, op.wants_b, op.wants_matrix
        return op.kind, op.function, parts

    def _reads(self, op: Op) -> set[int]:
        if op.kind not in ("coefficient", "combine"):
            return {op.a, op.b}
        return {v for e in self.entries_of(op) for v in (e.scalar, e.vector)}

    def _wide(self) -> tuple[dict[tuple[int, int], int], int]:
        wide, end = {}, 0
        for group in self.groups:
            if group[0].kind == "combine":
                for j in range(group[0].count):
                    for op in group:
                        wide[op.out, j] = end
                        end += stride(op.n)
        return wide, end

    def outers(self, r: int, varying: bool = False) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
        """Left and right vectors of each update's outer product r, and where they go.

        ``varying`` leaves out those without an adjoint.
        """
        found = [
            (k, op, self.entries[op.first + r]) for k, op in enumerate(self.updates) if r < op.count
        ]
        left = [
            (op.n, (e.scalar, self.post.starts[k]))
            for k, op, e in found
            if e.wants_scalar or not varying
        ]
        right = [
            (op.m, (e.vector, self.pre.starts[k]))
            for k, op, e in found
            if e.wants_vector or not varying
        ]
        return merged(left), merged(right)


def _operation(row: tuple[int, ...]) -> Op:
    return Op(
        KINDS[row[0]], row[1], row[2], row[3], row[4], row[5], row[6], FUNCTIONS[row[7]], *row[8:]
    )


@lru_cache(maxsize=64)
def plan_of(tape: Tape) -> Plan:
    """Read a tape."""
    return Plan(tape)
