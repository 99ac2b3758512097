"""Backpropagation through time of a spiking network, as what a learner descends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from rulesearch.arguments import check_kind, real
from rulesearch.errors import LearnerError
from rulesearch.named import Named, gradient_at
from rulesearch.networks.spiking import SpikingNetwork

__all__ = ["BPTT"]


@dataclass(frozen=True)
class BPTT:
    r"""The gradient by backpropagation through time, with the surrogate of the network's spikes.

    .. math:: \frac{1}{nm} \sum_b |\bar{u}_b - y_b|^2 + c (\bar{z} - r)^2

    of the answers :math:`\bar{u}` of m outputs to n examples and the mean rate :math:`\bar{z}` of
    all neurons.

    Parameters
    ----------
    network : SpikingNetwork
    rate_strength, rate_target : float
        c and r.

    Raises
    ------
    ConfigError
        If one of them is of another kind.
    """

    network: SpikingNetwork
    rate_strength: float = 0.0
    rate_target: float = 0.0

    def __post_init__(self) -> None:
        check_kind("network", self.network, SpikingNetwork, "a SpikingNetwork")
        real("rate_strength", self.rate_strength)
        real("rate_target", self.rate_target)

    def loss(self, phi: Named, x: Tensor, target: Tensor) -> Tensor:
        """What it descends, ``(lifetimes,)``."""
        self.network.check_target(x, target)
        activity = self.network(phi, x)
        error = (activity.answer - target).square().mean((1, 2))
        rate = activity.z.mean((1, 2, 3))
        return error + self.rate_strength * (rate - self.rate_target).square()

    def __call__(self, phi: Named, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Return the gradient of every weight; differentiable where an argument wants gradients."""
        check_kind("phi", phi, Mapping, "tensors by name, as of init()", LearnerError)
        given = [t for t in (*phi.values(), x, target) if isinstance(t, Tensor)]
        recorded = torch.is_grad_enabled() and any(t.requires_grad for t in given)
        return gradient_at(phi, lambda at: self.loss(at, x, target), create_graph=recorded)
