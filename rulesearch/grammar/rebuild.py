"""From the canonical form back to SymPy, for printing and for saving."""

from __future__ import annotations

import sympy
from sympy.matrices.expressions.diagonal import DiagMatrix
from sympy.matrices.expressions.matexpr import MatrixElement

from rulesearch.grammar.algebra import (
    Applied,
    Base,
    Contraction,
    Factors,
    Image,
    Monomial,
    NormalForm,
)
from rulesearch.grammar.functions import entrywise
from rulesearch.grammar.symbols import N_POST, N_PRE, signal

__all__ = ["to_sympy"]


def to_sympy(form: NormalForm) -> sympy.MatrixExpr:
    """Return a SymPy expression whose canonical form is ``form``."""
    if form.is_zero:
        return sympy.ZeroMatrix(*map(_size, form.shape))
    terms = [
        _monomial(m, sympy.Rational(c.numerator, c.denominator), form.shape)
        for m, c in form.monomials
    ]
    return terms[0] if len(terms) == 1 else sympy.MatAdd(*terms)


def _size(side: str) -> sympy.Expr:
    return {"post": N_POST, "pre": N_PRE, "one": sympy.Integer(1)}[side]


def _monomial(m: Monomial, c: sympy.Expr, shape: tuple[str, str]) -> sympy.MatrixExpr:
    rows, columns = shape
    scalars = [_contraction(s) for s, power in m.scalars for _ in range(power)]
    if m.diagonal:
        body = [DiagMatrix(_vector(m.post, rows))]
    elif m.matrix:
        body = [_weighted(m)]
        body = body if shape == ("post", "pre") else [sympy.Transpose(body[0])]
    else:
        left = [] if rows == "one" else [_vector(m.post, rows)]
        right = [] if columns == "one" else [sympy.Transpose(_vector(m.pre, columns))]
        chain = [f for s in scalars for f in s]
        return sympy.MatMul(c, *left, *chain, *right) if chain or c != 1 or right else left[0]
    factors = [MatrixElement(sympy.MatMul(*s, evaluate=False), 0, 0) for s in scalars]
    return sympy.MatMul(c, *factors, *body) if factors or c != 1 else body[0]


def _weighted(m: Monomial) -> sympy.MatrixExpr:
    matrix = _product(m.matrix)
    if not m.post and not m.pre:
        return matrix
    if not m.pre:
        return sympy.MatMul(DiagMatrix(_vector(m.post, "post")), matrix)
    if not m.post:
        return sympy.MatMul(matrix, DiagMatrix(_vector(m.pre, "pre")))
    outer = sympy.MatMul(_vector(m.post, "post"), sympy.Transpose(_vector(m.pre, "pre")))
    return sympy.HadamardProduct(outer, matrix)


def _vector(factors: Factors, side: str) -> sympy.MatrixExpr:
    return _product(factors) if factors else signal(f"ones_{side}")


def _product(factors: Factors) -> sympy.MatrixExpr:
    parts = [
        _atom(atom) if power == 1 else sympy.HadamardPower(_atom(atom), power)
        for atom, power in factors
    ]
    return parts[0] if len(parts) == 1 else sympy.HadamardProduct(*parts)


def _atom(atom: object) -> sympy.MatrixExpr:
    match atom:
        case Base(name=name):
            return signal(name)
        case Applied(function=name, argument=form):
            return entrywise(name, to_sympy(form))
        case Image(matrix=matrix, transposed=transposed, argument=argument):
            weights = _product(matrix)
            side = "post" if transposed else "pre"
            factor = sympy.Transpose(weights) if transposed else weights
            return sympy.MatMul(factor, _vector(argument, side))
    raise TypeError(atom)


def _contraction(c: Contraction) -> list[sympy.MatrixExpr]:
    """The row and the column whose product is the contraction."""
    ones = signal(f"ones_{c.side}")
    if not c.factors:
        return [sympy.Transpose(ones), ones]
    (atom, power), rest = c.factors[0], c.factors[1:]
    first: Factors = ((atom, 1),)
    left: Factors = (((atom, power - 1),) if power > 1 else ()) + rest
    return [sympy.Transpose(_vector(left, c.side)), _vector(first, c.side)]
