"""Whether a state, or labels, are of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rulesearch.arguments import check_kind
from rulesearch.errors import LearnerError, RuleSearchError
from rulesearch.networks.state import NetworkState
from rulesearch.torch_arguments import check_dense

__all__ = ["Shapes", "as_classes", "check_input", "check_label", "check_state", "check_targets"]

Shapes = Mapping[str, Sequence[tuple[int, ...]]]
"""Of the parts of one lifetime's state that a network reads, a shape a connection."""

_OPTIONAL = ("rate", "bias_rate", "feedback_rate", "Omega")  # a state may go without
_FINITE = ("mixing", "rate", "bias_rate", "feedback_rate")  # what a lifetime leaves as it is
_SUM = 1e-3  # by which probabilities may miss 1


def check_state(state: NetworkState, shapes: Shapes) -> None:
    """Raise LearnerError where one is not; see :meth:`PlasticNetwork.check`."""
    check_kind("state", state, NetworkState, "a NetworkState, as of init()", LearnerError)
    for name, tensors in state.parts():
        check_kind(f"state.{name}", tensors, Sequence, "a list of tensors", LearnerError)
        for k, tensor in enumerate(tensors):
            check_dense(f"state.{name}[{k}]", tensor)
    _check_parts(state, shapes)


def check_input(state: NetworkState, x: Tensor, shapes: Shapes) -> None:
    """Raise LearnerError where a forward pass cannot read weights or input."""
    check_kind("state", state, NetworkState, "a NetworkState, as of init()", LearnerError)
    check_dense("x", x)
    _check_parts(state, {name: shapes[name] for name in ("W", "bias")})
    like, n_in = state.W[0], shapes["W"][0][-1]
    if x.dtype != like.dtype or x.device != like.device:
        raise LearnerError(
            f"x is {x.dtype} on {x.device}, the weights are {like.dtype} on {like.device}"
        )
    alone = x.ndim < 3 or 1 in (x.shape[-3], state.lifetimes)
    if x.ndim < 2 or x.shape[-1] != n_in or not (alone or x.shape[-3] == state.lifetimes):
        raise LearnerError(
            f"x has shape {tuple(x.shape)}; it should be ({state.lifetimes}, examples, {n_in})"
        )


def _check_parts(state: NetworkState, parts: Shapes) -> None:
    """Raise LearnerError where parts of a state, W first, have other shapes."""
    for name, shapes in parts.items():
        tensors = getattr(state, name)
        if name in _OPTIONAL and not tensors:
            continue
        if len(tensors) != len(shapes):
            raise LearnerError(
                f"state.{name} has {len(tensors)} {'matrices' if name in 'WB' else 'tensors'}, "
                f"the network {len(shapes)} {'connections' if shapes else 'such'}"
            )
        for k, (tensor, shape) in enumerate(zip(tensors, shapes, strict=True)):
            _check_tensor(f"state.{name}[{k}]", tensor, (*state.W[0].shape[:1], *shape), state.W[0])
            if name in _FINITE and not tensor.isfinite().all():
                raise LearnerError(f"state.{name}[{k}] is not finite; give finite numbers")


def as_classes(label: Tensor, n_out: int) -> Tensor:
    """Return integer labels as int64; raise LearnerError where one is none, or is outside."""
    if label.is_complex():
        raise LearnerError(f"label is {label.dtype}; give classes as torch.int64, or real targets")
    if label.numel():
        low, high = (int(bound) for bound in torch.aminmax(label))
        if low < 0 or high >= n_out:
            raise LearnerError(f"labels run from {low} to {high}; the output has {n_out} units")
    return label.long()


def check_label(label: Tensor, answers: Tensor, output: str = "") -> None:
    """Raise LearnerError where there is not one for each answer, or none of that kind of output."""
    check_dense("label", label)
    wanted = answers.shape if label.is_floating_point() else answers.shape[:-1]
    if label.shape != wanted:
        raise LearnerError(f"label has shape {tuple(label.shape)}; it should be {tuple(wanted)}")
    check_targets(output, label)


def check_targets(
    output: str, label: Tensor, name: str = "label", error: type[RuleSearchError] = LearnerError
) -> None:
    """Refuse targets of a softmax output, of which cross-entropy says nothing; classes may pass."""
    if output != "softmax" or not label.is_floating_point():
        return
    sums = label.sum(-1)
    if not ((label >= 0).all() and torch.allclose(sums, torch.ones_like(sums), atol=_SUM)):
        raise error(
            f"{name} holds targets that are no probabilities of classes (from 0 on, of sum 1), "
            "which output='softmax' needs; for regression give the network output='linear'"
        ).about("network", "output")


def _check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    check_dense(name, tensor)
    if not tensor.is_floating_point():
        raise LearnerError(f"{name} is {tensor.dtype}; give torch.float32 or torch.float64")
    if tuple(tensor.shape) != shape:
        raise LearnerError(f"{name} has shape {tuple(tensor.shape)}, the network needs {shape}")
    if tensor.dtype != like.dtype or tensor.device != like.device:
        raise LearnerError(
            f"{name} is {tensor.dtype} on {tensor.device}, "
            f"state.W[0] {like.dtype} on {like.device}; they should be alike"
        )
