"""Readouts drawn anew: a class that a network is about to learn is one that it never met."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rulesearch.errors import ConfigError
from rulesearch.networks import PlasticNetwork
from rulesearch.networks.drawing import draw_into
from rulesearch.outer.meta_model import MetaModel

__all__ = ["draw_classes_anew", "fresh_readouts"]


def fresh_readouts(
    network: PlasticNetwork, generators: Sequence[torch.Generator], dtype: torch.dtype
) -> Tensor:
    """Weights of the last layer as at birth, of one network a generator.

    Returns
    -------
    Tensor (networks, n_out, n_pre)
        On the CPU.
    """
    readouts = torch.empty(len(generators), *network.connections[-1], dtype=dtype)
    draw_into([readouts], network.weight_init, 1, generators)
    return readouts


def draw_classes_anew(
    model: MetaModel, label: Tensor, generators: Sequence[torch.Generator]
) -> None:
    """Draw the readout's initial weights of some classes anew, in place.

    OML does so before every update, lest its features know the training classes by heart
    (Javed and White 2019).

    Parameters
    ----------
    label : Tensor of int64, (steps, lifetimes, ...)
        The classes; lifetimes of a seed are together.
    generators : sequence of torch.Generator
        One a seed.

    Raises
    ------
    ConfigError
        If targets are no classes.
    """
    if label.is_floating_point():
        raise ConfigError(
            "meta-training: fresh_readout draws the weights of classes anew, and these tasks have "
            "targets; leave it False"
        )
    readout = model.W[-1]
    fresh = fresh_readouts(model.learner.network, generators, model.dtype).to(model.device)
    with torch.no_grad():
        for seed, own in enumerate(label.chunk(model.seeds, 1)):
            classes = own.unique()
            readout[seed, classes] = fresh[seed, classes]
