"""The data sets by name: looked up, loaded, fetched, listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

from rulesearch.arguments import check_kind, check_path
from rulesearch.errors import ConfigError, DataError, did_you_mean
from rulesearch.tasks.base import ImageData, Normalisation
from rulesearch.tasks.files import data_folder, download, find
from rulesearch.tasks.image_folder import read_image_folder
from rulesearch.tasks.official import OFFICIAL, ImageForm, OfficialData, image_data

__all__ = ["DataSetInfo", "class_folders", "data_sets", "fetch", "load"]


@dataclass(frozen=True)
class DataSetInfo:
    """A data set as ``rulesearch data list`` shows it.

    Attributes
    ----------
    name, title : str
        The name to ask for it by, and what it is.
    classes : int, optional
        Number of classes of the default split; unknown for the user's own folders.
    size : str
        Size of the download.
    address : str
        Where it is published.
    found : str, optional
        Where its files are at hand, or None.
    licence : str
        Its licence, as its publishers state it.
    splits : tuple of str
        Its splits, the default one first.
    """

    name: str
    title: str
    classes: int | None
    size: str
    address: str
    found: str | None
    licence: str
    splits: tuple[str, ...]


def load(
    name: str,
    *,
    root: str | PathLike[str] | None = None,
    split: str | None = None,
    size: int | None = None,
    colour: bool = False,
    invert: bool | None = None,
    normalise: Sequence[Sequence[float]] | None = None,
) -> ImageData:
    """Load a data set, looking in `root`, ``RULESEARCH_DATA`` and the cache before downloading.

    Parameters
    ----------
    name : str
        One of the names that `data_sets` lists.
    root : path, optional
        Folder that holds the files; for ``image_folder`` the folder or zip of class folders.
    split : str, optional
        Which part; by default the first that is at hand, else the data set's first. For
        ``image_folder`` a folder or zip of that name in `root`.
    size : int, optional
        Height and width in pixels that Omniglot and image folders are brought to (28).
    colour : bool
        Read an image folder as red, green and blue rather than grey.
    invert : bool, optional
        Whether dark and bright change places: by default they do in Omniglot, whose ink is
        black, and do not in image folders.
    normalise : pair of sequence of float, optional
        Mean and standard deviation of each channel, as `rulesearch.tasks.IMAGENET`: examples
        have values ``(x - mean) / std`` of those in [0, 1].

    Raises
    ------
    ConfigError
        If the name or split is not one there is, or the images do not come in that form.
    DataError
        If files are missing and cannot be downloaded, or are corrupt.
    """
    check_kind("the name of a data set", name, str, "a text, as 'digits'")
    if root is not None:
        check_path("root", root)
    if split is not None:
        check_kind("split", split, str, "the name of a part, as 'train'")
    form = ImageForm(size, colour, invert)
    if name == "image_folder":
        data = _load_folder(root, split, form)
    else:
        data = _load_official(_named(name), root, split, form)
    if normalise is None:
        return data
    return replace(data, normalisation=_normalisation(normalise))


def fetch(name: str) -> list[Path]:
    """Return the files of every split of a data set, downloading those not at hand.

    Raises
    ------
    ConfigError
        If there is no such data set.
    DataError
        If a download fails.
    """
    if name == "image_folder":
        raise ConfigError("data set 'image_folder' is your own: name it with root=")
    data_set = _named(name)
    paths: list[Path] = []
    for split, sources in data_set.splits.items():
        found = find(name, {split: sources}, None, flat=data_set.flat)
        paths += download(name, sources) if found is None else found[1]
    return paths


def data_sets() -> list[DataSetInfo]:
    """Return what is known of every data set, and where each is at hand.

    Raises
    ------
    DataError
        If ``RULESEARCH_DATA`` is not a folder.
    """
    infos = [
        DataSetInfo(
            name=each.name,
            title=each.title,
            classes=each.classes,
            size=each.size,
            address=each.address,
            found=_whereabouts(each),
            licence=each.licence,
            splits=tuple(each.splits),
        )
        for each in OFFICIAL.values()
    ]
    own = "Any folder or zip of class folders (root=)"
    return [*infos, DataSetInfo("image_folder", own, None, "-", "-", None, "yours", ())]


def _normalisation(values: Sequence[Sequence[float]]) -> Normalisation:
    try:
        mean, std = (tuple(float(value) for value in part) for part in values)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            "normalise: a pair is asked for, the means of the channels and their standard"
            f" deviations, as ((0.5,), (0.5,)), not {values!r}"
        ) from error
    return Normalisation(mean, std)


def _named(name: str) -> OfficialData:
    if name not in OFFICIAL:
        names = (*OFFICIAL, "image_folder")
        hint = did_you_mean(name, names) or f"; there are {', '.join(names)}"
        raise ConfigError(f"unknown data set '{name}'{hint}").about("data")
    return OFFICIAL[name]


def _whereabouts(data_set: OfficialData) -> str | None:
    found = find(data_set.name, data_set.splits, None, flat=data_set.flat)
    if found is None:
        return None
    return str(found[1][0].parent) if found[1] else "bundled with scikit-learn"


def _load_official(
    data_set: OfficialData, root: str | PathLike[str] | None, split: str | None, form: ImageForm
) -> ImageData:
    name, splits = data_set.name, data_set.splits
    if split is not None:
        if split not in splits:
            raise ConfigError(
                f"data set '{name}' has the splits {', '.join(splits)}, not '{split}'"
                f"{did_you_mean(split, splits)}"
            ).about("split")
        splits = {split: splits[split]}
    if root is not None and not any(splits.values()):
        raise ConfigError(
            f"data set '{name}' comes with scikit-learn and has no files in '{root}'; leave out "
            "root="
        ).about("root")
    folder = None if root is None else Path(root).expanduser()
    found = find(name, splits, folder, flat=data_set.flat)
    if found is None:
        chosen = next(iter(splits))
        found = chosen, download(name, splits[chosen])
    return data_set.read(data_set, found[1], found[0], form)


def class_folders(root: str | PathLike[str], split: str | None = None) -> Path:
    """Return the folder or zip of the class folders of ``image_folder``, or of a split of it.

    Raises
    ------
    DataError
        If it is neither there nor in the folder ``RULESEARCH_DATA``.
    """
    path = Path(root).expanduser()
    if not path.exists() and (data := data_folder()) is not None:
        path = data / path
    if split is not None:
        parts = [path / split, path / f"{split}.zip"]
        path = next((part for part in parts if part.exists()), parts[0])
    if not path.exists():
        raise DataError(
            f"data set 'image_folder': there is no '{path}'; name a folder or zip of class "
            "folders, by its path or by its place in the folder RULESEARCH_DATA"
        ).about("root")
    return path


def _load_folder(root: str | PathLike[str] | None, split: str | None, form: ImageForm) -> ImageData:
    if root is None:
        raise ConfigError(
            "data set 'image_folder' needs root=, a folder or zip of class folders"
        ).about("data")
    folders = read_image_folder(
        class_folders(root, split),
        size=28 if form.size is None else form.size,
        colour=form.colour,
        invert=form.invert is True,
    )
    return image_data(
        folders.images, folders.labels, folders.class_names, "image_folder", split or "all"
    )
