"""Few classes and a few images of each: what a lifetime of few-shot learning is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from rulesearch.arguments import check_kind, whole
from rulesearch.errors import ConfigError, DataError, did_you_mean
from rulesearch.tasks.base import ImageData
from rulesearch.tasks.registry import load

__all__ = ["Episodes", "HoldOut", "episodes"]

HoldOut = int | str | Sequence[int | str]

_USUAL = {"colour": False}  # what is not None in `loading` though nobody asked for it


@final
@dataclass(frozen=True, eq=False)
class Episodes:
    """Draws the classes of a lifetime, and different images of each to train and to query.

    Attributes
    ----------
    data : ImageData
        Where the images come from.
    ways, shots, queries : int
        Classes of an episode, and training and query images of each.
    reserved : frozenset of int
        Classes held out.
    held_out, replacement, fixed_images : bool
        As for `FewShot`.
    source : dict, optional
        Arguments that load the data again; None for images of the user's own.

    Raises
    ------
    ConfigError
        If no classes are held out that could be drawn.
    DataError
        If the data has too few classes, or images of a class.
    """

    data: ImageData
    ways: int
    shots: int
    queries: int
    reserved: frozenset[int]
    held_out: bool
    replacement: bool
    fixed_images: bool
    source: dict[str, Any] | None

    def __post_init__(self) -> None:
        if self.held_out and not self.reserved:
            raise ConfigError("few-shot tasks: held_out=True needs classes in hold_out").about(
                "held_out"
            )
        which = "held-out classes" if self.held_out else "classes"
        if not self.classes or (self.ways > len(self.classes) and not self.replacement):
            raise DataError(
                f"data set '{self.data.name}': {self.ways}-way tasks need {self.ways} {which}"
                f" but there are {len(self.classes)} (of {self.data.n_classes}); use fewer ways or"
                f" {'hold out more' if self.held_out else 'hold out fewer'} classes"
            ).about("ways")
        need = self.shots + self.queries
        fewest = min(self.classes, key=lambda c: len(self._rows[c]))
        if len(self._rows[fewest]) < need:
            raise DataError(
                f"data set '{self.data.name}': class '{self.data.class_names[fewest]}' has"
                f" {len(self._rows[fewest])} images but shots + queries = {need}; use fewer shots"
                " or queries, or more data"
            ).about("shots")

    @cached_property
    def classes(self) -> tuple[int, ...]:
        """Indices of the classes that episodes are drawn from."""
        every = range(self.data.n_classes)
        return tuple(c for c in every if (c in self.reserved) == self.held_out)

    @property
    def name(self) -> str:
        """Short name, as ``emnist-5way-50shot``."""
        ending = "-held-out" if self.held_out else ""
        return f"{self.data.name}-{self.ways}way-{self.shots}shot{ending}"

    @property
    def steps(self) -> int:
        """Training images of an episode."""
        return self.ways * self.shots

    def __str__(self) -> str:
        return (
            f"{self.data.name!r}, ways={self.ways}, shots={self.shots}, queries={self.queries},"
            f" classes={len(self.classes)} of {self.data.n_classes}"
        )

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw an episode.

        Parameters
        ----------
        generator : torch.Generator
            On the CPU.

        Returns
        -------
        train : Tensor of int64, (ways, shots)
            Rows of the data, those of a class together; classes in random order.
        query : Tensor of int64, (ways, queries)
            Rows of the same classes, none of them among those that train.
        """
        available, each = len(self.classes), self.shots + self.queries
        if self.replacement:
            choice = torch.randint(available, (self.ways,), generator=generator)
        else:
            choice = torch.randperm(available, generator=generator)[: self.ways]
        images = []
        for position, draws in Counter(choice.tolist()).items():
            rows = self._rows[self.classes[position]]
            if not self.fixed_images:
                rows = rows[torch.randperm(len(rows), generator=generator)]
            apart = not self.fixed_images and draws * each <= len(rows)
            for draw in range(draws):
                first = draw * each if apart else 0
                images.append(rows[first : first + each])
        table = torch.stack(images)
        return table[:, : self.shots], table[:, self.shots :]

    def describe(self) -> dict[str, object]:
        """Return what a manifest needs to know of the data and of the episodes."""
        return {
            "data": self.data.name,
            "split": self.data.split,
            "images": len(self.data.labels),
            "shape": list(self.data.shape),
            "n_classes": self.data.n_classes,
            "fingerprint": self.data.fingerprint(),
            **self.choices,
        }

    @property
    def choices(self) -> dict[str, object]:
        """What was chosen of the episodes, as JSON values."""
        return {
            "ways": self.ways,
            "shots": self.shots,
            "queries": self.queries,
            "hold_out": sorted(self.reserved),
            "held_out": self.held_out,
        }

    @cached_property
    def rows(self) -> Tensor:
        """Rows of the data of all classes that episodes are drawn from."""
        return torch.cat([self._rows[c] for c in self.classes])

    @cached_property
    def _rows(self) -> tuple[Tensor, ...]:
        """Rows of the data of every class, in stored order."""
        order = torch.argsort(self.data.labels, stable=True)
        counts = torch.bincount(self.data.labels, minlength=self.data.n_classes)
        rows: tuple[Tensor, ...] = order.split(counts.tolist())
        return rows


def episodes(
    data: str | ImageData,
    loading: dict[str, Any],
    *,
    ways: int,
    shots: int,
    queries: int,
    hold_out: HoldOut,
    held_out: bool,
    replacement: bool = False,
    fixed_images: bool = False,
    fewest_queries: int = 1,
) -> Episodes:
    """Return episodes of a data set by name, or of images of one's own.

    Parameters
    ----------
    data : str or ImageData
        A data set's name, or images.
    loading : dict
        Arguments of `rulesearch.tasks.load`, `root` among them; with images, their defaults.
    ways, shots, queries, hold_out, held_out, replacement, fixed_images
        As for `FewShot`.
    fewest_queries : int
        0 where images that are learnt are asked about.

    Raises
    ------
    ConfigError
        If an argument makes no sense.
    DataError
        If the data cannot be had, or has too few classes or images.
    """
    ways = _whole("ways", ways, 1)
    shots = _whole("shots", shots, 1)
    queries = _whole("queries", queries, fewest_queries)
    for name, flag in (
        ("held_out", held_out),
        ("replacement", replacement),
        ("fixed_images", fixed_images),
    ):
        check_kind(f"few-shot tasks: {name}", flag, bool, "True or False")
    source: dict[str, Any] | None = None
    if isinstance(data, str):
        name, root = data, loading["root"]
        data = load(name, **loading)
        place = None if root is None else str(Path(root).absolute())
        source = {"data": name, **loading, "root": place}
    wanted = "the name of a data set, or ImageData, as of ImageData.from_arrays(x, y)"
    check_kind("data", data, ImageData, wanted)
    if source is None and any(value != _USUAL.get(name) for name, value in loading.items()):
        *others, last = loading
        raise ConfigError(
            f"few-shot tasks: {', '.join(others)} and {last} need the name of a data set"
        )
    reserved = _indices(hold_out, data)
    return Episodes(
        data, ways, shots, queries, reserved, held_out, replacement, fixed_images, source
    )


def _whole(argument: str, value: object, least: int) -> int:
    """Return a whole number; True and False are none."""
    name = f"few-shot tasks: {argument}"
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        value = value.tolist()
    try:
        if isinstance(value, bool):
            raise ConfigError(f"{name} is {value}; give a whole number")
        return whole(name, value, least)  # type: ignore[arg-type]  # it refuses what is none
    except ConfigError as error:
        raise error.about(argument) from None


def _indices(hold_out: HoldOut, data: ImageData) -> frozenset[int]:
    """Return the indices of the classes that `hold_out` means."""
    given: object = hold_out
    if isinstance(given, (Tensor, np.ndarray, np.generic)):
        given = given.tolist()
    if isinstance(given, int):
        count = _whole("hold_out", given, 0)
        if count > data.n_classes:
            raise ConfigError(
                f"hold_out: data set '{data.name}' has {data.n_classes} classes, not {count}"
            ).about("hold_out")
        return frozenset(range(data.n_classes - count, data.n_classes))
    if isinstance(given, str):
        given = (given,)
    check_kind("hold_out", given, Iterable, "how many classes, or which, as [7, 8, 9]")
    assert isinstance(given, Iterable)
    names = {name: index for index, name in enumerate(data.class_names)}
    chosen = set()
    for each in given:
        index = names.get(each) if isinstance(each, str) else _whole("hold_out", each, 0)
        if index is None or index >= data.n_classes:
            hint = did_you_mean(each, names) if isinstance(each, str) else ""
            raise ConfigError(
                f"hold_out: data set '{data.name}' has no class {each!r}{hint}"
            ).about("hold_out")
        chosen.add(index)
    return frozenset(chosen)
