"""Small data sets and their files, made in a test; and where the real ones are."""

from __future__ import annotations

import gzip
import os
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from draws import generators
from numpy.typing import NDArray
from PIL import Image

from rulesearch.tasks import ImageData

REAL = os.environ.get("RULESEARCH_DATA", "")


def real(name: str) -> pytest.MarkDecorator:
    """Skip where a data set is not at hand."""
    return pytest.mark.skipif(
        not (Path(REAL) / name).is_dir() or not REAL,
        reason=f"set RULESEARCH_DATA to a folder that holds {name}/",
    )


def idx(array: NDArray[Any]) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_pair(folder: Path, stem: str, images: NDArray[Any], labels: NDArray[Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (folder / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))


def write_emnist(folder: Path) -> None:
    """Forty-seven classes of noise in the place of EMNIST, which need not be at hand."""
    labels = np.repeat(np.arange(47), 60)
    images = np.random.default_rng(0).integers(0, 255, (len(labels), 28, 28))
    write_pair(folder / "emnist", "emnist-balanced-train", images, labels)


def write_characters(folder: Path) -> None:
    """Random images where Omniglot's would be, and mini-ImageNet's beside them."""
    draw = np.random.default_rng(0)
    classes = {
        "omniglot/images_background": 6, "omniglot/images_evaluation": 4,
        "mini/train": 5, "mini/test": 4,
    }  # fmt: skip
    for split, count in classes.items():
        for k in range(count):
            place = folder / split / f"{Path(split).name}{k}"
            place.mkdir(parents=True)
            for n in range(5):
                shape = (12, 12, 3) if "mini" in split else (12, 12)
                pixels = draw.integers(256, size=shape, dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{n}.png")


def picture(
    value: int | NDArray[Any], mode: str = "L", format: str = "PNG", size: int = 4
) -> bytes:
    array = np.full((size, size), value, np.uint8) if isinstance(value, int) else value
    buffer = BytesIO()
    Image.fromarray(array).convert(mode).save(buffer, format)
    return buffer.getvalue()


def numbered(counts: list[int]) -> ImageData:
    """Images of one float that tells each from every other, in an order mixed over classes."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generators(0)[0])]
    return ImageData(
        images=torch.arange(len(labels), dtype=torch.float32)[:, None],
        labels=labels,
        n_classes=len(counts),
        class_names=tuple(f"c{c}" for c in range(len(counts))),
        name="numbered",
        shape=(1, 1),
    )
