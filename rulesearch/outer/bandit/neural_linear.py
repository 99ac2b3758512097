r"""NeuralLinear: Thompson sampling of Bayesian linear regressions on a network's last layer.

For each arm, with features X and rewards y of the steps that chose it,

.. math:: P = \lambda_0 + X^T X, \quad \mu = P^{-1} X^T y, \quad a = a_0 + \tfrac n2, \quad
          b = b_0 + \tfrac12 (y^T y - \mu^T P \mu)

and a reward is thought to be :math:`x^T w` with :math:`w \sim N(\mu, \sigma^2 P^{-1})`,
:math:`\sigma^2 \sim \mathrm{InvGamma}(a, b)` (Riquelme, Tucker and Snoek 2018, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rulesearch.outer.bandit.greedy import ChosenArm, RewardNetwork
from rulesearch.outer.bilevel import Named
from rulesearch.outer.bilevel.named import gradient, leaves, spread
from rulesearch.tasks.wheel import ARMS, Experience

__all__ = ["Heads", "NeuralLinearAgent", "fit_heads"]

PRECISION, A0, B0 = 23.0, 12.0, 30.0
RATE, DECAY, CLIP = 0.01, 0.5, 5.0
SMOOTHING, EPS = 0.9, 1e-8


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

    def draw(self, steps: int, rng: np.random.Generator) -> Tensor:
        """Draw weights for so many choices, ``(lifetimes, steps, arms, n)``."""
        shape = (len(self.a), steps, ARMS)
        gamma = torch.from_numpy(rng.standard_gamma(self.a[:, None].expand(shape).numpy()))
        deviation = (self.b[:, None] / gamma).sqrt()
        noise = torch.from_numpy(rng.standard_normal((*shape, self.mean.shape[-1])))
        # L^T w = noise, so that w has the covariance (L L^T)^-1.
        columns = noise.permute(0, 2, 3, 1)
        away = torch.linalg.solve_triangular(self.root.mT, columns, upper=True)
        drawn: Tensor = self.mean[:, None] + deviation[..., None] * away.permute(0, 3, 1, 2)
        return drawn


def fit_heads(features: Tensor, action: Tensor, reward: Tensor) -> Heads:
    """Posteriors of what was seen.

    Parameters
    ----------
    features : Tensor (lifetimes, steps, n)
    action, reward : Tensor (lifetimes, steps)
    """
    x, y = features.double(), reward.double()
    chosen = (action[..., None] == torch.arange(ARMS)).double()
    mine = chosen.mT[..., None] * x[:, None]  # lifetimes, arms, steps, n
    eye = torch.eye(x.shape[-1], dtype=torch.float64)
    precision = PRECISION * eye + mine.mT @ x[:, None]
    root = torch.linalg.cholesky(precision)
    moment = mine.mT @ y[:, None, :, None]
    mean = torch.cholesky_solve(moment, root)
    explained = (mean * moment).sum((-2, -1))
    total = (chosen * y[..., None] ** 2).sum(1)
    b = B0 + 0.5 * (total - explained)
    return Heads(mean.squeeze(-1), root, A0 + 0.5 * chosen.sum(1), b)


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
    rng : numpy.random.Generator
        Of Thompson sampling.
    """

    network: RewardNetwork
    features: Callable[[Named, Tensor], Tensor]
    weights: Named
    constant: Named
    updates: int
    batch: int
    generators: Sequence[torch.Generator]
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self._heads: Heads | None = None

    @torch.no_grad()
    def act(self, context: Tensor) -> Tensor:
        """Choose what is best under the weights drawn."""
        x = self.features({**self.constant, **self.weights}, context).double()
        if self._heads is None:
            nothing = x[:, :0]
            action = torch.zeros(nothing.shape[:2], dtype=torch.int64)
            self._heads = fit_heads(nothing, action, nothing[..., 0])
        drawn = self._heads.draw(context.shape[1], self.rng)
        return (drawn @ x[..., None]).squeeze(-1).argmax(-1)

    def learn(self, experience: Experience) -> None:
        """Train the network, then fit the heads to everything."""
        shape = (self.updates, self.batch)
        seen = experience.reward.shape[1]
        drawn = torch.stack([torch.randint(seen, shape, generator=g) for g in self.generators], 1)
        loss = ChosenArm(
            self.network,
            lambda step: experience if step is None else experience.at(drawn[step]),
            self.constant,
        )
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
        with torch.no_grad():
            x = self.features({**self.constant, **self.weights}, experience.context)
            self._heads = fit_heads(x, experience.action, experience.reward)


def _clipped(slope: Named) -> Named:
    """Shorten each lifetime's slope to norm 5."""
    squares = torch.stack([g.flatten(1).square().sum(1) for g in slope.values()]).sum(0)
    factor = (CLIP / squares.sqrt().clamp(min=CLIP)).detach()
    return {name: spread(factor, g) * g for name, g in slope.items()}
