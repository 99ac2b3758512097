"""The official data sets: their files, addresses and licences, and how each is read."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rulesearch.errors import ConfigError
from rulesearch.tasks.base import ImageData
from rulesearch.tasks.files import Source
from rulesearch.tasks.idx import read_idx_pair
from rulesearch.tasks.image_folder import read_image_folder

__all__ = ["OFFICIAL", "ImageForm", "OfficialData", "image_data"]


@dataclass(frozen=True)
class ImageForm:
    """The form in which images are asked for; None leaves it to the data set.

    Attributes
    ----------
    size : int, optional
        Height and width, in pixels.
    colour : bool
        Red, green and blue rather than grey.
    invert : bool, optional
        Whether dark and bright change places.
    """

    size: int | None = None
    colour: bool = False
    invert: bool | None = None


_Read = Callable[["OfficialData", Sequence[Path], str, ImageForm], ImageData]


@dataclass(frozen=True)
class OfficialData:
    """What is known of a published data set; ``read`` turns its files into an `ImageData`."""

    name: str
    title: str
    size: str
    address: str
    licence: str
    splits: dict[str, tuple[Source, ...]]
    read: _Read
    classes: int
    class_names: tuple[str, ...] = ()
    transposed: bool = False
    flat: bool = True


def image_data(
    images: NDArray[np.generic],
    labels: NDArray[np.int64],
    class_names: tuple[str, ...],
    name: str,
    split: str,
) -> ImageData:
    """Return images (N, [channels,] height, width) and labels (N,) as an `ImageData`."""
    return ImageData(
        images=torch.from_numpy(images.reshape(len(images), -1).copy()),
        labels=torch.from_numpy(labels),
        n_classes=len(class_names),
        class_names=class_names,
        name=name,
        shape=images.shape[1:],
        split=split,
    )


def _read_digits(
    data_set: OfficialData, _: Sequence[Path], split: str, form: ImageForm
) -> ImageData:
    from sklearn.datasets import load_digits  # takes a second to import

    _refuse_form(data_set.name, form, 8)
    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32)
    labels = bunch.target.astype(np.int64)
    return image_data(images, labels, data_set.class_names, data_set.name, split)


def _read_idx(
    data_set: OfficialData, paths: Sequence[Path], split: str, form: ImageForm
) -> ImageData:
    _refuse_form(data_set.name, form, 28)
    images, labels = read_idx_pair(paths[0], paths[1], len(data_set.class_names))
    if data_set.transposed:
        images = images.transpose(0, 2, 1)
    return image_data(images, labels, data_set.class_names, data_set.name, split)


def _read_omniglot(
    data_set: OfficialData, paths: Sequence[Path], split: str, form: ImageForm
) -> ImageData:
    if form.colour:
        raise ConfigError(
            f"data set '{data_set.name}' is black and white; colour= is for image_folder"
        )
    # Black ink on white paper: inverted, so that ink is 1 as in the other data sets.
    folders = read_image_folder(
        paths[0],
        size=28 if form.size is None else form.size,
        invert=True if form.invert is None else form.invert,
    )
    return image_data(folders.images, folders.labels, folders.class_names, data_set.name, split)


def _refuse_form(name: str, form: ImageForm, native: int) -> None:
    if form.size not in (None, native):
        raise ConfigError(
            f"data set '{name}' has images of {native} x {native} pixels;"
            " size= is for omniglot and image_folder"
        ).about("size")
    if form.colour or form.invert is not None:
        raise ConfigError(
            f"data set '{name}' is bright on black; colour= is for image_folder, and invert="
            " for omniglot too"
        )


def _idx_sources(
    base: str, stem: str, md5: tuple[str, str], member: str = ""
) -> tuple[Source, Source]:
    files = (f"{stem}-images-idx3-ubyte.gz", f"{stem}-labels-idx1-ubyte.gz")
    images, labels = (
        Source(file, base if member else base + file, digest, member + file if member else "")
        for file, digest in zip(files, md5, strict=True)
    )
    return images, labels


_DIGITS = tuple(string.digits)
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_EMNIST = "https://biometrics.nist.gov/cs_links/EMNIST/gzip.zip"
_EMNIST_MD5 = ("58c8d27c78d21e728a6bc7b3cc06412e",) * 2
_OMNIGLOT = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"

OFFICIAL = {
    each.name: each
    for each in (
        OfficialData(
            name="digits",
            title="Handwritten digits, 8 x 8 (UCI, test part)",
            size="none",
            address="https://archive.ics.uci.edu/dataset/80",
            licence="CC BY 4.0",
            splits={"all": ()},
            read=_read_digits,
            classes=10,
            class_names=_DIGITS,
        ),
        OfficialData(
            name="emnist",
            title="EMNIST Balanced: handwritten digits and letters, 28 x 28",
            size="536 MB",
            address=_EMNIST,
            licence="none stated (NIST Special Database 19)",
            splits={
                part: _idx_sources(_EMNIST, f"emnist-balanced-{part}", _EMNIST_MD5, "gzip/")
                for part in ("train", "test")
            },
            read=_read_idx,
            classes=47,
            # Letters whose two cases look alike share a class, under the capital.
            class_names=tuple(string.digits + string.ascii_uppercase + "abdefghnqrt"),
            transposed=True,
        ),
        OfficialData(
            name="mnist",
            title="MNIST: handwritten digits, 28 x 28",
            size="12 MB",
            address=_MNIST,
            licence="CC BY-SA 3.0",
            splits={
                "train": _idx_sources(
                    _MNIST,
                    "train",
                    ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432"),
                ),
                "test": _idx_sources(
                    _MNIST,
                    "t10k",
                    ("9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"),
                ),
            },
            read=_read_idx,
            classes=10,
            class_names=_DIGITS,
        ),
        OfficialData(
            name="fashion_mnist",
            title="Fashion-MNIST: articles of clothing, 28 x 28",
            size="31 MB",
            address=_FASHION,
            licence="MIT",
            splits={
                "train": _idx_sources(
                    _FASHION,
                    "train",
                    ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe"),
                ),
                "test": _idx_sources(
                    _FASHION,
                    "t10k",
                    ("bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"),
                ),
            },
            read=_read_idx,
            classes=10,
            class_names=(
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
            flat=False,  # its files bear MNIST's names
        ),
        OfficialData(
            name="omniglot",
            title="Omniglot: characters of 50 alphabets, 20 drawings each",
            size="16 MB",
            address=_OMNIGLOT,
            licence="MIT",
            splits={
                part: (Source(f"images_{part}.zip", f"{_OMNIGLOT}images_{part}.zip", digest),)
                for part, digest in (
                    ("background", "68d2efa1b9178cc56df9314c21c6e718"),
                    ("evaluation", "6b91aef0f799c5bb55b94e3f2daec811"),
                )
            },
            read=_read_omniglot,
            classes=964,
        ),
    )
}
