r"""Convolutional networks with batch normalisation, as functions of named weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from rulesearch.arguments import check_choice, check_kind, whole
from rulesearch.errors import ConfigError, LearnerError
from rulesearch.networks.drawing import draw_each
from rulesearch.networks.given import check_weights_and_input
from rulesearch.networks.layout import channels_last

__all__ = ["ConvNet"]

BORN = ("uniform", "kaiming")
SIZES = {
    "image": "channels, height and width, as (1, 8, 8)",
    "channels": "channels of every block, as (64, 64)",
    "hidden": "units of full layers, as (120, 84)",
}
VECTOR = 16  # numbers that a processor takes at once


class Layer(NamedTuple):
    """A layer's name, the shape of its weights, and whether it is normalised and rectified."""

    name: str
    shape: tuple[int, ...]
    inside: bool


@dataclass(frozen=True)
class ConvNet:
    r"""Blocks of convolution, batch normalisation, ReLU and 2 x 2 max-pooling; full layers.

    A channel answers with :math:`\mathrm{pool}(g \hat{z} + s)_+`, where :math:`\hat{z}` is its
    convolution, bias included, less its mean over the batch and the image, and over its standard
    deviation. Full layers in between do the same without pooling, and the head is linear. With
    ``kernel=5, padding=0, channels=(6, 16), hidden=(120, 84)`` it is LeNet.

    The weights of the layer ``conv0`` are ``conv0.W``, ``conv0.bias``, ``conv0.gain`` and
    ``conv0.shift``; then come ``conv1``, ..., ``full0``, ..., and ``head``, which has no gain and
    shift. Each begins with a dimension of independent networks.

    Parameters
    ----------
    image : (int, int, int)
        Channels, height and width.
    outputs : int
    channels : sequence of int
        Of every block.
    kernel, padding : int
    hidden : sequence of int
        Units of full layers in between.
    born : {'uniform', 'kaiming'}
        Weights at birth are uniform up to :math:`1/\sqrt{n}`, biases too, as torch's layers have
        it; or up to :math:`\sqrt{6/n}`, and :math:`\sqrt{3/n}` in the head, with biases zero: n
        is the fan-in.

    Raises
    ------
    ConfigError
        If nothing is left of an image, for an unknown birth, or a size that is none.
    """

    image: tuple[int, int, int]
    outputs: int
    channels: Sequence[int]
    kernel: int = 3
    padding: int = 1
    hidden: Sequence[int] = ()
    born: str = "kaiming"

    def __post_init__(self) -> None:
        check_choice("born", self.born, BORN)
        for name, wanted in SIZES.items():
            check_kind(name, getattr(self, name), Sequence, wanted)
            for i, size in enumerate(getattr(self, name)):
                whole(f"{name}[{i}]", size, least=1)
        if len(self.image) != 3:
            raise ConfigError(f"image should be {SIZES['image']}, not {self.image}")
        for name, least in {"outputs": 1, "kernel": 1, "padding": 0}.items():
            whole(name, getattr(self, name), least)
        if min(self._extent) < 1:
            _, height, width = self.image
            raise ConfigError(
                f"nothing is left of {height} x {width} pixels after {len(self.channels)} blocks "
                f"with kernel {self.kernel} and padding {self.padding}: use fewer"
            )

    @property
    def _extent(self) -> tuple[int, int]:
        """Height and width after the last block."""
        _, height, width = self.image
        for _ in self.channels:
            height, width = ((n + 2 * self.padding - self.kernel + 1) // 2 for n in (height, width))
        return height, width

    @property
    def layers(self) -> Iterator[Layer]:
        """All layers, in order."""
        inward = self.image[0]
        for k, channels in enumerate(self.channels):
            yield Layer(f"conv{k}", (channels, inward, self.kernel, self.kernel), True)
            inward = channels
        inward *= math.prod(self._extent)
        for k, units in enumerate(self.hidden):
            yield Layer(f"full{k}", (units, inward), True)
            inward = units
        yield Layer("head", (self.outputs, inward), False)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the weights of a network, by name."""
        return {
            f"{layer.name}.{part}": layer.shape if part == "W" else layer.shape[:1]
            for layer in self.layers
            for part in ("W", "bias", "gain", "shift")[: 4 if layer.inside else 2]
        }

    @property
    def names(self) -> tuple[str, ...]:
        """Of all weights."""
        return tuple(self.shapes)

    def init(
        self, generators: Sequence[torch.Generator], device: torch.device | str = "cpu"
    ) -> dict[str, Tensor]:
        """Draw networks on the CPU, each from its own generator alone, and move them.

        Raises
        ------
        ConfigError
            If there is no generator, or no such device.
        """
        return draw_each("convolutional network", self._draw, generators, device)

    def _draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        found = {}
        for name, shape, inside in self.layers:
            fan_in, units = math.prod(shape[1:]), torch.zeros(shape[0])
            weights, bias = torch.empty(shape), units
            if self.born == "uniform":
                bound = 1 / math.sqrt(fan_in)
                bias = torch.empty(shape[0]).uniform_(-bound, bound, generator=generator)
            else:
                bound = math.sqrt((6 if inside else 3) / fan_in)
            found[f"{name}.W"] = weights.uniform_(-bound, bound, generator=generator)
            found[f"{name}.bias"] = bias
            if inside:
                found |= {f"{name}.gain": torch.ones_like(units), f"{name}.shift": units}
        return found

    def __call__(
        self, weights: Mapping[str, Tensor], x: Tensor, reference: int | None = None
    ) -> Tensor:
        """Return the outputs, ``(networks, images, outputs)``.

        Networks are run one after another, which on a CPU takes as long as grouped convolutions.
        Channels lie last where there are 16 or a multiple, and first otherwise: what normalises and
        pools is several times as fast so.

        Parameters
        ----------
        weights : mapping
            Those of other names are not looked at; those of one network, ``(1, ...)``, are the
            same for all.
        x : Tensor (networks, images, values)
        reference : int, optional
            So many images, the first, give mean and deviation to all; by default the batch.

        Raises
        ------
        LearnerError
            If a weight is missing or of another shape or type, images are of other networks or
            another size, or a single image of a single pixel is to be normalised by itself.
        """
        shapes = check_weights_and_input(weights, self.shapes, x, math.prod(self.image))
        each = {name: weights[name].expand(len(x), *shape) for name, shape in shapes.items()}
        return torch.stack(
            [
                self._answer({name: w[k] for name, w in each.items()}, images, reference)
                for k, images in enumerate(x)
            ]
        )

    def _answer(self, weights: Mapping[str, Tensor], x: Tensor, reference: int | None) -> Tensor:
        x = x.reshape(-1, *self.image)
        for name, shape, inside in self.layers:
            w, bias = weights[f"{name}.W"], weights[f"{name}.bias"]
            if len(shape) == 4:
                x = functional.conv2d(_laid_out(x, shape[0]), w, bias, padding=self.padding)
            else:
                x = functional.linear(x.flatten(1), w, bias)
            if inside:
                gain, shift = weights[f"{name}.gain"], weights[f"{name}.shift"]
                x = _normalised(x, gain, shift, reference)
                x = (functional.max_pool2d(x, 2) if len(shape) == 4 else x).relu()  # they commute
        return x


def _laid_out(x: Tensor, channels: int) -> Tensor:
    """Channels last, if as many as come out of the next convolution fill vectors of numbers."""
    return x.contiguous() if channels % VECTOR else channels_last(x)


def _normalised(x: Tensor, gain: Tensor, shift: Tensor, reference: int | None) -> Tensor:
    if x[:reference, 0].numel() < 2:
        raise LearnerError("one number has no deviation: normalise over two images or more")
    if reference is None:
        return functional.batch_norm(x, None, None, gain, shift, training=True)
    over = [dim for dim in range(x.ndim) if dim != 1]
    variance, mean = torch.var_mean(x[:reference], over, correction=0)
    return functional.batch_norm(x, mean, variance, gain, shift)
