"""What every connection sees at one step: the signals that terms speak of."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from rulesearch.compile.torch_source import matvec
from rulesearch.networks import NetworkState, PlasticNetwork

__all__ = ["connection_signals"]


def connection_signals(
    network: PlasticNetwork,
    state: NetworkState,
    x: Tensor,
    label: Tensor,
    wanted: Collection[str],
) -> list[dict[str, Tensor]]:
    """Run one example forward and its error back.

    Parameters
    ----------
    x : Tensor (lifetimes, n_in)
    label : Tensor (lifetimes,) or (lifetimes, n_out)
    wanted : collection of str
        Names of the vocabulary to return; ones are always returned.

    Returns
    -------
    list of dict
        One per connection: vectors ``(lifetimes, n)``, weights ``(lifetimes, n_post, n_pre)``.
    """
    ys = network.activations(state, x.unsqueeze(1))
    es = [e.squeeze(1) for e in network.errors(state, ys, label.unsqueeze(1))]
    ys = [y.squeeze(1) for y in ys]
    feedback = state.W if network.feedback == "symmetric" else state.B
    found = []
    for k, weight in enumerate(state.W):
        signals = {
            "y_pre": ys[k],
            "y_post": ys[k + 1],
            "e_pre": es[k],
            "e_post": es[k + 1],
            "W": weight,
            "B": feedback[k],
        }
        signals = {name: value for name, value in signals.items() if name in wanted}
        if "z_post" in wanted:
            signals["z_post"] = matvec(weight, ys[k])
        signals["ones_pre"] = torch.ones_like(ys[k])
        signals["ones_post"] = torch.ones_like(ys[k + 1])
        found.append(signals)
    return found
