"""Layers that no lifetime changes: computed once for all steps, the queries' included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rulesearch.errors import ConfigError

__all__ = ["conv_features", "extract", "mlp_features"]

ROWS = 3200  # examples whose activations are held at once


def extract(module: nn.Module, x: Tensor) -> Tensor:
    """Features of all examples; what many of them need for the gradient is computed again.

    Parameters
    ----------
    module : Module
        From ``(examples, n_in)`` to ``(examples, n_features)``.
    x : Tensor (..., n_in)

    Returns
    -------
    Tensor (..., n_features)
    """
    flat = x.reshape(-1, x.shape[-1])
    if len(flat) <= ROWS:
        parts = [module(flat)]
    else:
        parts = [checkpoint(module, part, use_reentrant=False) for part in flat.split(ROWS)]
    return torch.cat(parts).reshape(*x.shape[:-1], -1)


def mlp_features(sizes: Sequence[int], generator: torch.Generator) -> nn.Module:
    """Linear layers with relu, Kaiming-normal weights and zero biases; ``sizes`` input first."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [_kaiming(nn.Linear(n_in, n_out), n_in, generator), nn.ReLU()]
    return nn.Sequential(*layers)


def conv_features(
    shape: tuple[int, int, int],
    channels: Sequence[int],
    strides: Sequence[int],
    generator: torch.Generator,
) -> nn.Module:
    """3x3 convolutions with relu, no padding, Kaiming-normal weights and zero biases.

    Parameters
    ----------
    shape : tuple of int
        Channels, height and width of an image, which comes flattened.
    channels, strides : sequence of int
        Of each convolution.

    Raises
    ------
    ConfigError
        If the image is too small for so many.
    """
    layers: list[nn.Module] = [nn.Unflatten(1, shape)]
    n_in, sides = shape[0], shape[1:]
    for n_out, stride in zip(channels, strides, strict=True):
        if min(sides) < 3:
            raise ConfigError(
                f"convolutions of strides {tuple(strides)} need a larger image than {shape}"
            )
        sides = ((sides[0] - 3) // stride + 1, (sides[1] - 3) // stride + 1)
        layer = nn.Conv2d(n_in, n_out, 3, stride)
        layers += [_kaiming(layer, 9 * n_in, generator), nn.ReLU()]
        n_in = n_out
    return nn.Sequential(*layers, nn.Flatten())


def _kaiming(layer: nn.Linear | nn.Conv2d, fan_in: int, generator: torch.Generator) -> nn.Module:
    with torch.no_grad():
        layer.weight.normal_(0, math.sqrt(2 / fan_in), generator=generator)
        if layer.bias is not None:
            layer.bias.zero_()
    return layer
