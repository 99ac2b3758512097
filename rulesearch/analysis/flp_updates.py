"""What each update of a lifetime is like: its size, and how far it descends the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from rulesearch.analysis.flp_life import by_seed, stages, step
from rulesearch.networks import NetworkState
from rulesearch.outer import MetaModel
from rulesearch.tasks import TaskBatch

__all__ = ["Updates", "follow_updates"]


@dataclass(frozen=True, eq=False)
class Updates:
    r"""Every update of some lifetimes, of the W of each plastic layer; biases are left out.

    Attributes
    ----------
    loss : Tensor, shape (seeds, lifetimes, steps)
        Of a step's examples before they are learnt: the inner learning curve (FLP, appendix C).
        The mean squared error where the output is linear, else cross-entropy.
    alignment : Tensor, shape (seeds, lifetimes, steps, layers)
        Cosine of :math:`\Delta W` and the negative gradient of that loss at the same weights
        (FLP, Figure 2C); NaN where one of them is zero.
    magnitude : Tensor, shape (seeds, lifetimes, steps, layers)
        Frobenius norm of :math:`\Delta W` (FLP, Figure 2D).
    """

    loss: Tensor
    alignment: Tensor
    magnitude: Tensor


@torch.no_grad()
def follow_updates(model: MetaModel, task: TaskBatch) -> Updates:
    """Live step by step and look at every update.

    Updates are differences of weights: small ones want a model and a task in float64.

    Parameters
    ----------
    model : MetaModel
    task : TaskBatch
        Lifetimes, those of a seed together.
    """
    losses, alignments, magnitudes = [], [], []
    for t, (before, after) in enumerate(pairwise(stages(model, task, 1))):
        x, label = step(task, t)
        losses.append(model.judge(before, TaskBatch(task.x, task.label, x, label)).loss)
        changes = [new - old for old, new in zip(before.W, after.W, strict=True)]
        descents = _descents(model, before, x, label)
        pairs = zip(changes, descents, strict=True)
        alignments.append(torch.stack([_cosine(dw, g) for dw, g in pairs], dim=-1))
        magnitudes.append(torch.stack([torch.linalg.matrix_norm(dw) for dw in changes], dim=-1))
    return Updates(
        *(by_seed(model, torch.stack(rows, dim=1)) for rows in (losses, alignments, magnitudes))
    )


def _descents(model: MetaModel, state: NetworkState, x: Tensor, label: Tensor) -> Sequence[Tensor]:
    """Negative gradients with respect to each W, but for a common positive factor."""
    network = model.learner.network
    ys = network.activations(state, model.see(x, state.lifetimes))
    errors = network.errors(state, ys, label, feedback="symmetric")
    return [-e.mT @ y for y, e in zip(ys[:-1], errors[1:], strict=True)]


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Of matrices; NaN where one is zero."""
    u, v = (matrix / torch.linalg.matrix_norm(matrix, keepdim=True) for matrix in (a, b))
    cosine: Tensor = torch.linalg.vecdot(u.flatten(1), v.flatten(1))
    return cosine
