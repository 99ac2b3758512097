"""Clipping meta-gradients to what is usual for them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from rulesearch.errors import ConfigError

__all__ = ["WHY", "UsualNorm", "check_multiple"]

MEMORY = 0.95  # of the usual norm, from update to update
WHY = (
    "as 2: the usual norm is a mean of clipped ones, so that with 1 or less it could only fall, "
    "and meta-training would come to a halt"
)


def check_multiple(name: str, multiple: float) -> None:
    """Refuse a multiple of the usual norm that is not above 1.

    Raises
    ------
    ConfigError
    """
    if not multiple > 1:
        raise ConfigError(f"{name} is {multiple}; give a number above 1, {WHY}")


@dataclass(eq=False)
class UsualNorm:
    """Scales a gradient down to a multiple of the norm that it usually has.

    A lifetime near the edge of stability has a meta-gradient many powers of ten above the
    others', and Adam, which divides by the root of the mean square, would stand still for
    a thousand updates after it. Norms of different meta-parameters differ as much, so
    each tensor, and each seed in it, has its own.

    It takes for granted that most lifetimes teach about as much. Where most teach nothing, as in
    classification once they are told apart, the usual norm falls by powers of ten, and the others
    are clipped away.

    Parameters
    ----------
    multiple : float
        Largest norm, as a multiple of the running mean of the clipped ones; above 1, or that mean
        can only fall.

    Raises
    ------
    ConfigError
        If it is not.
    """

    multiple: float
    usual: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_multiple("clipping: multiple", self.multiple)

    def clip(self, name: str, gradient: Tensor, without: Tensor) -> None:
        """Scale in place.

        Parameters
        ----------
        gradient : Tensor (seeds, ...)
        without : Tensor (seeds,) bool
            Seeds that teach nothing of what is usual.
        """
        norm = gradient.reshape(len(gradient), -1).norm(dim=1)
        usual = self.usual.get(name, norm)
        usual = torch.where(usual > 0, usual, norm)
        allowed = torch.minimum(norm, self.multiple * usual)
        factor = torch.where(norm > 0, allowed / norm, 1.0)
        gradient.mul_(factor.reshape(-1, *[1] * (gradient.ndim - 1)))
        new = MEMORY * usual + (1 - MEMORY) * allowed
        self.usual[name] = torch.where(without, usual, new)
