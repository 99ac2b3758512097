"""Fully connected layers with relu, over many examples: the activations of a slice at a time.

Plain autograd keeps what every layer makes of every example. Here a slice's hidden activations
are made again when its gradient is due, in buffers that all slices use; the last layer's, which
is the widest where it feeds plastic layers, is known from its output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from rulesearch.errors import LearnerError

__all__ = ["ReluLayers"]

ROWS = 800  # examples of a slice: about what stays in cache


class ReluLayers(nn.Sequential):
    r"""Linear layers and relu in turn, :math:`y_l = \max(0, W_l y_{l-1} + b_l)`.

    Made as ``Sequential`` is, and the same but for memory: of more examples than a slice it has
    first derivatives alone.

    Raises
    ------
    LearnerError
        If the layers are others.
    """

    def __init__(self, *layers: Any) -> None:
        super().__init__(*layers)
        kinds = [type(layer) for layer in self]
        if kinds != [nn.Linear, nn.ReLU] * (len(kinds) // 2) or not kinds:
            names = ", ".join(kind.__name__ for kind in kinds) or "none"
            raise LearnerError(
                f"ReluLayers are Linear and ReLU in turn, not {names}; use Sequential for others"
            )
        if any(layer.bias is None for layer in self if isinstance(layer, nn.Linear)):
            raise LearnerError("ReluLayers have biases; use Sequential for Linear without one")

    def forward(self, x: Tensor) -> Tensor:
        """Return the last layer's activations (examples, n_out) of ``x`` (examples, n_in)."""
        if len(x) <= ROWS:
            return cast(Tensor, super().forward(x))  # type: ignore[no-untyped-call]
        return cast(Tensor, _Sliced.apply(x, *self.parameters()))  # type: ignore[no-untyped-call]


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
        x_bars = [None] * len(x.split(ROWS)) if x_bar is None else x_bar.split(ROWS)
        total = [
            torch.zeros_like(p) if w else None for p, w in zip(parameters, wanted, strict=True)
        ]
        ones = x.new_ones(ROWS)
        lowest = 0 if wants_x else wanted.index(True) // 2
        slices = zip(x.split(ROWS), found.split(ROWS), adjoint.split(ROWS), x_bars, strict=True)
        for part, last, g, part_bar in slices:
            n = len(part)
            y = [part, *_activate(part, layers[:-1], hidden), last]
            # g is the adjoint of y[k + 1], in the buffer of its own slope but for the last layer's
            for k in reversed(range(lowest, len(layers))):
                slope = slopes[k][:n]
                torch.ops.aten.threshold_backward.grad_input(g, y[k + 1], 0, grad_input=slope)
                weight_bar, bias_bar = total[2 * k : 2 * k + 2]
                if weight_bar is not None:
                    weight_bar.addmm_(slope.T, y[k])
                if bias_bar is not None:
                    bias_bar.addmv_(slope.T, ones[:n])
                if k > lowest:
                    g = torch.mm(slope, layers[k][0], out=slopes[k - 1][:n])
                elif part_bar is not None:
                    torch.mm(slope, layers[k][0], out=part_bar)
        return (x_bar, *total)


def _layers(parameters: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Weight (n_out, n_in) and bias of each layer."""
    return list(zip(parameters[::2], parameters[1::2], strict=True))


def _buffers(x: Tensor, layers: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    return [x.new_empty(ROWS, len(bias)) for _, bias in layers]


def _activate(
    x: Tensor, layers: Sequence[tuple[Tensor, Tensor]], out: Sequence[Tensor]
) -> list[Tensor]:
    """Run a slice through layers, each into its buffer."""
    found = []
    for (weight, bias), buffer in zip(layers, out, strict=True):
        x = torch.addmm(bias, x, weight.T, out=buffer[: len(x)]).relu_()
        found.append(x)
    return found
