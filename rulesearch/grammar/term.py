"""One candidate term of a plasticity rule."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import sympy

from rulesearch.arguments import check_kind, real
from rulesearch.errors import GrammarError, Place
from rulesearch.grammar.algebra import NormalForm
from rulesearch.grammar.canonical import normal_form
from rulesearch.grammar.locality import Locality, locality
from rulesearch.grammar.parser import FUNCTIONS, TextPlace, parse_term
from rulesearch.grammar.printing import latex, text
from rulesearch.grammar.rebuild import to_sympy
from rulesearch.grammar.symbols import VOCABULARY

__all__ = ["MAX_NAME", "Term", "name_mistake"]

MAX_NAME = 64
NAME = re.compile(rf"[A-Za-z][A-Za-z0-9_]{{0,{MAX_NAME - 1}}}")


def name_mistake(name: str) -> str:
    """Return why a term cannot be named so, or ``""``."""
    if not NAME.fullmatch(name):
        return (
            "a term's name has letters, digits and '_', begins with a letter, "
            f"and is no longer than {MAX_NAME}"
        )
    if name in VOCABULARY or name in FUNCTIONS or name == "T":
        return "this name means something else in expressions"
    return ""


@dataclass(frozen=True, eq=False, repr=False)
class Term:
    """A named update of the forward weight, of shape (n_post, n_pre).

    Everything else that is known of a term is computed from ``expr``. Two terms are equal if
    their canonical forms are, whatever their names and spellings.

    Parameters
    ----------
    name : str
        As in the grammar.
    expr : sympy.MatrixExpr
        As written there; only the canonical form is ever rearranged.
    init : float
        Coefficient at the start of a search.
    about : str
        What it is, in one line.
    place : Place, optional
        Where it was declared.

    Raises
    ------
    GrammarError
        If ``expr`` has another shape or no canonical form, or a grammar does not take the name
        or read the term's text, which is how a result is kept.
    """

    name: str
    expr: sympy.MatrixExpr
    init: float = 0.0
    about: str = ""
    place: Place | None = None

    def __post_init__(self) -> None:
        check_kind("a term's name", self.name, str, "a text, as 'F0'")
        check_kind("about", self.about, str, "a text")
        object.__setattr__(self, "init", real(f"init of {self.name}", self.init))
        if mistake := name_mistake(self.name):
            raise GrammarError(f"'{self.name[:MAX_NAME]}': {mistake}", self.place)
        self.normal_form  # noqa: B018 - a term that has none cannot exist
        self._check_text()

    def _check_text(self) -> None:
        """Refuse a term whose text does not read back, since that is how results are kept."""
        try:
            read = normal_form(parse_term(str(self)))
        except GrammarError as error:
            raise GrammarError(
                f"written out, the term cannot be read again: {error.message}", self.place
            ) from None
        if read != self.normal_form:
            raise GrammarError("written out, the term reads as another", self.place)

    @classmethod
    def from_text(
        cls,
        name: str,
        expression: str,
        init: float = 0.0,
        about: str = "",
        where: TextPlace | None = None,
    ) -> Term:
        """Read a term from the text of its expression."""
        check_kind("a term's expression", expression, str, "a text, as '-e_post * y_pre.T'")
        expr = parse_term(expression, where)
        return cls(name, expr, init, about, where.place if where else None)

    @cached_property
    def normal_form(self) -> NormalForm:
        """The canonical form, from which everything is computed."""
        return normal_form(self.expr, self.place)

    @cached_property
    def locality(self) -> Locality:
        """How far a synapse must reach for it: 'synapse', 'neuron' or 'layer'."""
        return locality(self.normal_form)

    @property
    def degree(self) -> int:
        """How many signals are multiplied, at most."""
        return self.normal_form.degree

    @property
    def symbols(self) -> frozenset[str]:
        """Names of the vocabulary that it needs."""
        return self.normal_form.symbols

    def canonical(self) -> sympy.MatrixExpr:
        """Return the canonical SymPy expression, the same for every spelling of the term."""
        return to_sympy(self.normal_form)

    def latex(self, symbols: Mapping[str, str] | None = None) -> str:
        r"""Return the expression in LaTeX, as it was written.

        Parameters
        ----------
        symbols : mapping of str to str, optional
            LaTeX in place of the paper's, as ``{"y_post": r"\mathbf{r}"}``.
        """
        return latex(self.expr, symbols)

    def describe(self) -> dict[str, object]:
        """Return what a listing says of the term, as JSON values."""
        return {
            "name": self.name,
            "expr": str(self),
            "latex": self.latex(),
            "locality": self.locality,
            "degree": self.degree,
            "init": self.init,
            "about": self.about,
        }

    def _repr_latex_(self) -> str:
        return f"${self.latex()}$"

    def __str__(self) -> str:
        return text(self.expr)

    def __repr__(self) -> str:
        return f"Term({self.name}: {self})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Term) and self.normal_form == other.normal_form

    def __hash__(self) -> int:
        return hash(self.normal_form)
