"""The seam between a lifetime and whatever improves what it started from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from rulesearch.learners.examples import Indexed
from rulesearch.networks import NetworkState, PlasticNetwork

__all__ = ["Learner"]


class Learner(Protocol):
    """Something that changes a network's weights over a lifetime.

    ``live`` is differentiable in ``theta`` and in ``state``.
    """

    network: PlasticNetwork

    @property
    def n_terms(self) -> int:
        """Length of theta."""
        ...

    def init(
        self,
        lifetimes: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> NetworkState:
        """Draw fresh networks."""
        ...

    def live(
        self, state: NetworkState, theta: Tensor | None, x: Tensor | Indexed, label: Tensor
    ) -> NetworkState:
        """Return the networks at the end of their lifetimes."""
        ...
