"""YAML text to plain data, with the place of every key and value.

Only what a grammar needs of YAML 1.2 is read: mappings, lists and scalars. Aliases, anchors,
tags, directives, several documents and equal keys are refused where they stand, and size and
depth are bounded, so that no file can grow in memory. Nothing is constructed but ``dict``,
``list``, ``str``, ``int``, ``float``, ``bool`` and ``None``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    StreamEndEvent,
    StreamStartEvent,
)

from rulesearch.errors import GrammarError, Place
from rulesearch.grammar.parser import TextPlace

__all__ = ["Document", "Path", "read_document"]

MAX_BYTES = 128 * 1024
MAX_DEPTH = 20

Path = tuple[str | int, ...]
"""The way from the top of a document to a value: keys and list positions."""


@dataclass(frozen=True)
class Document:
    """A YAML file as plain data.

    Attributes
    ----------
    data : object
        What the file holds.
    file : str
        Its name, for messages.
    values, keys : dict
        Where each value and each key stands, by path.
    """

    data: Any
    file: str
    values: dict[Path, TextPlace] = field(repr=False)
    keys: dict[Path, Place] = field(repr=False)

    def text_place(self, path: Path) -> TextPlace:
        """Return where a value begins, or the closest thing around it that is in the file."""
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, TextPlace(Place(self.file, 1, 1), exact=False))

    def place(self, path: Path) -> Place:
        """Return where a value begins."""
        return self.text_place(path).place

    def key_place(self, path: Path) -> Place:
        """Return where a key stands, or its value."""
        return self.keys.get(path) or self.place(path)

    def part(self, key: str) -> Document:
        """Return what stands under a key of the top level, as a document of its own."""
        values = {path[1:]: place for path, place in self.values.items() if path[:1] == (key,)}
        keys = {path[1:]: place for path, place in self.keys.items() if path[:1] == (key,)}
        return Document(self.data[key], self.file, values, keys)


def read_document(source: bytes | str, file: str) -> Document:
    """Read one YAML document.

    Raises
    ------
    GrammarError
        If it is larger than 128 kB, not UTF-8, not YAML, deeper than 20 levels, or uses what a
        grammar has no need of.
    """
    text = _decoded(source if isinstance(source, bytes) else source.encode(), file)
    return _Reader(file).read(text)


def _decoded(source: bytes, file: str) -> str:
    start = Place(file, 1, 1)
    if len(source) > MAX_BYTES:
        raise GrammarError(f"the grammar is larger than {MAX_BYTES // 1024} kB; split it", start)
    if source.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")):
        raise GrammarError("the file is UTF-16 or UTF-32; save it as UTF-8", start)
    try:
        text = source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = _place_of(source[: error.start].decode("utf-8", "replace"), file)
        raise GrammarError("the file is not UTF-8; save it as UTF-8", place) from None
    if found := re.search("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", text):
        place = _place_of(text[: found.start()], file)
        raise GrammarError(f"control character {found.group()!a}", place)
    return text


def _place_of(before: str, file: str) -> Place:
    last = before.rsplit("\n", 1)[-1]
    return Place(file, before.count("\n") + 1, len(last) + 1)


class _Reader:
    """Builds the document from the parser's events, one by one, so that it can stop early."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.values: dict[Path, TextPlace] = {}
        self.keys: dict[Path, Place] = {}

    def read(self, text: str) -> Document:
        events = self._events(text)
        first = next(events, None)
        data = None if first is None else self._node(first, events, ())
        for extra in events:
            raise GrammarError("only one document is read; split the file", self._at(extra))
        return Document(data, self.file, self.values, self.keys)

    def _at(self, event: Any) -> Place:
        mark = event.start_mark
        return Place(self.file, mark.line + 1, mark.column + 1)

    def _events(self, text: str) -> Iterator[Any]:
        """The events that carry content; everything refused is refused here."""
        try:
            for event in YAML(typ="safe", pure=True).parse(text):
                match event:
                    case DocumentStartEvent() if event.version or event.tags:
                        raise GrammarError("directives (%...) are not read", self._directive(text))
                    case AliasEvent():
                        raise GrammarError("aliases (*name) are not read", self._at(event))
                    case NodeEvent() if event.anchor is not None:
                        raise GrammarError("anchors (&name) are not read", self._at(event))
                    case NodeEvent() if getattr(event, "tag", None) is not None:
                        raise GrammarError("tags (!name) are not read", self._at(event))
                    case StreamStartEvent() | StreamEndEvent():
                        continue
                    case DocumentStartEvent() | DocumentEndEvent():
                        continue
                yield event
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = Place(self.file, mark.line + 1, mark.column + 1) if mark else self._top()
            problem = " ".join(str(error.problem or error.context).split())
            raise GrammarError(f"not YAML: {problem}", place) from None
        except (YAMLError, ValueError, OverflowError) as error:
            # An escape such as "\UFFFFFFFF" reaches chr() inside the YAML parser.
            problem = " ".join(str(error).split())
            raise GrammarError(f"not YAML: {problem}", self._top()) from None

    def _directive(self, text: str) -> Place:
        """Where the first directive stands; the parser gives that of the document below it."""
        first = next(re.finditer("^%", text, re.MULTILINE))
        return _place_of(text[: first.start()], self.file)

    def _top(self) -> Place:
        return Place(self.file, 1, 1)

    def _node(self, event: Any, events: Iterator[Any], path: Path) -> Any:
        if len(path) > MAX_DEPTH:
            raise GrammarError(f"nested deeper than {MAX_DEPTH} levels", self._at(event))
        if isinstance(event, ScalarEvent):
            return self._scalar(event, path)
        self.values[path] = TextPlace(self._at(event), exact=False)
        if isinstance(event, MappingStartEvent):
            return self._mapping(events, path)
        items: list[Any] = []
        while not isinstance(event := next(events), CollectionEndEvent):
            items.append(self._node(event, events, (*path, len(items))))
        return items

    def _mapping(self, events: Iterator[Any], path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(events), CollectionEndEvent):
            if not isinstance(event, ScalarEvent):
                raise GrammarError("a key must be a plain name", self._at(event))
            key, place = str(event.value), self._at(event)
            inner = (*path, key)
            if key in found:
                first = self.keys[inner].line
                raise GrammarError(f"duplicate key '{_short(key)}'; first in line {first}", place)
            self.keys[inner] = place
            found[key] = self._node(next(events), events, inner)
        return found

    def _scalar(self, event: ScalarEvent, path: Path) -> Any:
        start, end = event.start_mark, event.end_mark
        quoted = event.style in ("'", '"')
        # A scalar over several lines is folded, and an escape is longer than what it means.
        exact = (
            start.line == end.line and len(event.value) + 2 * quoted == end.column - start.column
        )
        place = Place(self.file, start.line + 1, start.column + 1 + (quoted and exact))
        self.values[path] = TextPlace(place, exact)
        return event.value if event.style else _resolved(event.value)


def _short(key: str) -> str:
    return key if len(key) <= 40 and key.isprintable() else ascii(key[:40]) + "..."


_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def _resolved(value: str) -> Any:
    """A plain scalar by the core schema of YAML 1.2 (section 10.3.2), decimals only."""
    if value in _WORDS:
        return _WORDS[value]
    if _INTEGER.fullmatch(value):
        return int(value)
    return float(value) if _FLOAT.fullmatch(value) else value
