"""Elementwise functions and their derivatives as torch calls, as in ``engine/functions.h``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

__all__ = ["Call", "Scratch", "apply_calls", "make", "products", "scaled", "slope_calls"]

Call = Callable[[], object]
Scratch = Callable[[str, Tensor], Tensor]
"""Gives memory of a shape for what is read again at once, shared by all that ask in a name."""


def make(calls: Iterable[Call]) -> None:
    """Make calls, one after the other."""
    for call in calls:
        call()


def scaled(a: Tensor, factor: float, out: Tensor) -> Call:
    """``out = factor * a``; a call of torch takes a tensor much sooner than a Python number."""
    return (
        partial(out.copy_, a) if factor == 1 else partial(torch.mul, a, _tensor(factor, a), out=out)
    )


def products(a: Tensor, b: Tensor, out: Tensor, scratch: Scratch, add: bool = False
             ) -> Iterator[Call]:  # fmt: skip
    """``out = a b`` of each lifetime, or that added to it.

    Where the results do not lie side by side, torch would take them one by one.
    """
    if out.is_contiguous():
        yield partial(out.baddbmm_, a, b) if add else partial(torch.bmm, a, b, out=out)
    else:
        found = scratch("products", out)
        yield partial(torch.bmm, a, b, out=found)
        yield partial(out.add_ if add else out.copy_, found)


def _tensor(number: float, like: Tensor) -> Tensor:
    return like.new_tensor(number)


def apply_calls(function: str, a: Tensor, out: Tensor, beta: float) -> Iterator[Call]:
    """``out = function(a)``; all but softmax."""
    match function:
        case "identity":
            yield partial(out.copy_, a)
        case "softplus" if a.dtype == torch.float32:
            softplus: Callable[..., object] = torch._C._nn.softplus  # which can write to `out`
            yield partial(softplus, a, beta, 20.0, out=out)
        case "softplus":  # torch's turns linear at 20, which float32 cannot tell and float64 can
            yield scaled(a, beta, out)
            yield partial(torch.logaddexp, out, out.new_zeros(()), out=out)
            yield partial(out.div_, _tensor(beta, a))
        case "d_softplus":
            yield from _rise(a, out, beta)
        case "d_tanh":
            yield partial(torch.mul, a, a, out=out)
            yield partial(torch.sub, out.new_ones(()), out, out=out)
        case "relu":
            yield partial(torch.clamp_min, a, 0, out=out)
        case "d_relu":
            yield partial(torch.heaviside, a, out.new_zeros(()), out=out)
        case _:
            yield partial(getattr(torch, function), a, out=out)


def _rise(y: Tensor, out: Tensor, beta: float) -> Iterator[Call]:
    """``1 - exp(-beta y)``, the slope of softplus where its value is y."""
    yield scaled(y, -beta, out)
    yield partial(out.expm1_)
    yield partial(out.neg_)


def slope_calls(function: str, a: Tensor, y: Tensor, out: Tensor, beta: float) -> Iterator[Call]:
    """The derivative at a, where the value is y."""
    match function:
        case "tanh":
            yield from apply_calls("d_tanh", y, out, beta)
        case "exp":
            yield partial(out.copy_, y)
        case "abs":
            yield partial(torch.sign, a, out=out)
        case "softplus":
            yield from _rise(y, out, beta)
        case "relu":
            yield from apply_calls("d_relu", a, out, beta)
        case "d_softplus":
            yield scaled(y, -beta, out)
            yield partial(out.add_, _tensor(beta, y))
        case "d_tanh":
            yield scaled(a, -2, out)
