"""Life with a bandit: choose, get a reward, learn now and then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from rulesearch.arguments import check_kind, whole
from rulesearch.errors import ConfigError, LearnerError
from rulesearch.named import under
from rulesearch.outer.bandit.agents import check_tensors
from rulesearch.outer.bilevel.given import check_named
from rulesearch.tasks.wheel import ARMS, Experience, Wheel, check_arms

__all__ = ["Agent", "Life", "blocks", "live"]

NEEDED = ("act", "learn", "alive")  # of an agent that lives in one go


class Agent(Protocol):
    """Agents side by side, one a lifetime; what becomes of one depends on no other."""

    def act(self, context: Tensor) -> Tensor:
        """Choose arms, ``(lifetimes, steps)``, for contexts ``(lifetimes, steps, n_in)``."""
        ...

    def learn(self, experience: Experience) -> None:
        """Learn from everything that happened so far."""
        ...

    @property
    def alive(self) -> Tensor:
        """Whose knowledge is finite, ``(lifetimes,)`` bool: others choose nothing by it."""
        ...

    # What follows is asked only of a life that is broken off and gone on with.

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the rest of a life depends on."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what ``tensors`` gave."""
        ...


def _check_arms(chosen: Tensor, wanted: Tensor) -> None:
    """Refuse what is no arm for each context."""
    check_kind("what the agent's act() returns", chosen, Tensor, "a torch tensor", LearnerError)
    if chosen.shape != wanted.shape or chosen.is_floating_point() or chosen.dtype == torch.bool:
        raise LearnerError(
            f"what the agent's act() returns has shape {tuple(chosen.shape)} and type "
            f"{chosen.dtype}; it should be arms, whole numbers {tuple(wanted.shape)}, one a context"
        )
    check_arms("what the agent's act() returns", chosen, LearnerError)


def blocks(steps: int, every: int) -> int:
    """Into how many blocks a life falls: the first choice, and every so many more."""
    return 1 + -(-(steps - 1) // every)


@dataclass(eq=False)
class Life:
    """Agents that live block by block, and can be broken off after any.

    What an agent knows changes only when it learns, so that all choices in between are made at
    once: they are a block, and so is the learning after them. The first ones go round the arms.

    Parameters
    ----------
    agent : Agent
    wheel : Wheel
    steps, every : int
        Choices of a life; it learns after the first and after every so many more.
    generators : sequence of torch.Generator
        One a lifetime, of contexts and rewards; agents draw from others.
    pulls : int
        Of each arm before the agent chooses.

    Raises
    ------
    ConfigError
        If one of them is of another kind, or there are not as many generators as wheels.
    LearnerError
        If the agent does not say of each lifetime whether it is alive.
    """

    agent: Agent
    wheel: Wheel
    steps: int
    every: int
    generators: Sequence[torch.Generator]
    pulls: int = 2
    lived: int = 0
    _action: Tensor = field(init=False)

    def __post_init__(self) -> None:
        lacking = [part for part in NEEDED if not hasattr(self.agent, part)]
        if isinstance(self.agent, type) or lacking:
            raise ConfigError(
                f"agent should act, learn and say whether it is alive, unlike {self.agent!r}"
                + (f", which lacks {', '.join(lacking)}" if lacking else "")
            )
        check_kind("wheel", self.wheel, Wheel, "a Wheel, as Wheel(torch.tensor([0.5]))")
        for name, least in (("steps", 1), ("every", 1), ("pulls", 0), ("lived", 0)):
            whole(name, getattr(self, name), least)
        self._context = self.wheel.contexts(self.generators, self.steps)
        self._rewards = self.wheel.rewards(self._context, self.generators)
        self._action = self._context.new_zeros(self._context.shape[:2], dtype=torch.int64)
        forced = min(self.pulls * ARMS, self.steps)
        self._action[:, :forced] = torch.arange(forced, device=self._action.device) % ARMS
        _ = self.alive  # of as many lifetimes as there are wheels

    @property
    def blocks(self) -> int:
        """How many there are."""
        return blocks(self.steps, self.every)

    @property
    def alive(self) -> Tensor:
        """Whose agents' knowledge is finite, ``(lifetimes,)`` bool."""
        alive, wanted = self.agent.alive, (len(self._action),)
        kind = "a torch tensor of bool, one a lifetime"
        check_kind("agent.alive", alive, Tensor, f"a property that is {kind}", LearnerError)
        if alive.dtype != torch.bool or alive.shape != wanted:
            raise LearnerError(
                f"agent.alive has shape {tuple(alive.shape)} and type {alive.dtype}; it should be "
                f"{kind}, {wanted}"
            )
        return alive

    def go_on(self) -> Tensor:
        """Live a block, and return the regret of its choices, ``(lifetimes, choices)``."""
        begin, end = self._end(self.lived), self._end(self.lived + 1)
        free = max(begin, self.pulls * ARMS)
        if free < end:
            chosen = self.agent.act(self._context[:, free:end])
            _check_arms(chosen, self._action[:, free:end])
            self._action[:, free:end] = chosen
        seen, action = self._context[:, :end], self._action[:, :end]
        if end < self.steps:
            got = self._rewards[:, :end].gather(-1, action[..., None]).squeeze(-1)
            self.agent.learn(Experience(seen, action, got))
        self.lived += 1
        return self.wheel.regret(seen[:, begin:], action[:, begin:])

    def regret(self) -> Tensor:
        """Of every choice so far, of mean rewards; NaN for a lifetime whose agent diverged."""
        end = self._end(self.lived)
        found = self.wheel.regret(self._context[:, :end], self._action[:, :end])
        return torch.where(self.alive[:, None], found, torch.nan)

    def _end(self, blocks: int) -> int:
        return min(1 + (blocks - 1) * self.every, self.steps) if blocks else 0

    def tensors(self) -> dict[str, Tensor]:
        """What was chosen, and the agent; contexts and rewards follow from their generators.

        Raises
        ------
        ConfigError
            If the agent does not tell what it depends on.
        """
        self._check_kept()
        agent = {f"agent.{name}": value for name, value in self.agent.tensors().items()}
        return {**self._own(), **agent}

    def _own(self) -> dict[str, Tensor]:
        return {
            "action": self._action.to(torch.uint8),
            "lived": torch.tensor(self.lived),
            "every": torch.tensor(self.every),
        }

    def _check_kept(self) -> None:
        """Refuse an agent that cannot be broken off."""
        for part in ("tensors", "load"):
            if not hasattr(self.agent, part):
                raise ConfigError(
                    f"a life that is broken off needs an agent with tensors() and load(tensors); "
                    f"{type(self.agent).__name__} lacks {part}"
                )

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what ``tensors`` gave.

        Raises
        ------
        ConfigError
            If that was of another life; then nothing has changed.
        """
        self._check_kept()
        check_named("tensors", tensors)
        own = {name: t for name, t in tensors.items() if not name.startswith("agent.")}
        own = {"every": torch.tensor(self.every), **own}  # of which lives once did not tell
        check_tensors("life", own, self._own())
        if own["every"] != self.every:
            raise ConfigError(
                f"tensors are of a life that learns every {int(own['every'])} choices, not every "
                f"{self.every}: make it as it was"
            )
        self.agent.load(under("agent.", tensors))
        self._action, self.lived = own["action"].to(self._action), int(own["lived"])


def live(
    agent: Agent,
    wheel: Wheel,
    steps: int,
    every: int,
    generators: Sequence[torch.Generator],
    pulls: int = 2,
) -> Tensor:
    """Let agents live, from the first choice to the last; parameters are those of :class:`Life`.

    Returns
    -------
    Tensor (lifetimes, steps)
        Regret of every choice, of mean rewards; NaN for a lifetime whose agent diverged.
    """
    life = Life(agent, wheel, steps, every, generators, pulls)
    for _ in range(life.blocks):
        life.go_on()
    return life.regret()
