"""What all few-shot families share: lifetimes stacked from episodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from rulesearch.tasks.base import ImageData, TaskBatch
from rulesearch.tasks.episodes import Episodes
from rulesearch.torch_arguments import check_floating, check_generators

__all__ = ["Episodic"]


class Episodic(ABC):
    """Tasks drawn as episodes; a family says in which order images come, and what they are called.

    Parameters
    ----------
    episodes : Episodes
    """

    def __init__(self, episodes: Episodes) -> None:
        self._episodes = episodes

    @abstractmethod
    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return rows and labels of the training images (steps,), then of the queries."""

    @property
    def data(self) -> ImageData:
        """The images that tasks are drawn from."""
        return self._episodes.data

    @property
    def n_in(self) -> int:
        """Values of an image: channels, height and width are the data's `shape`."""
        return int(self.data.images.shape[1])

    @property
    def steps(self) -> int:
        """Training images in a lifetime."""
        return self._episodes.steps

    @property
    def classes(self) -> tuple[int, ...]:
        """Indices in the data of the classes that tasks are drawn from."""
        return self._episodes.classes

    def sample(
        self, generators: Sequence[torch.Generator], dtype: torch.dtype = torch.float32
    ) -> TaskBatch:
        """Draw one lifetime per generator; lifetime i depends on generator i alone.

        Parameters
        ----------
        generators : sequence of torch.Generator
            One a lifetime, on the CPU.
        dtype : torch.dtype
            Of the images, whose values lie in [0, 1] unless the data are normalised.

        Raises
        ------
        ConfigError
            If there is no generator.
        """
        check_generators(generators, "lifetime", "few-shot tasks")
        check_floating(dtype)
        drawn = zip(*(self._draw(generator) for generator in generators), strict=True)
        train, label, query, label_query = drawn
        return TaskBatch(
            x=self.data.examples(torch.stack(train, dim=1), dtype),
            label=torch.stack(label, dim=1),
            x_query=self.data.examples(torch.stack(query), dtype),
            label_query=torch.stack(label_query),
        )
