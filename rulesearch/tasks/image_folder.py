"""Images sorted into class folders, on disk or in a zip, as images of one size."""

from __future__ import annotations

import os
import posixpath
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from rulesearch.errors import ConfigError, DataError

__all__ = ["ClassFolders", "class_names", "read_image_folder"]

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_SUFFIXES = frozenset((
    ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif",
    ".tiff", ".webp",
))  # fmt: skip
_EIGHT_BIT = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "La", "RGBa"))
_SPLITS = frozenset((
    "dev", "eval", "evaluation", "test", "testing", "train", "training", "val", "valid",
    "validation",
))  # fmt: skip
_MOST_BYTES = 50 * 2**20


@dataclass(frozen=True, eq=False)
class ClassFolders:
    """Images (N, [3,] size, size) uint8, labels (N,) int64, and the class names in order."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]


def read_image_folder(
    root: Path,
    *,
    size: int = 28,
    cap: int | None = None,
    colour: bool = False,
    invert: bool = False,
) -> ClassFolders:
    """Read every class folder below `root`, a folder or a zip of folders.

    A class is a folder that itself holds images, at any depth; its name is its path below
    the folders common to all classes. Classes and images come in the order of their paths.
    Links to folders are followed, and what is hidden (``.git``, ``__MACOSX``) is left alone.
    Transparent pixels become white, and images `size` x `size` by area averaging.

    Parameters
    ----------
    root : Path
        Folder or zip file.
    size : int
        Height and width of the result, in pixels.
    cap : int, optional
        Most images a class; the first in path order are kept.
    colour : bool
        Red, green and blue, the channel before height and width, rather than grey.
    invert : bool
        Whether dark ink is to become bright.

    Raises
    ------
    ConfigError
        If `size` or `cap` is not positive.
    DataError
        If `root` or an image cannot be read, no class folder is found, a folder beside them holds
        none but files that are no images, or splits would be mixed.
    """
    if size < 1 or (cap is not None and cap < 1):
        raise ConfigError(f"image folder: size and cap must be positive, not {size} and {cap}")
    with _open(root) as (paths, read):
        classes = _classes(root, paths)
        members = [
            (path, label) for label, folder in enumerate(classes.values()) for path in folder[:cap]
        ]
        shape = (3, size, size) if colour else (size, size)
        images = np.empty((len(members), *shape), dtype=np.uint8)
        with warnings.catch_warnings():
            # An image of more pixels than Pillow's limit is refused, not only warned about.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            for row, (path, _) in zip(images, members, strict=True):
                row[:] = _decode(read(path), size, colour, f"{root}: {path}")
    if invert:
        np.subtract(255, images, out=images)
    labels = np.array([label for _, label in members], dtype=np.int64)
    return ClassFolders(images, labels, tuple(classes))


def class_names(root: Path) -> tuple[str, ...]:
    """Names of the class folders below `root`, as :func:`read_image_folder` finds them.

    Raises
    ------
    DataError
        If `root` cannot be read, or no class folder is found.
    """
    with _open(root) as (paths, _):
        return tuple(_classes(root, paths))


def _classes(root: Path, paths: list[PurePosixPath]) -> dict[str, list[PurePosixPath]]:
    """Return the sorted images of every class by the name of the class."""
    folders: dict[PurePosixPath, list[PurePosixPath]] = {}
    others: dict[PurePosixPath, PurePosixPath] = {}
    for path in sorted(paths, key=lambda path: path.parts):
        if len(path.parts) == 1 or any(map(_hidden, path.parts)):
            continue
        if path.suffix.lower() in _SUFFIXES:
            folders.setdefault(path.parent, []).append(path)
        else:
            others.setdefault(path.parent, path)
    if not folders:
        raise DataError(f"{root}: holds no images in class folders (CLASS/IMAGE.png)")
    _check_others(root, folders, others)
    common = posixpath.commonpath([folder.parent for folder in folders])
    names = {folder: folder.relative_to(common) for folder in folders}
    _check_splits(root, common, names.values())
    return {str(names[folder]): members for folder, members in folders.items()}


def _hidden(part: str) -> bool:
    return part.startswith((".", "__MACOSX"))


def _check_others(
    root: Path, classes: Collection[PurePosixPath], others: Mapping[PurePosixPath, PurePosixPath]
) -> None:
    """Refuse a folder beside those of classes, a file of which is given, that holds no image."""
    beside = {folder.parent for folder in classes}
    known = {above for folder in classes for above in (folder, *folder.parents)}
    for folder, file in others.items():
        if folder.parent in beside and folder not in known:
            raise DataError(
                f"{root}: {folder} is beside class folders and holds no image of a known suffix,"
                f" but {file.name}; give its images one of {', '.join(sorted(_SUFFIXES))}, or"
                " move it elsewhere"
            )


def _check_splits(root: Path, common: str, names: Iterable[PurePosixPath]) -> None:
    """Refuse what holds nothing but splits, or a split beside another part of its classes."""
    parts: dict[str, set[tuple[str, ...]]] = {}
    for name in names:
        below = parts.setdefault(name.parts[0], set())
        if name.parts[1:]:
            below.add(name.parts[1:])
    splits = {top for top in parts if top.lower().removeprefix("images_") in _SPLITS}
    shared = {
        part
        for split in splits
        for top in parts
        if top != split and parts[split] & parts[top]
        for part in (split, top)
    }
    mixed = sorted(parts if splits == set(parts) else shared)
    if len(mixed) > 1:
        remedy = "choose" if root.is_dir() else "unpack it and choose"
        raise DataError(
            f"{root / common}: holds the splits {', '.join(mixed)}; {remedy} with split="
        )


@contextmanager
def _open(
    root: Path,
) -> Iterator[tuple[list[PurePosixPath], Callable[[PurePosixPath], bytes]]]:
    """Yield the paths of all files below `root` and a function that reads one of them."""
    if root.is_dir():
        paths = list(_files(root))

        def read(path: PurePosixPath) -> bytes:
            file = root / path
            _check_bytes(f"{root}: {path}", file.stat().st_size)
            return file.read_bytes()

        yield paths, _guarded(root, read)
        return
    try:
        archive = zipfile.ZipFile(root)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{root}: neither a folder nor a sound zip file; check the path or fetch it again"
        ) from error
    with archive:
        infos = {
            PurePosixPath(info.filename.lstrip("/")): info
            for info in archive.infolist()
            if not info.is_dir()
        }

        def read_member(path: PurePosixPath) -> bytes:
            _check_bytes(f"{root}: {path}", infos[path].file_size)
            return archive.read(infos[path])  # reads no further than the size it declares

        yield list(infos), _guarded(root, read_member)


def _files(root: Path) -> Iterator[PurePosixPath]:
    """Yield the paths of all files below a folder, of those too that links lead to."""
    seen = {os.path.realpath(root): "."}
    for place, folders, files in os.walk(root, followlinks=True):
        here = PurePosixPath(Path(place).relative_to(root).as_posix())
        for path in (here / file for file in files if not _hidden(file)):
            if path.suffix.lower() not in _SUFFIXES and not (root / path).exists():
                raise DataError(f"{root}: {path} is a link to nothing; mend or remove it")
            yield path
        below = [name for name in sorted(folders) if not _hidden(name)]
        folders.clear()  # and those to go into come back
        for name in below:
            real, path = os.path.realpath(os.path.join(place, name)), here / name
            first = seen.setdefault(real, str(path))
            if first == str(path):
                folders.append(name)
            elif not path.is_relative_to(first):  # else a link back to where it is
                raise DataError(f"{root}: {path} and {first} are one folder; remove the link")


def _guarded(
    root: Path, read: Callable[[PurePosixPath], bytes]
) -> Callable[[PurePosixPath], bytes]:
    def guarded(path: PurePosixPath) -> bytes:
        try:
            return read(path)
        except DataError:
            raise
        except Exception as error:  # zip's decompressors raise errors without a common root
            raise DataError(
                f"{root}: {path}: cannot be read ({_line(error)}); remove or replace it"
            ) from error

    return guarded


def _check_bytes(place: str, n_bytes: int) -> None:
    if n_bytes > _MOST_BYTES:
        raise DataError(
            f"{place}: {n_bytes / 2**20:.0f} MB uncompressed, more than"
            f" {_MOST_BYTES // 2**20} MB; remove it or make it smaller"
        )


def _decode(content: bytes, size: int, colour: bool, place: str) -> NDArray[np.uint8]:
    """Return the image ([3,] size, size) in the bytes of an image file."""
    try:
        with Image.open(BytesIO(content), formats=_FORMATS) as image:
            mode = image.mode
            if mode in _EIGHT_BIT:
                opaque = _on_paper(image).convert("RGB" if colour else "L")
                resized = opaque.resize((size, size), Image.Resampling.BOX)
                pixels = np.asarray(resized, dtype=np.uint8)
                return pixels.transpose(2, 0, 1) if colour else pixels
    except UnidentifiedImageError:
        kinds = f"{', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}"
        raise DataError(f"{place}: not a sound image of {kinds}; remove or replace it") from None
    except Exception as error:  # Pillow's decoders raise errors without a common root
        raise DataError(
            f"{place}: not a sound image ({_line(error)}); remove or replace it"
        ) from error
    raise DataError(f"{place}: pixels of mode {mode}; save it with 8 bits a channel")


def _on_paper(image: Image.Image) -> Image.Image:
    """Return the image as it looks on white."""
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image
    film = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", film.size, "white"), film)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:100]
