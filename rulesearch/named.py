"""Tensors by name: parameters, their gradients, and the vectors they are in solvers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Size, Tensor

__all__ = [
    "Named",
    "cloned",
    "copied",
    "detached",
    "flat",
    "gradient",
    "gradient_at",
    "leaves",
    "shaped",
    "spread",
    "under",
]

Named = Mapping[str, Tensor]
"""Tensors by name; never changed in place."""


def detached(named: Named) -> dict[str, Tensor]:
    """The same values without a graph."""
    return {name: tensor.detach() for name, tensor in named.items()}


def cloned(named: Named) -> dict[str, Tensor]:
    """The same values in memory of their own, which others may change in place."""
    return {name: tensor.clone() for name, tensor in named.items()}


def copied(named: Named, copies: int) -> dict[str, Tensor]:
    """Every seed's values so many times, its copies together."""
    return {name: tensor.repeat_interleave(copies, 0) for name, tensor in named.items()}


def leaves(named: Named) -> dict[str, Tensor]:
    """The same values as leaves of a new graph."""
    return {name: tensor.detach().requires_grad_() for name, tensor in named.items()}


def gradient(
    loss: Tensor, of: Named, *, create_graph: bool = False, retain_graph: bool | None = None
) -> dict[str, Tensor]:
    """Gradient of the sum of losses; zero where nothing depends on a tensor."""
    if not of or not loss.requires_grad:
        return {name: torch.zeros_like(tensor) for name, tensor in of.items()}
    found = torch.autograd.grad(
        loss.sum(),
        list(of.values()),
        create_graph=create_graph,
        retain_graph=retain_graph,
        materialize_grads=True,
    )
    return dict(zip(of, found, strict=True))


def gradient_at(
    named: Named, loss: Callable[[Named], Tensor], *, create_graph: bool = False
) -> dict[str, Tensor]:
    """Gradient of the sum of losses at named tensors, cut from their graph unless it is created."""
    with torch.enable_grad():
        at = {
            name: value if create_graph and value.requires_grad else value.detach().requires_grad_()
            for name, value in named.items()
        }
        return gradient(loss(at), at, create_graph=create_graph)


def flat(named: Named, lead: Size) -> Tensor:
    """All of it as vectors, ``(*lead, n)``."""
    return torch.cat([tensor.reshape(*lead, -1) for tensor in named.values()], -1)


def shaped(vector: Tensor, like: Named) -> dict[str, Tensor]:
    """The inverse of :func:`flat`."""
    lead = vector.ndim - 1
    sizes = [tensor.shape[lead:].numel() for tensor in like.values()]
    parts = vector.split(sizes, -1)
    return {k: part.reshape(like[k].shape) for k, part in zip(like, parts, strict=True)}


def spread(number: Tensor, like: Tensor) -> Tensor:
    """Numbers ``lead``, so shaped that they multiply tensors that begin with it."""
    return number.reshape(*number.shape, *[1] * (like.ndim - number.ndim))


def under(prefix: str, tensors: Named) -> dict[str, Tensor]:
    """Those whose names begin with a prefix, by the rest of their names."""
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
