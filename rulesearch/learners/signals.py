"""What every connection sees at one step: the signals that terms speak of."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from rulesearch.compile.torch_source import matvec
from rulesearch.learners.matrices import plastic_matrices
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
        ``(lifetimes, 1, n_post, n_pre)``. Then one per bias that learns: a connection from a
        unit that is always on, to which nothing is fed back. Then, where feedback is plastic,
        one per layer that it arrives at: a connection from what it carries, without errors.
    """
    ys = network.activations(state, x)
    es = network.errors(state, ys, label)
    after = network.activations_after_feedback(state, ys, es)
    sources = after if network.learnt_feedback.presynaptic == "after" else ys
    feedback = state.W if network.feedback == "symmetric" else state.B
    count, one = len(state.W), torch.ones_like(ys[0][..., :1])
    pres, backs = sources[:count], es[:count]
    if state.bias_rate:
        pres, backs = pres + [one] * count, backs + [torch.zeros_like(one)] * count
    if network.plastic_feedback:
        pres = pres + network.feedback_sources(ys, es, label)
    found = []
    for k, (weight, pre) in enumerate(zip(plastic_matrices(network, state), pres, strict=True)):
        layer = k % count
        signals = {"y_pre": pre, "y_post": after[layer + 1], "W": weight.unsqueeze(1)}
        if k < len(backs):
            signals.update(e_pre=backs[k], e_post=es[layer + 1])
        if network.has_own_feedback and k < count:
            signals["B"] = feedback[k].unsqueeze(1)
        if "Omega" in wanted and k < count:
            signals["Omega"] = (state.Omega or state.W)[k].unsqueeze(1)
        if "z_post" in wanted:
            signals["z_post"] = matvec(weight.unsqueeze(1), pre)  # which biases are no part of
        signals = {name: value for name, value in signals.items() if name in wanted}
        signals["ones_pre"] = torch.ones_like(pre)
        signals["ones_post"] = torch.ones_like(ys[layer + 1])
        found.append(signals)
    return found
