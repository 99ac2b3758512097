"""The whole Hessian, for small problems: the implicit meta-gradient without approximation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rulesearch.outer.bilevel.implicit import Product, Solution

__all__ = ["Dense"]


@dataclass(frozen=True)
class Dense:
    """Solves with the matrix, which takes n products and n^2 numbers.

    A problem whose matrix is singular has no solution, and is rejected.
    """

    def __call__(self, product: Product, g: Tensor) -> Solution:
        """Return the solution, zero where there is none."""
        columns = torch.eye(g.shape[-1], dtype=g.dtype, device=g.device)
        hessian = torch.stack([product(column.expand_as(g)) for column in columns], -1)
        v, info = torch.linalg.solve_ex(hessian, g.unsqueeze(-1))
        sound = info == 0
        return Solution(torch.where(sound.unsqueeze(-1), v.squeeze(-1), 0.0), sound)
