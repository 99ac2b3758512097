"""Life with a bandit: choose, get a reward, learn now and then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from rulesearch.tasks.wheel import ARMS, Experience, Wheel

__all__ = ["Agent", "live"]


class Agent(Protocol):
    """Agents side by side, one a lifetime."""

    def act(self, context: Tensor) -> Tensor:
        """Choose arms, ``(lifetimes, steps)``, for contexts ``(lifetimes, steps, n_in)``."""
        ...

    def learn(self, experience: Experience) -> None:
        """Learn from everything that happened so far."""
        ...


def live(
    agent: Agent,
    wheel: Wheel,
    steps: int,
    every: int,
    generators: Sequence[torch.Generator],
    pulls: int = 2,
) -> Tensor:
    """Let agents live.

    What an agent knows changes only when it learns, so that all choices in between are made at
    once. The first ones go round the arms.

    Parameters
    ----------
    steps, every : int
        Choices of a life; it learns after the first and after every so many more.
    generators : sequence of torch.Generator
        One a lifetime, of contexts and rewards; agents draw from others.
    pulls : int
        Of each arm before the agent chooses.

    Returns
    -------
    Tensor (lifetimes, steps)
        Regret of every choice, of mean rewards.
    """
    context = wheel.contexts(generators, steps)
    rewards = wheel.rewards(context, generators)
    forced = min(pulls * ARMS, steps)
    action = context.new_zeros(context.shape[:2], dtype=torch.int64)
    action[:, :forced] = torch.arange(forced) % ARMS
    begin = 0
    for last in range(0, steps + every, every):
        end = min(last + 1, steps)
        free = max(begin, forced)
        if free < end:
            action[:, free:end] = agent.act(context[:, free:end])
        if end == steps:
            break
        got = rewards[:, :end].gather(-1, action[:, :end, None]).squeeze(-1)
        agent.learn(Experience(context[:, :end], action[:, :end], got))
        begin = end
    return wheel.regret(context, action)
