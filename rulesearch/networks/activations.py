"""Activation functions, and their derivatives written in the activation itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["ACTIVATIONS", "Activation"]


@dataclass(frozen=True)
class Activation:
    """``y = value(z, beta)`` and ``dy/dz = derivative(y, beta)``.

    The derivative is a function of y, as in the synthetic error of the rule-discovery paper
    (section 4.2), where the input takes the place of y. From ``bounded_from`` on it is bounded, or
    grows as the square of y at most; below, where only an input can be, it grows exponentially.
    """

    name: str
    value: Callable[[Tensor, float], Tensor]
    derivative: Callable[[Tensor, float], Tensor]
    twice_differentiable: bool = True
    bounded_from: float = -math.inf


LANES = 64  # numbers that a vectorised loop may take at once; the rest it does one by one


def _steady(function: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], Tensor]:
    """Keep every number inside the vectorised loop, so that its bits do not depend on the batch.

    The last few numbers of a tensor go through scalar code, whose exponentials round otherwise.
    Rows are filled up to whole vectors, and what was added is dropped.
    """

    def padded(z: Tensor, beta: float) -> Tensor:
        n = z.shape[-1]
        return function(functional.pad(z, (0, -n % LANES)), beta)[..., :n]

    return padded


def _softplus(z: Tensor, beta: float) -> Tensor:
    if z.dtype == torch.float32:
        return functional.softplus(z, beta=beta)
    # torch's softplus turns linear at 20, which float32 cannot tell and float64 can
    return torch.logaddexp(beta * z, torch.zeros_like(z)) / beta


ACTIVATIONS: dict[str, Activation] = {
    a.name: a
    for a in (
        Activation(
            "softplus",
            _steady(_softplus),
            lambda y, beta: -torch.expm1(-beta * y),
            bounded_from=0.0,
        ),
        Activation("tanh", _steady(lambda z, beta: z.tanh()), lambda y, beta: 1 - y * y),
        Activation("relu", lambda z, beta: z.relu(), lambda y, beta: (y > 0).to(y.dtype), False),
    )
}
