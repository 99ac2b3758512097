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
    """Run the examples of a step forward and their errors back.

    Parameters
    ----------
    x : Tensor (lifetimes, examples, n_in)
    label : Tensor (lifetimes, examples) or (lifetimes, examples, n_out)
    wanted : collection of str
        Names of the vocabulary to return; ones are always returned.

    Returns
    -------
    list of dict
        One per connection: vectors ``(lifetimes, examples, n)``, weights
        ``(lifetimes, 1, n_post, n_pre)``.
    """
    ys = network.activations(state, x)
    es = network.errors(state, ys, label)
    feedback = state.W if network.feedback == "symmetric" else state.B
    found = []
    for k, weight in enumerate(state.W):
        signals = {
            "y_pre": ys[k],
            "y_post": ys[k + 1],
            "e_pre": es[k],
            "e_post": es[k + 1],
            "W": weight.unsqueeze(1),
            "B": feedback[k].unsqueeze(1),
        }
        signals = {name: value for name, value in signals.items() if name in wanted}
        if "z_post" in wanted:
            signals["z_post"] = matvec(weight.unsqueeze(1), ys[k])
        signals["ones_pre"] = torch.ones_like(ys[k])
        signals["ones_post"] = torch.ones_like(ys[k + 1])
        found.append(signals)
    return found
