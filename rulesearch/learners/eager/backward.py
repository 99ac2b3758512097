"""A chunk of steps backward: adjoints pulled back, weights rebuilt.

A step begins at its updates: the adjoints G of the weights are pulled through them, then the
updates are taken back, so that M holds the weights which the step saw. The last step of a chunk
comes first, in its memory too: what is pending when a step begins stands in front.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from rulesearch.learners.eager.chunk import Chosen, growth_calls
from rulesearch.learners.eager.dense import Dense
from rulesearch.learners.eager.functions import Call, make, products, scaled
from rulesearch.learners.eager.matrices import Deferred
from rulesearch.learners.eager.plan import PRODUCTS, Op, merged
from rulesearch.learners.eager.values import Values

__all__ = ["Backward"]


class Backward:
    """Carries adjoints over chunks of steps, in place.

    Parameters
    ----------
    theta : Tensor (lifetimes, n_terms)
    matrices : sequence of Tensor (lifetimes, rows, columns)
        As they are after a chunk; the plastic ones are brought to before it.
    adjoints : sequence of Tensor or None
        Of all matrices; None where nobody wants it.
    theta_bar : Tensor (lifetimes, n_terms)
    reverse : bool
        If not, a chunk is a single step and the matrices are those before it.
    """

    def __init__(
        self,
        source: Chosen,
        theta: Tensor,
        matrices: Sequence[Tensor],
        adjoints: Sequence[Tensor | None],
        theta_bar: Tensor,
        reverse: bool,
    ) -> None:
        plan = self.plan = source.plan
        self.source, self.matrices, self.adjoints, self.reverse = (
            source,
            matrices,
            adjoints,
            reverse,
        )
        self.examples, self.share = source.examples.shape[2], source.examples.share
        self.steps = plan.steps(self.examples) if reverse else 1
        self.values = Values(plan, (self.steps, theta.shape[0], self.examples), theta, True)
        self.width = plan.rank * self.examples
        n, pairs = plan.tape.n_plastic, max(1, *map(len, plan.uses)) * self.examples
        plastic = [g for g in adjoints[:n] if g is not None]
        scratch = self.values.scratch
        zeros = self.values.zeros()  # such outer products have adjoints, but were never added
        self.added = [r for r in range(plan.rank) if r not in zeros]
        rows = len(self.added) * self.examples
        self.M = Deferred(matrices[:n], plan, self.steps, rows, scratch)
        self.G = Deferred(plastic, plan, self.steps, pairs, scratch)
        self.dense = Dense(plan, self.values, self.share, matrices, adjoints)
        # outer products of the chunk's updates, with each example's share, and G V and G^T U
        lead = theta.shape[0], self.steps * self.width
        self.u, self.gv = (theta.new_zeros(*lead, plan.post.width) for _ in range(2))
        self.v, self.gu = (theta.new_zeros(*lead, plan.pre.width) for _ in range(2))
        self.factor = torch.ones_like(self.G.growth[1:])
        self.shrink = torch.ones_like(self.factor)
        # sum_j G_ij M_ij after each step's update, with M before it; where that makes M grow
        self.overlap = torch.zeros_like(self.G.growth)
        self.rho_bar = torch.zeros_like(self.factor)
        self._image = [theta.new_zeros(theta.shape[0], self.examples, plan.post.width)]

        if plan.grows and plan.steady:
            make(self._growth_of_steps())
            self.M.settle_growth()
            self.G.settle_growth()
        self.grown = torch.zeros_like(self.u) if self.G.grows else self.u
        self.begin = list(self._begin())
        self.calls = [list(self._step(slot)) for slot in range(self.steps)]
        self.end = list(self._end(theta_bar))
        self.flush = {n: list(self._flush(n)) for n in range(1, self.steps + 1)}

    def run(self, begin: int, end: int, stored: Tensor) -> None:
        """Pull adjoints back over steps begin to end, at most a chunk.

        Parameters
        ----------
        stored : Tensor (lifetimes, end - begin, examples, numbers)
            Products with matrices.
        """
        n = end - begin
        self.source.fill(self.values.y, begin, end, reverse=True)
        self.values.y[:n, ..., : self.plan.tape.stored] = stored.flip(1).transpose(0, 1)
        make(self.begin)
        for calls in self.calls[:n]:
            make(calls)
        make(self.end)
        make(self.flush[n])

    # -- once a chunk --

    def _begin(self) -> Iterator[Call]:
        """What all steps know ahead: their values, slopes, and products with their updates."""
        for group in self.plan.groups:
            if group[0].kind not in (*PRODUCTS, "update"):
                yield from self.values.forward(group, None)
        yield from self.values.slopes()
        yield self.values.bar.zero_
        if not self.plan.low_rank:
            return
        yield from self._gather_outers()
        if self.plan.grows:
            yield from self._grow()
        for k, adjoint in enumerate(self.G.matrices):
            v, gv = self.plan.pre.of(k, self.v), self.plan.post.of(k, self.gv)
            yield from products(v, adjoint.mT, gv, self.values.scratch)
            grown, gu = self.plan.post.of(k, self.grown), self.plan.pre.of(k, self.gu)
            yield from products(grown, adjoint, gu, self.values.scratch)
        if self.G.grows:
            yield partial(self._by_step(self.gv).mul_, self._growth_before)

    def _by_step(self, rows: Tensor) -> Tensor:
        by_step: Tensor = rows.unflatten(1, (self.steps, self.width))
        return by_step

    @property
    def _growth_before(self) -> Tensor:
        return self.G.growth[: self.steps].transpose(0, 1)

    def _gather_outers(self) -> Iterator[Call]:
        shape = (self.steps, self.plan.rank, self.examples)
        for r in range(self.plan.rank):
            for spans, to in zip(self.plan.outers(r), (self.u, self.v), strict=True):
                rows = to.unflatten(1, shape)[:, :, r]
                for n, (start, first), _ in spans:
                    vectors = self.values.part(self.values.y, None, start, n).transpose(0, 1)
                    yield scaled(vectors, self.share, rows[..., first : first + n])
        if self.reverse:
            left, right = (t.unflatten(1, (self.steps, len(self.added), self.examples))
                           for t in (self.M.left, self.M.right))  # fmt: skip
            for number, r in enumerate(self.added):
                u, v = (t.unflatten(1, shape)[:, :, r] for t in (self.u, self.v))
                yield partial(torch.neg, u, out=left[:, :, number])
                yield scaled(v, 1 / self.share, right[:, :, number])

    def _growth_of_steps(self) -> Iterator[Call]:
        """Growth between the chunk's end and each step."""
        yield from growth_calls(self.plan, self.values, None, self.share, self.factor)
        yield partial(torch.cumprod, self.factor, 0, out=self.G.growth[1:])
        yield partial(torch.reciprocal, self.factor, out=self.shrink)
        yield partial(torch.cumprod, self.shrink, 0, out=self.M.growth[1:])

    def _grow(self) -> Iterator[Call]:
        """Growth between the chunk's end and each step, and what it makes of U and of G o M."""
        if not self.plan.steady:
            yield from self._growth_of_steps()
        if self.G.grows:
            u, grown = (self._by_step(t) for t in (self.u, self.grown))
            yield partial(torch.mul, u, self._growth_before, out=grown)
        yield self.rho_bar.zero_
        for k, (adjoint, matrix) in enumerate(zip(self.G.matrices, self.M.matrices, strict=True)):
            rows = self.plan.post.of(k, self.overlap[0, :, 0])
            yield partial(_row_products, adjoint, matrix, rows)

    def _end(self, theta_bar: Tensor) -> Iterator[Call]:
        """Adjoints that no step waits for: of what is the same at every step, and of feedback."""
        if self.plan.grows and self.plan.steady:
            yield from self._scale_backward(None, self.rho_bar)
        yield from self.values.constants_backward(theta_bar)
        for op in self.plan.feedback:
            adjoint = self.adjoints[op.matrix]
            if adjoint is not None:
                a, gather = self.values.gathered("read", self.values.y, op.a, op.m)
                out, gather_out = self.values.gathered("written", self.values.bar, op.out, op.n)
                yield from (gather, gather_out)
                left, right = (out, a) if op.kind == "matvec" else (a, out)
                yield partial(adjoint.baddbmm_, left.mT, right)

    def _flush(self, steps: int) -> Iterator[Call]:
        if self._deferred:
            yield from self.M.flush(steps)
        yield from self.G.flush(steps)

    # -- every step --

    def _step(self, slot: int) -> Iterator[Call]:
        if self.plan.low_rank:
            yield from self._update(slot)
        for op in () if self.plan.low_rank else self.plan.updates:
            yield partial(self.dense.backward, op, self.reverse)
        for group in reversed(self.plan.groups):
            if group[0].kind == "matvec":
                for op in group:
                    yield from self._multiply(op, slot)
            elif group[0].kind == "matvec_t":
                yield from self._multiply_transposed(group, slot)
            elif group[0].kind != "update":
                yield from self.values.backward(group, slot)
        yield from self._pairs(slot)

    def _update(self, slot: int) -> Iterator[Call]:
        """Adjoints of the vectors of the step's outer products; the updates are taken back."""
        plan, rows = self.plan, slice(slot * self.width, (slot + 1) * self.width)
        u, v, u_bar, v_bar = (t[:, rows] for t in (self.u, self.v, self.gv, self.gu))
        for k in range(len(plan.updates)):
            yield from self.G.add_pending(k, plan.pre.of(k, v), plan.post.of(k, u_bar), slot)
            yield from self.G.add_pending_transposed(
                k, plan.post.of(k, u), plan.pre.of(k, v_bar), slot
            )
        for r in range(plan.rank):
            mine = slice(r * self.examples, (r + 1) * self.examples)
            for spans, found in zip(plan.outers(r, varying=True), (u_bar, v_bar), strict=True):
                for n, (start, first), _ in spans:
                    bar = self.values.part(self.values.bar, slot, start, n)
                    yield partial(bar.add_, found[:, mine, first : first + n])
        if plan.grows:
            yield from self._growth(slot, u, u_bar)
        if self.reverse:
            if plan.grows:
                yield from self.M.scale_rows(self.shrink[slot], slot + 1)
            if not self._deferred:
                yield from self.M.flush(1)

    def _growth(self, slot: int, u: Tensor, u_bar: Tensor) -> Iterator[Call]:
        """Adjoint of the growth of rows: the overlap of G after the update with M before it."""
        overlap = self.overlap[slot]
        if self.reverse:  # so far it is that with M after the update
            product, total = self.values.scratch("outers", u), self.values.scratch("row", overlap)
            yield partial(torch.mul, u, u_bar, out=product)
            yield partial(torch.sum, product, 1, keepdim=True, out=total)
            yield partial(overlap.sub_, total, alpha=1 / self.share)
            yield partial(overlap.mul_, self.shrink[slot])
        yield scaled(overlap, self.share, self.rho_bar[slot])
        if not self.plan.steady:
            yield from self._scale_backward(slot, self.rho_bar[slot])
        yield partial(torch.mul, overlap, self.factor[slot], out=self.overlap[slot + 1])
        yield from self.G.scale_rows(self.factor[slot], slot)

    def _scale_backward(self, slot: int | None, rho_bar: Tensor) -> Iterator[Call]:
        bar = partial(self.values.part, self.values.bar, slot)
        for k, op in enumerate(self.plan.updates):
            mine = self.plan.post.of(k, rho_bar)
            if op.scale >= 0:
                total = self.values.scratch("total", mine[..., :1])
                yield partial(torch.sum, mine, -1, keepdim=True, out=total)
                yield partial(bar(op.scale, 1).add_, total)
            for e in self.plan.entries[op.rows : op.rows + op.row_count]:
                yield partial(bar(e.scalar, op.n).add_, mine)

    @property
    def _deferred(self) -> bool:
        """Whether updates are taken back beside M, and not in it at once."""
        return self.reverse and self.plan.low_rank and self.steps > 1

    def _multiply(self, op: Op, slot: int) -> Iterator[Call]:
        bar = partial(self.values.part, self.values.bar, slot)
        if not op.wants_a:
            return
        out, a = bar(op.out, op.n), bar(op.a, op.m)
        if op.matrix >= self.plan.tape.n_plastic:
            yield from products(out, self.matrices[op.matrix], a, self.values.scratch, add=True)
        else:
            seen = slot + 1 if self._deferred else 0
            yield from self.M.multiply_transposed(op.matrix, out, a, seen, add=True)

    def _multiply_transposed(self, group: list[Op], slot: int) -> Iterator[Call]:
        plan, bar = self.plan, partial(self.values.part, self.values.bar, slot)
        plastic = [op for op in group if op.matrix < plan.tape.n_plastic]
        for op in group:
            out, a, k = bar(op.out, op.n), bar(op.a, op.m), op.matrix
            if k < plan.tape.n_plastic:
                image = plan.post.of(k, self._images(op))
                yield from self.M.multiply(k, out, image, slot + 1 if self._deferred else 0)
            elif op.wants_a:
                yield from products(out, self.matrices[k].mT, a, self.values.scratch, add=True)
        wanted = (op for op in plastic if op.wants_a)
        for _, alike in groupby(wanted, lambda op: plan.ordinal[op.out]):
            ops = list(alike)
            for n, (start, at), _ in merged(
                (op.m, (op.a, plan.post.starts[op.matrix])) for op in ops
            ):
                image = self._images(ops[0])[..., at : at + n]
                yield partial(bar(start, n).add_, image)

    def _images(self, op: Op) -> Tensor:
        """``M g`` of a product ``M^T a``, g its adjoint, beside those of the other connections."""
        ordinal = self.plan.ordinal[op.out]
        while len(self._image) <= ordinal:
            self._image.append(torch.zeros_like(self._image[0]))
        return self._image[ordinal]

    def _pairs(self, slot: int) -> Iterator[Call]:
        """Outer products that the step's matrix products add to the adjoints G."""
        most = max(map(len, self.plan.uses))
        for use in range(most):
            first = (slot * most + use) * self.examples
            rows = slice(first, first + self.examples)
            ops = [of[use] for of in self.plan.uses if use < len(of)]
            for kind in PRODUCTS:
                yield from self._pair([op for op in ops if op.kind == kind], slot, rows)

    def _pair(self, ops: list[Op], slot: int, rows: slice) -> Iterator[Call]:
        if not ops:
            return
        plan, values = self.plan, self.values
        y, bar = (partial(values.part, frames, slot) for frames in (values.y, values.bar))
        plain = ops[0].kind == "matvec"
        sides = [(op.n, op.out, op.m, op.a) if plain else (op.m, op.a, op.n, op.out) for op in ops]
        posts = [plan.post.starts[op.matrix] for op in ops]
        pres = [plan.pre.starts[op.matrix] for op in ops]
        lefts = [(n, (start, to)) for (n, start, _, _), to in zip(sides, posts, strict=True)]
        rights = [(m, (start, to)) for (_, _, m, start), to in zip(sides, pres, strict=True)]
        for n, (start, to), _ in merged(lefts):
            left = (bar if plain else y)(start, n)
            yield partial(self.G.left[:, rows, to : to + n].copy_, left)
            if plan.grows:
                image = y(start, n) if plain else self._images(ops[0])[..., to : to + n]
                yield from self._add_overlap(self.overlap[slot + 1, ..., to : to + n], left, image)
        for n, (start, to), _ in merged(rights):
            yield partial(self.G.right[:, rows, to : to + n].copy_, (y if plain else bar)(start, n))

    def _add_overlap(self, overlap: Tensor, left: Tensor, image: Tensor) -> Iterator[Call]:
        """``sum_j (l r^T)_ij M_ij = l_i (M r)_i``, of all examples."""
        if self.examples == 1:
            yield partial(overlap.addcmul_, left, image)
            return
        product, total = self.values.scratch("product", left), self.values.scratch("row", overlap)
        yield partial(torch.mul, left, image, out=product)
        yield partial(torch.sum, product, 1, keepdim=True, out=total)
        yield partial(overlap.add_, total)


def _row_products(a: Tensor, b: Tensor, out: Tensor) -> None:
    """Inner product of each row of a with that of b, in one pass over both."""
    rows, columns = a.flatten(0, 1)[:, None], b.flatten(0, 1)[..., None]
    out.copy_(torch.bmm(rows, columns).view_as(out))
