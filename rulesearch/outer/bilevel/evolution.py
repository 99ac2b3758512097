r"""Evolution strategies: the meta-gradient from losses alone.

.. math:: \nabla_\theta \approx \frac{1}{N} \sum_k \epsilon_k
          \frac{L(\theta + \sigma\epsilon_k) - L(\theta - \sigma\epsilon_k)}{2\sigma},
          \quad \epsilon \sim \mathcal N(0, 1)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from rulesearch.errors import ConfigError
from rulesearch.outer.bilevel.named import Named, detached, spread
from rulesearch.outer.bilevel.problem import Bilevel, BilevelLearner, Estimate

__all__ = ["Evolution"]

P = TypeVar("P", bound=Bilevel)


@dataclass(frozen=True, eq=False)
class Evolution(Generic[P]):
    """Antithetic pairs; unbiased for the loss smoothed by the perturbations.

    The variance grows with the number of meta-parameters.

    Parameters
    ----------
    learner : BilevelLearner
    pairs : int
        Two lives of learning each.
    sigma : float
        Size of the perturbations.
    generator : Generator
        Moves on with every call.

    Raises
    ------
    ConfigError
        If there are no pairs, or sigma is not positive.
    """

    learner: BilevelLearner[P]
    pairs: int
    sigma: float
    generator: torch.Generator

    def __post_init__(self) -> None:
        if self.pairs < 1 or not (math.isfinite(self.sigma) and self.sigma > 0):
            raise ConfigError(
                f"pairs must be one or more, and sigma positive: {self.pairs}, {self.sigma}"
            )

    @torch.no_grad()
    def __call__(self, problem: P, theta: Named) -> Estimate:
        """Learn from theta, and from both ends of every pair."""
        theta = detached(theta)
        free = self.learner(problem, theta, problem.start(theta))
        total = {name: torch.zeros_like(t) for name, t in theta.items()}
        for _ in range(self.pairs):
            noise = {k: torch.randn(t.shape, generator=self.generator, dtype=t.dtype)
                     for k, t in theta.items()}  # fmt: skip
            higher, lower = (
                self._loss(problem, theta, noise, s) for s in (self.sigma, -self.sigma)
            )
            rise = (higher - lower) / (2 * self.sigma * self.pairs)
            for name, epsilon in noise.items():
                total[name] += spread(rise, epsilon) * epsilon
        return Estimate(total, problem.eval_loss(free, theta), free)

    def _loss(self, problem: P, theta: Named, noise: Named, sigma: float) -> Tensor:
        moved = {name: t + sigma * noise[name] for name, t in theta.items()}
        return problem.eval_loss(self.learner(problem, moved, problem.start(moved)), moved)
