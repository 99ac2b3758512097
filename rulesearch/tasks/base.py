"""What a task is: labelled images, a batch of lifetimes drawn from them, and the seam."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rulesearch.arguments import check_kind
from rulesearch.errors import DataError
from rulesearch.learners import Indexed
from rulesearch.torch_arguments import check_dense

__all__ = ["IMAGENET", "ImageData", "Normalisation", "TaskBatch", "TaskFamily"]


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

    Raises
    ------
    DataError
        If one of them is no tensor, or a sparse one.
    """

    x: Tensor | Indexed
    label: Tensor
    x_query: Tensor
    label_query: Tensor

    def __post_init__(self) -> None:
        check_kind("x", self.x, (Tensor, Indexed), "a torch tensor or Indexed", DataError)
        for name in ("x", "label", "x_query", "label_query"):
            if not isinstance(getattr(self, name), Indexed):
                check_dense(name, getattr(self, name), DataError)

    def to(self, device: torch.device | str) -> TaskBatch:
        """Return the same lifetimes on a device."""
        x = self.x
        moved = (
            Indexed(x.table.to(device), x.index.to(device))
            if isinstance(x, Indexed)
            else x.to(device)
        )
        rest = (self.label, self.x_query, self.label_query)
        return TaskBatch(moved, *(part.to(device) for part in rest))


@runtime_checkable
class TaskFamily(Protocol):
    """Draws lifetimes: the i-th from the i-th generator and from nothing else."""

    @property
    def n_in(self) -> int:
        """Width of an example."""

    @property
    def n_out(self) -> int:
        """Number of labels, or width of a target."""

    @property
    def steps(self) -> int:
        """Training steps in a lifetime."""

    @property
    def name(self) -> str:
        """What they are called in a manifest."""

    def describe(self) -> dict[str, object]:
        """Return what a manifest needs to tell these tasks from any other, as JSON values."""

    def sample(
        self, generators: Sequence[torch.Generator], dtype: torch.dtype = torch.float32
    ) -> TaskBatch:
        """Draw one lifetime per generator."""


class Normalisation(NamedTuple):
    """Mean and standard deviation of every channel, of values in [0, 1]: ``(x - mean) / std``."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""Of red, green and blue in the images of ImageNet."""


@dataclass(frozen=True, eq=False, repr=False)
class ImageData:
    """Labelled images of one data set, in stored order.

    Attributes
    ----------
    images : Tensor, (N, pixels)
        uint8 in 0 ... 255, or float32, which is taken as it is; rows of an image one after
        another, and channels of a colour image.
    labels : Tensor of int64, (N,)
        Class of every image, in 0 ... n_classes - 1.
    n_classes : int
        Number of classes of the whole data set.
    class_names : tuple of str
        Name of every class.
    name : str
        Name of the data set.
    shape : tuple of int
        Height and width of a grey image, in pixels; channels, height and width of another.
    split : str
        Part of the data set that the images are.
    normalisation : Normalisation, optional
        What is done to the values of an example; nothing by default.

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
    shape: tuple[int, ...]
    split: str = "all"
    normalisation: Normalisation | None = None

    def __post_init__(self) -> None:
        if len(self.shape) not in (2, 3):
            raise self._error(f"shape {self.shape} is not ([channels,] height, width)")
        pixels = math.prod(self.shape)
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
        if self.normalisation is not None:
            self._check_normalisation(*self.normalisation)

    def __repr__(self) -> str:
        return (
            f"ImageData('{self.name}', {len(self.labels)} examples of {self.n_classes} classes, "
            f"shape={self.shape}, {self.images.dtype}, split='{self.split}')"
        )

    @classmethod
    def from_arrays(cls, examples: ArrayLike, labels: ArrayLike, name: str = "mine") -> ImageData:
        """Make a data set of examples of one's own, images or not.

        Parameters
        ----------
        examples : array (N, n_in), (N, height, width) or (N, channels, height, width)
            Of numpy or torch; uint8, which is divided by 255, or numbers, which stay as they are.
        labels : array (N,)
            The class of each: all whole numbers, or all texts. Classes are sorted, and counted
            from 0.
        name : str

        Raises
        ------
        DataError
            If an example is not finite, there is none, there are not as many labels, or one of
            them is of another kind.
        """
        found, given = _array(name, "examples", examples), _array(name, "labels", labels)
        if found.ndim not in (2, 3, 4) or not found.size or found.dtype.kind not in "uif":
            raise DataError(
                f"data set '{name}': examples have shape {found.shape} and type {found.dtype}; "
                "they should be numbers, (N, n_in), (N, height, width) or (N, channels, height, "
                "width)"
            )
        if given.shape != found.shape[:1] or given.dtype.kind not in "uiUSO":
            raise DataError(
                f"data set '{name}': labels have shape {given.shape} and type {given.dtype}; they "
                f"should be whole numbers or texts, one an example, ({len(found)},); targets in "
                "floating point want a family of tasks of one's own"
            )
        if given.dtype.kind in "USO":  # which numpy makes of texts and numbers together, too
            kinds = {_kind(each) for each in np.array(labels, dtype=object)}
            if len(kinds) > 1 or not kinds <= {"int", "str", "bytes"}:
                raise DataError(
                    f"data set '{name}': labels are of type {' and '.join(sorted(kinds))}; they "
                    "should all be texts or all whole numbers"
                )
            if kinds != {"int"}:
                given = given.astype(str)
        if found.dtype != np.uint8:
            found = found.astype(np.float32)
        if not np.isfinite(found).all():
            raise DataError(f"data set '{name}': examples hold numbers that are not finite")
        classes, index = np.unique(given, return_inverse=True)
        shape = found.shape[1:] if found.ndim > 2 else (1, *found.shape[1:])
        return cls(
            torch.from_numpy(found.reshape(len(found), -1).copy()),
            torch.from_numpy(index.astype(np.int64)),
            len(classes),
            tuple(str(c) for c in classes),
            name,
            shape,
        )

    @property
    def channels(self) -> int:
        """Values of a pixel: 1 where it is grey."""
        return self.shape[0] if len(self.shape) == 3 else 1

    def to(self, device: torch.device | str) -> ImageData:
        """Return the same images on a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def examples(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the images at `index` as a network sees them.

        Parameters
        ----------
        index : Tensor of int64, (...)
            Rows of `images`, on their device.
        dtype : torch.dtype
            Of the result, ``(..., pixels)``, whose values are normalised, or lie in [0, 1] where
            images are uint8.
        """
        rows = self.images.index_select(0, index.reshape(-1)).view(*index.shape, -1)
        # Converting and then dividing in place is twice as fast as a division that converts.
        values = rows.to(dtype).div_(255) if rows.dtype == torch.uint8 else rows.to(dtype)
        if self.normalisation is not None:
            mean, std = (
                torch.tensor(part, dtype=dtype, device=values.device)[:, None]
                for part in self.normalisation
            )
            values.view(*index.shape, self.channels, -1).sub_(mean).div_(std)
        return values

    def apart(self, count: int) -> tuple[ImageData, ImageData]:
        """Return the images in two parts: the last `count` of each class are the second.

        Raises
        ------
        DataError
            If that leaves nothing of a class in a part.
        """
        last = torch.zeros_like(self.labels, dtype=torch.bool)
        for label, name in enumerate(self.class_names):
            rows = torch.nonzero(self.labels == label).flatten()
            if not 0 < count < len(rows):
                raise self._error(
                    f"class '{name}' has {len(rows)} images, of which {count} cannot be set "
                    "apart: either part needs one"
                )
            last[rows[-count:]] = True
        first, second = (
            replace(self, images=self.images[part], labels=self.labels[part])
            for part in (~last, last)
        )
        return first, second

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits of the SHA-256 of images, labels and normalisation."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = sha256(self.images.contiguous().numpy().data)
        digest.update(self.labels.contiguous().numpy().data)
        if self.normalisation is not None:
            digest.update(repr(self.normalisation).encode())
        return digest.hexdigest()[:16]

    def _check_normalisation(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        if not len(mean) == len(std) == self.channels:
            raise self._error(
                f"normalisation needs {self.channels} means and standard deviations, one per"
                f" channel, not {len(mean)} and {len(std)}"
            )
        if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
            raise self._error(f"normalisation needs finite means {mean} and positive stds {std}")

    def _error(self, message: str) -> DataError:
        return DataError(f"data set '{self.name}': {message}")


def _array(name: str, what: str, values: ArrayLike) -> NDArray[Any]:
    """Return what numpy makes of arrays, tensors and lists."""
    if isinstance(values, Tensor):
        check_dense(what, values, DataError)
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values
    if np.ma.is_masked(values):
        raise DataError(
            f"data set '{name}': some {what} are masked; leave them out, or fill them: "
            "values.filled(0)"
        )
    try:
        return np.asarray(values)
    except (RuntimeError, TypeError, ValueError) as error:
        raise DataError(
            f"data set '{name}': {what} make no array ({str(error).splitlines()[0]}); give an "
            "array, or lists of one length"
        ) from None


def _kind(label: object) -> str:
    """Return the name of a label's type, of whole numbers and texts that of Python's own."""
    if isinstance(label, (int, np.integer)) and not isinstance(label, bool):
        return "int"
    return "str" if isinstance(label, str) else type(label).__name__
