"""Strengths of consolidation to be meta-learnt: what is learnt, by which steps, from what."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from rulesearch.networks import PlasticNetwork
from rulesearch.outer.bilevel import ComplexSynapse, LossProblem
from rulesearch.outer.bilevel.networks import Examples, network_problem

__all__ = ["Consolidation", "ConsolidationData"]

STRENGTH = 0.1  # of all synapses: a time constant of ten steps


@dataclass(frozen=True, eq=False)
class ConsolidationData:
    """What a peer is given.

    Attributes
    ----------
    born : sequence of Tensor (lifetimes, n_post, n_pre)
        Weights at birth, and what they are drawn to; there are no biases.
    strength : sequence of Tensor
        Of every weight, the meta-parameters.
    learn, evaluate : Examples
    """

    network: PlasticNetwork
    born: list[Tensor]
    strength: list[Tensor]
    learn: Examples
    evaluate: Examples

    def to(self, where: torch.dtype | torch.device | str) -> ConsolidationData:
        """The same numbers in another type, or on another device."""

        def moved(examples: Examples) -> Examples:
            device = where if not isinstance(where, torch.dtype) else None
            return Examples(examples.x.to(where), examples.label.to(device))

        born, strength = ([t.to(where) for t in each] for each in (self.born, self.strength))
        return ConsolidationData(
            self.network, born, strength, moved(self.learn), moved(self.evaluate)
        )

    @property
    def problem(self) -> ComplexSynapse[LossProblem]:
        """As the library has it."""
        state = self.network.init([torch.Generator()] * len(self.born[0]))
        state.W[:] = self.born
        drawn_to = {f"omega.W{k}": w for k, w in enumerate(self.born)}
        task = network_problem(self.network, state, self.learn, self.evaluate)
        return ComplexSynapse(task, drawn_to)

    @property
    def theta(self) -> dict[str, Tensor]:
        """The meta-parameters by name."""
        return {f"lambda.W{k}": strength for k, strength in enumerate(self.strength)}


@dataclass(frozen=True)
class Consolidation:
    """A network learns by gradient descent; wanted is the evaluation loss's slope in all lambdas.

    Parameters
    ----------
    sizes : tuple of int
        Units per layer; tanh, linear output, cross-entropy.
    steps, lifetimes, examples : int
        Of learning, networks side by side, and examples of a step, the same at all steps.
    queries : int
        Examples of the evaluation loss.
    rate, momentum : float
        Of learning.
    beta : float
        Of the contrast, whose nudged phase has as many steps as the free one.
    window : int
        Last steps that truncated unrolling goes through.
    """

    sizes: tuple[int, ...] = (64, 128, 10)
    steps: int = 400
    lifetimes: int = 1
    examples: int = 200
    queries: int = 200
    rate: float = 0.1
    momentum: float = 0.9
    beta: float = 0.01
    window: int = 50
    seed: int = 0

    @property
    def about(self) -> str:
        """What is meta-learnt."""
        return "a strength for each weight"

    @property
    def weights(self) -> int:
        """Weights of all layers."""
        return sum(pre * post for pre, post in pairwise(self.sizes))

    @property
    def numbers(self) -> int:
        """What plain autograd may keep of a step: activity of all examples, and the weights."""
        return 4 * (self.weights + self.examples * sum(self.sizes))

    def make(self) -> ConsolidationData:
        """Draw everything, in float32; a random linear map labels the examples."""
        g = torch.Generator().manual_seed(self.seed)
        teacher = torch.randn(self.sizes[-1], self.sizes[0], generator=g)

        def examples(count: int) -> Examples:
            x = torch.randn(self.lifetimes, count, self.sizes[0], generator=g)
            return Examples(x, (x @ teacher.T).argmax(-1))

        network = PlasticNetwork(self.sizes, activation="tanh")
        draws = [torch.Generator().manual_seed(self.seed + k) for k in range(self.lifetimes)]
        born = network.init(draws).W
        strength = [torch.full_like(w, STRENGTH) for w in born]
        return ConsolidationData(
            network, born, strength, examples(self.examples), examples(self.queries)
        )
