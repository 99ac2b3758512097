"""How images lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["channels_last"]


def channels_last(x: Tensor) -> Tensor:
    """Images ``(n, channels, height, width)`` with the channels of a pixel side by side.

    Of images of one channel both orders are the same numbers, and torch goes by the stride of that
    channel, which is set here so that what convolutions make of them has its channels last too.
    """
    if x.shape[1] == 1:
        return x.reshape(len(x), *x.shape[2:], 1).movedim(-1, 1)
    return x.contiguous(memory_format=torch.channels_last)
