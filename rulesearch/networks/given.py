"""What networks of named weights are called with: all of their weights, and inputs that fit."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rulesearch.arguments import check_kind
from rulesearch.errors import LearnerError

__all__ = ["check_shapes", "check_weights_and_input"]

Shapes = Mapping[str, tuple[int, ...]]
"""Of the weights of one network, by name."""


def check_shapes(weights: Mapping[str, Tensor], shapes: Shapes, networks: int) -> None:
    """Refuse weights of another shape than the network's, which would be spread without a word.

    Those of no network, ``shape``, or of one, ``(1, *shape)``, are the same for all.
    """
    first = next(iter(shapes))
    dtype = weights[first].dtype
    for name, shape in shapes.items():
        found = tuple(weights[name].shape)
        own, lead = found[-len(shape) :], found[: -len(shape)]
        if own != shape or lead not in ((), (1,), (networks,)):
            turned = own[::-1] == shape != own
            raise LearnerError(
                f"weights['{name}'] has shape {found}; it should be {(networks, *shape)}"
                + (": its axes are swapped, give .mT" if turned else ", as of init()")
            )
        if weights[name].dtype != dtype:
            raise LearnerError(
                f"weights['{name}'] is {weights[name].dtype}, '{first}' {dtype}: give .to({dtype})"
            )


def check_weights_and_input(
    weights: Mapping[str, Tensor], shapes: Shapes, x: Tensor, values: int
) -> Shapes:
    """Refuse weights that are missing or do not fit, and inputs that do not; return the shapes.

    A head may have other outputs than the network's: the identity shows features.
    """
    check_kind("weights", weights, Mapping, "tensors by name, as of init()", LearnerError)
    check_kind("x", x, Tensor, "a torch tensor", LearnerError)
    missing = [name for name in shapes if name not in weights]
    if missing:
        raise LearnerError(f"weights have no {', '.join(missing)}; give all, as of init()")
    own, bias = (tuple(weights[f"head.{part}"].shape[-n:]) for part, n in (("W", 2), ("bias", 1)))
    if own[1:] == shapes["head.W"][1:] and own[:1] == bias:
        shapes = {**shapes, "head.W": own, "head.bias": bias}
    of_each = (len(weights[k]) for k, shape in shapes.items() if weights[k].ndim > len(shape))
    networks = next((count for count in of_each if count > 1), 1)
    check_shapes(weights, shapes, networks)
    if x.ndim != 3 or x.shape[0] != networks or x.shape[2] != values:
        raise LearnerError(
            f"x has shape {tuple(x.shape)}; it should be ({networks}, examples, {values}), a row "
            "of examples a network"
        )
    like = weights[next(iter(shapes))]
    if x.dtype != like.dtype:
        raise LearnerError(f"x is {x.dtype}, the weights {like.dtype}: give .to({like.dtype})")
    return shapes
