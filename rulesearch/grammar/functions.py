"""Functions that act on every entry of a vector or a matrix."""

from __future__ import annotations

from sympy import Abs, Function, Lambda, MatrixExpr, Symbol, exp, sign, tanh
from sympy.matrices.expressions.applyfunc import ElementwiseApplyFunction

from rulesearch.errors import GrammarError

__all__ = ["ENTRYWISE", "entrywise", "function_name"]

ENTRYWISE: dict[str, type[Function]] = {"tanh": tanh, "exp": exp, "abs": Abs, "sign": sign}
"""The functions, by the name they have in a grammar."""

_ENTRY = Symbol("x")


def entrywise(name: str, expr: MatrixExpr) -> MatrixExpr:
    """Return a function of every entry; equal calls give equal expressions."""
    # applyfunc() would bind a fresh dummy at each call, and no two results would compare equal.
    return ElementwiseApplyFunction(Lambda(_ENTRY, ENTRYWISE[name](_ENTRY)), expr)


def function_name(expr: ElementwiseApplyFunction) -> str:
    """Return which function it is of every entry.

    Raises
    ------
    GrammarError
        If it is none of a grammar's, or does more to the entry, as ``lambda x: exp(-x)`` does.
    """
    applied = expr.function(_ENTRY)
    for name, function in ENTRYWISE.items():
        if applied == function(_ENTRY):
            return name
    raise GrammarError(
        f"{applied} of every entry {_ENTRY} is none of {', '.join(ENTRYWISE)}; what else is done "
        "to an entry stands inside, as entrywise('exp', -y_post) or, in text, exp(-y_post)"
    )
