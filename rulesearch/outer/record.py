"""What every outer loop tells of an update."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["UpdateRecord"]


@dataclass(frozen=True)
class UpdateRecord:
    """What a meta-update saw.

    Attributes
    ----------
    loss : Tensor (seeds,)
        On the queries, the mean over a seed's lifetimes.
    rejected : Tensor (seeds,) bool
        Whom it taught nothing.
    diverged : Tensor (seeds,) int64, optional
        How many of a seed's lifetimes were left out, where they are judged one by one.
    residual : mapping to Tensor (seeds,)
        By what was to be solved, the median over a seed's lifetimes of what was left of it: see
        :class:`rulesearch.outer.bilevel.Estimate`.
    validation : Tensor (seeds,), optional
        The error on validation tasks, where the update ended with a look at them.
    """

    loss: Tensor
    rejected: Tensor
    diverged: Tensor | None = None
    residual: Mapping[str, Tensor] = field(default_factory=dict)
    validation: Tensor | None = None
