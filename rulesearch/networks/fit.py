"""Whether a state, or labels, are of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rulesearch.arguments import check_kind
from rulesearch.errors import LearnerError, RuleSearchError
from rulesearch.networks.state import NetworkState

if TYPE_CHECKING:
    from rulesearch.networks.network import PlasticNetwork

__all__ = ["as_classes", "check_label", "check_state", "check_targets", "check_weights"]

_FINITE = ("mixing", "rate", "bias_rate", "feedback_rate")  # what a lifetime leaves as it is
_SUM = 1e-3  # by which probabilities may miss 1


def check_state(network: PlasticNetwork, state: NetworkState) -> None:
    """Raise LearnerError where one is not; see :meth:`PlasticNetwork.check`."""
    check_kind("state", state, NetworkState, "a NetworkState, as of init()", LearnerError)
    for name, tensors in state.parts():
        check_kind(f"state.{name}", tensors, Sequence, "a list of tensors", LearnerError)
        for k, tensor in enumerate(tensors):
            check_kind(f"state.{name}[{k}]", tensor, Tensor, "a torch tensor", LearnerError)
    _check_parts(state, _shapes(network, state))


def check_weights(network: PlasticNetwork, state: NetworkState) -> None:
    """Raise LearnerError where what a forward pass reads is not the network's."""
    shapes = _shapes(network, state)
    _check_parts(state, {name: shapes[name] for name in ("W", "bias")})


def check_label(label: Tensor) -> None:
    """Raise LearnerError where labels are no tensor."""
    check_kind("label", label, Tensor, "a torch tensor", LearnerError)


def as_classes(label: Tensor, n_out: int) -> Tensor:
    """Return integer labels as int64; raise LearnerError where one is outside the output."""
    if label.numel():
        low, high = (int(bound) for bound in torch.aminmax(label))
        if low < 0 or high >= n_out:
            raise LearnerError(f"labels run from {low} to {high}; the output has {n_out} units")
    return label.long()


def check_targets(
    network: PlasticNetwork,
    label: Tensor,
    name: str = "label",
    error: type[RuleSearchError] = LearnerError,
) -> None:
    """Refuse targets of a softmax output, of which cross-entropy says nothing; classes may pass."""
    if network.output != "softmax" or not label.is_floating_point():
        return
    sums = label.sum(-1)
    if not ((label >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=_SUM)):
        raise error(
            f"{name} holds targets that are no probabilities of classes (from 0 on, of sum 1), "
            "which output='softmax' needs; for regression give the network output='linear'"
        ).about("network", "output")


def _check_parts(
    state: NetworkState,
    parts: Mapping[str, Sequence[tuple[int, ...]]],
) -> None:
    """Hold parts against the shapes of one lifetime's."""
    for name, shapes in parts.items():
        tensors = getattr(state, name)
        if len(tensors) != len(shapes):
            raise LearnerError(
                f"state.{name} has {len(tensors)} {'matrices' if name in 'WB' else 'tensors'}, "
                f"the network {len(shapes)} {'connections' if shapes else 'such'}"
            )
        for k, (tensor, shape) in enumerate(zip(tensors, shapes, strict=True)):
            _check_tensor(f"state.{name}[{k}]", tensor, (*state.W[0].shape[:1], *shape), state.W[0])
            if name in _FINITE and not tensor.isfinite().all():
                raise LearnerError(f"state.{name}[{k}] is not finite; give finite numbers")


def _shapes(network: PlasticNetwork, state: NetworkState) -> dict[str, Sequence[tuple[int, ...]]]:
    """Of each part that the network reads, of one lifetime; W comes first."""
    posts = [(post,) for post, _ in network.connections]
    expected: dict[str, Sequence[tuple[int, ...]]] = {"W": network.connections}
    if network.feedback != "symmetric":
        expected["B"] = network.feedback_shapes
    return expected | {
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


def _check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    if tuple(tensor.shape) != shape:
        raise LearnerError(f"{name} has shape {tuple(tensor.shape)}, the network needs {shape}")
    if tensor.dtype != like.dtype or tensor.device != like.device:
        raise LearnerError(
            f"{name} is {tensor.dtype} on {tensor.device}, "
            f"state.W[0] {like.dtype} on {like.device}; they should be alike"
        )
