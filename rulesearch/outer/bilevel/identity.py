"""T1-T2: the Hessian is taken for the identity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rulesearch.arguments import check_positive
from rulesearch.outer.bilevel.implicit import Product, Solution

__all__ = ["Identity"]


@dataclass(frozen=True)
class Identity:
    """``v = scale g``: the first term of the Neumann series, a bias that nothing reduces.

    Raises
    ------
    ConfigError
        For a scale that is not a positive number.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        check_positive("scale", self.scale)

    def __call__(self, product: Product, g: Tensor) -> Solution:
        """Return the scaled vector, which relies on nothing."""
        sound = torch.ones(g.shape[:-1], dtype=torch.bool, device=g.device)
        return Solution(self.scale * g, sound)
