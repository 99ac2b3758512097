"""IDX files, the format of MNIST and its kin: a magic number, sizes, then bytes."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rulesearch.errors import DataError

__all__ = ["read_idx", "read_idx_pair"]

_GZIP_MAGIC = b"\x1f\x8b"
_UNSIGNED_BYTE = 0x08
_MOST_BYTES = 2**31
_REMEDY = "delete it and fetch or copy it again"


def read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Return the uint8 array of `ndim` dimensions in an IDX file, gzipped or plain.

    Raises
    ------
    DataError
        If the file is missing, corrupt, truncated, or not such an array.
    """
    try:
        with path.open("rb") as probe:
            zipped = probe.read(2) == _GZIP_MAGIC
        with gzip.open(path) if zipped else path.open("rb") as file:
            magic = file.read(4)
            sizes = file.read(4 * ndim)
            if magic != bytes((0, 0, _UNSIGNED_BYTE, ndim)) or len(sizes) < 4 * ndim:
                raise DataError(
                    f"{path}: not an IDX file of unsigned bytes in {ndim} dimensions"
                    f" (it begins with {magic.hex() or 'nothing'}); {_REMEDY}"
                )
            shape = tuple(int(size) for size in np.frombuffer(sizes, dtype=">u4"))
            expected = math.prod(shape)
            if expected > _MOST_BYTES:
                raise DataError(f"{path}: its header claims {expected} bytes; {_REMEDY}")
            # One byte more than expected: enough to see surplus, never all of a gzip bomb.
            content = file.read(expected + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: corrupt or truncated gzip file; {_REMEDY}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {_REMEDY}") from error
    if len(content) != expected:
        fault = "is truncated" if len(content) < expected else "is too long"
        raise DataError(f"{path}: {fault}: its header promises {expected} bytes; {_REMEDY}")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def read_idx_pair(
    images: Path, labels: Path, n_classes: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images (N, height, width) and labels (N,) of two IDX files that belong together.

    Raises
    ------
    DataError
        If either file is unsound, the counts differ, or a label is out of range.
    """
    pictures, classes = read_idx(images, 3), read_idx(labels, 1)
    if len(pictures) != len(classes):
        raise DataError(
            f"{images} holds {len(pictures)} images but {labels} holds {len(classes)} labels;"
            " put two files of the same split there"
        )
    if len(classes) and classes.max() >= n_classes:
        raise DataError(
            f"{labels}: label {classes.max()} is out of range 0 to {n_classes - 1};"
            " put the labels of this data set there"
        )
    return pictures, classes.astype(np.int64)
