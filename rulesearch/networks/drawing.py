"""How weights are drawn at birth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["INITIALISATIONS", "draw_into"]

INITIALISATIONS = ("uniform", "normal", "kaiming")


def draw_into(
    stacks: Sequence[Tensor], rule: str, inwards: int, generators: Sequence[torch.Generator]
) -> None:
    """Draw the weights of networks, those of network i from generator i alone.

    Parameters
    ----------
    stacks : sequence of Tensor (networks, rows, columns)
        One a connection.
    rule : {'uniform', 'normal', 'kaiming'}
    inwards : int
        The side of a matrix that units listen along: 1 for W, 0 for B.
    """

    def draw(shape: torch.Size, dtype: torch.dtype, g: torch.Generator) -> Tensor:
        if rule == "uniform":
            bound = math.sqrt(6 / sum(shape))
            return torch.empty(shape, dtype=dtype).uniform_(-bound, bound, generator=g)
        variance = 2 / (shape[inwards] if rule == "kaiming" else sum(shape))
        return torch.randn(shape, generator=g, dtype=dtype) * math.sqrt(variance)

    for i, generator in enumerate(generators):
        for stack in stacks:
            stack[i] = draw(stack.shape[1:], stack.dtype, generator)
