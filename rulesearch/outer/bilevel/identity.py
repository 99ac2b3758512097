"""T1-T2: the Hessian is taken for the identity."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rulesearch.outer.bilevel.implicit import Product

__all__ = ["Identity"]


@dataclass(frozen=True)
class Identity:
    """``v = scale g``: the first term of the Neumann series, a bias that nothing reduces."""

    scale: float = 1.0

    def __call__(self, product: Product, g: Tensor) -> Tensor:
        """Return the scaled vector."""
        return self.scale * g
