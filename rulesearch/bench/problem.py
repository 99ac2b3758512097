"""One problem, the same for every peer: networks at birth, what they see, what they are asked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rulesearch.bench.pools import benchmark_pool, coefficients
from rulesearch.grammar import TermPool
from rulesearch.networks import NetworkState, PlasticNetwork

__all__ = ["Data", "Problem"]

IMAGES = 250  # of each lifetime; a longer life sees them again
QUERIES = 50
CLASSES = 5
PAPER = (784, 170, 130, 100, 70, 47)


@dataclass(frozen=True, eq=False)
class Data:
    """What a peer is given.

    Attributes
    ----------
    state : NetworkState
        W and B at birth, ``(lifetimes, n_post, n_pre)`` each.
    theta : Tensor (n_terms,)
    table : Tensor (lifetimes * images, n_in)
        All images, each lifetime's in a row.
    index, label : Tensor (steps, lifetimes, examples) int64
        Which images a step shows, and their classes.
    x_query : Tensor (lifetimes, queries, n_in)
    label_query : Tensor (lifetimes, queries) int64
    """

    state: NetworkState
    theta: Tensor
    table: Tensor
    index: Tensor
    label: Tensor
    x_query: Tensor
    label_query: Tensor

    @property
    def lifetimes(self) -> int:
        """How many lives there are."""
        return self.index.shape[1]

    def to(self, where: torch.dtype | torch.device | str) -> Data:
        """The same numbers in another type, or on another device."""
        state = NetworkState(
            [w.to(where) for w in self.state.W], [b.to(where) for b in self.state.B]
        )
        labels = self.index, self.label, self.label_query
        if not isinstance(where, torch.dtype):
            labels = tuple(t.to(where) for t in labels)  # type: ignore[assignment]
        index, label, label_query = labels
        return Data(
            state, self.theta.to(where), self.table.to(where), index, label,
            self.x_query.to(where), label_query,
        )  # fmt: skip

    def part(self, begin: int, end: int) -> Data:
        """Some of the lifetimes."""
        images = self.table.shape[0] // self.lifetimes
        lives = slice(begin, end)
        state = NetworkState([w[lives] for w in self.state.W], [b[lives] for b in self.state.B])
        return Data(
            state, self.theta, self.table[begin * images : end * images],
            self.index[:, lives] - begin * images, self.label[:, lives],
            self.x_query[lives], self.label_query[lives],
        )  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """Lives of a network under a pool, and the gradient of their query losses in theta.

    Parameters
    ----------
    sizes : tuple of int
        Units per layer; softplus with beta 10, random feedback.
    pool : str
        ``pool10``, or ``generated-N`` for N outer products, most of whose coefficients are zero;
        ``generated-N-dense`` where none is (:mod:`rulesearch.bench.pools`).
    steps, lifetimes, examples : int
        Of a lifetime, at once, and images a step.
    queries : int
        Held-out images of a lifetime; the loss is their mean cross-entropy, summed over lives.
    """

    sizes: tuple[int, ...] = PAPER
    pool: str = "pool10"
    steps: int = 250
    lifetimes: int = 1
    examples: int = 1
    queries: int = QUERIES
    seed: int = 0

    @property
    def network(self) -> PlasticNetwork:
        """The network without its weights."""
        return PlasticNetwork(self.sizes)

    @property
    def terms(self) -> TermPool:
        """The candidate terms."""
        return benchmark_pool(self.pool)

    @property
    def about(self) -> str:
        """What learns."""
        return self.pool

    @property
    def numbers(self) -> int:
        """What plain autograd keeps of a step: a matrix a term."""
        return self.weights * len(self.terms)

    @property
    def weights(self) -> int:
        """Weights of one lifetime."""
        return sum(post * pre for post, pre in self.network.connections)

    def make(self) -> Data:
        """Draw everything, in float32; time does not depend on what the images show."""
        g = torch.Generator().manual_seed(self.seed)
        lives, n_in = self.lifetimes, self.sizes[0]
        state = self.network.init([g] * lives)
        images = min(IMAGES, self.steps * self.examples)
        sparse = torch.rand(lives * images, n_in, generator=g)
        table = torch.rand(lives * images, n_in, generator=g) * (sparse > 0.8)
        ways = min(CLASSES, self.sizes[-1])
        classes = torch.randint(ways, (lives * images,), generator=g)
        # every image once, then every image once more in another order, and so on
        shown = self.steps * self.examples
        orders = [
            torch.cat([torch.randperm(images, generator=g) for _ in range(-(-shown // images))])
            for _ in range(lives)
        ]
        index = torch.stack([order[:shown] + k * images for k, order in enumerate(orders)], 1)
        index = index.view(self.steps, self.examples, lives).transpose(1, 2).contiguous()
        x_query = torch.rand(lives, self.queries, n_in, generator=g)
        label_query = torch.randint(ways, (lives, self.queries), generator=g)
        theta = torch.tensor(coefficients(self.pool))
        return Data(state, theta, table, index, classes[index], x_query, label_query)
