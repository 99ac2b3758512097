"""An ordered set of candidate terms."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from typing import overload

from rulesearch.arguments import check_kind
from rulesearch.errors import ConfigError, did_you_mean
from rulesearch.grammar.term import Term

__all__ = ["TermPool"]


class TermPool:
    """Terms in their order: immutable, no name twice, no term twice up to a factor.

    Parameters
    ----------
    terms : iterable of Term
        In the order that coefficients follow.

    Raises
    ------
    ConfigError
        If two terms have one name, or are multiples of one another.
    """

    __slots__ = ("_by_name", "_terms")

    def __init__(self, terms: Iterable[Term] = ()) -> None:
        check_kind("terms", terms, Iterable, "Terms, in order")
        self._terms = tuple(terms)
        for i, term in enumerate(self._terms):
            check_kind(f"terms[{i}]", term, Term, "a Term, as Term.from_text('F3', '-W')")
        self._by_name = {term.name: i for i, term in enumerate(self._terms)}
        seen: dict[object, str] = {}
        for i, term in enumerate(self._terms):
            if self._by_name[term.name] != i:
                raise ConfigError(f"two terms of a pool are named '{term.name}'; rename one")
            first = seen.setdefault(term.normal_form.direction(), term.name)
            if first != term.name:
                raise ConfigError(f"'{term.name}' is a multiple of '{first}'; leave one out")

    @property
    def names(self) -> tuple[str, ...]:
        """The terms' names, in order."""
        return tuple(term.name for term in self._terms)

    @property
    def init(self) -> tuple[float, ...]:
        """Coefficients at the start of a search, in order."""
        return tuple(term.init for term in self._terms)

    @property
    def symbols(self) -> frozenset[str]:
        """Names of the vocabulary that the terms need."""
        return frozenset().union(*(term.symbols for term in self._terms))

    def index(self, name: str) -> int:
        """Return the position of a term.

        Raises
        ------
        ConfigError
            If no term has this name.
        """
        if name not in self._by_name:
            hint = (
                did_you_mean(str(name), self._by_name)
                or f"; known are {', '.join(self.names[:20])}"
            )
            raise ConfigError(f"no term '{name}' in the pool{hint}")
        return self._by_name[name]

    def subset(self, names: Iterable[str]) -> TermPool:
        """Return the pool of the named terms, in the order of this pool."""
        check_kind("names", names, Iterable, "names of terms, as ['F0', 'F9']")
        chosen = {self.index(name) for name in names}
        return TermPool(self._terms[i] for i in sorted(chosen))

    @overload
    def __getitem__(self, key: str | int) -> Term: ...
    @overload
    def __getitem__(self, key: slice) -> TermPool: ...
    def __getitem__(self, key: str | int | slice) -> Term | TermPool:
        if isinstance(key, slice):
            return TermPool(self._terms[key])
        return self._terms[self.index(key) if isinstance(key, str) else key]

    def __contains__(self, item: object) -> bool:
        return item in self._by_name if isinstance(item, str) else item in self._terms

    def __iter__(self) -> Iterator[Term]:
        return iter(self._terms)

    def __len__(self) -> int:
        return len(self._terms)

    def __add__(self, other: TermPool) -> TermPool:
        """Join two pools; a term of the second that is in the first already is left out."""
        if not isinstance(other, TermPool):
            return NotImplemented
        known = {term.normal_form.direction() for term in self}
        new = [term for term in other if term.normal_form.direction() not in known]
        for term in new:
            if term.name in self:
                raise ConfigError(
                    f"both pools name a term '{term.name}', and they differ; rename one"
                )
        return TermPool((*self, *new))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TermPool):
            return NotImplemented
        return self.names == other.names and self._terms == other._terms

    def __hash__(self) -> int:
        return hash((self.names, self._terms))

    def __repr__(self) -> str:
        if not self:
            return "TermPool of no terms"
        rows = [("term", "expression", "locality", "start")]
        rows += [(t.name, str(t), t.locality, f"{t.init:g}") for t in self]
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = (
            "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows
        )
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{h}</th>" for h in ("term", "update", "locality", "start", "about"))
        body = "".join(
            f"<tr><td>{escape(t.name)}</td><td>${escape(t.latex())}$</td><td>{t.locality}</td>"
            f"<td>{t.init:g}</td><td>{escape(t.about)}</td></tr>"
            for t in self
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
