"""From a SymPy matrix expression to its canonical form."""

from __future__ import annotations

from fractions import Fraction
from functools import reduce

import sympy
from sympy.matrices.expressions.applyfunc import ElementwiseApplyFunction
from sympy.matrices.expressions.diagonal import DiagMatrix
from sympy.matrices.expressions.matexpr import MatrixElement

from rulesearch.errors import GrammarError, Place, did_you_mean
from rulesearch.grammar.algebra import Applied, Base, Factors, Monomial, NormalForm, Shape
from rulesearch.grammar.functions import function_name
from rulesearch.grammar.symbols import N_POST, N_PRE, VOCABULARY

__all__ = ["normal_form"]

_SIDES = {N_POST: "post", N_PRE: "pre", sympy.Integer(1): "one"}


def _form(shape: Shape, monomial: Monomial, c: Fraction | int = 1) -> NormalForm:
    return NormalForm.of(shape, {monomial: Fraction(c)})


def _shape(expr: sympy.MatrixExpr) -> Shape:
    return _SIDES[expr.shape[0]], _SIDES[expr.shape[1]]


def _number(value: sympy.Expr) -> Fraction:
    rational = sympy.Rational(value)
    return Fraction(int(rational.p), int(rational.q))


def _lower(expr: sympy.Basic) -> NormalForm:
    """Expand a SymPy expression into its canonical polynomial."""
    match expr:
        case sympy.MatrixSymbol():
            return _lower_symbol(expr)
        case sympy.Transpose():
            return _lower(expr.arg).transposed()
        case sympy.MatAdd() | sympy.Add():
            return reduce(NormalForm.__add__, map(_lower, expr.args))
        case sympy.MatMul():
            return _lower_product(list(expr.args))
        case sympy.Mul():
            return reduce(NormalForm.__matmul__, map(_lower, expr.args))
        case sympy.HadamardProduct():
            return reduce(NormalForm.hadamard, map(_lower, expr.args))
        case sympy.HadamardPower() | sympy.MatPow() | sympy.Pow():
            base = _lower(expr.args[0])
            return reduce(NormalForm.hadamard, [base] * int(expr.args[1]))
        case ElementwiseApplyFunction():
            return _lower_function(expr)
        case DiagMatrix():
            vector = _lower(expr.args[0])
            side = vector.shape[0]
            terms = {Monomial(m.scalars, m.post, diagonal=True): c for m, c in vector.monomials}
            return NormalForm.of((side, side), terms)
        case MatrixElement() | sympy.Trace():  # how SymPy writes a 1 x 1 matrix as a scalar
            return _lower(expr.args[0])
        case sympy.Identity():
            return _form(_shape(expr), Monomial(diagonal=True))
        case sympy.ZeroMatrix():
            return NormalForm(_shape(expr), ())
        case sympy.OneMatrix():
            return _form(_shape(expr), Monomial())
        case sympy.Number():
            return _form(("one", "one"), Monomial(), _number(expr))
    raise GrammarError(f"{type(expr).__name__} has no meaning in a plasticity term")


def _lower_symbol(expr: sympy.MatrixSymbol) -> NormalForm:
    name = str(expr.name)
    if name not in VOCABULARY:
        raise GrammarError(f"unknown symbol '{name}'{did_you_mean(name, VOCABULARY)}")
    if expr.shape != VOCABULARY[name].symbol.shape:
        raise GrammarError(
            f"{name} has shape {expr.shape}; it should be {VOCABULARY[name].symbol.shape}, as of "
            f"rulesearch.grammar.symbols.signal('{name}')"
        )
    side = VOCABULARY[name].side
    atom: Factors = ((Base(name), 1),)
    if side == "weight":
        return _form(("post", "pre"), Monomial(matrix=atom))
    return _form((side, "one"), Monomial(post=() if name.startswith("ones_") else atom))


def _lower_function(expr: ElementwiseApplyFunction) -> NormalForm:
    name = function_name(expr)
    argument = _lower(expr.expr)
    if argument.is_zero:
        raise GrammarError(f"the argument of {name}() cancels to zero")
    argument, outside = _number_outside(name, argument)
    return _applied(name, argument).scaled(outside)


def _number_outside(name: str, argument: NormalForm) -> tuple[NormalForm, Fraction]:
    """Take out of a function what it lets out, so that proportional terms are seen to be so.

    ``abs(c u) = |c| abs(u)``, ``sign(c u) = sign(c) sign(u)``, ``tanh(-u) = -tanh(u)``.
    """
    first = argument.monomials[0][1]
    sign = Fraction(1 if first > 0 else -1)
    match name:
        case "abs":
            return argument.direction(), abs(first)
        case "sign":
            return argument.direction(), sign
        case "tanh":
            return argument.scaled(sign), sign
    return argument, Fraction(1)


def _applied(name: str, argument: NormalForm) -> NormalForm:
    """A function of every entry of a vector, or of a matrix of weights."""
    rows, columns = argument.shape
    if columns == "one" and rows != "one":
        return _form(argument.shape, Monomial(post=((Applied(name, argument), 1),)))
    if rows == "one" and columns != "one":
        column = argument.transposed()
        return _form(column.shape, Monomial(post=((Applied(name, column), 1),))).transposed()
    if (rows, columns) != ("post", "pre"):
        raise GrammarError(f"{name}() acts on vectors and on (n_post, n_pre) matrices")
    vectors = any(m.scalars or m.post or m.pre for m, _ in argument.monomials)
    if vectors or not argument.symbols:
        raise GrammarError(
            f"{name}() of a matrix takes weights and numbers, as in {name}(W - B); "
            f"apply it to vectors before they are multiplied"
        )
    return _form(argument.shape, Monomial(matrix=((Applied(name, argument), 1),)))


def _lower_product(factors: list[sympy.Basic]) -> NormalForm:
    """Multiply a chain in an order that never multiplies two matrices if that can be."""
    numbers = [f for f in factors if not getattr(f, "is_Matrix", False)]
    matrices = [f for f in factors if getattr(f, "is_Matrix", False)]
    scale = reduce(NormalForm.__matmul__, map(_lower, numbers), _lower(sympy.Integer(1)))
    product = _chain(matrices)
    return product.times(scale)


def _chain(factors: list[sympy.MatrixExpr]) -> NormalForm:
    if len(factors) == 1:
        return _lower(factors[0])
    for i in range(1, len(factors)):
        if factors[i].shape[0] == 1:  # a bond of size one: an outer product, or scalars
            return _chain(factors[:i]) @ _chain(factors[i:])
    if factors[-1].shape[1] == 1:
        return _apply(factors[:-1], _lower(factors[-1]))
    if factors[0].shape[0] == 1:
        flipped = [sympy.Transpose(f) for f in reversed(factors[1:])]
        return _apply(flipped, _lower(factors[0]).transposed()).transposed()
    return reduce(NormalForm.__matmul__, map(_lower, factors))


def _apply(factors: list[sympy.MatrixExpr], vector: NormalForm) -> NormalForm:
    """Matrices times a vector, right to left, reaching into sums and products."""
    for factor in reversed(factors):
        vector = _apply_one(factor, vector)
    return vector


def _apply_one(matrix: sympy.MatrixExpr, vector: NormalForm) -> NormalForm:
    match matrix:
        case sympy.MatAdd():
            return reduce(NormalForm.__add__, (_apply_one(a, vector) for a in matrix.args))
        case sympy.MatMul() if all(getattr(a, "is_Matrix", False) for a in matrix.args):
            return _apply(list(matrix.args), vector)
        case sympy.Transpose(arg=sympy.MatAdd() as total):
            return _apply_one(sympy.MatAdd(*map(sympy.Transpose, total.args)), vector)
        case sympy.Transpose(arg=sympy.MatMul() as product) if all(
            getattr(a, "is_Matrix", False) for a in product.args
        ):
            return _apply([sympy.Transpose(a) for a in reversed(product.args)], vector)
    return _lower(matrix) @ vector


def normal_form(expr: sympy.MatrixExpr, place: Place | None = None) -> NormalForm:
    """Return the canonical form of a term.

    Parameters
    ----------
    expr : sympy.MatrixExpr
        Of shape ``(n_post, n_pre)``, over the vocabulary.
    place : Place, optional
        Where it stands, for the error.

    Raises
    ------
    GrammarError
        If the shape is another, a product would cost n x n x n, or the expansion has more
        than 512 monomials.
    """
    try:
        shape = tuple(expr.shape) if getattr(expr, "is_Matrix", False) else (1, 1)
        if shape != (N_POST, N_PRE):
            raise GrammarError(
                f"a term has shape (n_post, n_pre), this one ({shape[0]}, {shape[1]})"
            )
        return _lower(expr)
    except GrammarError as error:
        if error.place is None and place is not None:
            raise GrammarError(error.message, place) from None
        raise
