"""What agents have in common: what they are given, minibatches, and where generators stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rulesearch.arguments import whole
from rulesearch.errors import ConfigError, LearnerError
from rulesearch.outer.bilevel import Named
from rulesearch.outer.bilevel.given import check_named
from rulesearch.outer.checkpoint import misfits
from rulesearch.tasks.wheel import ARMS, Experience
from rulesearch.torch_arguments import check_generators

__all__ = [
    "check_agent",
    "check_answers",
    "check_lives",
    "check_tensors",
    "finite",
    "minibatches",
    "set_states",
    "states_of",
]


def check_agent(
    weights: Named, updates: int, batch: int, generators: Sequence[torch.Generator]
) -> None:
    """Refuse counts that are none, and weights of other lives than there are generators for."""
    check_named("weights", weights)
    whole("updates", updates, least=0)
    whole("batch", batch, least=1)
    check_generators(generators, "lifetime", "agent")
    if not weights:
        raise LearnerError("agent: there are no weights; give some, as of the network's init()")
    for name, weight in weights.items():
        if weight.shape[:1] != (len(generators),):
            raise LearnerError(
                f"agent: weight '{name}' has shape {tuple(weight.shape)}, with {len(generators)} "
                "generators: give as many lifetimes of each weight as generators"
            )


def check_lives(name: str, given: Tensor, generators: Sequence[torch.Generator]) -> None:
    """Refuse what is of more or fewer lives than the agent's: some would share one."""
    if given.shape[:1] != (len(generators),):
        raise LearnerError(
            f"{name} has shape {tuple(given.shape)}; it should begin with {len(generators)}, the "
            "agent's lifetimes: give the agent weights and a generator for each"
        )


def check_answers(found: Tensor, context: Tensor) -> None:
    """Refuse what is not a reward of every arm for each context."""
    wanted = (*context.shape[:-1], ARMS)
    if found.shape != wanted:
        raise LearnerError(
            f"the network's answers have shape {tuple(found.shape)}; they should be {wanted}: a "
            f"network answers for {ARMS} arms"
        )


def check_tensors(whose: str, tensors: Named, wanted: Named) -> None:
    """Refuse tensors of other names or shapes than those wanted, before any is taken."""
    check_named("tensors", tensors)
    wrong = misfits(tensors, wanted)
    if wrong:
        raise ConfigError(
            f"what tensors() gave is not of this {whose}: {wrong[0]}; make the {whose} as it was "
            "then"
        )


def minibatches(
    experience: Experience, steps: int, size: int, generators: Sequence[torch.Generator]
) -> Callable[[int | None], Experience]:
    """Draw so many choices for each step, with replacement; of no step, all."""
    for name, part in zip(Experience._fields, experience, strict=True):
        check_lives(f"experience.{name}", part, generators)
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
