"""Few-shot classification: every lifetime learns a few classes from a few images each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from rulesearch.errors import ConfigError, DataError, did_you_mean
from rulesearch.tasks.base import ImageData, TaskBatch
from rulesearch.tasks.registry import load

__all__ = ["FewShot"]


@final
class FewShot:
    """Tasks of `ways` classes with `shots` training images and `queries` test images a class.

    Training images come one a step, in random order over the classes. No query image is among
    the training images of its lifetime. Labels are the class indices of the data set, so the
    network keeps one output per class of the whole data set.

    Parameters
    ----------
    data : str or ImageData
        Name of a data set (see `rulesearch.tasks.data_sets`), or images of one's own.
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
        hold_out: int | str | Sequence[int | str] = 0,
        held_out: bool = False,
        replacement: bool = False,
        fixed_images: bool = False,
    ) -> None:
        for name, value in (("ways", ways), ("shots", shots), ("queries", queries)):
            if value < 1:
                raise ConfigError(f"few-shot tasks: {name} must be at least 1, not {value}")
        self._source: dict[str, object] | None = None
        if isinstance(data, str):
            place = None if root is None else str(Path(root).absolute())
            self._source = {"data": data, "root": place, "split": split, "size": size}
            data = load(data, root=root, split=split, size=size)
        elif root is not None or split is not None or size is not None:
            raise ConfigError("few-shot tasks: root, split and size need the name of a data set")
        self._data = data
        self._ways, self._shots, self._queries = ways, shots, queries
        self._held_out, self._replacement, self._fixed = held_out, replacement, fixed_images
        self._reserved = _indices(hold_out, data)
        if held_out and not self._reserved:
            raise ConfigError("few-shot tasks: held_out=True needs classes in hold_out")
        self._classes = [c for c in range(data.n_classes) if (c in self._reserved) == held_out]
        # Images sorted by class: those of class c are _order[_start[c] : _start[c] + _count[c]].
        self._order = torch.argsort(data.labels, stable=True)
        counts = torch.bincount(data.labels, minlength=data.n_classes)
        self._count: list[int] = counts.tolist()
        self._start: list[int] = (counts.cumsum(0) - counts).tolist()
        self._check()

    @property
    def data(self) -> ImageData:
        """The images that tasks are drawn from."""
        return self._data

    @property
    def name(self) -> str:
        """Short name, as ``emnist-5way-50shot``."""
        ending = "-held-out" if self._held_out else ""
        return f"{self._data.name}-{self._ways}way-{self._shots}shot{ending}"

    @property
    def n_in(self) -> int:
        """Pixels of an image."""
        return int(self._data.images.shape[1])

    @property
    def n_classes(self) -> int:
        """Classes of the whole data set, those held out included."""
        return self._data.n_classes

    @property
    def n_out(self) -> int:
        """Outputs that a network needs: one per class of the whole data set."""
        return self._data.n_classes

    @property
    def steps(self) -> int:
        """Training images in a lifetime."""
        return self._ways * self._shots

    @property
    def classes(self) -> tuple[int, ...]:
        """Indices of the classes that tasks are drawn from."""
        return tuple(self._classes)

    def __repr__(self) -> str:
        return (
            f"FewShot({self._data.name!r}, ways={self._ways}, shots={self._shots},"
            f" queries={self._queries}, classes={len(self._classes)} of {self.n_classes})"
        )

    def describe(self) -> dict[str, object]:
        """Return what a manifest needs to tell these tasks from any other, as JSON values."""
        return {
            "family": "few-shot",
            "data": self._data.name,
            "split": self._data.split,
            "images": len(self._data.labels),
            "shape": list(self._data.shape),
            "n_classes": self.n_classes,
            "fingerprint": self._data.fingerprint(),
            **self._choices(),
        }

    @property
    def arguments(self) -> dict[str, object] | None:
        """Arguments that make these tasks again; None for images of one's own."""
        return None if self._source is None else {**self._source, **self._choices()}

    def _choices(self) -> dict[str, object]:
        return {
            "ways": self._ways,
            "shots": self._shots,
            "queries": self._queries,
            "hold_out": sorted(self._reserved),
            "held_out": self._held_out,
            "replacement": self._replacement,
            "fixed_images": self._fixed,
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
        return FewShot(
            self._data,
            ways=self._ways,
            shots=self._shots,
            queries=self._queries,
            hold_out=sorted(self._reserved),
            held_out=True,
            replacement=self._replacement,
            fixed_images=self._fixed,
        )

    def sample(
        self, generators: Sequence[torch.Generator], dtype: torch.dtype = torch.float32
    ) -> TaskBatch:
        """Draw one lifetime per generator; lifetime i depends on generator i alone.

        Parameters
        ----------
        generators : sequence of torch.Generator
            One a lifetime, on the CPU.
        dtype : torch.dtype
            Of the images, whose values lie in [0, 1].

        Raises
        ------
        ConfigError
            If there is no generator.
        """
        if not generators:
            raise ConfigError("few-shot tasks: sample needs at least one generator")
        drawn = [self._draw(generator) for generator in generators]
        train = self._order[torch.stack([images for images, _ in drawn], dim=1)]
        query = self._order[torch.stack([images for _, images in drawn])]
        return TaskBatch(
            x=self._pixels(train, dtype),
            label=self._data.labels[train],
            x_query=self._pixels(query, dtype),
            label_query=self._data.labels[query],
        )

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return positions in _order of the training images (steps,) and queries."""
        available, each = len(self._classes), self._shots + self._queries
        if self._replacement:
            choice = torch.randint(available, (self._ways,), generator=generator)
        else:
            choice = torch.randperm(available, generator=generator)[: self._ways]
        images = []
        for position, draws in Counter(choice.tolist()).items():
            c = self._classes[position]
            count, start = self._count[c], self._start[c]
            if self._fixed:
                chosen = torch.arange(each)
            else:
                chosen = torch.randperm(count, generator=generator)
            apart = not self._fixed and draws * each <= count
            for draw in range(draws):
                first = draw * each if apart else 0
                images.append(start + chosen[first : first + each])
        table = torch.stack(images)
        train = table[:, : self._shots].reshape(-1)
        order = torch.randperm(len(train), generator=generator)
        return train[order], table[:, self._shots :].reshape(-1)

    def _pixels(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the images at `index`, (*index.shape, n_in), with values in [0, 1]."""
        rows = self._data.images.index_select(0, index.reshape(-1)).view(*index.shape, -1)
        # Converting and then dividing in place is twice as fast as a division that converts.
        return rows.to(dtype).div_(255) if rows.dtype == torch.uint8 else rows.to(dtype)

    def _check(self) -> None:
        which = "held-out classes" if self._held_out else "classes"
        if not self._classes or (self._ways > len(self._classes) and not self._replacement):
            raise DataError(
                f"data set '{self._data.name}': {self._ways}-way tasks need {self._ways} {which}"
                f" but there are {len(self._classes)} (of {self.n_classes}); use fewer ways or"
                f" {'hold out more' if self._held_out else 'hold out fewer'} classes"
            )
        need = self._shots + self._queries
        fewest = min(self._classes, key=lambda c: self._count[c])
        if self._count[fewest] < need:
            raise DataError(
                f"data set '{self._data.name}': class '{self._data.class_names[fewest]}' has"
                f" {self._count[fewest]} images but shots + queries = {need}; use fewer shots or"
                " queries, or more data"
            )


def _indices(hold_out: int | str | Sequence[int | str], data: ImageData) -> frozenset[int]:
    """Return the indices of the classes that `hold_out` means."""
    if isinstance(hold_out, int):
        if not 0 <= hold_out <= data.n_classes:
            raise ConfigError(
                f"hold_out: data set '{data.name}' has {data.n_classes} classes, not {hold_out}"
            )
        return frozenset(range(data.n_classes - hold_out, data.n_classes))
    if isinstance(hold_out, str):
        hold_out = (hold_out,)
    names = {name: index for index, name in enumerate(data.class_names)}
    chosen = set()
    for each in hold_out:
        index = names.get(each) if isinstance(each, str) else each
        if index is None or not 0 <= index < data.n_classes:
            hint = did_you_mean(each, names) if isinstance(each, str) else ""
            raise ConfigError(f"hold_out: data set '{data.name}' has no class {each!r}{hint}")
        chosen.add(index)
    return frozenset(chosen)
