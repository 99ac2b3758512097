"""A term evaluated as it is written, with no factoring: the oracle of the compiler."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

import sympy
import torch
from sympy.matrices.expressions.applyfunc import ElementwiseApplyFunction
from sympy.matrices.expressions.diagonal import DiagMatrix
from sympy.matrices.expressions.matexpr import MatrixElement
from torch import Tensor

from rulesearch.grammar.functions import function_name
from rulesearch.grammar.symbols import VOCABULARY

__all__ = ["evaluate"]

_FUNCTIONS = {"tanh": torch.tanh, "exp": torch.exp, "abs": torch.abs, "sign": torch.sign}


def evaluate(expr: sympy.MatrixExpr, signals: Mapping[str, Tensor]) -> Tensor:
    """Evaluate a SymPy matrix expression.

    Parameters
    ----------
    expr : sympy.MatrixExpr
        Over the vocabulary.
    signals : mapping of str to Tensor
        Vectors ``(..., n)`` and matrices ``(..., n_post, n_pre)``; ones included.

    Returns
    -------
    Tensor
        ``(..., rows, columns)``.
    """
    match expr:
        case sympy.MatrixSymbol():
            value = signals[str(expr.name)]
            return value if VOCABULARY[str(expr.name)].side == "weight" else value.unsqueeze(-1)
        case sympy.Transpose():
            return evaluate(expr.arg, signals).mT
        case sympy.MatAdd() | sympy.Add():
            return reduce(torch.add, (evaluate(a, signals) for a in expr.args))
        case sympy.MatMul() | sympy.Mul():
            return reduce(_product, (evaluate(a, signals) for a in expr.args))
        case sympy.HadamardProduct():
            return reduce(torch.mul, (evaluate(a, signals) for a in expr.args))
        case sympy.HadamardPower() | sympy.MatPow() | sympy.Pow():
            return evaluate(expr.args[0], signals) ** int(expr.args[1])
        case ElementwiseApplyFunction():
            name = function_name(expr)
            return _FUNCTIONS[name](evaluate(expr.expr, signals))
        case DiagMatrix():
            return torch.diag_embed(evaluate(expr.args[0], signals).squeeze(-1))
        case MatrixElement() | sympy.Trace():
            return evaluate(expr.args[0], signals)
        case sympy.OneMatrix() if expr.shape[0] == 1:
            side = "post" if str(expr.shape[1]) == "n_post" else "pre"
            return signals[f"ones_{side}"].unsqueeze(-2)
        case sympy.OneMatrix():
            side = "post" if str(expr.shape[0]) == "n_post" else "pre"
            return signals[f"ones_{side}"].unsqueeze(-1)
        case sympy.Number():
            like = next(iter(signals.values()))
            return like.new_tensor(float(expr)).reshape(1, 1)
    raise TypeError(f"{type(expr).__name__} in {expr}")


def _product(a: Tensor, b: Tensor) -> Tensor:
    if a.shape[-2:] == (1, 1) or b.shape[-2:] == (1, 1):
        return a * b
    return a @ b
