r"""Fully connected networks whose neurons have a gain and a threshold each (CML, section 4.2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from rulesearch.arguments import check_choice, check_kind, whole
from rulesearch.errors import ConfigError
from rulesearch.networks.drawing import draw_each
from rulesearch.networks.given import check_weights_and_input

__all__ = ["ModulatedNetwork"]

UNITS = ("linear-threshold", "tanh")


@dataclass(frozen=True)
class ModulatedNetwork:
    r"""Neurons that top-down input modulates; the readout is linear.

    ====================  =================================================================
    ``linear-threshold``  :math:`y = g\,(W x - b)_+` (CML, section 4.2)
    ``tanh``              :math:`y = \tanh(g\,(W x + c) + b)` (the paper's experiments)
    ====================  =================================================================

    Weights are named ``full0.W``, ``full0.gain`` (g) and ``full0.shift`` (b), with tanh
    ``full0.bias`` (c) too, then ``full1.W``, ..., and ``head.W``, ``head.bias``. Each begins with
    a dimension of independent networks. At birth W is uniform with variance 1 / fan-in, gains
    are 1, and all else is 0.

    Parameters
    ----------
    sizes : sequence of int
        Units of all layers, inputs and outputs included.
    unit : {'linear-threshold', 'tanh'}

    Raises
    ------
    ConfigError
        For fewer than two layers, or another unit.
    """

    sizes: Sequence[int]
    unit: str = "linear-threshold"

    def __post_init__(self) -> None:
        check_choice("unit", self.unit, UNITS)
        check_kind("sizes", self.sizes, Sequence, "units per layer, as [784, 100, 10]")
        for i, size in enumerate(self.sizes):
            whole(f"sizes[{i}]", size, least=1)
        if len(self.sizes) < 2:
            raise ConfigError(f"sizes are those of two layers or more, not {list(self.sizes)}")

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the weights of a network, by name."""
        inside = ("gain", "shift", *(("bias",) if self.unit == "tanh" else ()))
        found: dict[str, tuple[int, ...]] = {}
        for k, (pre, post) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            last = k == len(self.sizes) - 2
            name, parts = ("head", ("bias",)) if last else (f"full{k}", inside)
            found |= {f"{name}.W": (post, pre), **{f"{name}.{part}": (post,) for part in parts}}
        return found

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
        return draw_each("modulated network", self._draw, generators, device)

    def _draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        found, last = {}, len(self.sizes) - 2
        for k, (pre, post) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            bound, name = math.sqrt(3 / pre), f"full{k}" if k < last else "head"
            w = torch.empty(post, pre).uniform_(-bound, bound, generator=generator)
            zero = torch.zeros(post)
            found[f"{name}.W"] = w
            if k == last or self.unit == "tanh":
                found[f"{name}.bias"] = zero
            if k < last:
                found |= {f"{name}.gain": torch.ones_like(zero), f"{name}.shift": zero}
        return found

    def __call__(
        self, weights: Mapping[str, Tensor], x: Tensor, reference: int | None = None
    ) -> Tensor:
        """Return the outputs, ``(networks, examples, n_out)``.

        Parameters
        ----------
        weights : mapping
            Those of other names are not looked at; those of one network, ``(1, ...)``, are the
            same for all.
        x : Tensor (networks, examples, n_in)
        reference : int, optional
            Without a meaning here, where no neuron looks at other examples.

        Raises
        ------
        LearnerError
            If a weight is missing or of another shape or type, or examples are of other networks
            or another width.
        """
        check_weights_and_input(weights, self.shapes, x, self.sizes[0])

        def affine(w: Tensor, bias: Tensor, y: Tensor) -> Tensor:
            return torch.baddbmm(bias.unsqueeze(-1), w, y)

        # Examples come last: a bias is then one number a row. Gains are multiplied into weights,
        # of which there are fewer than activities of all examples.
        y, read = x.mT, torch.ones_like(x[:, :1, :1])
        for k in range(len(self.sizes) - 2):
            w, gain, shift = (weights[f"full{k}.{part}"] for part in ("W", "gain", "shift"))
            if self.unit == "tanh":
                bias = gain * weights[f"full{k}.bias"] + shift
                y = affine(gain.unsqueeze(-1) * w, bias, y).tanh()
            else:
                y = affine(w * read, -shift, y).relu()
                read = gain.unsqueeze(-2)  # by all that read from these neurons
        return affine(weights["head.W"] * read, weights["head.bias"], y).mT
