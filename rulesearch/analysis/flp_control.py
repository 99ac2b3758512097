"""Plasticity added to a network that was meta-trained to reuse its features."""

from __future__ import annotations

import torch

from rulesearch.errors import ConfigError
from rulesearch.outer import FLPSettings, MetaModel, flp_model

__all__ = ["plastic_from_reuse"]


def plastic_from_reuse(reuse: MetaModel, settings: FLPSettings, seed: int = 0) -> MetaModel:
    """Give upper layers of a feature-reuse network feedback and plasticity (FLP, section 7.1).

    All forward weights are those of `reuse`, to be left alone with ``MetaRates(forward=0)``; its
    readout keeps its feedback, mixing and rate, and that of feedback which is plastic, so that
    with rates of zero below, meta-training goes on from where feature reuse ended. On the device
    of `reuse`.

    Parameters
    ----------
    reuse : MetaModel
        With one plastic layer.
    settings : FLPSettings
        Of the network with more of them.
    seed : int
        From which the new layers' feedback follows.

    Raises
    ------
    ConfigError
        If `reuse` has more than one plastic layer, or `settings` describe other layers.
    """
    if len(reuse.W) != 1:
        raise ConfigError(f"a feature-reuse network has 1 plastic layer, this one {len(reuse.W)}")
    model = flp_model(
        settings, reuse.seeds, seed, like=reuse, dtype=reuse.dtype, device=reuse.device
    )
    with torch.no_grad():
        for name in ("B", "feedback_bias", "mixing", "rate", "feedback_rate"):
            for mine, learnt in zip(getattr(model, name)[-1:], getattr(reuse, name), strict=False):
                mine.copy_(learnt)
    return model
