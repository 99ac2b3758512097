"""What a lifetime sees: examples as a tensor, or as indices into a table."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rulesearch.arguments import check_kind
from rulesearch.compile.native import Examples
from rulesearch.errors import LearnerError
from rulesearch.networks import PlasticNetwork
from rulesearch.networks.fit import as_classes, check_targets
from rulesearch.torch_arguments import check_dense

__all__ = ["Indexed", "as_examples", "check_examples"]


@dataclass(frozen=True, eq=False)
class Indexed:
    """Examples picked from a table, ``x[t, l] = table[index[t, l]]``.

    A long lifetime meets each of few examples many times: the table and the indices are all
    that is kept of them, and a step's examples are made when their step comes.

    Parameters
    ----------
    table : Tensor (n, n_in)
        Every example once, of the type of the weights.
    index : Tensor of int64, (steps, lifetimes) or (steps, lifetimes, examples)
        Rows of the table.

    Raises
    ------
    LearnerError
        For another shape or type, or an index that the table does not have.
    """

    table: Tensor
    index: Tensor

    def __post_init__(self) -> None:
        for name in ("table", "index"):
            check_dense(name, getattr(self, name))
        if self.table.ndim != 2 or not self.table.is_floating_point() or not self.table.numel():
            raise LearnerError(
                f"the table has shape {tuple(self.table.shape)} and type {self.table.dtype}; "
                "it should be (n, n_in), none of them 0, and floating point"
            )
        shape = tuple(self.index.shape)
        if len(shape) not in (2, 3) or self.index.dtype != torch.int64 or not self.index.numel():
            raise LearnerError(
                f"the index has shape {shape} and type {self.index.dtype}; it should be "
                "(steps, lifetimes) or (steps, lifetimes, examples), none of them 0, and int64"
            )
        if self.table.device != self.index.device:
            raise LearnerError(
                f"the table is on {self.table.device}, the index on {self.index.device}; "
                "they should be together"
            )
        self.check_range()

    def check_range(self) -> None:
        """Raise LearnerError unless every index is a row: tensors may change after they came."""
        low, high = (int(bound) for bound in torch.aminmax(self.index))
        if low < 0 or high >= len(self.table):
            raise LearnerError(
                f"indices run from {low} to {high}; the table has {len(self.table)} rows"
            )

    @property
    def shape(self) -> torch.Size:
        """``(steps, lifetimes[, examples], n_in)``, as of the tensor that it stands for."""
        return torch.Size((*self.index.shape, self.table.shape[1]))

    @property
    def ndim(self) -> int:
        """Dimensions of the tensor that it stands for."""
        return self.index.ndim + 1

    @property
    def dtype(self) -> torch.dtype:
        """Type of the examples."""
        return self.table.dtype

    @property
    def device(self) -> torch.device:
        """Where the examples are."""
        return self.table.device

    def __getitem__(self, steps: int | slice) -> Tensor:
        """Examples of a step, ``(lifetimes[, examples], n_in)``, or of several."""
        return self.table[self.index[steps]]


def check_examples(
    network: PlasticNetwork, like: Tensor, x: Tensor | Indexed, label: Tensor
) -> tuple[Tensor | Indexed, Tensor]:
    """Return examples and labels with a dimension of examples: ``(steps, lifetimes, examples)``.

    Parameters
    ----------
    like : Tensor (lifetimes, n_post, n_pre)
        Weights, whose type and device the examples should have.
    x : Tensor or Indexed, (steps, lifetimes[, examples], n_in)
    label : Tensor (steps, lifetimes[, examples]) int64, or (..., n_out) floating point

    Raises
    ------
    LearnerError
        If they fit neither the network nor one another.
    """
    check_kind("x", x, (Tensor, Indexed), "a torch tensor or Indexed", LearnerError)
    if isinstance(x, Tensor):
        check_dense("x", x)
    check_dense("label", label)
    n_in, n_out, lifetimes = network.sizes[0], network.sizes[-1], like.shape[0]
    if x.dtype != like.dtype or x.device != like.device:
        raise LearnerError(
            f"x is {x.dtype} on {x.device}, the weights are {like.dtype} on {like.device}"
        )
    lead, shape = tuple(x.shape[:-1]), tuple(x.shape)
    if x.ndim not in (3, 4) or (shape[1], shape[-1]) != (lifetimes, n_in):
        raise LearnerError(
            f"x has shape {shape}; it should be (steps, {lifetimes}, {n_in}), "
            f"or (steps, {lifetimes}, examples, {n_in})"
        )
    if 0 in lead:
        raise LearnerError(f"x has shape {shape}; a lifetime needs a step, and a step an example")
    if isinstance(x, Indexed):
        x.check_range()
    if label.device != like.device:
        raise LearnerError(f"label is on {label.device}, the weights are on {like.device}")
    if label.is_floating_point():
        if tuple(label.shape) != (*lead, n_out):
            raise LearnerError(
                f"label has shape {tuple(label.shape)}; as targets it should be {(*lead, n_out)}"
            )
        check_targets(network.output, label)
        label = label.to(like.dtype)
    else:
        if tuple(label.shape) != lead:
            raise LearnerError(f"label has shape {tuple(label.shape)}; it should be {lead}")
        label = as_classes(label, n_out)
    if x.ndim == 4:
        return x, label
    if isinstance(x, Indexed):
        return Indexed(x.table, x.index.unsqueeze(2)), label.unsqueeze(2)
    return x.unsqueeze(2), label.unsqueeze(2)


def as_examples(x: Tensor | Indexed, label: Tensor, every: int, share: float) -> Examples:
    """For an engine; shapes as from :func:`check_examples`."""
    if isinstance(x, Indexed):
        return Examples(
            x.table.contiguous(), x.index.contiguous(), label.contiguous(), every, share
        )
    return Examples(x.contiguous(), None, label.contiguous(), every, share)
