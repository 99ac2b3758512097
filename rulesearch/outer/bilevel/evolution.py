r"""Evolution strategies: the meta-gradient from losses alone.

.. math:: \nabla_\theta \approx \frac{1}{N} \sum_k \epsilon_k
          \frac{L(\theta + \sigma\epsilon_k) - L(\theta - \sigma\epsilon_k)}{2\sigma},
          \quad \epsilon \sim \mathcal N(0, 1)

Strengths of complex synapses are not allowed below zero, where perturbations of small ones
would put them: the loss is taken at what is nearest, :math:`\max(\lambda + \sigma\epsilon, 0)`.
That is the estimate for another loss, constant below zero, and as unbiased for it smoothed. Where
:math:`\lambda \gg \sigma` nothing is different; at zero the expected slope is half of that on the
right, shorter but never of another sign. Mirrored perturbations would be unbiased as well, but
for a loss that is even, whose slope at zero is none: what was clamped there would stay there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from rulesearch.arguments import check_kind, check_positive, whole
from rulesearch.named import Named, cloned, detached, spread
from rulesearch.outer.bilevel.convergence import BOUND, Settled, check_bound
from rulesearch.outer.bilevel.given import check_given, check_learner
from rulesearch.outer.bilevel.problem import Bilevel, BilevelLearner, Estimate
from rulesearch.outer.bilevel.synapse import allowed

__all__ = ["Evolution"]

P = TypeVar("P", bound=Bilevel)


class _Life(NamedTuple):
    """What came of learning: the loss, whether it settled, and the solution."""

    loss: Tensor
    settled: Tensor
    phi: Named


@dataclass(frozen=True, eq=False)
class Evolution(Generic[P]):
    """Antithetic pairs; unbiased for the loss smoothed by the perturbations.

    The variance grows with the number of meta-parameters; of one that nothing depends on the
    estimate is noise, with mean zero. One that begins with the dimension of
    problems side by side is taken for one a problem; any other, as a single strength, all of them
    share, and its gradient is that of the sum of their losses.

    Parameters
    ----------
    learner : BilevelLearner
    pairs : int
        Two lives of learning each.
    sigma : float
        Size of the perturbations.
    generator : Generator
        Moves on with every call; checkpoints of :class:`BilevelTraining` hold where it is.
    bound : float
        How far learning may go astray, see :mod:`rulesearch.outer.bilevel.convergence`; that of
        the perturbed lives as well.

    Raises
    ------
    ConfigError
        If there are no pairs, or sigma or the bound is not positive.
    """

    learner: BilevelLearner[P]
    pairs: int
    sigma: float
    generator: torch.Generator
    bound: float = BOUND

    def __post_init__(self) -> None:
        check_learner("learner", self.learner)
        whole("pairs", self.pairs, least=1)
        check_positive("sigma", self.sigma)
        check_kind("generator", self.generator, torch.Generator, "a torch.Generator")
        check_bound(self.bound)

    @torch.no_grad()
    def __call__(self, problem: P, theta: Named) -> Estimate:
        """Learn from theta, and from both ends of every pair."""
        check_given(problem, theta)
        theta = detached(theta)
        loss, settled, free = self._live(problem, theta)
        total = {name: torch.zeros_like(t) for name, t in theta.items()}
        for _ in range(self.pairs):
            noise = {k: self._noise(t) for k, t in theta.items()}
            higher, lower = (
                self._live(problem, {k: t + s * noise[k] for k, t in theta.items()})
                for s in (self.sigma, -self.sigma)
            )
            settled = settled & higher.settled & lower.settled
            rise = (higher.loss - lower.loss) / (2 * self.sigma * self.pairs)
            for name, epsilon in noise.items():
                own = epsilon.shape[: rise.ndim] == rise.shape  # else problems share it
                total[name] += (spread(rise, epsilon) if own else rise.sum()) * epsilon
        return Estimate(total, loss, free, settled)

    def _noise(self, like: Tensor) -> Tensor:
        """Drawn where the generator is, and taken to where theta is."""
        source = self.generator
        drawn = torch.randn(like.shape, generator=source, dtype=like.dtype, device=source.device)
        return drawn.to(like.device)

    def _live(self, problem: P, theta: Named) -> _Life:
        """Learn from theta, or from the nearest that is allowed."""
        theta = allowed(theta)
        start = problem.start(theta)
        phi = self.learner(problem, theta, cloned(start))
        loss = problem.eval_loss(phi, theta)
        return _Life(loss, Settled(problem, theta, start, self.bound)(phi, loss), phi)
