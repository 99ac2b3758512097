"""Layers that no lifetime changes: computed once for all steps, the queries' included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from rulesearch.errors import ConfigError, LearnerError
from rulesearch.networks.layout import channels_last
from rulesearch.outer.relu_layers import ROWS, ReluLayers

__all__ = [
    "OwnFeatures",
    "class_of",
    "conv_features",
    "conv_size",
    "extract",
    "mlp_features",
    "width_taken",
]


def extract(module: nn.Module, x: Tensor, image: Sequence[int] | None = None) -> Tensor:
    """Features of all examples; what many of them need for the gradient is computed again.

    Parameters
    ----------
    module : Module
        From ``(examples, n_in)``, or ``(examples, *image)``, to ``(examples, ...)``, each example
        by itself and nothing left to chance; ``x`` has no part in the gradient.
    x : Tensor (..., n_in)
    image : sequence of int, optional
        Shape that each example has for the module.

    Returns
    -------
    Tensor (..., n_features)
        What the module gives of an example, flattened.

    Raises
    ------
    LearnerError
        If it gives something else than a tensor with a row for each example.
    """
    flat = channels_last(x.reshape(-1, *image)) if image else x.reshape(-1, x.shape[-1])
    found: Tensor
    if len(flat) <= ROWS or _slices_itself(module):
        found = _given(module, flat)
    else:
        learnt = [p for p in module.parameters() if p.requires_grad]
        found = _BySlices.apply(module, flat, *learnt)  # type: ignore[no-untyped-call]
    return found.reshape(*x.shape[:-1], -1)


class OwnFeatures(nn.Sequential):
    """A module of one's own and the layers after it, which take what it gives of an example.

    Parameters
    ----------
    own : Module
    layers : Module
        That follow, fully connected, if any.
    """

    def __init__(self, own: nn.Module, *layers: nn.Module) -> None:
        super().__init__(own, nn.Flatten(), *layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of examples.

        Raises
        ------
        LearnerError
            If the module of one's own gives something else than these layers take.
        """
        own, flatten, *layers = self
        found: Tensor = flatten(_given(own, x).unsqueeze(-1))  # which takes two dimensions or more
        wanted = width_taken(layers[0]) if layers else None
        if wanted not in (None, found.shape[1]):
            raise LearnerError(
                f"features: {type(own).__name__} gives {found.shape[1]} values of an example, the "
                f"next layer takes {wanted}; make widths begin with {found.shape[1]}"
            )
        for layer in layers:
            found = layer(found)
        return found


def class_of(module: nn.Module) -> str:
    """Name of a module's class, of one's own that of what it holds."""
    return type(module[0] if isinstance(module, OwnFeatures) else module).__name__


def width_taken(module: nn.Module) -> int | None:
    """Values of an example that a module takes, where its first layer is a linear one."""
    while isinstance(module, nn.Sequential) and len(module):
        module = module[0]
    return module.in_features if isinstance(module, nn.Linear) else None


def _given(module: nn.Module, x: Tensor) -> Tensor:
    """What a module gives of examples, a row for each."""
    found = module(x)
    if isinstance(found, Tensor) and found.shape[:1] == x.shape[:1]:
        return found
    shown = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    raise LearnerError(
        f"features: {type(module).__name__} gives {shown} of {len(x)} examples; it should return a "
        f"tensor with a row for each of them, ({len(x)}, ...)"
    )


def _slices_itself(module: nn.Module) -> bool:
    if type(module) is nn.Sequential and len(module) == 1:
        return _slices_itself(module[0])
    return isinstance(module, ReluLayers)


class _BySlices(torch.autograd.Function):
    """A module over slices that end up in one tensor, of which torch's own would make two."""

    @staticmethod
    def forward(ctx: Any, module: nn.Module, x: Tensor, *parameters: Tensor) -> Tensor:
        ctx.module = module
        ctx.save_for_backward(x, *parameters)
        slices = x.split(ROWS)
        first = _given(module, slices[0])
        found = first.new_empty(len(x), *first.shape[1:])
        found[:ROWS] = first
        for part, target in zip(slices[1:], found.split(ROWS)[1:], strict=True):
            target.copy_(_given(module, part))
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, adjoint: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        total: list[Tensor | None] = [None] * len(parameters)
        for part, bar in zip(x.split(ROWS), adjoint.split(ROWS), strict=True):
            with torch.enable_grad():
                again = ctx.module(part)
            shares = torch.autograd.grad(again, parameters, bar, allow_unused=True)
            for k, share in enumerate(shares):  # None where a module does not use a parameter
                if share is not None:
                    before = total[k]
                    total[k] = share if before is None else before + share
        return (None, None, *total)


def mlp_features(sizes: Sequence[int], generator: torch.Generator) -> nn.Module:
    """Linear layers with relu, Kaiming-normal weights and zero biases; ``sizes`` input first."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [_kaiming(nn.Linear(n_in, n_out), n_in, generator), nn.ReLU()]
    return ReluLayers(*layers)


def conv_size(shape: tuple[int, int, int], channels: Sequence[int], strides: Sequence[int]) -> int:
    """Values that :func:`conv_features` gives of an image.

    Raises
    ------
    ConfigError
        If there are not as many strides as channels, or the image is too small for so many.
    """
    if len(channels) != len(strides):
        raise ConfigError(
            f"{len(channels)} convolutions (channels) need as many strides, not {len(strides)}"
        )
    n_out, *sides = shape
    for count, stride in zip(channels, strides, strict=True):
        if min(sides) < 3:
            raise ConfigError(
                f"convolutions of strides {tuple(strides)} need a larger image than {shape}"
            )
        n_out, sides = count, [(side - 3) // stride + 1 for side in sides]
    return n_out * math.prod(sides)


def conv_features(
    n_in: int, channels: Sequence[int], strides: Sequence[int], generator: torch.Generator
) -> nn.Module:
    """3x3 convolutions with relu, no padding, Kaiming-normal weights and zero biases.

    Parameters
    ----------
    n_in : int
        Channels of an image.
    channels, strides : sequence of int
        Of each convolution.
    """
    layers: list[nn.Module] = []
    for (before, after), stride in zip(pairwise([n_in, *channels]), strides, strict=True):
        layer = nn.Conv2d(before, after, 3, stride)
        layers += [_kaiming(layer, 9 * before, generator), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten())


def _kaiming(layer: nn.Linear | nn.Conv2d, fan_in: int, generator: torch.Generator) -> nn.Module:
    with torch.no_grad():
        layer.weight.normal_(0, math.sqrt(2 / fan_in), generator=generator)
        if layer.bias is not None:
            layer.bias.zero_()
    return layer
