"""The Neumann series, which is recurrent backpropagation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rulesearch.arguments import check_kind, check_positive, whole
from rulesearch.outer.bilevel.implicit import Product, Solution

__all__ = ["Neumann"]


@dataclass(frozen=True)
class Neumann:
    r"""A truncated series for the inverse, with alpha below 2 over the largest eigenvalue of H.

    .. math:: H^{-1} \approx \alpha \sum_{i=0}^{K} (1 - \alpha H)^i

    For a symmetric H the logarithm of the size of a term is convex in i: once terms have begun to
    grow they grow for ever. So a problem whose last term is not smaller than the one before, nor
    nothing beside the sum, has a series that diverges: alpha is too large, or an eigenvalue not
    positive.

    Parameters
    ----------
    terms : int
        K.
    alpha : float
    strict : bool
        Whether such a problem is rejected. If not, the sum is taken as it is.

    Raises
    ------
    ConfigError
        For a negative number of terms, or alpha that is not positive.
    """

    terms: int
    alpha: float
    strict: bool = True

    def __post_init__(self) -> None:
        whole("terms", self.terms, least=0)
        check_positive("alpha", self.alpha)
        check_kind("strict", self.strict, bool, "True or False")

    def __call__(self, product: Product, g: Tensor) -> Solution:
        """Return the sum, term by term."""
        total, term, nothing = g, g, torch.finfo(g.dtype).eps
        sound = torch.ones(g.shape[:-1], dtype=torch.bool, device=g.device)
        for _ in range(self.terms):
            before, term = term, term - self.alpha * product(term)
            total = total + term
            now = term.norm(dim=-1)
            sound = (now < before.norm(dim=-1)) | (now <= nothing * total.norm(dim=-1))
        return Solution(self.alpha * total, sound if self.strict else torch.ones_like(sound))
