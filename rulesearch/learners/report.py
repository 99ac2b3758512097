"""Which path a lifetime took, and how well it could be reversed."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["LifetimeReport"]


@dataclass
class LifetimeReport:
    """Filled in by ``live`` and by the backward pass through it.

    Attributes
    ----------
    path : {'fused', 'torch', 'general', 'unrolled', 'first-order'}
        Compiled engine; the same in torch; torch for terms that neither can run, with autograd
        in every step; plain autograd; or torch with what is asked for taken as a constant.
    reason : str
        Why that path, where it was not the one asked for.
    drift : Tensor (lifetimes,) or None
        Largest relative distance of a rebuilt W from its checkpoint; None before backward, and
        where the update cannot be inverted.
    recomputed : Tensor (lifetimes,) or None
        Segments whose weights were recomputed because the drift was too large, or because
        the update cannot be inverted.
    """

    path: str
    reason: str = ""
    drift: Tensor | None = field(default=None)
    recomputed: Tensor | None = field(default=None)

    def note_drift(self, drift: Tensor) -> None:
        """Keep the largest."""
        self.drift = drift if self.drift is None else torch.maximum(self.drift, drift)

    def note_recomputed(self, count: Tensor) -> None:
        """Add up."""
        self.recomputed = count if self.recomputed is None else self.recomputed + count
