"""A network's state as matrices: those that a rule moves, and those that stay.

Biases are matrices with one column, mixings matrices with one entry: everything that a lifetime
depends on is then read, and has its adjoint, in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from rulesearch.networks import NetworkState, PlasticNetwork

__all__ = ["constant_matrices", "plastic_matrices", "rates", "with_matrices"]


def plastic_matrices(state: NetworkState) -> list[Tensor]:
    """W of each connection, then the biases that learn, ``(lifetimes, n_post, 1)``."""
    return _matrices(state, _plastic(state))


def constant_matrices(network: PlasticNetwork, state: NetworkState) -> list[Tensor]:
    """B, fixed biases, what learnt feedback has besides, rates: in the order of a tape."""
    return _matrices(state, _constant(network, state))


def rates(state: NetworkState) -> list[Tensor | None]:
    """Rate of each plastic matrix; None where there is none."""
    of_weights = state.rate if state.rate else [None] * len(state.W)
    return [*of_weights, *_matrices(state, ["bias_rate"])]


def with_matrices(
    network: PlasticNetwork,
    state: NetworkState,
    plastic: Sequence[Tensor],
    constant: Sequence[Tensor] = (),
) -> NetworkState:
    """The state with other plastic matrices, and with other constant ones if they are given."""
    names = _plastic(state) + (_constant(network, state) if constant else [])
    left = iter((*plastic, *constant))
    new = {name: [_shaped(next(left), like) for like in getattr(state, name)] for name in names}
    return replace(state, **new)


def _shaped(matrix: Tensor, like: Tensor) -> Tensor:
    return matrix if matrix.ndim == like.ndim else matrix.reshape(like.shape)


def _plastic(state: NetworkState) -> list[str]:
    return ["W", "bias"] if state.bias_rate else ["W"]


def _constant(network: PlasticNetwork, state: NetworkState) -> list[str]:
    names = [] if network.feedback == "symmetric" else ["B"]
    names += [] if state.bias_rate else ["bias"]
    return [*names, "feedback_bias", "mixing", "rate", "bias_rate"]


def _matrices(state: NetworkState, names: Sequence[str]) -> list[Tensor]:
    tensors = [tensor for name in names for tensor in getattr(state, name)]
    return [t if t.ndim == 3 else t.reshape(len(t), -1, 1) for t in tensors]
