"""A document against a pydantic model, mistakes as one line with their place."""

from __future__ import annotations

import re
import types
from collections import Counter
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, Tag, ValidationError

from rulesearch.errors import GrammarError, did_you_mean
from rulesearch.grammar.reader import Document, Path

__all__ = ["validate"]

Model = TypeVar("Model", bound=BaseModel)
KEY_ERRORS = ("extra_forbidden", "term_name", "missing")


def validate(model: type[Model], document: Document, what: str) -> Model:
    """Return what the document says.

    Parameters
    ----------
    what : str
        What the document is, for the message where it is no mapping at all.

    Raises
    ------
    GrammarError
        For the mistake that stands first in the file.
    """
    try:
        return model.model_validate(document.data)
    except ValidationError as failed:
        found = []
        raised = failed.errors(include_url=False)
        lacking = Counter(e["loc"][:-1] for e in raised if _is_short(e))
        errors = [(e, _path(e, document.data)) for e in raised]
        unknown = {path[:-1] for error, path in errors if error["type"] == "extra_forbidden"}
        for error, path in errors:
            if error["type"] == "missing" and path in unknown:
                continue  # which may be the one, mistyped
            # A wrong value is shown where it stands, a wrong key where the key does.
            by_key = error["type"] in KEY_ERRORS
            place = document.key_place(path) if by_key else document.place(path)
            count = lacking[error["loc"][:-1]]
            found.append((place.line, place.column, place, _line(error, path, model, what, count)))
        _, _, place, message = min(found, key=lambda item: item[:2])
        raise GrammarError(message, place) from None


def _is_short(error: Any) -> bool:
    """Whether a list of a fixed length has fewer values."""
    return error["type"] == "missing" and isinstance(error["loc"][-1], int)


def _path(error: Any, data: Any) -> Path:
    """The part of pydantic's location that is in the file (it adds names of union members)."""
    path: Path = ()
    for step in error["loc"]:
        inside = isinstance(data, dict) and step in data
        inside = inside or (isinstance(data, list) and isinstance(step, int) and step < len(data))
        if inside:
            data = data[step]
            path = (*path, step)
    return path


def _models(annotation: Any, location: Path) -> list[type[BaseModel]]:
    """The models that an annotation names, at any depth; of a union's members the one chosen."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated and any(
        isinstance(part, Tag) and part.tag not in location for part in parts
    ):
        return []
    if get_origin(annotation) in (Annotated, Union, types.UnionType, list, dict, tuple):
        return [model for part in parts for model in _models(part, location)]
    return []


def _keys_at(model: type[BaseModel], path: Path, location: Path) -> list[str]:
    """The keys that may stand below a path, which pydantic's location leads to."""
    here = [model]
    for step in path:
        fields = [m.model_fields[step] for m in here if step in m.model_fields]
        if fields:
            here = [m for f in fields for m in _models(f.annotation, location)]
    return sorted({name for m in here for name in m.model_fields})


def _line(error: Any, path: Path, model: type[BaseModel], what: str, lacking: int) -> str:
    """One of pydantic's errors in one line; ``lacking`` values of a list that is too short."""
    last = str(path[-1])[:64] if path else ""
    key = next((str(step)[:64] for step in reversed(path) if isinstance(step, str)), "")
    named = f"'{key}': " if key else ""
    match error["type"]:
        case "extra_forbidden":
            known = _keys_at(model, path[:-1], error["loc"])
            hint = did_you_mean(last, known) or f"; known are {', '.join(known)}"
            if error["input"] is None:  # what follows a comma in braces is a key without a value
                hint = "; in braces a comma ends a value, so quote a value that holds one"
            return f"unknown key '{last}'{hint}"
        case "missing" if _is_short(error):
            given = len(error["input"])
            return f"{named}needs {given + lacking} values, found {given}"
        case "missing":
            return f"{named}missing key '{error['loc'][-1]}'"
        case "model_type" | "model_attributes_type" if not path:
            return what
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{named}should be a mapping (key: value)"
        case "literal_error":
            expected = str(error["ctx"]["expected"])
            hint = did_you_mean(str(error["input"]), re.findall(r"'([\w-]+)'", expected))
            return f"{named}should be {expected}{hint}"
        case "too_short":
            return f"{named}should have at least {_items(error['ctx']['min_length'])}"
        case "too_long":
            return f"{named}should have at most {_items(error['ctx']['max_length'])}"
        case "float_parsing" | "int_parsing":
            return f"{named}should be a valid number, not '{str(error['input'])[:64]}'"
        case "tuple_type":
            return f"{named}should be a valid list"
    message = str(error["msg"]).removeprefix("Input ")
    return named + message[:1].lower() + message[1:]


def _items(count: int) -> str:
    return f"{count} item" + "s" * (count != 1)
