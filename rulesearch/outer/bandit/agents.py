"""What agents have in common: whether their weights are finite, and where generators stand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rulesearch.outer.bilevel import Named

__all__ = ["finite", "set_states", "states_of"]


def finite(weights: Named) -> Tensor:
    """Whose weights are finite, ``(lifetimes,)``."""
    parts = [w.isfinite().flatten(1).all(1) for w in weights.values()]
    return torch.stack(parts).all(0)


def states_of(generators: Sequence[torch.Generator]) -> Tensor:
    """Where generators stand, a row each."""
    return torch.stack([generator.get_state() for generator in generators])


def set_states(generators: Sequence[torch.Generator], states: Tensor) -> None:
    """Put generators where others stood."""
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state.clone())
