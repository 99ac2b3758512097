"""Fully connected layers with relu, over many examples: the activations of a slice at a time.

Plain autograd keeps what every layer makes of every example. Here a slice's hidden activations
are made again when its gradient is due, in buffers that all slices use; the last layer's, which
is the widest where it feeds plastic layers, is known from its output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ReluLayers"]

ROWS = 800  # examples of a slice: about what stays in cache


class ReluLayers(nn.Sequential):
    r"""Linear layers and relu in turn, :math:`y_l = \max(0, W_l y_{l-1} + b_l)`.

    Made as ``Sequential`` is, and the same but for memory; it has first derivatives alone.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return the last layer's activations (examples, n_out) of ``x`` (examples, n_in)."""
        found: Tensor = _Sliced.apply(x, *self.parameters())  # type: ignore[no-untyped-call]
        return found


class _Sliced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        layers = _layers(parameters)
        hidden = _buffers(x, layers[:-1])
        found = x.new_empty(len(x), len(layers[-1][0]))
        for part, target in zip(x.split(ROWS), found.split(ROWS), strict=True):
            _activate(part, layers, [*hidden, target])
        ctx.save_for_backward(x, found, *parameters)
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, adjoint: Tensor) -> tuple[Tensor | None, ...]:
        x, found, *parameters = ctx.saved_tensors
        layers = _layers(parameters)
        wants_x, *wanted = ctx.needs_input_grad
        hidden, slopes = _buffers(x, layers[:-1]), _buffers(x, layers)
        x_bar = torch.empty_like(x) if wants_x else None
        total = [
            torch.zeros_like(p) if w else None for p, w in zip(parameters, wanted, strict=True)
        ]
        ones = x.new_ones(min(ROWS, len(x)))
        lowest = 0 if wants_x else wanted.index(True) // 2
        slices = zip(x.split(ROWS), found.split(ROWS), adjoint.split(ROWS), strict=True)
        for number, (part, last, g) in enumerate(slices):
            n = len(part)
            y = [part, *_activate(part, layers[:-1], hidden), last]
            for k in reversed(range(lowest, len(layers))):  # g is the adjoint of y[k + 1]
                slope = slopes[k][:n]
                torch.ops.aten.threshold_backward.grad_input(g, y[k + 1], 0, grad_input=slope)
                weight_bar, bias_bar = total[2 * k : 2 * k + 2]
                if weight_bar is not None:
                    weight_bar.addmm_(slope.T, y[k])
                if bias_bar is not None:
                    bias_bar.addmv_(slope.T, ones[:n])
                if k > lowest:
                    g = torch.mm(slope, layers[k][0], out=slopes[k - 1][:n])
                elif x_bar is not None:
                    torch.mm(slope, layers[k][0], out=x_bar.split(ROWS)[number])
        return (x_bar, *total)


def _layers(parameters: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Weight (n_out, n_in) and bias of each layer."""
    return list(zip(parameters[::2], parameters[1::2], strict=True))


def _buffers(x: Tensor, layers: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [x.new_empty(min(ROWS, len(x)), len(bias)) for _, bias in layers]


def _activate(
    x: Tensor, layers: Sequence[tuple[Tensor, Tensor]], out: Sequence[Tensor]
) -> list[Tensor]:
    """Run a slice through layers, each into its buffer."""
    found = []
    for (weight, bias), buffer in zip(layers, out, strict=True):
        x = torch.addmm(bias, x, weight.T, out=buffer[: len(x)]).relu_()
        found.append(x)
    return found
