"""What a task is: labelled images, a batch of lifetimes drawn from them, and the seam."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rulesearch.errors import DataError
from rulesearch.learners import Indexed

__all__ = ["ImageData", "TaskBatch", "TaskFamily"]


@dataclass(frozen=True, eq=False)
class TaskBatch:
    """Independent lifetimes side by side, with the queries that judge each of them.

    Attributes
    ----------
    x : Tensor or Indexed, (steps, lifetimes, n_in) or (steps, lifetimes, examples, n_in)
        Training examples in the order in which a lifetime meets them, one or several a step.
    label : Tensor of int64, (steps, lifetimes) or (steps, lifetimes, examples)
        Class of every training example, in 0 ... n_out - 1; or, in regression, floating-point
        targets with a last dimension n_out.
    x_query : Tensor, (lifetimes, queries, n_in)
        Examples that the lifetime never trains on.
    label_query : Tensor of int64, (lifetimes, queries)
        Class of every query, or its target ``(lifetimes, queries, n_out)``.
    """

    x: Tensor | Indexed
    label: Tensor
    x_query: Tensor
    label_query: Tensor


@runtime_checkable
class TaskFamily(Protocol):
    """Draws lifetimes: the i-th from the i-th generator and from nothing else."""

    @property
    def n_in(self) -> int:
        """Width of an example."""

    @property
    def n_out(self) -> int:
        """Number of labels."""

    @property
    def steps(self) -> int:
        """Training examples in a lifetime."""

    @property
    def name(self) -> str:
        """What they are called in a manifest."""

    def describe(self) -> dict[str, object]:
        """Return what a manifest needs to tell these tasks from any other, as JSON values."""

    def sample(
        self, generators: Sequence[torch.Generator], dtype: torch.dtype = torch.float32
    ) -> TaskBatch:
        """Draw one lifetime per generator."""


@dataclass(frozen=True, eq=False)
class ImageData:
    """Labelled images of one data set, in stored order.

    Attributes
    ----------
    images : Tensor, (N, pixels)
        uint8 in 0 ... 255, or float32 in [0, 1]; rows of an image one after another.
    labels : Tensor of int64, (N,)
        Class of every image, in 0 ... n_classes - 1.
    n_classes : int
        Number of classes of the whole data set.
    class_names : tuple of str
        Name of every class.
    name : str
        Name of the data set.
    shape : tuple of int
        Height and width of an image, in pixels.
    split : str
        Part of the data set that the images are.

    Raises
    ------
    DataError
        If the parts do not fit together.
    """

    images: Tensor
    labels: Tensor
    n_classes: int
    class_names: tuple[str, ...]
    name: str
    shape: tuple[int, int]
    split: str = "all"

    def __post_init__(self) -> None:
        pixels = self.shape[0] * self.shape[1]
        if self.images.dtype not in (torch.uint8, torch.float32):
            raise self._error(f"images are {self.images.dtype}, not torch.uint8 or torch.float32")
        if self.labels.dtype != torch.int64:
            raise self._error(f"labels are {self.labels.dtype}, not torch.int64")
        if self.images.ndim != 2 or self.images.shape[1] != pixels:
            raise self._error(
                f"images are {tuple(self.images.shape)}, not (N, {pixels}) for shape {self.shape}"
            )
        if self.labels.shape != self.images.shape[:1]:
            raise self._error(f"{len(self.images)} images and labels {tuple(self.labels.shape)}")
        if len(self.class_names) != self.n_classes or len(set(self.class_names)) != self.n_classes:
            raise self._error(f"class_names must be {self.n_classes} different names")
        if len(self.labels) == 0:
            raise self._error("it holds no images")
        low, high = (int(bound) for bound in torch.aminmax(self.labels))
        if low < 0 or high >= self.n_classes:
            raise self._error(f"labels span {low} to {high}, not 0 to {self.n_classes - 1}")

    def fingerprint(self) -> str:
        """Return the first 16 hexadecimal digits of the SHA-256 of images and labels."""
        digest = sha256(self.images.contiguous().numpy().data)
        digest.update(self.labels.contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def _error(self, message: str) -> DataError:
        return DataError(f"data set '{self.name}': {message}")
