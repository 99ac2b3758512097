r"""Matrices of all connections, with the outer products that are not yet added to them.

.. math:: M = \operatorname{diag}(\gamma) M_0 + \sum_k u_k v_k^T

as in ``compile/engine/deferred.h``. The growth and the pending vectors of all connections lie
side by side, so that a step appends to and scales those of all in one call.

Vectors are rows: a batch of products ``x M`` with one row each is several times faster
than with columns, ``M x``. Several examples, and other devices,
need no other call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from rulesearch.learners.eager.functions import Call, Scratch, products
from rulesearch.learners.eager.plan import Plan

__all__ = ["Deferred"]


class Deferred:
    """Matrices ``(lifetimes, n_post, n_pre)``, changed by ``rows`` outer products a step.

    Attributes
    ----------
    left, right : Tensor (lifetimes, steps * rows, width)
        Pending vectors, those of a chunk's first step first.
    growth : Tensor (steps + 1, lifetimes, 1, width)
        Of rows of the matrices since the chunk began: before each step, and after the last.
    grows : bool
        Whether that can be anything but one.
    """

    def __init__(
        self,
        matrices: Sequence[Tensor],
        plan: Plan,
        steps: int,
        rows: int,
        scratch: Scratch,
    ) -> None:
        self.matrices, self.rows, self.grows = matrices, rows, plan.grows
        self.scratch = scratch
        self.post, self.pre = plan.post, plan.pre
        lifetimes = matrices[0].shape[0]
        new = matrices[0].new_zeros
        self.left = new(lifetimes, steps * rows, self.post.width)
        self.right = new(lifetimes, steps * rows, self.pre.width)
        self.growth = new(steps + 1, lifetimes, 1, self.post.width).fill_(1)
        self._numbers: list[list[float]] | None = None

    def multiply(self, k: int, x: Tensor, out: Tensor, step: int) -> Iterator[Call]:
        """``out = M_k x`` as M is before a step of the chunk."""
        yield from products(x, self.matrices[k].mT, out, self.scratch)
        if self.grows and step:
            yield partial(out.mul_, self.post.of(k, self.growth[step]))
        yield from self.add_pending(k, x, out, step)

    def multiply_known(
        self, k: int, known: Tensor, x: Tensor, out: Tensor, step: int
    ) -> Iterator[Call]:
        """The same, where ``M_0 x`` is known already."""
        if self.grows and step:
            yield partial(torch.mul, known, self.post.of(k, self.growth[step]), out=out)
        else:
            yield partial(out.copy_, known)
        yield from self.add_pending(k, x, out, step)

    def multiply_transposed(
        self, k: int, y: Tensor, out: Tensor, step: int, add: bool = False
    ) -> Iterator[Call]:
        """``out = M_k^T y``, or that added to it."""
        seen = y
        if self.grows and step:
            seen = torch.empty_like(y)
            yield partial(torch.mul, y, self.post.of(k, self.growth[step]), out=seen)
        yield from products(seen, self.matrices[k], out, self.scratch, add)
        yield from self.add_pending_transposed(k, y, out, step)

    def add_pending(self, k: int, x: Tensor, out: Tensor, step: int) -> Iterator[Call]:
        """``out += sum u (v . x)``."""
        if step:
            left, right = self._pending(k, step)
            inner = x.new_empty(*x.shape[:2], left.shape[1])
            yield partial(torch.bmm, x, right.mT, out=inner)
            yield from products(inner, left, out, self.scratch, add=True)

    def add_pending_transposed(self, k: int, y: Tensor, out: Tensor, step: int) -> Iterator[Call]:
        """``out += sum v (u . y)``."""
        if step:
            left, right = self._pending(k, step)
            inner = y.new_empty(*y.shape[:2], left.shape[1])
            yield partial(torch.bmm, y, left.mT, out=inner)
            yield from products(inner, right, out, self.scratch, add=True)

    def _pending(self, k: int, steps: int) -> tuple[Tensor, Tensor]:
        pending = slice(0, steps * self.rows)
        return self.post.of(k, self.left[:, pending]), self.pre.of(k, self.right[:, pending])

    def scale_rows(self, factor: Tensor, steps: int) -> Iterator[Call]:
        """Let what the first steps left pending grow."""
        if steps and self.grows:
            yield partial(self.left[:, : steps * self.rows].mul_, factor)

    def settle_growth(self) -> None:
        """Take note that growth stays as it is.

        Where all rows of a matrix grow alike in all lifetimes, it is a number, and needs no pass
        over the matrix. Where it is one, as with a decay at zero, it needs nothing at all.
        """
        parts = [self.post.of(k, self.growth) for k in range(len(self.matrices))]
        ends = [(part.amin((1, 2, 3)), part.amax((1, 2, 3))) for part in parts]
        if all(torch.equal(least, most) for least, most in ends):
            self._numbers = [most.tolist() for _, most in ends]
            self.grows = any(number != 1 for numbers in self._numbers for number in numbers)

    def flush(self, steps: int) -> Iterator[Call]:
        """Bring the matrices up to date, which changed in so many steps."""
        for k, matrix in enumerate(self.matrices):
            beta = 1.0
            if self._numbers is not None:
                beta = self._numbers[k][steps]
            elif self.grows:
                yield partial(matrix.mul_, self.post.of(k, self.growth[steps]).mT)
            left, right = self._pending(k, steps)
            yield partial(matrix.baddbmm_, left.mT, right, beta=beta)
