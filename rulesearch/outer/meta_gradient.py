"""Meta-gradients: how the loss after a lifetime depends on what the lifetime started from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rulesearch.learners import Learner
from rulesearch.networks import NetworkState
from rulesearch.tasks import TaskBatch

__all__ = ["Evaluation", "MetaGradient", "Unrolled", "evaluate"]


@dataclass(frozen=True)
class Evaluation:
    """What came of each lifetime.

    Attributes
    ----------
    loss, accuracy : Tensor (lifetimes,)
        On the queries; accuracy is NaN where targets are no labels.
    gradient : Tensor (lifetimes, n_terms)
        Of each lifetime's loss in its theta; empty where none was asked for.
    state : NetworkState or None
        Weights at the end of life, detached; None where nobody kept them.
    """

    loss: Tensor
    accuracy: Tensor
    gradient: Tensor
    state: NetworkState | None = None

    @property
    def finite(self) -> Tensor:
        """Which lifetimes did not diverge, ``(lifetimes,)``."""
        return self.loss.isfinite() & self.gradient.isfinite().all(-1)


class MetaGradient(Protocol):
    """A way to get the gradient of the meta-loss in theta."""

    def __call__(
        self, learner: Learner, state: NetworkState, theta: Tensor, task: TaskBatch
    ) -> Evaluation:
        """Evaluate lifetimes; theta is ``(lifetimes, n_terms)``."""
        ...


class Unrolled:
    """Through every step of the lifetime (Algorithm 1), by the learner's own method."""

    def __call__(
        self, learner: Learner, state: NetworkState, theta: Tensor, task: TaskBatch
    ) -> Evaluation:
        """Live, lose on the queries, and differentiate."""
        theta = theta.detach().requires_grad_()
        final, loss, accuracy = _lived(learner, state, theta, task)
        (gradient,) = torch.autograd.grad(loss.sum(), theta)
        return Evaluation(loss.detach(), accuracy, gradient, final.detach())


def evaluate(learner: Learner, state: NetworkState, theta: Tensor, task: TaskBatch) -> Evaluation:
    """Live without a gradient."""
    with torch.no_grad():
        final, loss, accuracy = _lived(learner, state, theta, task)
    return Evaluation(loss, accuracy, loss.new_zeros(loss.shape[0], 0), final)


def _lived(
    learner: Learner, state: NetworkState, theta: Tensor, task: TaskBatch
) -> tuple[NetworkState, Tensor, Tensor]:
    """Networks at the end of life, and their loss and accuracy on the queries."""
    final = learner.live(state, theta, task.x, task.label)
    output, label = learner.network(final, task.x_query), task.label_query
    loss = learner.network.loss(output, label)
    if label.is_floating_point():
        return final, loss, torch.full_like(loss, torch.nan)
    return final, loss, (output.argmax(-1) == label).to(output.dtype).mean(-1)
