"""A chunk of steps of many lifetimes: what ``compile/engine/lifetime.h`` does, in torch.

All work is on memory that is allocated once, in lists of calls that are made once: a chunk fills
in its inputs and makes its calls. So a device could record a chunk and play it back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from rulesearch.compile.native import Examples
from rulesearch.learners.eager.dense import Dense
from rulesearch.learners.eager.functions import Call, make, products, scaled
from rulesearch.learners.eager.matrices import Deferred
from rulesearch.learners.eager.plan import PRODUCTS, Op, Plan
from rulesearch.learners.eager.values import Values

__all__ = ["Chosen", "Forward", "growth_calls"]


class Chosen:
    """The examples of some of the lifetimes.

    Parameters
    ----------
    lifetimes : Tensor of int64
        Which ones.
    """

    def __init__(self, plan: Plan, examples: Examples, lifetimes: Tensor) -> None:
        self.plan, self.examples, self.lifetimes = plan, examples, lifetimes

    def fill(self, y: Tensor, begin: int, end: int, reverse: bool = False) -> None:
        """Write inputs and targets of some steps into frames; in reverse the last one first."""
        e = self.examples
        x0, x_size, t0, t_size = self.plan.tape.filled[:4]
        x, label = (
            t[begin:end].index_select(1, self.lifetimes)
            for t in (e.x if e.index is None else e.index, e.label)
        )
        if reverse:
            x, label = x.flip(0), label.flip(0)
        frames = y[: end - begin]
        frames[..., x0 : x0 + x_size] = x if e.index is None else e.x[x]
        target = frames[..., t0 : t0 + t_size]
        if label.is_floating_point():
            target.copy_(label)
        else:
            target.zero_().scatter_(-1, label.unsqueeze(-1), 1)


def growth_calls(plan: Plan, values: Values, slot: int | None, share: float, to: Tensor
                 ) -> Iterator[Call]:  # fmt: skip
    """``1 + share sum_e (s_e + sum p_e)`` of the rows of all matrices."""
    at = partial(values.part, values.y, slot)
    yield to.zero_
    for k, op in enumerate(plan.updates):
        mine = plan.post.of(k, to)
        rows = [e.scalar for e in plan.entries[op.rows : op.rows + op.row_count]]
        added = [at(row, op.n) for row in rows] + ([at(op.scale, 1)] if op.scale >= 0 else [])
        for part in added:
            total = part
            if part.shape[-2] > 1:
                total = values.scratch("total", part[..., :1, :])
                yield partial(torch.sum, part, -2, keepdim=True, out=total)
            yield partial(mine.add_, total, alpha=share)
    yield partial(to.add_, 1)


class Forward:
    """Lives chunks of steps, changing the plastic ``matrices`` in place.

    Parameters
    ----------
    theta : Tensor (lifetimes, n_terms)
    matrices : sequence of Tensor (lifetimes, rows, columns)
    steps : int, optional
        Of a chunk.
    """

    def __init__(
        self, source: Chosen, theta: Tensor, matrices: Sequence[Tensor], steps: int | None = None
    ) -> None:
        self.source, self.plan, self.matrices = source, source.plan, matrices
        plan, tape = self.plan, self.plan.tape
        self.examples, self.share = source.examples.shape[2], source.examples.share
        self.steps = steps or plan.steps(self.examples)
        self.values = Values(plan, (self.steps, theta.shape[0], self.examples), theta, False)
        zeros = self.values.zeros()  # such outer products need not be added
        self.added = [r for r in range(plan.rank) if r not in zeros]
        width, scratch = len(self.added) * self.examples, self.values.scratch
        self.M = Deferred(matrices[: tape.n_plastic], plan, self.steps, width, scratch)
        self.dense = Dense(plan, self.values, self.share, matrices)
        self.factor = torch.ones_like(self.M.growth[0])
        if plan.grows and plan.steady:
            make(growth_calls(plan, self.values, 0, self.share, self.factor))
            for slot in range(self.steps):
                torch.mul(self.M.growth[slot], self.factor, out=self.M.growth[slot + 1])
            self.M.settle_growth()
        self.known: dict[int, Tensor] = {}
        self.begin = list(self._begin())
        self.calls = [list(self._step(slot)) for slot in range(self.steps)]
        self.flush = {n: list(self.M.flush(n)) for n in range(1, self.steps + 1)}

    def run(self, begin: int, end: int, stored: Tensor | None = None) -> None:
        """Live steps begin to end, at most a chunk.

        Parameters
        ----------
        stored : Tensor (lifetimes, end - begin, examples, numbers), optional
            Is filled with products with matrices.
        """
        n, y = end - begin, self.values.y
        self.source.fill(y, begin, end)
        make(self.begin)
        for calls in self.calls[:n]:
            make(calls)
        if stored is not None:
            stored.copy_(y[:n, ..., : self.plan.tape.stored].transpose(0, 1))
        if self.plan.low_rank:
            make(self.flush[n])

    def _begin(self) -> Iterator[Call]:
        """Products with the inputs of the chunk, which are known ahead."""
        for op in self.plan.ops:
            if op.kind == "matvec" and op.ahead >= 0:
                x, gather = self.values.gathered("ahead", self.values.y, op.a, op.m)
                out = self.known[op.out] = x.new_empty(*x.shape[:2], op.n)
                yield gather
                yield partial(torch.bmm, x, self.matrices[op.matrix].mT, out=out)

    def _step(self, slot: int) -> Iterator[Call]:
        for group in self.plan.groups:
            if group[0].kind in PRODUCTS:
                for op in group:
                    yield from self._product(op, slot)
            elif group[0].kind != "update":
                yield from self.values.forward(group, slot)
        if self.plan.low_rank:
            yield from self._update(slot)
        else:
            for op in self.plan.updates:
                yield partial(self.dense.forward, op)

    def _product(self, op: Op, slot: int) -> Iterator[Call]:
        at, k = partial(self.values.part, self.values.y, slot), op.matrix
        a, out = at(op.a, op.m), at(op.out, op.n)
        plastic = k < self.plan.tape.n_plastic
        if op.out in self.known:
            known = self.known[op.out].unflatten(1, (self.steps, self.examples))[:, slot]
            if plastic:
                yield from self.M.multiply_known(k, known, a, out, slot)
            else:
                yield partial(out.copy_, known)
        elif not plastic:
            matrix = self.matrices[k] if op.kind == "matvec_t" else self.matrices[k].mT
            yield from products(a, matrix, out, self.values.scratch)
        elif op.kind == "matvec":
            yield from self.M.multiply(k, a, out, slot)
        else:
            yield from self.M.multiply_transposed(k, a, out, slot)

    def _update(self, slot: int) -> Iterator[Call]:
        M, plan = self.M, self.plan
        if plan.grows:
            if not plan.steady:
                yield from growth_calls(plan, self.values, slot, self.share, self.factor)
                growth = M.growth
                yield partial(torch.mul, growth[slot], self.factor, out=growth[slot + 1])
            yield from M.scale_rows(self.factor, slot)
        for number, r in enumerate(self.added):
            first = slot * M.rows + number * self.examples
            for span, pending, share in zip(
                plan.outers(r), (M.left, M.right), (self.share, 1.0), strict=True
            ):
                for n, (start, to), _ in span:
                    out = pending[:, first : first + self.examples, to : to + n]
                    vectors = self.values.part(self.values.y, slot, start, n)
                    yield scaled(vectors, share, out)
