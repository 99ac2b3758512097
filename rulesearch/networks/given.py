"""What networks of named weights are called with: all of their weights, and inputs that fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from rulesearch.arguments import check_kind
from rulesearch.errors import LearnerError

__all__ = ["check_weights_and_input"]


def check_weights_and_input(
    weights: Mapping[str, Tensor], names: Collection[str], x: Tensor, values: int
) -> None:
    """Refuse a missing weight, and inputs of other networks or another width."""
    check_kind("weights", weights, Mapping, "tensors by name, as of init()", LearnerError)
    check_kind("x", x, Tensor, "a torch tensor", LearnerError)
    missing = [name for name in names if name not in weights]
    if missing:
        raise LearnerError(f"weights have no {', '.join(missing)}; give all, as of init()")
    networks = len(weights[next(iter(names))])
    if x.ndim != 3 or x.shape[0] != networks or x.shape[2] != values:
        raise LearnerError(
            f"x has shape {tuple(x.shape)}; it should be ({networks}, examples, {values}), a row "
            "of examples a network"
        )
    like = weights[next(iter(names))]
    if x.dtype != like.dtype:
        raise LearnerError(f"x is {x.dtype}, the weights {like.dtype}: give .to({like.dtype})")
