"""Which images a step sees: a batch of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rulesearch.arguments import check_kind, whole
from rulesearch.errors import ConfigError
from rulesearch.outer.bilevel.networks import Examples
from rulesearch.outer.seeds import TASK, generators, members
from rulesearch.tasks import ImageData

__all__ = ["Batches"]


@dataclass(frozen=True, eq=False)
class Batches:
    """Batches of images for problems side by side, epoch after epoch.

    The steps of an epoch see each image once; images that would not fill a batch are left out of
    it. What a step sees follows from its number, so that nothing is kept between steps.

    Parameters
    ----------
    data : ImageData
    rows : Tensor of int64, (problems, images)
        Which of the data each problem has; on the data's device.
    size : int
        Images of a batch.
    shuffle : (int, int), optional
        Seed and update that the order follows from, another one each epoch; by default always
        the order of `rows`.

    Raises
    ------
    ConfigError
        If rows are none of the data, or there are fewer images than a batch has.
    """

    data: ImageData
    rows: Tensor
    size: int
    shuffle: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_kind("data", self.data, ImageData, "ImageData, as rulesearch.tasks.load('digits')")
        check_kind("rows", self.rows, Tensor, "a torch tensor, of rows of the data")
        self._check_rows()
        if not 0 < whole("size", self.size, 0) <= self.rows.shape[1]:
            raise ConfigError(
                f"a batch has from 1 to {self.rows.shape[1]} images, all there are, not {self.size}"
            )

    def _check_rows(self) -> None:
        rows, images = self.rows, len(self.data.labels)
        if rows.dtype not in (torch.int32, torch.int64) or rows.ndim != 2 or not rows.numel():
            raise ConfigError(
                f"rows is {rows.dtype} of shape {tuple(rows.shape)}; give whole numbers, "
                "(problems, images), the rows of the data that each problem has, as "
                "torch.arange(100)[None]"
            )
        low, high = (int(bound) for bound in torch.aminmax(rows))
        if low < 0 or high >= images:
            raise ConfigError(
                f"rows run from {low} to {high}; those of the data are 0 to {images - 1}"
            )

    def __call__(self, step: int | None) -> Examples:
        """Return the examples, ``(problems, size, values)`` and ``(problems, size)``."""
        rows = self.rows
        if step is not None:
            epoch, batch = divmod(step, rows.shape[1] // self.size)
            rows = self._order(epoch)[:, batch * self.size : (batch + 1) * self.size]
        return Examples(self.data.examples(rows, torch.float32), self.data.labels[rows])

    def _order(self, epoch: int) -> Tensor:
        if self.shuffle is None:
            return self.rows
        seed, update = self.shuffle
        problems, images = self.rows.shape
        draws = generators(seed, epoch, TASK, members(problems), update)
        order = torch.stack([torch.randperm(images, generator=g) for g in draws])
        return self.rows.gather(1, order.to(self.rows.device))
