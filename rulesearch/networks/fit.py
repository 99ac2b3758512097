"""Whether a state is one of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from rulesearch.arguments import check_kind
from rulesearch.errors import LearnerError
from rulesearch.networks.state import NetworkState

if TYPE_CHECKING:
    from rulesearch.networks.network import PlasticNetwork

__all__ = ["check_state"]

_FINITE = ("mixing", "rate", "bias_rate", "feedback_rate")  # what a lifetime leaves as it is


def check_state(network: PlasticNetwork, state: NetworkState) -> None:
    """Raise LearnerError where one is not; see :meth:`PlasticNetwork.check`."""
    check_kind("state", state, NetworkState, "a NetworkState, as of init()", LearnerError)
    for name, tensors in state.parts():
        check_kind(f"state.{name}", tensors, Sequence, "a list of tensors", LearnerError)
        for k, tensor in enumerate(tensors):
            check_kind(f"state.{name}[{k}]", tensor, Tensor, "a torch tensor", LearnerError)
    posts = [(post,) for post, _ in network.connections]
    expected: dict[str, Sequence[tuple[int, ...]]] = {
        "W": network.connections,
        "bias": posts if network.bias else [],
        "feedback_bias": posts if network.learns_feedback else [],
        "mixing": [()] * len(posts) if network.learns_feedback else [],
        "rate": network.connections if state.rate else [],
        "bias_rate": posts if state.bias_rate and network.bias else [],
        "feedback_rate": (
            network.feedback_shapes if state.feedback_rate and network.plastic_feedback else []
        ),
        "Omega": network.connections if state.Omega else [],
    }
    if network.feedback != "symmetric":
        expected["B"] = network.feedback_shapes
    for name, tensors in state.parts():
        if name not in expected:
            continue
        shapes = expected[name]
        if len(tensors) != len(shapes):
            raise LearnerError(
                f"state.{name} has {len(tensors)} {'matrices' if name in 'WB' else 'tensors'}, "
                f"the network {len(shapes)} {'connections' if shapes else 'such'}"
            )
        lifetimes, like = state.lifetimes, state.W[0]  # W has been counted: it comes first
        for k, (tensor, shape) in enumerate(zip(tensors, shapes, strict=True)):
            if tuple(tensor.shape) != (lifetimes, *shape):
                raise LearnerError(
                    f"state.{name}[{k}] has shape {tuple(tensor.shape)}, "
                    f"the network needs {(lifetimes, *shape)}"
                )
            if tensor.dtype != like.dtype or tensor.device != like.device:
                raise LearnerError(
                    f"state.{name}[{k}] is {tensor.dtype} on {tensor.device}, "
                    f"state.W[0] {like.dtype} on {like.device}; they should be alike"
                )
            if name in _FINITE and not tensor.isfinite().all():
                raise LearnerError(f"state.{name}[{k}] is not finite; give finite numbers")
