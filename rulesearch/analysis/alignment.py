"""How far the feedback's errors point away from backprop's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rulesearch.networks import NetworkState, PlasticNetwork

__all__ = ["alignment_angles", "angle"]


def angle(u: Tensor, v: Tensor) -> Tensor:
    """Angle in degrees between vectors along the last axis; NaN where one of them is zero.

    Computed as ``2 atan2(|u' - v'|, |u' + v'|)`` of the unit vectors, which keeps its
    digits near 0 and 180 degrees, where the arc cosine loses half of them (W. Kahan,
    "How futile are mindless assessments of roundoff", section 12).
    """
    u = u / torch.linalg.vector_norm(u, dim=-1, keepdim=True)
    v = v / torch.linalg.vector_norm(v, dim=-1, keepdim=True)
    apart = torch.linalg.vector_norm(u - v, dim=-1)
    together = torch.linalg.vector_norm(u + v, dim=-1)
    return torch.rad2deg(2.0 * torch.atan2(apart, together))


@torch.no_grad()
def alignment_angles(
    network: PlasticNetwork, state: NetworkState, x: Tensor, label: Tensor
) -> Tensor:
    """Angle between the error that the feedback carries to a layer and backprop's.

    The errors are averaged over the queries first, as in the rule-discovery paper; the
    angle is between the two means. Layer 0 is the synthetic error of the input.

    Parameters
    ----------
    network : PlasticNetwork
    state : NetworkState
        Weights and feedback of `lifetimes` networks.
    x : Tensor, shape (lifetimes, queries, n_0)
    label : Tensor of int64, shape (lifetimes, queries)

    Returns
    -------
    Tensor, shape (lifetimes, L)
        Degrees, for layers 0 to L-1; the output's own error is the same for both.
    """
    activations = network.activations(state, x)
    carried = network.errors(state, activations, label)
    backprop = network.errors(state, activations, label, feedback="symmetric")
    pairs = zip(carried[:-1], backprop[:-1], strict=True)
    return torch.stack([angle(e.mean(dim=-2), g.mean(dim=-2)) for e, g in pairs], dim=-1)
