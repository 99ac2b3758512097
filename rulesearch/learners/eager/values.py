"""The operations of a tape on vectors and scalars as torch calls: all but the matrices.

A chunk's frames hold the values of its steps, ``(lifetimes, steps, examples, numbers)``. Each
operation becomes calls bound to views of them once, to be made again for every chunk: a step is
a fixed list of calls on fixed memory. A call costs more than its arithmetic, so operations on
values that lie side by side become one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from rulesearch.learners.eager.functions import Call, apply_calls, slope_calls
from rulesearch.learners.eager.plan import Entry, Op, Plan, merged

__all__ = ["Values"]


class Values:
    """Values of a chunk's steps, their adjoints, and what to multiply adjoints with.

    Parameters
    ----------
    shape : tuple of int
        Lifetimes, steps of a chunk and examples of a step.
    theta : Tensor (lifetimes, n_terms)
    differentiate : bool
        Whether adjoints are wanted.
    """

    def __init__(
        self, plan: Plan, shape: tuple[int, int, int], theta: Tensor, differentiate: bool
    ) -> None:
        self.plan, self.theta, self.beta = plan, theta, plan.tape.beta
        self._scratch: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        self.y = theta.new_zeros(*shape, plan.tape.frame)
        ones, size = plan.tape.filled[4:]
        self.y[..., ones : ones + size] = 1
        if differentiate:
            self.bar, self.slope = torch.zeros_like(self.y), torch.zeros_like(self.y)
        self._fill_constants()

    def part(self, frames: Tensor, slot: int | None, start: int, width: int) -> Tensor:
        """Numbers of one step, or of all where the slot is None."""
        return (frames if slot is None else frames[:, slot])[..., start : start + width]

    def scratch(self, name: str, like: Tensor) -> Tensor:
        """Memory for what is read again at once, shared by all that ask in that name."""
        key = name, tuple(like.shape)
        if key not in self._scratch:
            self._scratch[key] = like.new_empty(like.shape)
        return self._scratch[key]

    def _number(self, entry: Entry, like: Tensor) -> Tensor:
        """``number * theta[term]``, to be broadcast over the frames of ``like``."""
        n = self.theta[:, entry.term] if entry.term >= 0 else torch.ones_like(self.theta[:, 0])
        return (entry.number * n).view(-1, *(1,) * (like.ndim - 1))

    def _fill_constants(self) -> None:
        for op in self.plan.ops:
            if op.out in self.plan.constant:
                out = self.part(self.y, None, op.out, 1)
                numbers = [self._number(e, out) for e in self.plan.entries_of(op)]
                out.copy_(torch.stack(numbers).sum(0).expand_as(out))

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
            case "dot" if first.b < 0:
                for op in group:
                    yield partial(torch.sum, at(op.a, op.n), -1, keepdim=True, out=at(op.out, 1))
            case "dot":
                rest = iter(group)
                for n, (a, b), count in merged((op.n, (op.a, op.b)) for op in group):
                    product = self.scratch("product", at(a, n))
                    yield partial(torch.mul, at(a, n), at(b, n), out=product)
                    for op in islice(rest, count):
                        one = product[..., op.a - a : op.a - a + op.n]
                        yield partial(torch.sum, one, -1, keepdim=True, out=at(op.out, 1))
            case "coefficient":
                yield from self._coefficients(group, slot)
            case "combine":
                for op in group:
                    for i, e in enumerate(self.plan.entries_of(op)):
                        to, k, v = at(op.out, op.n), at(e.scalar, 1), at(e.vector, op.n)
                        yield partial(to.addcmul_, k, v) if i else partial(torch.mul, k, v, out=to)

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
        at = partial(self.part, self.y, slot)
        like = at(0, 1)
        fixed = [self._number(e, like) for e in self.plan.entries_of(group[0]) if e.scalar < 0]
        base = torch.stack(fixed).sum(0) if fixed else like.new_zeros((1,) * like.ndim)
        for n, (out,), _ in merged((1, (op.out,)) for op in group):
            yield partial(at(out, n).copy_, base)
        for entry, n, out, scalar in self._scalars(group):
            yield partial(at(out, n).addcmul_, at(scalar, n), self._number(entry, like))

    def slopes(self) -> Iterator[Call]:
        """What adjoints are multiplied with, which all steps of a chunk know ahead."""
        at, to = partial(self.part, self.y, None), partial(self.part, self.slope, None)
        for group in self.plan.groups():
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
                for op in group:
                    if op.wants_a and op.b < 0:
                        yield partial(g(op.a, op.n).add_, g(op.out, 1))
                    elif op.wants_a:
                        yield partial(g(op.a, op.n).addcmul_, y(op.b, op.n), g(op.out, 1))
                    if op.wants_b:
                        yield partial(g(op.b, op.n).addcmul_, y(op.a, op.n), g(op.out, 1))
            case "coefficient":
                for entry, n, out, scalar in self._scalars(group):
                    if entry.wants_scalar:
                        number = self._number(entry, y(0, 1))
                        yield partial(g(scalar, n).addcmul_, g(out, n), number)
            case "combine":
                for op in group:
                    for e in self.plan.entries_of(op):
                        if e.wants_vector:
                            yield partial(
                                g(e.vector, op.n).addcmul_, g(op.out, op.n), y(e.scalar, 1)
                            )
                        if e.wants_scalar and e.scalar not in self.plan.constant:
                            yield from self._overlap(op, e, slot)
            case "apply" if first.wants_a:
                yield from self._apply_backward(group, slot)

    def _overlap(self, op: Op, e: Entry, slot: int | None) -> Iterator[Call]:
        """Adjoint of the scalar of a combination."""
        g, v = self.part(self.bar, slot, op.out, op.n), self.part(self.y, slot, e.vector, op.n)
        to = self.part(self.bar, slot, e.scalar, 1)
        product = self.scratch("product", g)
        yield partial(torch.mul, g, v, out=product)
        if e.scalar in self.plan.read_once:
            yield partial(torch.sum, product, -1, keepdim=True, out=to)
            return
        total = self.scratch("total", to)
        yield partial(torch.sum, product, -1, keepdim=True, out=total)
        yield partial(to.add_, total)

    def _apply_backward(self, group: list[Op], slot: int) -> Iterator[Call]:
        y, g = partial(self.part, self.y, slot), partial(self.part, self.bar, slot)
        function = group[0].function
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
        found = []
        for op in self.plan.ops:
            if op.kind == "combine":
                for e in self.plan.entries_of(op):
                    if e.scalar in self.plan.constant:
                        yield from self._overlap(op, e, None)
            elif op.kind == "coefficient":
                found += [(op.out, e) for e in self.plan.entries_of(op) if e.term >= 0]
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
        theta_bar += seen.sum((1, 2)) @ numbers
