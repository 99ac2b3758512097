"""A grammar: a YAML file that declares candidate terms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from importlib.resources import files
from os.path import isfile
from pathlib import Path

from rulesearch.arguments import check_kind, check_path
from rulesearch.errors import GrammarError, Place, did_you_mean
from rulesearch.grammar.generate import count, generated
from rulesearch.grammar.locality import LOCALITIES
from rulesearch.grammar.pool import TermPool
from rulesearch.grammar.reader import MAX_BYTES, Document, read_document
from rulesearch.grammar.schema import ConstraintsSpec, GrammarSpec, validated
from rulesearch.grammar.term import MAX_NAME, Term

__all__ = ["Grammar", "bundled_grammars"]

MAX_CANDIDATES = 2000
MAX_INCLUDE_DEPTH = 8


def bundled_grammars() -> dict[str, Path]:
    """Return the grammars that come with rulesearch, by name."""
    package = Path(str(files("rulesearch.grammar"))).parent
    # In an installed package they lie inside it; in a checkout, next to it.
    folders = (package / "grammars", package.parent / "grammars")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.yaml"))}


@dataclass(frozen=True, repr=False)
class Grammar:
    """Candidate plasticity terms, declared in YAML.

    Made by :meth:`from_yaml` and :meth:`from_string`, which check everything; two grammars
    add up to the grammar of the terms of both.

    Attributes
    ----------
    name, title, about, source : str
        What the file says of itself.
    pool : TermPool
        Its terms.
    """

    name: str
    pool: TermPool
    title: str = ""
    about: str = ""
    source: str = ""

    @classmethod
    def from_yaml(cls, path: str | Path) -> Grammar:
        """Read a file, or a bundled grammar by its bare name, as ``pool10``.

        Raises
        ------
        GrammarError
            ``file:line:col: message`` for the first mistake.
        """
        check_path("path", path)
        return _load(_find(str(path)), _Includes())

    @classmethod
    def from_string(cls, text: str, name: str = "<string>") -> Grammar:
        """Read the text of a grammar.

        Raises
        ------
        GrammarError
            ``name:line:col: message`` for the first mistake.
        """
        check_kind("text", text, str, "the text of a grammar")
        return _elaborate(read_document(text, name), name, None, _Includes())

    @classmethod
    def from_document(cls, document: Document, name: str) -> Grammar:
        """Take a grammar that was read with something else, as a part of a larger file.

        Raises
        ------
        GrammarError
            ``file:line:col: message`` for the first mistake.
        """
        return _elaborate(document, name, None, _Includes())

    def enumerate(self) -> TermPool:
        """Return the terms: ordered, canonical, no term twice."""
        return self.pool

    def __len__(self) -> int:
        return len(self.pool)

    def __add__(self, other: Grammar) -> Grammar:
        if not isinstance(other, Grammar):
            return NotImplemented
        title = " + ".join(filter(None, (self.title, other.title)))
        return Grammar(f"{self.name}+{other.name}", self.pool + other.pool, title)

    def __repr__(self) -> str:
        heading = f"{self.name}: {self.title}" if self.title else self.name
        return f"{heading}\n{self.pool!r}"

    def _repr_html_(self) -> str:
        return self.pool._repr_html_()


def _find(path: str) -> Path:
    if isfile(path):
        return Path(path)
    bundled = bundled_grammars()
    if path in bundled:
        return bundled[path]
    hint = did_you_mean(path, bundled) or f"; bundled are {', '.join(bundled)}"
    raise GrammarError(f"no file and no bundled grammar '{path}'{hint}", Place(path, 1, 1))


@dataclass(frozen=True)
class _Includes:
    """The files that led here, and what was loaded on the way: each file is read once."""

    above: tuple[str, ...] = ()
    loaded: dict[str, Grammar] = field(default_factory=dict)

    def below(self, file: str) -> _Includes:
        return _Includes((*self.above, file), self.loaded)


def _load(source: Path, includes: _Includes) -> Grammar:
    file = str(source)
    if file not in includes.loaded:
        try:
            with source.open("rb") as stream:
                content = stream.read(MAX_BYTES + 1)
        except OSError as error:
            raise GrammarError(f"cannot be read: {error.strerror}", Place(file, 1, 1)) from None
        document = read_document(content, file)
        includes.loaded[file] = _elaborate(document, file, source, includes)
    return includes.loaded[file]


def _elaborate(document: Document, file: str, source: Path | None, includes: _Includes) -> Grammar:
    spec = validated(document)
    pool = _Elaboration(document, spec, source, includes.below(file)).pool()
    name = spec.name or file.replace("\\", "/").rsplit("/", 1)[-1].removesuffix(".yaml")
    return Grammar(name, pool, spec.title, spec.about, spec.source)


@dataclass(frozen=True)
class _Elaboration:
    """From what a document says to its terms."""

    document: Document
    spec: GrammarSpec
    source: Path | None  # the file, next to which included grammars are looked for
    includes: _Includes

    def pool(self) -> TermPool:
        """Collect the terms in the order: terms, include, generate."""
        spec, at = self.spec, self.document
        limit = spec.constraints.max_terms
        if len(spec.terms) > limit:
            raise self._too_many(at.key_place(("terms",)))
        candidates = sum(map(count, spec.generate))
        if candidates > MAX_CANDIDATES:
            raise GrammarError(
                f"{candidates} terms to generate; at most {MAX_CANDIDATES}",
                at.key_place(("generate",)),
            )
        excluded = {
            Term.from_text(
                "exclude", text, where=at.text_place(("exclude", i))
            ).normal_form.direction()
            for i, text in enumerate(spec.exclude)
        }
        kept: dict[object, Term] = {}
        names: dict[str, Term] = {}
        for term, section in self._candidates():
            direction = term.normal_form.direction()
            if direction in excluded or not _admits(spec.constraints, term) or direction in kept:
                continue
            if len(kept) == limit:
                raise self._too_many(at.key_place((section,)))
            named = self._named(term, names, section)
            kept[direction] = names[named.name] = named
        if not kept:
            raise GrammarError("the pool is empty: no term is declared or kept", at.place(()))
        return TermPool(kept.values())

    def _too_many(self, place: Place) -> GrammarError:
        limit = self.spec.constraints.max_terms
        return GrammarError(f"more than {limit} terms; see constraints: {{max_terms: ...}}", place)

    def _candidates(self) -> Iterator[tuple[Term, str]]:
        yield from ((term, "terms") for term in self._declared())
        yield from ((term, "include") for term in self._included())
        for i, generator in enumerate(self.spec.generate):
            for term in generated(generator, self.document, ("generate", i)):
                yield term, "generate"

    def _declared(self) -> Iterator[Term]:
        first: dict[object, str] = {}
        for name, said in self.spec.terms.items():
            where = self.document.text_place(("terms", name, "expr"))
            term = Term.from_text(name, said.expr, said.init, said.about, where)
            if term.normal_form.is_zero:
                raise GrammarError(f"term '{name}' is zero: everything in it cancels", where.place)
            same = first.setdefault(term.normal_form.direction(), name)
            if same != name:
                raise GrammarError(f"term '{name}' is '{same}' again, up to a factor", where.place)
            yield term

    def _included(self) -> Iterator[Term]:
        include = self.spec.include
        if isinstance(include, list):
            for i, name in enumerate(include):
                yield from self._grammar(name, self.document.place(("include", i))).pool
            return
        for local, full in include.items():
            place = self.document.place(("include", local))
            grammar, dot, name = full.partition(".")
            if not dot:
                raise GrammarError(
                    f"write '{full}.TERM' for a term, or a list for all of them", place
                )
            pool = self._grammar(grammar, place).pool
            if name not in pool:
                hint = did_you_mean(name, pool.names) or f"; it has {', '.join(pool.names[:20])}"
                raise GrammarError(f"no term '{name}' in grammar '{grammar}'{hint}", place)
            yield replace(pool[name], name=local)

    def _grammar(self, name: str, place: Place) -> Grammar:
        """Load a grammar that lies next to this one, or a bundled one."""
        if not name.replace("_", "a").replace("-", "a").isalnum():
            raise GrammarError(f"'{name[:64]}' is no name of a grammar", place)
        bundled = bundled_grammars()
        beside = self._beside()
        found = beside.get(name) or bundled.get(name)
        if found is None:
            hint = (
                did_you_mean(name, {**bundled, **beside}) or f"; bundled are {', '.join(bundled)}"
            )
            raise GrammarError(f"no grammar '{name}' to include{hint}", place)
        if str(found) in self.includes.above:
            raise GrammarError(f"grammar '{name}' includes itself", place)
        if len(self.includes.above) >= MAX_INCLUDE_DEPTH:
            raise GrammarError(f"includes nested deeper than {MAX_INCLUDE_DEPTH}", place)
        return _load(found, self.includes)

    def _beside(self) -> dict[str, Path]:
        if self.source is None:
            return {}
        return {f.stem: f for f in self.source.parent.glob("*.yaml") if f.is_file()}

    def _named(self, term: Term, names: dict[str, Term], section: str) -> Term:
        """Give a generated term a free name; two declared ones must not share theirs."""
        if term.name not in names:
            return term
        if section != "generate":
            raise GrammarError(
                f"two terms are named '{term.name}'; include it under another name",
                self.document.key_place((section,)),
            )
        endings = (f"_{i}" for i in range(2, MAX_CANDIDATES + 2))
        free = (term.name[: MAX_NAME - len(end)] + end for end in endings)
        return replace(term, name=next(name for name in free if name not in names))


def _admits(constraints: ConstraintsSpec, term: Term) -> bool:
    """Whether the constraints let a term in."""
    near = LOCALITIES.index(term.locality) <= LOCALITIES.index(constraints.locality)
    simple = constraints.max_degree is None or term.degree <= constraints.max_degree
    return near and simple and not term.normal_form.is_zero
