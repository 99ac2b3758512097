"""Where the files of a data set are: given, at hand, in the cache, or at their address."""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rulesearch.errors import DataError
from rulesearch.paths import cache_dir

__all__ = ["Source", "data_folder", "download", "find"]


@dataclass(frozen=True)
class Source:
    """One file of a data set and where it comes from.

    Attributes
    ----------
    file : str
        Official name of the file.
    address : str
        Where it, or the zip archive that holds it, is published.
    md5 : str
        Published checksum of what stands at the address.
    member : str
        Path of the file in that archive; empty where the address is the file itself.
    """

    file: str
    address: str
    md5: str
    member: str = ""


def data_folder() -> Path | None:
    """Return the folder that ``RULESEARCH_DATA`` names, if it is set.

    Raises
    ------
    DataError
        If there is no such folder.
    """
    value = os.environ.get("RULESEARCH_DATA", "")
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise DataError(f"RULESEARCH_DATA: '{value}' is not a folder; correct or unset it")
    return folder


def find(
    name: str, splits: dict[str, tuple[Source, ...]], root: Path | None, *, flat: bool = True
) -> tuple[str, list[Path]] | None:
    """Return the first split whose files lie together at hand, and the files; else None.

    `root` is looked through before ``RULESEARCH_DATA`` and the cache. In each, a file may lie
    in a folder of the data set's name or directly there, as published or unpacked.

    Parameters
    ----------
    name : str
        Name of the data set.
    splits : dict of str to tuple of Source
        The splits that would do, the preferred one first.
    root : Path, optional
        The user's folder.
    flat : bool
        Whether files directly in ``RULESEARCH_DATA`` may be meant; they may not where two data
        sets give their files the same names.

    Raises
    ------
    DataError
        If `root` or ``RULESEARCH_DATA`` is not a folder.
    """
    for split, sources in splits.items():
        if not sources:
            return split, []
    if root is not None and not root.is_dir():
        raise DataError(f"data set '{name}': root '{root}' is not a folder")
    for folder in _folders(name, root, flat):
        for split, sources in splits.items():
            paths = [_at_hand(folder, source) for source in sources]
            found = [path for path in paths if path is not None]
            if len(found) == len(paths):
                return split, found
    return None


def download(name: str, sources: Sequence[Source]) -> list[Path]:
    """Download files into the cache, check them, and return where they are.

    Raises
    ------
    DataError
        If a file cannot be had; the message says what to put where.
    """
    import pooch

    folder = cache_dir() / name
    paths = []
    for source in sources:
        fetched = source.address.rsplit("/", 1)[1]
        store = pooch.create(
            path=folder,
            base_url="",
            registry={fetched: f"md5:{source.md5}"},
            urls={fetched: source.address},
            retry_if_failed=2,
        )
        unzip = pooch.Unzip(members=[source.member], extract_dir=".") if source.member else None
        try:
            with _without_retries(pooch.get_logger()):
                store.fetch(fetched, processor=unzip)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            files = " and ".join(dict.fromkeys(source.file for source in sources))
            addresses = " and ".join(dict.fromkeys(source.address for source in sources))
            raise DataError(
                f"data set '{name}' is not at hand and its download failed ({_why(error)}):"
                f" put {files} from {addresses} into {name}/ in the folder that RULESEARCH_DATA"
                f" names, or into {folder}"
            ) from error
        paths.append(folder / (source.member or source.file))
    return paths


@contextmanager
def _without_retries(logger: logging.Logger) -> Iterator[None]:
    """Let a logger say what is downloaded but not each failed attempt: one error says it all."""

    def wanted(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Failed to download")

    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)


def _folders(name: str, root: Path | None, flat: bool) -> Iterator[Path]:
    if root is not None:
        yield root / name
        yield root
    if (data := data_folder()) is not None:
        yield data / name
        if flat:
            yield data
    yield cache_dir() / name


def _at_hand(folder: Path, source: Source) -> Path | None:
    """Return the file as published, as unpacked (no .gz or .zip), or as it lay in its archive."""
    for file in (source.file, Path(source.file).stem, source.member):
        if file and (folder / file).exists():
            return folder / file
    return None


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return "what came does not match its checksum"
