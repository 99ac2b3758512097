"""What agents have in common: minibatches, whether weights are finite, where generators stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rulesearch.arguments import whole
from rulesearch.outer.bilevel import Named
from rulesearch.outer.bilevel.given import check_named
from rulesearch.tasks.wheel import Experience
from rulesearch.torch_arguments import check_generators

__all__ = ["check_agent", "finite", "minibatches", "set_states", "states_of"]


def check_agent(
    weights: Named, updates: int, batch: int, generators: Sequence[torch.Generator]
) -> None:
    """Refuse counts that are none, weights without names, and what are no generators."""
    check_named("weights", weights)
    whole("updates", updates, least=0)
    whole("batch", batch, least=1)
    check_generators(generators, "lifetime")


def minibatches(
    experience: Experience, steps: int, size: int, generators: Sequence[torch.Generator]
) -> Callable[[int | None], Experience]:
    """Draw so many choices for each step, with replacement; of no step, all."""
    seen = experience.reward.shape[1]
    drawn = torch.stack([torch.randint(seen, (steps, size), generator=g) for g in generators], 1)
    drawn = drawn.to(experience.reward.device)
    return lambda step: experience if step is None else experience.at(drawn[step])


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
