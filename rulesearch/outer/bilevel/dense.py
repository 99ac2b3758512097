"""The whole Hessian, for small problems: the implicit meta-gradient without approximation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rulesearch.outer.bilevel.implicit import Product

__all__ = ["Dense"]


@dataclass(frozen=True)
class Dense:
    """Solves with the matrix, which takes n products and n^2 numbers."""

    def __call__(self, product: Product, g: Tensor) -> Tensor:
        """Return the solution."""
        columns = torch.eye(g.shape[-1], dtype=g.dtype, device=g.device)
        hessian = torch.stack([product(column.expand_as(g)) for column in columns], -1)
        v: Tensor = torch.linalg.solve(hessian, g.unsqueeze(-1)).squeeze(-1)
        return v
