"""How weights are drawn at birth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from rulesearch.torch_arguments import check_generators, device_at_hand

__all__ = ["INITIALISATIONS", "draw_each", "draw_into"]

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


def draw_each(
    kind: str,
    draw: Callable[[torch.Generator], Mapping[str, Tensor]],
    generators: Sequence[torch.Generator],
    device: torch.device | str,
) -> dict[str, Tensor]:
    """Draw named weights on the CPU, of each network from its own generator, and move them.

    Raises
    ------
    ConfigError
        If there is no generator, or no such device.
    """
    check_generators(generators, "network", kind)
    device = device_at_hand(device)
    drawn = [draw(generator) for generator in generators]
    return {name: torch.stack([each[name] for each in drawn]).to(device) for name in drawn[0]}
