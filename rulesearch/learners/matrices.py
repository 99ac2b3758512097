"""A network's state as matrices: those that a rule moves, and those that stay.

Biases are matrices with one column, mixings matrices with one entry: everything that a lifetime
depends on is then read, and has its adjoint, in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rulesearch.networks import NetworkState, PlasticNetwork

__all__ = ["constant_matrices", "plastic_matrices", "rates", "relative_distance", "with_matrices"]

_RATE = {"W": "rate", "bias": "bias_rate", "B": "feedback_rate"}


def plastic_matrices(network: PlasticNetwork, state: NetworkState) -> list[Tensor]:
    """W of each connection, the biases that learn, ``(lifetimes, n_post, 1)``, and plastic B^T.

    Plastic feedback is turned as W is, a row for each unit that it arrives at.
    """
    return _matrices(network, state, _plastic(network, state))


def constant_matrices(network: PlasticNetwork, state: NetworkState) -> list[Tensor]:
    """B, fixed biases, what learnt feedback has besides, rates, Omega: in a tape's order."""
    return _matrices(network, state, _constant(network, state))


def rates(network: PlasticNetwork, state: NetworkState) -> list[Tensor | None]:
    """Rate of each plastic matrix; None where there is none."""
    found: list[Tensor | None] = []
    for name in _plastic(network, state):
        own = _matrices(network, state, [_RATE[name]])
        found += own if own else [None] * len(getattr(state, name))
    return found


def with_matrices(
    network: PlasticNetwork,
    state: NetworkState,
    plastic: Sequence[Tensor],
    constant: Sequence[Tensor] = (),
) -> NetworkState:
    """The state with other plastic matrices, and with other constant ones if they are given."""
    names = _plastic(network, state) + (_constant(network, state) if constant else [])
    left = iter((*plastic, *constant))
    new = {
        name: [_of_matrix(network, name, next(left), like) for like in getattr(state, name)]
        for name in names
    }
    return replace(state, **new)


def relative_distance(rebuilt: Sequence[Tensor], kept: Sequence[Tensor]) -> Tensor:
    """Per lifetime, over all matrices together, in float64."""

    def norm(tensors: Sequence[Tensor]) -> Tensor:
        each = [torch.linalg.vector_norm(t, dim=(1, 2), dtype=torch.float64) for t in tensors]
        return torch.stack(each).square().sum(0).sqrt()

    size = norm(kept)
    difference = norm([r - k for r, k in zip(rebuilt, kept, strict=True)])
    return difference / torch.where(size > 0, size, torch.ones_like(size))


def _matrix(network: PlasticNetwork, name: str, part: Tensor) -> Tensor:
    if _is_turned(network, name):
        return part.mT
    return part if part.ndim == 3 else part.reshape(len(part), -1, 1)


def _of_matrix(network: PlasticNetwork, name: str, matrix: Tensor, like: Tensor) -> Tensor:
    if _is_turned(network, name):
        return matrix.mT
    return matrix if matrix.ndim == like.ndim else matrix.reshape(like.shape)


def _is_turned(network: PlasticNetwork, name: str) -> bool:
    return network.plastic_feedback and name in ("B", "feedback_rate")


def _plastic(network: PlasticNetwork, state: NetworkState) -> list[str]:
    names = ["W", "bias"] if state.bias_rate else ["W"]
    return [*names, "B"] if network.plastic_feedback else names


def _constant(network: PlasticNetwork, state: NetworkState) -> list[str]:
    names = ["B", "bias", "feedback_bias", "mixing", "rate", "bias_rate", "feedback_rate", "Omega"]
    absent = {*_plastic(network, state), *(["B"] if network.feedback == "symmetric" else [])}
    return [name for name in names if name not in absent]


def _matrices(network: PlasticNetwork, state: NetworkState, names: Sequence[str]) -> list[Tensor]:
    return [_matrix(network, name, part) for name in names for part in getattr(state, name)]
