"""How far a layer's weights are from orthonormal rows, seen through its activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rulesearch.networks import NetworkState, PlasticNetwork

__all__ = ["orthonormality_error"]


@torch.no_grad()
def orthonormality_error(network: PlasticNetwork, state: NetworkState, x: Tensor) -> Tensor:
    r"""Distance from a fixed point of Oja's subspace rule, per layer.

    Rule-discovery paper, Eq. 10, averaged over the queries:
    :math:`E_W = \|z_l - W_l W_l^T \sigma(z_l)\|_2^2` with :math:`z_l = W_l y_{l-1}`.

    Parameters
    ----------
    network : PlasticNetwork
    state : NetworkState
        Weights of `lifetimes` networks.
    x : Tensor, shape (lifetimes, queries, n_0)

    Returns
    -------
    Tensor, shape (lifetimes, L)
        Layers 1 to L; the paper's figure leaves the last one out.
    """
    activations = network.activations(state, x)
    layers = zip(state.W, activations[:-1], activations[1:], strict=True)
    # z - W (W^T y_post) = W (y_pre - W^T y_post): two thin products, never W W^T.
    residuals = [(pre - post @ W) @ W.mT for W, pre, post in layers]
    return torch.stack([r.square().sum(dim=-1).mean(dim=-1) for r in residuals], dim=-1)
