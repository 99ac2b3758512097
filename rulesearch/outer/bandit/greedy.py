"""An agent that regresses rewards, and chooses the arm that it thinks best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from rulesearch.arguments import check_kind
from rulesearch.outer.bandit.agents import (
    check_agent,
    check_answers,
    check_lives,
    check_tensors,
    finite,
    minibatches,
    set_states,
    states_of,
)
from rulesearch.outer.bilevel import Bilevel, Named, Optimiser
from rulesearch.outer.bilevel.given import check_named
from rulesearch.tasks.wheel import Experience

__all__ = ["ChosenArm", "GreedyAgent", "RewardNetwork"]


class RewardNetwork(Protocol):
    """A network as a function of its weights."""

    def __call__(self, weights: Named, x: Tensor) -> Tensor:
        """Return a reward for every arm, ``(lifetimes, steps, arms)``."""
        ...


@dataclass(frozen=True)
class ChosenArm:
    """Mean squared error of the rewards got; of arms not chosen nothing is known.

    Parameters
    ----------
    network : RewardNetwork
        Of the weights phi, those of theta, and the constant ones.
    source : callable
        From the number of a step, or None for all, to what is learnt from.
    constant : Named
        Weights that nothing learns.
    """

    network: RewardNetwork
    source: Callable[[int | None], Experience]
    constant: Named = field(default_factory=dict)

    def __call__(self, phi: Named, theta: Named, step: int | None) -> Tensor:
        """Return the loss, ``(lifetimes,)``.

        Raises
        ------
        LearnerError
            If the network does not answer for every arm.
        """
        context, action, reward = self.source(step)
        found = self.network({**self.constant, **theta, **phi}, context)
        check_answers(found, context)
        return (found.gather(-1, action[..., None]).squeeze(-1) - reward).square().mean(-1)


@dataclass(eq=False)
class GreedyAgent:
    """Takes so many steps of an optimiser whenever it learns; nothing is ever reset.

    Parameters
    ----------
    network : callable
        From fast weights and contexts to rewards of all arms.
    phi : Named
        Fast weights, ``(lifetimes, ...)``.
    theta : Named
        What else the problem depends on: slow weights, or anchors.
    problem : callable
        From a source of minibatches to what is learnt.
    optimiser : Optimiser
    updates, batch : int
        Steps when it learns, and choices of each, drawn with replacement.
    generators : sequence of torch.Generator
        One a lifetime.

    Raises
    ------
    ConfigError
        If one of them is of another kind.
    LearnerError
        If a weight, or what is seen later, is of more or fewer lifetimes than there are
        generators, or the network does not answer for every arm.
    """

    network: Callable[[Named, Tensor], Tensor]
    phi: Named
    theta: Named
    problem: Callable[[Callable[[int | None], Experience]], Bilevel]
    optimiser: Optimiser
    updates: int
    batch: int
    generators: Sequence[torch.Generator]

    def __post_init__(self) -> None:
        check_agent(self.phi, self.updates, self.batch, self.generators)
        check_kind("optimiser", self.optimiser, Optimiser, "an optimiser, as Adam(1e-3)")
        self._memory: Mapping[str, tuple[Tensor, ...]] = dict.fromkeys(self.phi, ())
        self._steps = 0

    @torch.no_grad()
    def act(self, context: Tensor) -> Tensor:
        """Choose the best of all arms."""
        check_lives("context", context, self.generators)
        found = self.network(self.phi, context)
        check_answers(found, context)
        return found.argmax(-1)

    @torch.no_grad()
    def learn(self, experience: Experience) -> None:
        """Go on with the descent."""
        problem = self.problem(minibatches(experience, self.updates, self.batch, self.generators))
        for step in range(self.updates):
            slope = problem.slope(self.phi, self.theta, 0.0, step)
            moves = {
                name: self.optimiser.update(slope[name], self._memory[name], self._steps)
                for name in self.phi
            }
            self.phi = {name: value + moves[name][0] for name, value in self.phi.items()}
            self._memory = {name: memory for name, (_, memory) in moves.items()}
            self._steps += 1

    @property
    def alive(self) -> Tensor:
        """Whose weights are finite."""
        return finite(self.phi)

    def tensors(self) -> dict[str, Tensor]:
        """Weights, what the optimiser remembers, and where the generators stand."""
        return self._tensors(self._memory)

    def _tensors(self, memory: Mapping[str, tuple[Tensor, ...]]) -> dict[str, Tensor]:
        kept = {
            f"memory.{k}.{name}": value
            for name, values in memory.items()
            for k, value in enumerate(values)
        }
        return {
            **{f"phi.{name}": value for name, value in self.phi.items()},
            **kept,
            "steps": torch.tensor(self._steps),
            "generators": states_of(self.generators),
        }

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from them.

        Raises
        ------
        ConfigError
            If they are of another agent; then nothing has changed.
        """
        check_named("tensors", tensors)
        memory: dict[str, tuple[Tensor, ...]] = dict.fromkeys(self.phi, ())
        if "steps" in tensors and tensors["steps"].any():  # it remembers as after a step
            memory = {
                name: self.optimiser.update(torch.zeros_like(w), (), 0)[1]
                for name, w in self.phi.items()
            }
        check_tensors("agent", tensors, self._tensors(memory))
        self._memory = {
            name: tuple(tensors[f"memory.{k}.{name}"].to(v.device) for k, v in enumerate(values))
            for name, values in memory.items()
        }
        self.phi = {name: tensors[f"phi.{name}"].to(w.device) for name, w in self.phi.items()}
        self._steps = int(tensors["steps"])
        set_states(self.generators, tensors["generators"])
