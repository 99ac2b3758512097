"""The Neumann series, which is recurrent backpropagation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from rulesearch.errors import ConfigError
from rulesearch.outer.bilevel.implicit import Product

__all__ = ["Neumann"]


@dataclass(frozen=True)
class Neumann:
    r"""A truncated series for the inverse, with alpha below 2 over the largest eigenvalue of H.

    .. math:: H^{-1} \approx \alpha \sum_{i=0}^{K} (1 - \alpha H)^i

    Parameters
    ----------
    terms : int
        K.
    alpha : float

    Raises
    ------
    ConfigError
        For a negative number of terms, or alpha that is not positive.
    """

    terms: int
    alpha: float

    def __post_init__(self) -> None:
        if self.terms < 0 or not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ConfigError(
                f"terms are not below zero, and alpha above it: {self.terms}, {self.alpha}"
            )

    def __call__(self, product: Product, g: Tensor) -> Tensor:
        """Return the sum: ``s <- g + (1 - alpha H) s``, K times from g."""
        total = g
        for _ in range(self.terms):
            total = g + total - self.alpha * product(total)
        return self.alpha * total
