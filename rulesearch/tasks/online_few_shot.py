"""Few-shot classification one image a step: the classes are new, and so are their labels."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Literal, final

import torch
from torch import Tensor

from rulesearch.arguments import check_choice, whole
from rulesearch.errors import ConfigError
from rulesearch.tasks.base import ImageData
from rulesearch.tasks.episodes import HoldOut, episodes
from rulesearch.tasks.episodic import Episodic

__all__ = ["OnlineFewShot"]

_ORDERS = ("continual", "iid")


@final
class OnlineFewShot(Episodic):
    """Tasks of `ways` classes with `shots` images each, labelled from 0 on.

    Each lifetime gives its classes these labels at random, so that nothing can be known of a
    class before its first image comes: tasks of Lindsey and Litwin-Kumar (2020), section 5.
    No query image is among the training images of its lifetime; queries come class by class, in
    the order of the classes of a continual lifetime. In their form, Omniglot has
    ``size=84`` and dark strokes, ``invert=False``, and a network 1000 outputs.

    Parameters
    ----------
    data : str or ImageData
        Name of a data set (see `rulesearch.tasks.data_sets`), or images of one's own.
    ways : int
        Classes in a task.
    shots, queries : int
        Training and query images of each class.
    order : {"continual", "iid"}
        One class after another, in random order; or all images in random order.
    outputs : int, optional
        Outputs that a network needs: `ways`, or more, the others then never being right.
    root, split, size, colour, invert, normalise
        As for `rulesearch.tasks.load`; only with the name of a data set.
    hold_out : int, str, or sequence of int or str
        Classes kept for evaluation: the last so many, or those of these names or indices.
    held_out : bool
        Draw from the classes held out rather than from the others.

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
        ways: int = 5,
        shots: int = 5,
        queries: int = 5,
        order: Literal["continual", "iid"] = "continual",
        outputs: int | None = None,
        root: str | PathLike[str] | None = None,
        split: str | None = None,
        size: int | None = None,
        colour: bool = False,
        invert: bool | None = None,
        normalise: Sequence[Sequence[float]] | None = None,
        hold_out: HoldOut = 0,
        held_out: bool = False,
    ) -> None:
        check_choice("few-shot tasks: order", order, _ORDERS)
        super().__init__(
            episodes(
                data,
                {
                    "root": root,
                    "split": split,
                    "size": size,
                    "colour": colour,
                    "invert": invert,
                    "normalise": normalise,
                },
                ways=ways,
                shots=shots,
                queries=queries,
                hold_out=hold_out,
                held_out=held_out,
            )
        )
        if outputs is not None:
            outputs = whole("few-shot tasks: outputs", outputs, 1)
            if outputs < (ways := self._episodes.ways):
                raise ConfigError(f"few-shot tasks: {ways} ways need {ways} outputs, not {outputs}")
        self._order, self._outputs = order, outputs

    @property
    def name(self) -> str:
        """Short name, as ``omniglot-5way-5shot-continual``."""
        return f"{self._episodes.name}-{self._order}"

    @property
    def n_out(self) -> int:
        """Outputs that a network needs."""
        return self._episodes.ways if self._outputs is None else self._outputs

    def __repr__(self) -> str:
        return f"OnlineFewShot({self._episodes}, order={self._order!r})"

    def describe(self) -> dict[str, object]:
        """Return what a manifest needs to tell these tasks from any other, as JSON values."""
        return {"family": "online-few-shot", **self._episodes.describe(), **self._choices()}

    @property
    def arguments(self) -> dict[str, object] | None:
        """Arguments that make these tasks again; None for images of one's own."""
        source, normalisation = self._episodes.source, self.data.normalisation
        if source is None:
            return None
        normalise = normalisation and [list(part) for part in normalisation]
        return {**source, "normalise": normalise, **self._choices()}

    def _choices(self) -> dict[str, object]:
        return {**self._episodes.choices, "order": self._order, "outputs": self._outputs}

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        train, query = self._episodes.draw(generator)
        slot = torch.randperm(self._episodes.ways, generator=generator)[:, None]
        label, label_query = slot.expand_as(train).flatten(), slot.expand_as(query).flatten()
        train, query = train.flatten(), query.flatten()
        if self._order == "iid":
            order = torch.randperm(self.steps, generator=generator)
            train, label = train[order], label[order]
        return train, label, query, label_query
