"""Text of an expression to a SymPy matrix expression, shapes checked.

A LALR grammar (``expression.lark``) reads the text and each construct builds one SymPy
node, unevaluated, so that a term prints as it was written. Python's evaluator, and SymPy's
own parser that calls it, are never involved: what the grammar does not know is an error.

======================================  =====================================================
in the text                             SymPy node
======================================  =====================================================
``y_post``, ``W``, ...                  ``MatrixSymbol`` (vectors are columns)
``a.T``                                 ``Transpose(a)``
``a * b``, ``2 * a``, ``a / 2``, ``-a``  ``MatMul(number, scalar, ..., matrix, ...)``
``a + b``, ``a - b``                    ``MatAdd`` (``Add`` of scalars)
``a**n``                                ``HadamardPower(a, n)`` (``Pow`` of scalars)
``hadamard(a, b)``                      ``HadamardProduct(a, b)``
``diag(v)``                             ``DiagMatrix(v)``
``sum(v)``                              ``MatMul(Transpose(ones), v)``
``dot(u, v)``, ``outer(u, v)``          ``MatMul(Transpose(u), v)``, ``MatMul(u, Transpose(v))``
``tanh(a)``, ``exp``, ``abs``, ``sign``  ``ElementwiseApplyFunction(tanh, a)``
======================================  =====================================================

A 1 x 1 product that is multiplied where its shape does not chain is a scalar and becomes
``MatrixElement(product, 0, 0)``. Numbers are exact rationals.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import sympy
from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedCharacters, UnexpectedToken

from rulesearch.errors import GrammarError, Place, did_you_mean
from rulesearch.grammar.build import (
    FUNCTIONS,
    Expr,
    ExpressionError,
    Piece,
    add,
    bounded,
    multiply,
    negated,
    number,
    power,
    reciprocal,
    shape_of,
    shape_text,
    transpose,
)
from rulesearch.grammar.symbols import N_POST, N_PRE, VOCABULARY, signal

__all__ = ["FUNCTIONS", "TextPlace", "parse_expression", "parse_term"]

MAX_TEXT = 10_000
MAX_DEPTH = 50


@dataclass(frozen=True)
class TextPlace:
    """Where a text begins; ``exact`` if its characters stand in the file one by one."""

    place: Place
    exact: bool = True

    def at(self, offset: int) -> Place:
        """Return the place of the character at ``offset``."""
        shift = offset if self.exact else 0
        return replace(self.place, column=self.place.column + shift)


class _Builder(Transformer[Token, Piece]):
    """One method for each rule of ``expression.lark``; the parser calls them as it goes."""

    def number(self, items: list[Token]) -> Piece:
        (token,) = items
        at = _start(token)
        return Piece(number(token, at), at)

    def symbol(self, items: list[Token]) -> Piece:
        (token,) = items
        at = _start(token)
        if token in VOCABULARY:
            return Piece(signal(token), at)
        if token in FUNCTIONS:
            raise ExpressionError(f"'{token}' is a function: write {token}(...)", at)
        raise ExpressionError(f"unknown symbol '{_short(token)}'{_hint(token, VOCABULARY)}", at)

    def call(self, items: list[Any]) -> Piece:
        name, args = items[0], [item for item in items[1:] if item is not None]
        at = _start(name)
        if name in VOCABULARY:
            raise ExpressionError(f"'{name}' is a symbol and cannot be called", at)
        if name not in FUNCTIONS:
            raise ExpressionError(f"unknown function '{_short(name)}'{_hint(name, FUNCTIONS)}", at)
        fewest, most, build = FUNCTIONS[name]
        if not fewest <= len(args) <= most:
            expected = f"{fewest}" if fewest == most else f"{fewest} to {most}"
            raise ExpressionError(f"{name}() takes {expected} arguments, not {len(args)}", at)
        return Piece(build(args), at)

    def attributed(self, items: list[Any]) -> Piece:
        piece, attributes = items[0], items[1:]
        expr = piece.expr
        for token in attributes:
            name = token[1:].strip()
            if name != "T":
                raise ExpressionError(
                    f"unknown attribute '.{_short(name)}'; only .T (transpose) is known",
                    _start(token),
                )
            expr = transpose(expr)
        return Piece(expr, piece.at)

    def powered(self, items: list[Any]) -> Piece:
        base, _, exponent = items
        return Piece(power(base, exponent), base.at)

    def signed(self, items: list[Any]) -> Piece:
        sign, piece = items
        at = _start(sign)
        return Piece(negated(piece.expr) if sign == "-" else piece.expr, at)

    def product(self, items: list[Any]) -> Piece:
        if len(items) == 1:
            return bounded(items[0].expr, items)
        pieces = [items[0]]
        for operator, piece in zip(items[1::2], items[2::2], strict=True):
            pieces.append(piece if operator == "*" else reciprocal(piece))
        return bounded(multiply(pieces), pieces)

    def total(self, items: list[Any]) -> Piece:
        if len(items) == 1:
            return items[0]  # type: ignore[no-any-return]
        pieces = [items[0]]
        for operator, piece in zip(items[1::2], items[2::2], strict=True):
            expr = piece.expr if operator == "+" else negated(piece.expr)
            pieces.append(Piece(expr, piece.at))
        return Piece(add(pieces), pieces[0].at)


def _start(token: Token) -> int:
    return token.start_pos or 0


def _short(word: str) -> str:
    return word if len(word) <= 40 else f"{word[:40]}..."


def _hint(word: str, known: dict[str, Any]) -> str:
    return did_you_mean(word, known) or f"; known are {', '.join(sorted(known))}"


@lru_cache(maxsize=1)
def _lark() -> Lark:
    return Lark.open(
        "expression.lark",
        rel_to=__file__,
        parser="lalr",
        transformer=_Builder(),
        maybe_placeholders=True,
    )


def _check_text(text: str) -> None:
    """Bound what the parser gets to see."""
    if len(text) > MAX_TEXT:
        raise ExpressionError(
            f"the expression has {len(text)} characters, more than {MAX_TEXT}; split it", 0
        )
    depth = 0
    for at, character in enumerate(text):
        if not character.isascii():
            raise ExpressionError(f"unexpected character {character!a}; names are in ASCII", at)
        depth += (character == "(") - (character == ")")
        if depth > MAX_DEPTH:
            raise ExpressionError(f"parentheses nested deeper than {MAX_DEPTH}", at)
    if not text.strip():
        raise ExpressionError("the expression is empty", 0)


_INSTEAD = {"^": "powers are written **", "@": "the matrix product is written *"}


def _parse(text: str) -> Piece:
    _check_text(text)
    try:
        return _lark().parse(text)  # type: ignore[return-value]
    except UnexpectedCharacters as error:
        at = error.pos_in_stream or 0
        advice = _INSTEAD.get(text[at], "it has no meaning in an expression")
        raise ExpressionError(f"unexpected character {text[at]!r}; {advice}", at) from None
    except UnexpectedToken as error:
        if error.token.type == "$END":
            raise ExpressionError("the expression ends too early", len(text.rstrip())) from None
        raise ExpressionError(f"unexpected '{_short(error.token)}'", _start(error.token)) from None


def parse_expression(text: str, where: TextPlace | Place | None = None) -> Expr:
    """Read an expression of any shape.

    Parameters
    ----------
    text : str
        In the language of the module's table, at most 10,000 characters.
    where : TextPlace or Place, optional
        Where the text begins; ``<expression>:1:1`` unless given.

    Returns
    -------
    sympy.Expr or sympy.MatrixExpr
        Over the vocabulary, as written (nothing is expanded).

    Raises
    ------
    GrammarError
        At the place of the mistake: syntax, unknown names, shapes that do not fit, or a
        limit (length, depth, exponents, size of numbers).
    """
    place = where or Place("<expression>", 1, 1)
    start = TextPlace(place) if isinstance(place, Place) else place
    try:
        return _parse(text).expr
    except ExpressionError as mistake:
        raise GrammarError(mistake.message, start.at(mistake.at)) from None


def parse_term(text: str, where: TextPlace | Place | None = None) -> sympy.MatrixExpr:
    """Read an expression that can update ``W``: of shape (n_post, n_pre).

    Raises
    ------
    GrammarError
        As :func:`parse_expression`, or if the shape is another.
    """
    expr = parse_expression(text, where)
    shape = shape_of(expr)
    if shape != (N_POST, N_PRE):
        remedy = {
            (N_POST, sympy.Integer(1)): "; multiply with a row, as in ... * y_pre.T",
            (N_PRE, N_POST): "; transpose it",
        }.get(shape, "")
        place = where or Place("<expression>", 1, 1)
        raise GrammarError(
            f"wrong shape: a term is (n_post, n_pre), this is {shape_text(shape)}{remedy}",
            place.place if isinstance(place, TextPlace) else place,
        )
    return expr
