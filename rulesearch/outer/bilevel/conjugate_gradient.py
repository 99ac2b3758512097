"""Conjugate gradient: the Hessian, where it is positive definite, inverted in n products."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rulesearch.arguments import check_kind, whole
from rulesearch.outer.bilevel.implicit import Product, Solution

__all__ = ["ConjugateGradient"]


@dataclass(frozen=True)
class ConjugateGradient:
    """Minimises ``v.Hv / 2 - g.v`` from zero, for each problem by itself.

    A problem whose residual is nothing beside g stays as it is. Where a direction has a curvature
    that is not positive there is nothing to minimise.

    Parameters
    ----------
    iterations : int
    strict : bool
        Whether a problem that has met such a direction is rejected. If not, it goes on, as code
        in use elsewhere does; the result need not be of use, as deep networks show.

    Raises
    ------
    ConfigError
        If there are no iterations.
    """

    iterations: int
    strict: bool = True

    def __post_init__(self) -> None:
        whole("iterations", self.iterations, least=1)
        check_kind("strict", self.strict, bool, "True or False")

    def __call__(self, product: Product, g: Tensor) -> Solution:
        """Return the last iterate."""
        v, residual, direction = torch.zeros_like(g), g, g
        norm = (residual**2).sum(-1, keepdim=True)
        done = torch.finfo(g.dtype).eps ** 2 * norm
        sound = torch.ones(g.shape[:-1], dtype=torch.bool, device=g.device)
        for _ in range(self.iterations):
            going = norm > done
            if not going.any():
                break
            towards = product(direction)
            curvature = (direction * towards).sum(-1, keepdim=True)
            if self.strict:
                sound = sound & ((curvature > 0) | ~going).squeeze(-1)
            length = torch.where(going, norm / curvature, 0.0)
            v, residual = v + length * direction, residual - length * towards
            shrunk = (residual**2).sum(-1, keepdim=True)
            direction = residual + torch.where(going, shrunk / norm, 0.0) * direction
            norm = shrunk
        return Solution(v, sound)
