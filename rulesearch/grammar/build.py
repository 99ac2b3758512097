"""The nodes of an expression: each construct of the language to one SymPy node, shapes checked.

Nodes are built unevaluated, so that a term prints as it was written. See
:mod:`rulesearch.grammar.parser` for which construct makes which node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import sympy
from sympy.matrices.expressions.diagonal import DiagMatrix
from sympy.matrices.expressions.matexpr import MatrixElement

from rulesearch.grammar.functions import ENTRYWISE, entrywise
from rulesearch.grammar.symbols import N_POST, signal

__all__ = [
    "FUNCTIONS",
    "Expr",
    "ExpressionError",
    "Piece",
    "add",
    "bounded",
    "multiply",
    "negated",
    "number",
    "power",
    "reciprocal",
    "shape_of",
    "shape_text",
    "transpose",
]

Expr = Any  # a SymPy scalar or matrix expression; SymPy has no common type for the two
SCALAR = (sympy.Integer(1), sympy.Integer(1))
EXPONENTS = range(2, 9)
MAX_EXPONENT = 64  # of powers of powers
MAX_DIGITS = 40  # more than those of a canonical form's coefficients
LARGEST, SMALLEST = 10**12, sympy.Rational(1, 10**12)
OUT_OF_RANGE = "number out of range; its size must be 1e-12 to 1e12"


class ExpressionError(Exception):
    """A mistake at an offset of the text; the file is not known in here."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.message, self.at = message, at


class Piece(NamedTuple):
    """An expression and the offset where it begins."""

    expr: Expr
    at: int


def shape_of(expr: Expr) -> tuple[sympy.Expr, sympy.Expr]:
    """Return rows and columns; a scalar is 1 x 1."""
    return expr.shape if expr.is_Matrix else SCALAR


def shape_text(shape: tuple[sympy.Expr, sympy.Expr]) -> str:
    """Return a shape as messages write it."""
    return f"({shape[0]}, {shape[1]})"


def _scalar(expr: Expr) -> Expr:
    """A 1 x 1 matrix as the scalar that it holds; its own scalars stand in front."""
    scalars, matrices = _factors(expr)
    if not matrices:
        return expr
    return _times([*scalars, MatrixElement(_product((), matrices), 0, 0)])


def _times(scalars: Sequence[Expr]) -> Expr:
    """Multiply scalars, one number first; a sum among them stays a sum, as it was written."""
    split = [scalar.as_coeff_Mul() for scalar in scalars]
    coefficient = sympy.Mul(*(leading for leading, _ in split))
    rest = sympy.Mul(*(other for _, other in split))
    if rest.is_Add and coefficient not in (0, 1):  # which SymPy would multiply out
        return sympy.Mul(coefficient, rest, evaluate=False)
    return coefficient * rest


def _factors(expr: Expr) -> tuple[list[Expr], list[Expr]]:
    """The scalar and the matrix factors of a product, in order."""
    args = expr.args if isinstance(expr, sympy.MatMul) else (expr,)
    return [a for a in args if not a.is_Matrix], [a for a in args if a.is_Matrix]


def bounded(expr: Expr, pieces: Sequence[Piece]) -> Piece:
    """Refuse a product with a number whose size no coefficient of a plasticity rule has."""
    if _immoderate(expr):
        blamed = (piece for piece in pieces if _immoderate(piece.expr))
        raise ExpressionError(OUT_OF_RANGE, next(blamed, pieces[0]).at)
    return Piece(expr, pieces[0].at)


def _immoderate(expr: Expr) -> bool:
    number = expr.args[0] if isinstance(expr, sympy.Mul | sympy.MatMul) else expr
    return bool(number.is_Number and number != 0 and not SMALLEST <= abs(number) <= LARGEST)


def number(text: str, at: int) -> Expr:
    """Return a decimal as an exact rational.

    Its size is that of a fraction's parts, as in ``333333333333333333/1000000000000000000``;
    that of the fraction is for :func:`bounded` to judge.
    """
    if len(text) > MAX_DIGITS:
        raise ExpressionError(f"the number has {len(text)} characters; at most {MAX_DIGITS}", at)
    size = float(text)  # first, since the exact 1e999999999 would not fit in memory
    if size == 0 and not text.lower().partition("e")[0].strip("0."):
        return sympy.Integer(0)
    if not 10.0**-MAX_DIGITS <= size <= 10.0**MAX_DIGITS:
        raise ExpressionError(OUT_OF_RANGE, at)
    return sympy.Rational(text)


def _product(scalars: Sequence[Expr], matrices: Sequence[Expr]) -> Expr:
    """Multiply: one number first, then scalars, then matrices in their order."""
    scalar = _times(scalars)
    if not matrices:
        return scalar
    leading = [s for s in scalar.as_coeff_Mul() if s != 1]
    if not leading and len(matrices) == 1:
        return matrices[0]
    return sympy.MatMul(*leading, *matrices, evaluate=False)


def multiply(pieces: Sequence[Piece]) -> Expr:
    """Chain factors left to right; a 1 x 1 product that does not chain is a scalar."""
    scalars: list[Expr] = []
    chain: list[Expr] = []
    for piece in pieces:
        numbers, matrices = _factors(piece.expr)
        scalars += numbers
        if not matrices:
            continue
        left = (chain[0].shape[0], chain[-1].shape[1]) if chain else None
        right = (matrices[0].shape[0], matrices[-1].shape[1])
        if left == right == SCALAR:
            scalars += [_scalar(_product((), factor)) for factor in (chain, matrices)]
            chain = []
        elif left is None or left[1] == right[0]:
            chain += matrices
        elif right == SCALAR:
            scalars.append(_scalar(_product((), matrices)))
        elif left == SCALAR:
            scalars.append(_scalar(_product((), chain)))
            chain = matrices
        else:
            raise ExpressionError(
                f"wrong shape: {shape_text(left)} * {shape_text(right)}; {_remedy(left, right)}",
                piece.at,
            )
    return _product(scalars, chain)


def _remedy(left: tuple[Expr, Expr], right: tuple[Expr, Expr]) -> str:
    if left == right and left[1] == 1:
        return "transpose one: a * b.T (or hadamard(a, b) entry by entry)"
    if left[1] == right[1]:
        return "transpose one: a * b.T"
    if left[0] == right[0]:
        return "transpose one: a.T * b"
    return "the columns of the first must be the rows of the second"


def add(pieces: Sequence[Piece]) -> Expr:
    """Add expressions of one shape."""
    shape = shape_of(pieces[0].expr)
    for piece in pieces[1:]:
        other = shape_of(piece.expr)
        if other != shape:
            remedy = "both sides of + and - need one shape"
            if SCALAR in (shape, other) and 1 in (*shape, *other):
                remedy = "a vector of ones is ones_post or ones_pre"
            if other == shape[::-1]:
                remedy = "transpose one: a + b.T"
            raise ExpressionError(
                f"wrong shape: {shape_text(shape)} + {shape_text(other)}; {remedy}", piece.at
            )
    exprs = [piece.expr for piece in pieces]
    if shape == SCALAR:  # numbers, which SymPy adds up and orders
        return sympy.Add(*map(_scalar, exprs))
    parts = [a for e in exprs for a in (e.args if isinstance(e, sympy.MatAdd) else (e,))]
    return sympy.MatAdd(*parts, evaluate=False)


def power(base: Piece, exponent: Piece) -> Expr:
    """Raise every entry to a whole power."""
    n = exponent.expr
    if not (n.is_Integer and int(n) in EXPONENTS):
        raise ExpressionError("an exponent is a whole number from 2 to 8", exponent.at)
    if int(n) * _largest_exponent(base.expr) > MAX_EXPONENT:
        raise ExpressionError(f"powers of powers beyond {MAX_EXPONENT}", exponent.at)
    if shape_of(base.expr) == SCALAR:
        return sympy.Pow(_scalar(base.expr), n)
    return sympy.HadamardPower(base.expr, n)


def _largest_exponent(expr: Expr) -> int:
    """The largest product of exponents on a way down the expression."""
    inner = max(map(_largest_exponent, expr.args), default=1)
    raised = isinstance(expr, sympy.Pow | sympy.HadamardPower)
    return inner * int(expr.args[1]) if raised else inner


def _column(piece: Piece, function: str) -> Expr:
    rows, columns = shape_of(piece.expr)
    if columns != 1 or rows == 1:
        raise ExpressionError(
            f"wrong shape: {function}() takes column vectors, not {shape_text((rows, columns))}",
            piece.at,
        )
    return piece.expr


def _hadamard(args: Sequence[Piece]) -> Expr:
    shape = shape_of(args[0].expr)
    for piece in args[1:]:
        if shape_of(piece.expr) != shape:
            raise ExpressionError(
                f"wrong shape: hadamard() of {shape_text(shape)} and "
                f"{shape_text(shape_of(piece.expr))}; entry by entry needs one shape",
                piece.at,
            )
    if shape == SCALAR:
        return multiply([Piece(_scalar(p.expr), p.at) for p in args])
    return sympy.HadamardProduct(*(p.expr for p in args), evaluate=False)


def _diag(args: Sequence[Piece]) -> Expr:
    return DiagMatrix(_column(args[0], "diag"))


def _sum(args: Sequence[Piece]) -> Expr:
    vector = _column(args[0], "sum")
    ones = signal("ones_post" if vector.shape[0] == N_POST else "ones_pre")
    return multiply([Piece(sympy.Transpose(ones), args[0].at), args[0]])


def _dot(args: Sequence[Piece]) -> Expr:
    left, right = (_column(piece, "dot") for piece in args)
    if left.shape != right.shape:
        raise ExpressionError(
            f"wrong shape: dot() of {shape_text(left.shape)} and {shape_text(right.shape)}; "
            "both vectors must be of one side",
            args[1].at,
        )
    return multiply([Piece(transpose(left), args[0].at), args[1]])


def _outer(args: Sequence[Piece]) -> Expr:
    right = transpose(_column(args[1], "outer"))
    return multiply([Piece(_column(args[0], "outer"), args[0].at), Piece(right, args[1].at)])


def _elementwise(name: str) -> Callable[[Sequence[Piece]], Expr]:
    def build(args: Sequence[Piece]) -> Expr:
        if shape_of(args[0].expr) == SCALAR:
            raise ExpressionError(
                f"{name}() acts on vectors and matrices, not on a scalar", args[0].at
            )
        return entrywise(name, args[0].expr)

    return build


FUNCTIONS: dict[str, tuple[int, int, Callable[[Sequence[Piece]], Expr]]] = {
    "hadamard": (2, 16, _hadamard),
    "diag": (1, 1, _diag),
    "sum": (1, 1, _sum),
    "dot": (2, 2, _dot),
    "outer": (2, 2, _outer),
    **{name: (1, 1, _elementwise(name)) for name in ENTRYWISE},
}
"""Every function of the language: fewest and most arguments, and what it builds."""


def transpose(expr: Expr) -> Expr:
    """Transpose, taking back an earlier transpose."""
    if not expr.is_Matrix:
        return expr
    return expr.arg if isinstance(expr, sympy.Transpose) else sympy.Transpose(expr)


def negated(expr: Expr) -> Expr:
    """Return minus the expression."""
    scalars, matrices = _factors(expr)
    return _product([sympy.Integer(-1), *scalars], matrices)


def reciprocal(piece: Piece) -> Piece:
    """Return one over a number."""
    if not piece.expr.is_Number:
        raise ExpressionError("only a number can divide", piece.at)
    if piece.expr == 0:
        raise ExpressionError("division by zero", piece.at)
    return Piece(1 / piece.expr, piece.at)
