"""What OML meta-trains on: one class is learnt, and none of the others is to be forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import final

import torch
from torch import Tensor

from rulesearch.arguments import whole
from rulesearch.tasks.base import ImageData
from rulesearch.tasks.episodes import HoldOut, episodes
from rulesearch.tasks.episodic import Episodic

__all__ = ["OMLTrajectories"]


@final
class OMLTrajectories(Episodic):
    """Tasks of the meta-training of OML (Javed and White 2019, Algorithm 1).

    A lifetime learns one class from `shots` of its images, one a step. Its queries are these
    images, and `remember` random ones of all classes. Labels are the class indices of the data
    set, so that the network keeps an output for each. A class that was learnt before has to be
    made new again: see `fresh_readout` of :class:`rulesearch.outer.MetaTraining`.

    Parameters
    ----------
    data : str or ImageData
        Name of a data set (see `rulesearch.tasks.data_sets`), or images of one's own.
    shots : int
        Images of the class that is learnt.
    remember : int
        Random images among the queries, of any class, the one that is learnt included.
    root, split, size, colour, invert, normalise
        As for `rulesearch.tasks.load`; only with the name of a data set.
    hold_out : int, str, or sequence of int or str
        Classes kept for evaluation, of which no image is drawn: the last so many, or those of
        these names or indices.

    Raises
    ------
    ConfigError
        If an argument makes no sense.
    DataError
        If the data cannot be had, or has too few classes or images for such tasks.
    """

    def __init__(
        self,
        data: str | ImageData = "omniglot",
        *,
        shots: int = 10,
        remember: int = 64,
        root: str | PathLike[str] | None = None,
        split: str | None = None,
        size: int | None = None,
        colour: bool = False,
        invert: bool | None = None,
        normalise: Sequence[Sequence[float]] | None = None,
        hold_out: HoldOut = 0,
    ) -> None:
        self._remember = whole("few-shot tasks: remember", remember, least=1)
        loading = {
            "root": root,
            "split": split,
            "size": size,
            "colour": colour,
            "invert": invert,
            "normalise": normalise,
        }
        super().__init__(
            episodes(
                data,
                loading,
                ways=1,
                shots=shots,
                queries=0,
                hold_out=hold_out,
                held_out=False,
                fewest_queries=0,
            )
        )

    @property
    def name(self) -> str:
        """Short name, as ``omniglot-oml-10shot``."""
        return f"{self.data.name}-oml-{self.steps}shot"

    @property
    def n_out(self) -> int:
        """Outputs that a network needs: one per class of the whole data set."""
        return self.data.n_classes

    def __repr__(self) -> str:
        return f"OMLTrajectories({self._episodes}, remember={self._remember})"

    def describe(self) -> dict[str, object]:
        """Return what a manifest needs to tell these tasks from any other, as JSON values."""
        about = self._episodes.describe()
        return {"family": "oml-trajectories", **about, "remember": self._remember}

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        (train,), _ = self._episodes.draw(generator)
        every, labels = self._episodes.rows, self.data.labels
        query = torch.cat(
            [train, every[torch.randint(len(every), (self._remember,), generator=generator)]]
        )
        return train, labels[train], query, labels[query]
