"""Layers that no lifetime changes: computed once for all steps, the queries' included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from rulesearch.errors import ConfigError

__all__ = ["conv_features", "extract", "mlp_features"]

ROWS = 800  # examples whose activations are held at once: about what stays in cache


def extract(module: nn.Module, x: Tensor) -> Tensor:
    """Features of all examples; what many of them need for the gradient is computed again.

    Parameters
    ----------
    module : Module
        From ``(examples, n_in)`` to ``(examples, n_features)``, each example by itself and
        nothing left to chance; ``x`` has no part in the gradient.
    x : Tensor (..., n_in)

    Returns
    -------
    Tensor (..., n_features)
    """
    flat = x.reshape(-1, x.shape[-1])
    found: Tensor
    if len(flat) <= ROWS:
        found = module(flat)
    else:
        found = _BySlices.apply(module, flat, *module.parameters())  # type: ignore[no-untyped-call]
    return found.reshape(*x.shape[:-1], -1)


class _BySlices(torch.autograd.Function):
    """A module over slices that end up in one tensor, of which torch's own would make two."""

    @staticmethod
    def forward(ctx: Any, module: nn.Module, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.module = module
        ctx.save_for_backward(x, *parameters)
        slices = x.split(ROWS)
        first: Tensor = module(slices[0])
        found = first.new_empty(len(x), first.shape[-1])
        found[:ROWS] = first
        for part, target in zip(slices[1:], found.split(ROWS)[1:], strict=True):
            target.copy_(module(part))
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, adjoint: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        total = [torch.zeros_like(p) for p in parameters]
        for part, bar in zip(x.split(ROWS), adjoint.split(ROWS), strict=True):
            with torch.enable_grad():
                again = ctx.module(part)
            for sum_, share in zip(total, torch.autograd.grad(again, parameters, bar), strict=True):
                sum_ += share
        return (None, None, *total)


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
