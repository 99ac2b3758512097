"""How many examples are classified rightly, and by whom that can be asked."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["share_right"]


def share_right(logits: Tensor, label: Tensor, *lived: Tensor) -> Tensor:
    """Share of the examples whose largest output is their class.

    Parameters
    ----------
    logits : Tensor (lifetimes, examples, n_out)
    label : Tensor of int64, (lifetimes, examples)
    *lived : Tensor (lifetimes, ...)
        What else a lifetime left: its weights, its loss.

    Returns
    -------
    Tensor (lifetimes,)
        NaN where any of it is not finite: of outputs that are no numbers the largest is none,
        and a unit that is cut off hides weights that are infinite.
    """
    alive = torch.stack([t.isfinite().flatten(1).all(1) for t in (logits, *lived)]).all(0)
    right = logits.argmax(-1).eq(label).to(logits.dtype).mean(1)
    return torch.where(alive, right, torch.nan)
