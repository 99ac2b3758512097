"""How much of a task a network has at birth, up to a linear readout."""

from __future__ import annotations

import torch
from torch import Tensor

from rulesearch.analysis.flp_life import by_seed, step
from rulesearch.errors import LearnerError
from rulesearch.outer import MetaModel
from rulesearch.tasks import TaskBatch

__all__ = ["RIDGE", "frozen_readout_error"]

RIDGE = 1e-10
"""Of the readout, relative to the mean square of its inputs: it makes the solution unique."""


@torch.no_grad()
def frozen_readout_error(model: MetaModel, task: TaskBatch) -> Tensor:
    r"""Test error of the best linear readout of the units that a network is born with.

    FLP, section 7.1 and the blue bars of Figure 2A, but solved where the paper trains for many
    epochs: all layers below the readout stay as they are at birth, and the readout, with a bias,
    is the least-squares fit to all training examples of the lifetime,

    .. math:: \min_V \sum_{i=1}^N \| V h_i - y_i \|^2
              + \epsilon N\,\overline{h^2}\, \| V \|^2

    with :math:`\epsilon` of :data:`RIDGE`, so tiny that it only decides for silent units.

    Parameters
    ----------
    model : MetaModel
        With a linear output.
    task : TaskBatch
        Lifetimes, those of a seed together.

    Returns
    -------
    Tensor of float64, shape (seeds, lifetimes)
        Mean squared error on the queries.

    Raises
    ------
    LearnerError
        If the output is not linear.
    """
    network = model.learner.network
    if network.output != "linear":
        raise LearnerError("a readout is fitted by least squares, which needs output='linear'")
    steps, lifetimes = task.x.shape[:2]
    products = torch.zeros(())  # of inputs and targets, h and y one after the other
    for t in range(steps):
        x, y = step(task, t)
        target = network.target(y, torch.float64)
        both = torch.cat([_inputs(model, x, lifetimes), target], dim=-1)
        products = products + both.mT @ both
    n_out = network.sizes[-1]
    gram, cross = products[:, :-n_out, :-n_out], products[:, :-n_out, -n_out:]
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    diagonal += RIDGE * diagonal.mean(-1, keepdim=True)
    readout = torch.linalg.solve(gram, cross)
    answers = _inputs(model, task.x_query, lifetimes) @ readout
    wanted = network.target(task.label_query, torch.float64)
    return by_seed(model, (answers - wanted).square().mean((-1, -2)))


def _inputs(model: MetaModel, x: Tensor, lifetimes: int) -> Tensor:
    """What the readout sees of examples at birth, and a one: (lifetimes, examples, n + 1)."""
    born = model.born(lifetimes // model.seeds)
    h = model.learner.network.activations(born, model.see(x, lifetimes))[-2].double()
    return torch.cat([h, torch.ones_like(h[..., :1])], dim=-1)
