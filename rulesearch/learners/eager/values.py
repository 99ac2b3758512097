"""The operations of a tape on vectors and scalars as torch calls: all but the matrices.

A chunk's frames hold the values of its steps, ``(steps, lifetimes, examples, numbers)``. Each
operation becomes calls bound to views of them once, to be made again for every chunk: a step is
a fixed list of calls on fixed memory. A call costs more than its arithmetic, so operations on
values that lie side by side become one. Where each of these values has a scalar of its own, a
product with a matrix of zeros and ones adds up each value, or repeats each scalar over one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from rulesearch.compile.tape import stride
from rulesearch.learners.eager.functions import Call, apply_calls, make, slope_calls
from rulesearch.learners.eager.plan import Entry, Op, Plan, Span, merged

__all__ = ["Values"]


class Values:
    """Values of a chunk's steps, their adjoints, and what to multiply adjoints with.

    Parameters
    ----------
    shape : tuple of int
        Steps of a chunk, lifetimes and examples of a step.
    theta : Tensor (lifetimes, n_terms)
    differentiate : bool
        Whether adjoints are wanted.
    """

    def __init__(
        self, plan: Plan, shape: tuple[int, int, int], theta: Tensor, differentiate: bool
    ) -> None:
        self.plan, self.theta, self.beta = plan, theta, plan.tape.beta
        self._scratch: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self._members: dict[tuple[int, ...], Tensor] = {}
        self._numbers: dict[tuple[float, int], Tensor] = {}
        self.y = theta.new_zeros(*shape, plan.tape.frame)
        ones, size = plan.tape.filled[4:]
        self.y[..., ones : ones + size] = 1
        # scalars of combinations, repeated; without adjoints nobody asks again for a past step's
        steps = shape[0] if differentiate else 1
        self.wide = theta.new_zeros(steps, *shape[1:], plan.wide_width)
        if differentiate:
            self.bar, self.slope = torch.zeros_like(self.y), torch.zeros_like(self.y)
        self._fill_constants()

    def part(self, frames: Tensor, slot: int | None, start: int, width: int) -> Tensor:
        """Numbers of one step, or of all where the slot is None."""
        return (frames if slot is None else frames[slot])[..., start : start + width]

    def scratch(self, name: str, like: Tensor) -> Tensor:
        """Memory for what is read again at once, shared by all that ask in that name."""
        key = name, tuple(like.shape)
        if key not in self._scratch:
            self._scratch[key] = like.new_empty(like.shape)
        return self._scratch[key]

    def gathered(self, name: str, frames: Tensor, start: int, width: int) -> tuple[Tensor, Call]:
        """Vectors of all steps, ``(lifetimes, vectors, width)``, and the call that copies them."""
        vectors = self.part(frames, None, start, width).transpose(0, 1)
        memory = self.scratch(name, vectors)
        return memory.flatten(1, 2), partial(memory.copy_, vectors)

    def _total(self, vectors: Tensor, sizes: tuple[int, ...], out: Tensor, add: bool) -> Call:
        """Sum of each of the values that lie side by side."""
        return _product(vectors, self._membership(sizes).mT, out, add)

    def _spread(self, scalars: Tensor, sizes: tuple[int, ...], out: Tensor, add: bool) -> Call:
        """Each scalar, for every number of its value."""
        return _product(scalars, self._membership(sizes), out, add)

    def _membership(self, sizes: tuple[int, ...]) -> Tensor:
        """A row a value, of ones where it lies."""
        if sizes not in self._members:
            starts = [sum(map(stride, sizes[:k])) for k in range(len(sizes))]
            members = self.theta.new_zeros(len(sizes), starts[-1] + sizes[-1])
            for row, (start, size) in enumerate(zip(starts, sizes, strict=True)):
                members[row, start : start + size] = 1
            self._members[sizes] = members
        return self._members[sizes]

    def _number(self, entry: Entry) -> Tensor:
        """``number * theta[term]``, to be broadcast over frames."""
        key = entry.number, entry.term
        if key not in self._numbers:
            theta = self.theta[:, entry.term]
            n = theta if entry.term >= 0 else torch.ones_like(theta)
            self._numbers[key] = (entry.number * n).view(-1, 1, 1)
        return self._numbers[key]

    def _fill_constants(self) -> None:
        for op in self.plan.ops:
            if op.out in self.plan.constant:
                numbers = [self._number(e) for e in self.plan.entries_of(op)]
                self.part(self.y, None, op.out, 1).copy_(torch.stack(numbers).sum(0))
        for group, j in self._constant_parts():
            for slot in range(len(self.wide)):
                make(self._widen(group, j, slot))

    def _constant_parts(self) -> Iterator[tuple[list[Op], int]]:
        """Combinations that are alike, and which of their parts no step weighs anew."""
        for group in self.plan.groups:
            if group[0].kind == "combine":
                yield from (
                    (group, j) for j in range(group[0].count) if self._is_constant(group, j)
                )

    def _is_constant(self, group: list[Op], j: int) -> bool:
        return self.plan.entries_of(group[0])[j].scalar in self.plan.constant

    def zeros(self) -> list[int]:
        """Numbers of the outer products whose coefficients are zero, in all lifetimes."""
        found = {op.out: op for op in self.plan.ops if op.kind == "combine"}

        def is_zero(op: Op | None) -> bool:
            if op is None:  # no combination: something that is seen
                return False
            scalars = {e.scalar for e in self.plan.entries_of(op)}
            constant = scalars <= self.plan.constant
            return constant and not any(self.y[0, ..., k].any() for k in scalars)

        vectors = [[e.vector for e in self.plan.entries_of(op)] for op in self.plan.updates]
        return [
            r
            for r in range(self.plan.rank)
            if all(is_zero(found.get(v[r])) for v in vectors if r < len(v))
        ]

    # -- forward --

    def forward(self, group: list[Op], slot: int | None) -> Iterator[Call]:
        """Values of operations that are alike, of one step or of all."""
        first, at = group[0], partial(self.part, self.y, slot)
        match first.kind:
            case "multiply" | "subtract":
                function = torch.mul if first.kind == "multiply" else torch.sub
                for n, (out, a, b), _ in merged((op.n, (op.out, op.a, op.b)) for op in group):
                    yield partial(function, at(a, n), at(b, n), out=at(out, n))
            case "apply" if first.function == "softmax":
                for op in group:
                    yield partial(torch.softmax, at(op.a, op.n), -1, out=at(op.out, op.n))
            case "apply":
                for n, (out, a), _ in merged((op.n, (op.out, op.a)) for op in group):
                    yield from apply_calls(first.function, at(a, n), at(out, n), self.beta)
            case "dot":
                for n, (a, b, out), sizes in _dots(group):
                    vectors = at(a, n)
                    if first.b >= 0:
                        vectors = self.scratch("product", vectors)
                        yield partial(torch.mul, at(a, n), at(b, n), out=vectors)
                    yield self._total(vectors, sizes, at(out, len(sizes)), add=False)
            case "coefficient":
                yield from self._coefficients(group, slot)
            case "combine":
                yield from self._combinations(group, slot)

    def _scalars(self, group: list[Op]) -> Iterator[tuple[Entry, int, int, int]]:
        """Entries of coefficients that are alike, each with a count, an output and a scalar."""
        for alternatives in zip(*map(self.plan.entries_of, group), strict=True):
            if alternatives[0].scalar >= 0:
                spans = [(1, (op.out, e.scalar)) for op, e in zip(group, alternatives, strict=True)]
                for n, (out, scalar), _ in merged(spans):
                    yield alternatives[0], n, out, scalar

    def _coefficients(self, group: list[Op], slot: int | None) -> Iterator[Call]:
        if group[0].out in self.plan.constant:
            return
        at, entries = partial(self.part, self.y, slot), self.plan.entries_of(group[0])
        fixed = [self._number(e) for e in entries if e.scalar < 0]
        base = torch.stack(fixed).sum(0) if fixed else self.theta.new_zeros(())
        begun: Entry | None = None
        for entry, n, out, scalar in self._scalars(group):
            begun = begun or entry
            start = base if entry is begun else at(out, n)
            yield partial(torch.addcmul, start, at(scalar, n), self._number(entry), out=at(out, n))

    def _combinations(self, group: list[Op], slot: int | None) -> Iterator[Call]:
        at = partial(self.part, self.y, slot)
        for j in range(group[0].count):
            if not self._is_constant(group, j):
                yield from self._widen(group, j, slot)
            for n, (out, wide, vector), _ in merged(
                (op.n, (op.out, self.plan.wide[op.out, j], e.vector))
                for op, e in self._parts(group, j)
            ):
                scalars, vectors, to = self._wide(slot, wide, n), at(vector, n), at(out, n)
                if j:
                    yield partial(to.addcmul_, scalars, vectors)
                else:
                    yield partial(torch.mul, scalars, vectors, out=to)

    def _parts(self, group: list[Op], j: int) -> list[tuple[Op, Entry]]:
        return [(op, self.plan.entries_of(op)[j]) for op in group]

    def _wide(self, slot: int | None, start: int, width: int) -> Tensor:
        return self.part(self.wide, None if slot is None else slot % len(self.wide), start, width)

    def _widen(self, group: list[Op], j: int, slot: int | None) -> Iterator[Call]:
        for n, (wide, scalar), sizes in merged(
            ((op.n, (self.plan.wide[op.out, j], e.scalar)) for op, e in self._parts(group, j)),
            scalars=1,
        ):
            scalars = self.part(self.y, slot, scalar, len(sizes))
            yield self._spread(scalars, sizes, self._wide(slot, wide, n), add=False)

    def slopes(self) -> Iterator[Call]:
        """What adjoints are multiplied with, which all steps of a chunk know ahead."""
        at, to = partial(self.part, self.y, None), partial(self.part, self.slope, None)
        for group in self.plan.groups:
            wanted = [op for op in group if op.kind == "apply" and op.wants_a]
            for n, (out, a), _ in merged((op.n, (op.out, op.a)) for op in wanted):
                slope = to(out, n)
                yield from slope_calls(group[0].function, at(a, n), at(out, n), slope, self.beta)

    # -- backward --

    def backward(self, group: list[Op], slot: int) -> Iterator[Call]:
        """Carry adjoints from the outputs of one step's operations to what they read."""
        first, y, g = group[0], partial(self.part, self.y, slot), partial(self.part, self.bar, slot)
        match first.kind:
            case "multiply":
                for n, (out, a, b), _ in merged((op.n, (op.out, op.a, op.b)) for op in group):
                    if first.wants_a:
                        yield partial(g(a, n).addcmul_, g(out, n), y(b, n))
                    if first.wants_b:
                        yield partial(g(b, n).addcmul_, g(out, n), y(a, n))
            case "subtract":
                for n, (out, a, b), _ in merged((op.n, (op.out, op.a, op.b)) for op in group):
                    if first.wants_a:
                        yield partial(g(a, n).add_, g(out, n))
                    if first.wants_b:
                        yield partial(g(b, n).sub_, g(out, n))
            case "dot":
                yield from self._dots_backward(group, slot)
            case "coefficient":
                for entry, n, out, scalar in self._scalars(group):
                    if entry.wants_scalar:
                        yield partial(g(scalar, n).addcmul_, g(out, n), self._number(entry))
            case "combine":
                for j in range(first.count):
                    for n, (out, wide, vector), _ in merged(
                        (op.n, (op.out, self.plan.wide[op.out, j], e.vector))
                        for op, e in self._parts(group, j)
                        if e.wants_vector
                    ):
                        yield partial(g(vector, n).addcmul_, g(out, n), self._wide(slot, wide, n))
                    if not self._is_constant(group, j):
                        yield from self._overlaps(group, j, slot)
            case "apply":
                yield from self._apply_backward([op for op in group if op.wants_a], slot)

    def _dots_backward(self, group: list[Op], slot: int) -> Iterator[Call]:
        y, g = partial(self.part, self.y, slot), partial(self.part, self.bar, slot)
        for n, (a, b, out), sizes in _dots(group):
            scalars = g(out, len(sizes))
            if group[0].b < 0:
                if group[0].wants_a:
                    yield self._spread(scalars, sizes, g(a, n), add=True)
                continue
            wide = self.scratch("product", y(a, n))
            yield self._spread(scalars, sizes, wide, add=False)
            if group[0].wants_a:
                yield partial(g(a, n).addcmul_, y(b, n), wide)
            if group[0].wants_b:
                yield partial(g(b, n).addcmul_, y(a, n), wide)

    def _overlaps(self, group: list[Op], j: int, slot: int | None) -> Iterator[Call]:
        """Adjoints of scalars of combinations."""
        y, g = partial(self.part, self.y, slot), partial(self.part, self.bar, slot)
        for n, (out, vector, scalar), sizes in merged(
            (
                (op.n, (op.out, e.vector, e.scalar))
                for op, e in self._parts(group, j)
                if e.wants_scalar
            ),
            scalars=1,
        ):
            product = self.scratch("product", g(out, n))
            yield partial(torch.mul, g(out, n), y(vector, n), out=product)
            yield self._total(product, sizes, g(scalar, len(sizes)), add=True)

    def _apply_backward(self, group: list[Op], slot: int) -> Iterator[Call]:
        y, g = partial(self.part, self.y, slot), partial(self.part, self.bar, slot)
        function = group[0].function if group else "sign"
        if function in ("sign", "d_relu"):
            return
        for n, (out, a), _ in merged((op.n, (op.out, op.a)) for op in group):
            if function == "identity":
                yield partial(g(a, n).add_, g(out, n))
            elif function != "softmax":
                yield partial(g(a, n).addcmul_, g(out, n), self.part(self.slope, slot, out, n))
        for op in group if function == "softmax" else ():
            value, to = y(op.out, op.n), g(op.a, op.n)
            product = self.scratch("product", value)
            total = self.scratch("total", value[..., :1])
            yield partial(torch.mul, value, g(op.out, op.n), out=product)
            yield partial(torch.sum, product, -1, keepdim=True, out=total)
            yield partial(to.add_, product)
            yield partial(to.addcmul_, value, total, value=-1)

    def constants_backward(self, theta_bar: Tensor) -> Iterator[Call]:
        """Adjoints that no step waits for, of a chunk's steps together; theta's at last."""
        for group, j in self._constant_parts():
            yield from self._overlaps(group, j, None)
        found = [
            (op.out, e)
            for op in self.plan.ops
            if op.kind == "coefficient"
            for e in self.plan.entries_of(op)
            if e.term >= 0
        ]
        if found:
            yield partial(self._theta_backward, theta_bar, *self._theta_tables(found))

    def _theta_tables(
        self, found: list[tuple[int, Entry]]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        device = self.y.device
        outs = torch.tensor([out for out, _ in found], device=device)
        scalars = torch.tensor([max(e.scalar, 0) for _, e in found], device=device)
        alone = torch.tensor([e.scalar < 0 for _, e in found], device=device)
        numbers = self.theta.new_zeros(len(found), self.plan.tape.n_terms)
        for row, (_, e) in enumerate(found):
            numbers[row, e.term] = e.number
        return outs, scalars, alone, numbers

    def _theta_backward(
        self, theta_bar: Tensor, outs: Tensor, scalars: Tensor, alone: Tensor, numbers: Tensor
    ) -> None:
        seen = self.y.index_select(-1, scalars).masked_fill_(alone, 1)
        seen *= self.bar.index_select(-1, outs)
        theta_bar += seen.sum((0, 2)) @ numbers


def _dots(group: list[Op]) -> tuple[Span, ...]:
    """Spans of what is multiplied and of the results; a sum has one vector, for both."""
    return merged(((op.n, (op.a, op.a if op.b < 0 else op.b, op.out)) for op in group), scalars=1)


def _product(rows: Tensor, matrix: Tensor, out: Tensor, add: bool) -> Call:
    """``out = rows matrix``, or that added to it; any number of dimensions, taken as rows."""
    left, to = (t.view(-1, t.shape[-1]) for t in (rows, out))
    return partial(to.addmm_, left, matrix) if add else partial(torch.mm, left, matrix, out=to)
