r"""Adam on scaled coefficients, row by row, with a penalty and rejected lifetimes.

A row is one independent search: a seed, and its lambda. Rows never mix, so many of them run
as one batch and each ends as it would alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rulesearch.outer.meta_gradient import Evaluation
from rulesearch.outer.penalty import Penalty, penalty_named

__all__ = ["MetaOptimiser", "OptimiserState"]


@dataclass(frozen=True)
class OptimiserState:
    """Everything that the next update needs, each ``(rows, n_terms)`` or ``(rows, 1)``."""

    t: Tensor
    mean: Tensor  # Adam's first moment
    square: Tensor  # and second
    count: Tensor  # (rows, 1): Adam's steps since the moments were cleared
    good: Tensor  # the last t under which most lifetimes stayed finite
    alive: Tensor  # one where a coefficient may move; the others stay zero

    @staticmethod
    def start(t: Tensor, alive: Tensor | None = None) -> OptimiserState:
        """Begin at t."""
        zero, none = torch.zeros_like(t), t.new_zeros(t.shape[0], 1)
        alive = torch.ones_like(t) if alive is None else alive
        return OptimiserState(t * alive, zero, zero.clone(), none, t * alive, alive)

    def last(self, rows: int, times: int) -> OptimiserState:
        """Return the last so many rows, so many times over: where other rows start from."""
        return OptimiserState(**{n: v[-rows:].repeat(times, 1) for n, v in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """By name, for a checkpoint."""
        return dict(vars(self))


@dataclass(frozen=True)
class MetaOptimiser:
    r"""One meta-update of all rows.

    Parameters
    ----------
    rate : float
        Adam's step on t.
    decay : float
        The rate falls along a half cosine from ``rate`` to ``decay * rate`` at the last update.
    updates : int
        How many updates there will be.
    penalty, lam : str and Tensor (rows, 1)
        See :mod:`rulesearch.outer.penalty`.
    ramp : tuple of int
        The penalty is zero until the first update of the pair and whole from the second on,
        linear between: terms get a chance to show their use before they are taxed.
    clip : float or None
        Largest norm of one lifetime's meta-gradient in t; the gradients of lifetimes are heavy
        in the tail.
    reject : bool
        Leave lifetimes that are not finite out of the mean, and pull a row most of whose
        lifetimes are not half-way back to its last good t, its moments cleared. Where off, as
        in the paper, a lifetime that diverges ends the search.
    drop_at : int or None
        Before this update, a row drops for good the terms whose coefficients have come to less
        than ``keep`` of its largest. A refit uses it: under a penalty a term can live off
        another's shrinkage, and come to nothing once the other is free to grow.
    keep : float
    betas, epsilon
        Of Adam.
    """

    rate: float
    updates: int
    decay: float = 1.0
    penalty: str = "none"
    lam: Tensor | float = 0.0
    ramp: tuple[int, int] = (0, 0)
    clip: float | None = None
    reject: bool = True
    drop_at: int | None = None
    keep: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8

    def rate_at(self, update: int) -> float:
        """The step's rate."""
        progress = update / max(1, self.updates - 1)
        return self.rate * (
            self.decay + (1 - self.decay) * 0.5 * (1 + math.cos(math.pi * progress))
        )

    def penalty_at(self, update: int) -> Penalty:
        """The penalty, ramped in."""
        begin, end = self.ramp
        share = 1.0 if update >= end else max(0.0, (update - begin) / max(1, end - begin))
        return penalty_named(self.penalty, self.lam * share)

    def update(
        self, state: OptimiserState, evaluation: Evaluation, scales: Tensor, update: int
    ) -> tuple[OptimiserState, Tensor]:
        """Take one step.

        Parameters
        ----------
        evaluation : Evaluation
            Of ``rows * meta_batch`` lifetimes, those of a row together.
        scales : Tensor (n_terms,)
            c of ``theta = c t``.

        Returns
        -------
        state : OptimiserState
        rejected : Tensor (rows,)
            How many lifetimes of each row were left out.
        """
        if update == self.drop_at:
            state = self._without_small_terms(state)
        rows = state.t.shape[0]
        gradient = (evaluation.gradient.to(state.t.dtype) * scales).reshape(rows, -1, len(scales))
        finite = evaluation.finite.reshape(rows, -1, 1)
        gradient = torch.where(finite, gradient, torch.zeros_like(gradient))
        if self.clip is not None:
            norm = gradient.norm(dim=-1, keepdim=True)
            gradient = gradient * (self.clip / norm.clamp_min(self.clip))
        accepted = finite.sum(1)
        mean = gradient.sum(1) / accepted.clamp_min(1)
        most = accepted * 2 > finite.shape[1]
        stepped = self._step(state, mean, update)
        pulled_back = replace(
            state,
            t=0.5 * (state.t + state.good),
            mean=torch.zeros_like(state.mean),
            square=torch.zeros_like(state.square),
            count=torch.zeros_like(state.count),
            good=0.9 * state.good,  # so that going back to it cannot loop for ever
        )
        new = {
            name: torch.where(most, value, pulled_back.tensors()[name])
            for name, value in stepped.tensors().items()
        }
        return OptimiserState(**new), (~finite.squeeze(-1)).sum(1)

    def _without_small_terms(self, state: OptimiserState) -> OptimiserState:
        size = state.t.abs()
        alive = state.alive * (size > self.keep * size.max(-1, keepdim=True).values)
        return replace(state, t=state.t * alive, good=state.good * alive, alive=alive)

    def _step(self, state: OptimiserState, gradient: Tensor, update: int) -> OptimiserState:
        """Adam (Kingma & Ba 2014, Algorithm 1), then the penalty's proximal map."""
        penalty = self.penalty_at(update)
        gradient = gradient + penalty.gradient(state.t)
        b1, b2 = self.betas
        count = state.count + 1
        mean = b1 * state.mean + (1 - b1) * gradient
        square = b2 * state.square + (1 - b2) * gradient.square()
        root = (square / (1 - b2**count)).sqrt()
        step = self.rate_at(update) / (root + self.epsilon)
        t = penalty.proximal(state.t - step * mean / (1 - b1**count), step)
        return OptimiserState(t * state.alive, mean, square, count, state.t, state.alive)
