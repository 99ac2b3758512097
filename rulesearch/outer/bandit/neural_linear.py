r"""NeuralLinear: Thompson sampling of Bayesian linear regressions on a network's last layer.

For each arm, with features X and rewards y of the steps that chose it,

.. math:: P = \lambda_0 + X^T X, \quad \mu = P^{-1} X^T y, \quad a = a_0 + \tfrac{n}{2}, \quad
          b = b_0 + \tfrac{1}{2} (y^T y - \mu^T P \mu)

and a reward is thought to be :math:`x^T w` with :math:`w \sim N(\mu, \sigma^2 P^{-1})`,
:math:`\sigma^2 \sim \mathrm{InvGamma}(a, b)` (Riquelme, Tucker and Snoek 2018, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rulesearch.arguments import check_kind, whole
from rulesearch.errors import ConfigError
from rulesearch.named import gradient, leaves, spread
from rulesearch.outer.bandit.agents import (
    check_agent,
    check_lives,
    check_tensors,
    finite,
    minibatches,
    set_states,
    states_of,
)
from rulesearch.outer.bandit.greedy import ChosenArm, RewardNetwork
from rulesearch.outer.bilevel import Named
from rulesearch.outer.bilevel.given import check_named
from rulesearch.tasks.wheel import ARMS, Experience

__all__ = ["Heads", "NeuralLinearAgent", "Statistics"]

PRECISION, A0, B0 = 23.0, 12.0, 30.0
RATE, DECAY, CLIP = 0.01, 0.5, 5.0
SMOOTHING, EPS = 0.9, 1e-8
AT_ONCE = 4096  # choices whose features are held at once


class Heads(NamedTuple):
    """Posteriors of all arms, in double precision.

    Attributes
    ----------
    mean : Tensor (lifetimes, arms, n)
        mu.
    root : Tensor (lifetimes, arms, n, n)
        Lower Cholesky factor of P.
    a, b : Tensor (lifetimes, arms)
    """

    mean: Tensor
    root: Tensor
    a: Tensor
    b: Tensor

    def draw(self, steps: int, rngs: Sequence[np.random.Generator]) -> Tensor:
        """Draw weights for so many choices, ``(lifetimes, steps, arms, n)``, on the CPU; move them.

        Parameters
        ----------
        rngs : sequence of numpy.random.Generator
            One a lifetime.
        """
        shape = (steps, ARMS)
        pairs = zip(rngs, self.a.cpu().numpy(), strict=True)
        drawn_of = [
            (rng.standard_gamma(a, shape), rng.standard_normal((*shape, self.mean.shape[-1])))
            for rng, a in pairs
        ]
        gamma, noise = (
            torch.from_numpy(np.stack(part)).to(self.mean) for part in zip(*drawn_of, strict=True)
        )
        deviation = (self.b[:, None] / gamma).sqrt()
        # L^T w = noise, so that w has the covariance (L L^T)^-1.
        columns = noise.permute(0, 2, 3, 1)
        away = torch.linalg.solve_triangular(self.root.mT, columns, upper=True)
        drawn: Tensor = self.mean[:, None] + deviation[..., None] * away.permute(0, 3, 1, 2)
        return drawn


@dataclass(eq=False)
class Statistics:
    """Sums over choices, from which posteriors follow; as many choices as one likes, by parts.

    Parameters
    ----------
    lifetimes, features : int
    device : torch.device or str
        Where the choices are.
    """

    lifetimes: int
    features: int
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        def zeros(*shape: int) -> Tensor:
            sizes = (self.lifetimes, ARMS, *shape)
            return torch.zeros(sizes, dtype=torch.float64, device=self.device)

        n = self.features
        self._gram, self._moment, self._square, self._count = (
            zeros(n, n),
            zeros(n),
            zeros(),
            zeros(),
        )

    def add(self, features: Tensor, action: Tensor, reward: Tensor) -> None:
        """Take more choices, of each arm those that chose it.

        Parameters
        ----------
        features : Tensor (lifetimes, steps, n)
        action, reward : Tensor (lifetimes, steps)
        """
        lives = zip(features.double(), action, reward.double(), strict=True)
        for life, (x, chosen, y) in enumerate(lives):
            for arm in range(ARMS):
                mine = chosen == arm
                x_arm, y_arm = x[mine], y[mine]
                self._gram[life, arm] += x_arm.T @ x_arm
                self._moment[life, arm] += x_arm.T @ y_arm
                self._square[life, arm] += y_arm @ y_arm
                self._count[life, arm] += len(y_arm)

    def heads(self) -> Heads:
        """Posteriors; not a number where features were not."""
        one = torch.eye(self.features, dtype=torch.float64, device=self.device)
        precision = PRECISION * one + self._gram
        root, failed = torch.linalg.cholesky_ex(precision)
        root = torch.where((failed > 0)[..., None, None], torch.nan, root)
        mean = torch.cholesky_solve(self._moment[..., None], root).squeeze(-1)
        explained = (mean * self._moment).sum(-1)
        b = B0 + 0.5 * (self._square - explained)
        return Heads(mean, root, A0 + 0.5 * self._count, b)


@dataclass(eq=False)
class NeuralLinearAgent:
    """Trains a network, and fits heads on its features, whenever it learns.

    Between two times all choices are sampled from the same posterior, each from a draw of its
    own. The network is trained by RMSprop at rate 0.01 / (1 + step / 2), begun anew each time,
    with slopes clipped at norm 5.

    Parameters
    ----------
    network : RewardNetwork
    features : callable
        From weights and contexts to the last hidden layer.
    weights : Named
        Of the network at first, ``(lifetimes, ...)``.
    constant : Named
        Weights that nothing learns.
    updates, batch : int
        Steps when it learns, and choices of each, drawn with replacement.
    generators : sequence of torch.Generator
        One a lifetime.
    keys : sequence of tuples of int
        One a lifetime; what Thompson sampling draws follows from it and from how often it chose.

    Raises
    ------
    ConfigError
        If one of them is of another kind, or there are not as many keys as generators.
    LearnerError
        If a weight, or what is seen later, is of more or fewer lifetimes than there are
        generators, or the network does not answer for every arm.
    """

    network: RewardNetwork
    features: Callable[[Named, Tensor], Tensor]
    weights: Named
    constant: Named
    updates: int
    batch: int
    generators: Sequence[torch.Generator]
    keys: Sequence[tuple[int, ...]]
    _heads: Heads | None = field(init=False, default=None)
    _times: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        check_agent(self.weights, self.updates, self.batch, self.generators)
        wanted = "whole numbers, one such tuple a lifetime, as [(0, 1), (0, 2)]"
        check_kind("keys", self.keys, Sequence, f"tuples of {wanted}")
        for life, key in enumerate(self.keys):
            check_kind(f"keys[{life}]", key, Sequence, f"a tuple of {wanted}")
            for part in key:
                whole(f"keys[{life}]", part, least=0)
        if len(self.keys) != len(self.generators):
            raise ConfigError(
                f"{len(self.generators)} generators need as many keys, not {len(self.keys)}: give "
                "one of each a lifetime"
            )

    @torch.no_grad()
    def act(self, context: Tensor) -> Tensor:
        """Choose what is best under the weights drawn."""
        check_lives("context", context, self.generators)
        x = self.features({**self.constant, **self.weights}, context).double()
        heads = self._heads or Statistics(len(x), x.shape[-1], x.device).heads()
        rngs = [np.random.default_rng([*key, self._times]) for key in self.keys]
        self._times += 1
        drawn = heads.draw(context.shape[1], rngs)
        return (drawn @ x[..., None]).squeeze(-1).argmax(-1)

    def learn(self, experience: Experience) -> None:
        """Train the network, then fit the heads to everything."""
        shown = minibatches(experience, self.updates, self.batch, self.generators)
        loss = ChosenArm(self.network, shown, self.constant)
        mean_square = {name: torch.zeros_like(w) for name, w in self.weights.items()}
        for step in range(self.updates):
            at = leaves(self.weights)
            slope = _clipped(gradient(loss(at, {}, step), at))
            rate = RATE / (1 + DECAY * step)
            moved = {}
            for name, g in slope.items():
                mean_square[name] = SMOOTHING * mean_square[name] + (1 - SMOOTHING) * g**2
                moved[name] = self.weights[name] - rate * g / (mean_square[name] + EPS).sqrt()
            self.weights = moved
        self._heads = self._fit(experience)

    @torch.no_grad()
    def _fit(self, experience: Experience) -> Heads:
        """Posteriors under the features as they are now: all of the past has new ones."""
        statistics: Statistics | None = None
        for context, action, reward in zip(
            *(part.split(AT_ONCE, 1) for part in experience), strict=True
        ):
            x = self.features({**self.constant, **self.weights}, context)
            statistics = statistics or Statistics(len(x), x.shape[-1], x.device)
            statistics.add(x, action, reward)
        assert statistics is not None
        return statistics.heads()

    @property
    def alive(self) -> Tensor:
        """Whose weights and posteriors are finite."""
        return finite({**self.weights, **(self._heads._asdict() if self._heads else {})})

    def tensors(self) -> dict[str, Tensor]:
        """Weights, posteriors, and where random numbers stand."""
        return self._tensors(self._heads)

    def _tensors(self, heads: Heads | None) -> dict[str, Tensor]:
        parts = {} if heads is None else heads._asdict()
        return {
            **{f"weights.{name}": value for name, value in self.weights.items()},
            **{f"heads.{name}": value for name, value in parts.items()},
            "times": torch.tensor(self._times),
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
        heads = None
        if "heads.mean" in tensors:
            *_, features = (0, *tensors["heads.mean"].shape)
            heads = Statistics(len(self.generators), features).heads()
        check_tensors("agent", tensors, self._tensors(heads))
        device = next(iter(self.weights.values())).device
        self.weights = {name: tensors[f"weights.{name}"].to(device) for name in self.weights}
        self._heads = heads and Heads(
            *(tensors[f"heads.{name}"].to(device) for name in Heads._fields)
        )
        self._times = int(tensors["times"])
        set_states(self.generators, tensors["generators"])


def _clipped(slope: Named) -> Named:
    """Shorten each lifetime's slope to norm 5."""
    squares = torch.stack([g.flatten(1).square().sum(1) for g in slope.values()]).sum(0)
    factor = (CLIP / squares.sqrt().clamp(min=CLIP)).detach()
    return {name: spread(factor, g) * g for name, g in slope.items()}
