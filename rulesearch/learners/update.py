r"""One step's change of the weights, contracted over the step's examples.

.. math:: W' = W + A \circ (W \circ G + S), \quad
          G = \bar{s} + \sum_e P_e Q_e^T, \quad
          S = \sum_e U_e V_e^T + \sum_i E_i \circ \sum_e p_{ie} q_{ie}^T,

each example's share (1 / examples for a mean) in its left vectors. All examples and outer
products are columns of one U and one V, so that their sum is a single matrix product: no
example has a matrix of its own. With as many columns as would fill the matrix, it is the
matrix that is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rulesearch.compile.torch_source import Factored

__all__ = ["Update", "contract"]


@dataclass(frozen=True)
class _Sum:
    """``sum_k u_k v_k^T``, (lifetimes, n_post, n_pre): of rows u_k and v_k, or as it is."""

    u: Tensor | None  # (lifetimes, k, n_post)
    v: Tensor  # (lifetimes, k, n_pre), or the sum

    def added_to(self, matrix: Tensor, sign: int = 1) -> Tensor:
        if self.u is None:
            return torch.add(matrix, self.v, alpha=sign)
        return torch.baddbmm(matrix, self.u.mT, self.v, alpha=sign)

    def value(self) -> Tensor:
        return self.v if self.u is None else self.u.mT @ self.v


@dataclass(frozen=True)
class Update:
    """``W <- W + A o (W o G + S)`` and back.

    Attributes
    ----------
    rate : Tensor (lifetimes, n_post, n_pre) or None
        A; None is one.
    scale : Tensor (lifetimes, 1, 1) or None
    mask, outer : sums of outer products, or None
    others : pairs of a sum and its elementwise factor E (lifetimes, n_post, n_pre)
    """

    rate: Tensor | None
    scale: Tensor | None
    mask: _Sum | None
    outer: _Sum | None
    others: tuple[tuple[_Sum, Tensor], ...]

    def change(self, weight: Tensor) -> Tensor:
        """``W o G + S``, what is asked for before rates, in a tensor of its own."""
        growth, asked = self._growth(weight), replace(self, rate=None)
        return asked._shifted(torch.zeros_like(weight) if growth is None else weight * growth, 1)

    def apply(self, weight: Tensor) -> Tensor:
        """Weights after the step."""
        factor = self._factor(weight)
        return self._shifted(weight if factor is None else weight * factor, 1)

    def undo(self, weight: Tensor) -> Tensor:
        """Weights before the step."""
        factor = self._factor(weight)
        shifted = self._shifted(weight, -1)
        return shifted if factor is None else shifted / factor

    def sharing(self, first: Update) -> Update:
        """The same with the E of another step, which is equal where it holds no plastic W."""
        pairs = zip(self.others, first.others, strict=True)
        return replace(self, others=tuple((s, core) for (s, _), (_, core) in pairs))

    def _factor(self, weight: Tensor) -> Tensor | None:
        """``1 + A o G``."""
        growth = self._growth(weight)
        if growth is None:
            return None
        return 1 + (growth if self.rate is None else self.rate * growth)

    def _growth(self, weight: Tensor) -> Tensor | None:
        """G."""
        if self.mask is None:
            return self.scale
        if self.scale is None:
            return self.mask.value()
        return self.mask.added_to(self.scale.expand_as(weight))

    def _shifted(self, weight: Tensor, sign: int) -> Tensor:
        """``W + A o S``, or minus."""
        total = weight if self.rate is None else torch.zeros_like(weight)
        if self.outer is not None:
            total = self.outer.added_to(total, sign)
        for pairs, core in self.others:
            total = torch.addcmul(total, pairs.value(), core, value=sign)
        return total if self.rate is None else weight + self.rate * total


def contract(
    f: Factored, shape: tuple[int, int], share: float, rate: Tensor | None = None
) -> Update:
    """Gather the factors of many examples into one update.

    Parameters
    ----------
    f : Factored
        Vectors ``(lifetimes, examples, n)``, matrices ``(lifetimes, 1, n_post, n_pre)``; where
        a factor is the same for all, its dimension may be 1.
    shape : tuple of int
        Lifetimes and examples.
    share : float
        Weight of each example.
    """

    def gathered(*pairs: tuple[Tensor, Tensor]) -> _Sum:
        u, v = (
            torch.cat([vector.expand(*shape, -1) for vector in side], 1)
            for side in zip(*pairs, strict=True)
        )
        u = u if share == 1 else share * u
        n_post, n_pre = u.shape[-1], v.shape[-1]
        full = u.shape[1] * (n_post + n_pre) >= n_post * n_pre
        return _Sum(None, u.mT @ v) if full else _Sum(u, v)

    scale = f.scale
    if scale is not None:
        scale = share * scale.expand(*shape, 1).sum(1, keepdim=True)
    return Update(
        rate,
        scale,
        gathered(*f.masks) if f.masks else None,
        gathered(*f.outers) if f.outers else None,
        tuple((gathered((p, q)), core.squeeze(1)) for p, q, core in f.others),
    )
