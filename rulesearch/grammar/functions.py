"""Functions that act on every entry of a vector or a matrix."""

from __future__ import annotations

from sympy import Abs, Function, Lambda, MatrixExpr, Symbol, exp, sign, tanh
from sympy.matrices.expressions.applyfunc import ElementwiseApplyFunction

__all__ = ["ENTRYWISE", "entrywise"]

ENTRYWISE: dict[str, type[Function]] = {"tanh": tanh, "exp": exp, "abs": Abs, "sign": sign}
"""The functions, by the name they have in a grammar."""

_ENTRY = Symbol("x")


def entrywise(name: str, expr: MatrixExpr) -> MatrixExpr:
    """Return a function of every entry; equal calls give equal expressions."""
    # applyfunc() would bind a fresh dummy at each call, and no two results would compare equal.
    return ElementwiseApplyFunction(Lambda(_ENTRY, ENTRYWISE[name](_ENTRY)), expr)
