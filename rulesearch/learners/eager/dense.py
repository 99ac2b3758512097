r"""Updates that multiply weights one by one, as in ``compile/engine/elementwise.h``.

.. math:: W \leftarrow W \circ (1 + \rho 1^T + P Q^T) + U V^T + \sum (p q^T) \circ E

with E a product of powers of weights. They have no low rank: a chunk is one step, and whole
matrices are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from rulesearch.learners.eager.plan import Entry, Op, Plan
from rulesearch.learners.eager.values import Values

__all__ = ["Dense"]


class Dense:
    """One step's updates of matrices, and of the adjoints of all matrices."""

    def __init__(
        self,
        plan: Plan,
        values: Values,
        share: float,
        matrices: Sequence[Tensor],
        adjoints: Sequence[Tensor | None] = (),
    ) -> None:
        self.plan, self.share, self.matrices, self.adjoints = plan, share, matrices, adjoints
        self.y = partial(values.part, values.y, 0)
        if adjoints:
            self.bar = partial(values.part, values.bar, 0)

    def forward(self, op: Op) -> None:
        """Update a matrix."""
        w = self.matrices[op.matrix]
        growth, shift = self._weigh(op, w)
        w.mul_(1 + growth).add_(shift)

    def backward(self, op: Op, reverse: bool) -> None:
        """Carry the adjoint of a matrix over its update.

        With ``reverse`` the matrix is brought back to before the update; else it is there.
        """
        w, g = self.matrices[op.matrix], self.adjoints[op.matrix]
        assert g is not None  # a plastic matrix has one
        growth, shift = self._weigh(op, w)  # in reverse no E reads W, so that W after it does
        if reverse:
            w.sub_(shift).div_(1 + growth)
        weighted = g * w
        rows = self.share * weighted.sum(2).unsqueeze(1)
        if op.scale >= 0:
            self.bar(op.scale, 1).add_(rows.sum(2, keepdim=True))
        for e in self._entries(op.rows, op.row_count):
            self.bar(e.scalar, op.n).add_(rows)
        for e in self._entries(op.first, op.count):
            self._pair_backward(op, e, g)
        for e in self._entries(op.masks, op.mask_count):
            self._pair_backward(op, e, weighted)
        for e in self._entries(op.others, op.other_count):
            self._pair_backward(op, e, g * self._core(e))
            growth = self._core_backward(op, e, g, growth)
        g.mul_(1 + growth)

    def _entries(self, first: int, count: int) -> list[Entry]:
        return self.plan.entries[first : first + count]

    def _pair(self, op: Op, e: Entry) -> tuple[Tensor, Tensor]:
        """Vectors p and q of a product, ``(lifetimes, examples, n)``."""
        return self.share * self.y(e.scalar, op.n), self.y(e.vector, op.m)

    def _weigh(self, op: Op, w: Tensor) -> tuple[Tensor, Tensor]:
        """Growth and shift of every weight."""
        rho = w.new_zeros(w.shape[0], 1, op.n)
        if op.scale >= 0:
            rho += self.share * self.y(op.scale, 1).sum(1, keepdim=True)
        for e in self._entries(op.rows, op.row_count):
            rho += self.share * self.y(e.scalar, op.n).sum(1, keepdim=True)
        growth = rho.mT.expand_as(w)
        for e in self._entries(op.masks, op.mask_count):
            p, q = self._pair(op, e)
            growth = torch.baddbmm(growth, p.mT, q)
        shift = torch.zeros_like(w)
        for e in self._entries(op.first, op.count):
            p, q = self._pair(op, e)
            shift.baddbmm_(p.mT, q)
        for e in self._entries(op.others, op.other_count):
            p, q = self._pair(op, e)
            shift.addcmul_(p.mT @ q, self._core(e))
        return growth, shift

    def _core(self, e: Entry, without: int = -1) -> Tensor:
        """The product of powers of weights, or its derivative in one of them."""
        value = torch.ones_like(self.matrices[0][:, :1, :1])
        for f in range(e.core, e.core + e.core_count):
            matrix, power = self.plan.tape.cores[f].tolist()
            if f == without:
                value, power = value * power, power - 1
            value = value * self.matrices[matrix] ** power
        return value

    def _pair_backward(self, op: Op, e: Entry, g: Tensor) -> None:
        p, q = self._pair(op, e)
        self.bar(e.scalar, op.n).add_(q @ g.mT, alpha=self.share)
        self.bar(e.vector, op.m).add_(p @ g)

    def _core_backward(self, op: Op, e: Entry, g: Tensor, growth: Tensor) -> Tensor:
        """Adjoints of the weights in a core; that of W itself goes through its growth."""
        p, q = self._pair(op, e)
        for f in range(e.core, e.core + e.core_count):
            matrix = int(self.plan.tape.cores[f]["matrix"])
            adjoint = self.adjoints[matrix]
            if adjoint is None:
                continue
            slope = (p.mT @ q) * self._core(e, f)
            if matrix == op.matrix:
                growth = growth + slope
            else:
                adjoint += g * slope
        return growth
