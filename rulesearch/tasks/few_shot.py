"""Few-shot classification: every lifetime learns a few classes from a few images each."""

from __future__ import annotations

from os import PathLike
from typing import final

import torch
from torch import Tensor

from rulesearch.tasks.base import ImageData
from rulesearch.tasks.episodes import HoldOut, episodes
from rulesearch.tasks.episodic import Episodic

__all__ = ["FewShot"]


@final
class FewShot(Episodic):
    """Tasks of `ways` classes with `shots` training images and `queries` test images a class.

    Training images come one a step, in random order over the classes. No query image is among
    the training images of its lifetime. Labels are the class indices of the data set, so the
    network keeps one output per class of the whole data set.

    Parameters
    ----------
    data : str or ImageData
        Name of a data set (see `rulesearch.tasks.data_sets`), or examples of one's own (see
        :meth:`ImageData.from_arrays`).
    ways : int
        Classes in a task.
    shots, queries : int
        Training and query images of each class.
    root, split, size
        As for `rulesearch.tasks.load`; only with the name of a data set.
    hold_out : int, str, or sequence of int or str
        Classes kept for evaluation: the last so many, or those of these names or indices.
    held_out : bool
        Draw from the classes held out rather than from the others.
    replacement : bool
        Draw classes with replacement, as the reference code of rule discovery does. A class
        drawn more than once gets different images each time if it has enough for all its
        draws, else the same images each time.
    fixed_images : bool
        Take the first ``shots + queries`` images of a class in stored order every time, as
        that reference code does, rather than random ones; their order is random still.

    Raises
    ------
    ConfigError
        If an argument makes no sense.
    DataError
        If the data cannot be had, or has too few classes or images for such tasks.
    """

    def __init__(
        self,
        data: str | ImageData = "digits",
        *,
        ways: int = 5,
        shots: int = 50,
        queries: int = 10,
        root: str | PathLike[str] | None = None,
        split: str | None = None,
        size: int | None = None,
        hold_out: HoldOut = 0,
        held_out: bool = False,
        replacement: bool = False,
        fixed_images: bool = False,
    ) -> None:
        super().__init__(
            episodes(
                data,
                {"root": root, "split": split, "size": size},
                ways=ways,
                shots=shots,
                queries=queries,
                hold_out=hold_out,
                held_out=held_out,
                replacement=replacement,
                fixed_images=fixed_images,
            )
        )

    @property
    def name(self) -> str:
        """Short name, as ``emnist-5way-50shot``."""
        return self._episodes.name

    @property
    def n_classes(self) -> int:
        """Classes of the whole data set, those held out included."""
        return self.data.n_classes

    @property
    def n_out(self) -> int:
        """Outputs that a network needs: one per class of the whole data set."""
        return self.data.n_classes

    def __repr__(self) -> str:
        return f"FewShot({self._episodes})"

    def describe(self) -> dict[str, object]:
        """Return what a manifest needs to tell these tasks from any other, as JSON values."""
        return {"family": "few-shot", **self._episodes.describe(), **self._choices()}

    @property
    def arguments(self) -> dict[str, object] | None:
        """Arguments that make these tasks again; None for images of one's own."""
        source = self._episodes.source
        return None if source is None else {**source, **self._choices()}

    def _choices(self) -> dict[str, object]:
        return {
            **self._episodes.choices,
            "replacement": self._episodes.replacement,
            "fixed_images": self._episodes.fixed_images,
        }

    def with_held_out(self) -> FewShot:
        """Return the same tasks on the classes held out.

        Raises
        ------
        ConfigError
            If no classes are held out.
        DataError
            If they are too few.
        """
        of = self._episodes
        return FewShot(
            of.data,
            ways=of.ways,
            shots=of.shots,
            queries=of.queries,
            hold_out=sorted(of.reserved),
            held_out=True,
            replacement=of.replacement,
            fixed_images=of.fixed_images,
        )

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        train, query = (rows.flatten() for rows in self._episodes.draw(generator))
        train = train[torch.randperm(self.steps, generator=generator)]
        return train, self.data.labels[train], query, self.data.labels[query]
