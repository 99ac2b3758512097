"""What a grammar file may say, as pydantic models."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rulesearch.errors import GrammarError
from rulesearch.grammar.locality import Locality
from rulesearch.grammar.reader import Document
from rulesearch.grammar.term import name_mistake
from rulesearch.grammar.validation import validate

__all__ = [
    "ConstraintsSpec",
    "GeneratorSpec",
    "GrammarSpec",
    "OuterSpec",
    "TermSpec",
    "validated",
]

MAX_INCLUDES = 100


def _term_name(name: str) -> str:
    if mistake := name_mistake(name):
        raise PydanticCustomError("term_name", mistake)
    return name


TermName = Annotated[str, AfterValidator(_term_name)]
Prose = Annotated[str, Field(max_length=2000)]
Text = Annotated[str, Field(max_length=100_000)]  # the parser has its own, clearer limit


class _Spec(BaseModel):
    # A number where an expression may stand, as in `decay: [1, y_post**2]`, is read as text.
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class TermSpec(_Spec):
    """One term: an expression, or a mapping that says more."""

    expr: Text
    init: Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1e6, le=1e6)] = 0.0
    about: Prose = ""

    @model_validator(mode="before")
    @classmethod
    def _bare_expression(cls, data: Any) -> Any:
        if not isinstance(data, str | int | float | dict):
            raise PydanticCustomError("term", "should be an expression, or a mapping with 'expr:'")
        return data if isinstance(data, dict) else {"expr": data}


class OuterSpec(_Spec):
    """All outer products of some postsynaptic with some presynaptic vectors."""

    post: Annotated[list[Text], Field(min_length=1)]
    pre: Annotated[list[Text], Field(min_length=1)]


class GeneratorSpec(_Spec):
    """A family of terms."""

    outer: OuterSpec | None = None
    decay: Annotated[list[Text], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _something(self) -> GeneratorSpec:
        if self.outer is None and self.decay is None:
            raise PydanticCustomError("generator", "write 'outer:' or 'decay:'")
        return self


class ConstraintsSpec(_Spec):
    """Which terms are kept, and how many there may be."""

    locality: Locality = "layer"
    max_degree: Annotated[int, Field(strict=True, ge=1)] | None = None
    max_terms: Annotated[int, Field(strict=True, ge=1)] = 1000


def _kind(value: Any) -> str:
    return "grammars" if isinstance(value, list) else "terms"


# The kind is decided first: a plain union reports a mistake once for each of its members.
Includes = Annotated[
    Annotated[dict[TermName, str], Field(max_length=MAX_INCLUDES), Tag("terms")]
    | Annotated[list[str], Field(max_length=MAX_INCLUDES), Tag("grammars")],
    Discriminator(_kind),
]


class GrammarSpec(_Spec):
    """A grammar file."""

    name: Annotated[str, Field(max_length=200)] = ""
    title: Prose = ""
    about: Prose = ""
    source: Prose = ""
    terms: dict[TermName, TermSpec] = {}
    include: Includes = []
    generate: list[GeneratorSpec] = []
    exclude: list[Text] = []
    constraints: ConstraintsSpec = ConstraintsSpec()


def validated(document: Document) -> GrammarSpec:
    """Return what the document says.

    Raises
    ------
    GrammarError
        For the mistake that stands first in the file.
    """
    if document.data is None:
        raise GrammarError("the grammar is empty; write 'terms:' and a term", document.place(()))
    what = "a grammar is a mapping with 'terms:', 'generate:' or 'include:'"
    return validate(GrammarSpec, document, what)
