r"""Terms as text in the grammar's own language, and as LaTeX in the style of the paper.

Both come from one walk over the SymPy expression with two sets of marks, so they cannot
drift apart. The text reads back as the same term. The LaTeX keeps to what matplotlib's
mathtext knows as well, so that figures and pages show one notation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import sympy
from sympy.matrices.expressions.applyfunc import ElementwiseApplyFunction
from sympy.matrices.expressions.diagonal import DiagMatrix
from sympy.matrices.expressions.matexpr import MatrixElement

from rulesearch.arguments import check_kind
from rulesearch.errors import ConfigError, GrammarError, did_you_mean
from rulesearch.grammar.functions import function_name
from rulesearch.grammar.symbols import VOCABULARY

__all__ = ["latex", "text"]

_BRACES, _PARENTHESES = r"\{[^{}]*\}", r"\([^()]*\)"
_SCRIPT = r"(?:\\[a-zA-Z]+|[^\\])"  # a command, or one character
_RAISED = re.compile(rf"\^{_SCRIPT}(?:_{_SCRIPT})?$")  # what ends in a superscript

SUM, PRODUCT, POWER, ATOM = range(4)
Printed = tuple[str, int]  # what is printed, and how tightly it binds


@dataclass(frozen=True)
class _Style:
    """The marks of one notation."""

    times: str
    symbol: Callable[[str], str]
    transposed: Callable[[str], str]
    power: Callable[[str, int, bool], str]
    function: Callable[[str, str], str]
    hadamard: Callable[[Iterable[Printed]], Printed]
    number: Callable[[sympy.Rational], str]
    zero: str


def _wrap(printed: Printed, least: int) -> str:
    body, binds = printed
    return body if binds >= least else f"({body})"


def _walk(expr: Any, style: _Style) -> Printed:
    match expr:
        case sympy.MatrixSymbol():
            return style.symbol(str(expr.name)), ATOM
        case sympy.Transpose():
            return style.transposed(_wrap(_walk(expr.arg, style), ATOM)), ATOM
        case sympy.MatAdd() | sympy.Add():
            return _sum([_wrap(_walk(a, style), PRODUCT) for a in expr.args]), SUM
        case sympy.MatMul() | sympy.Mul():
            inner = (a.args if isinstance(a, sympy.Mul) else (a,) for a in expr.args)
            return _product([factor for args in inner for factor in args], style), PRODUCT
        case sympy.HadamardProduct():
            return style.hadamard([_walk(a, style) for a in expr.args])
        case sympy.HadamardPower() | sympy.Pow():
            base = _wrap(_walk(expr.args[0], style), ATOM)
            entrywise = isinstance(expr, sympy.HadamardPower)
            return style.power(base, int(expr.args[1]), entrywise), POWER
        case ElementwiseApplyFunction():
            name = function_name(expr)
            return style.function(name, _walk(expr.expr, style)[0]), ATOM
        case DiagMatrix():
            return style.function("diag", _walk(expr.args[0], style)[0]), ATOM
        case MatrixElement():
            return _walk(expr.args[0], style)
        case sympy.Number():
            value = sympy.Rational(expr)
            return style.number(value), PRODUCT if value < 0 or value.q != 1 else ATOM
        case sympy.ZeroMatrix():
            return style.zero, PRODUCT
    raise GrammarError(f"{type(expr).__name__} has no spelling in a grammar")


def _sum(parts: list[str]) -> str:
    tail = (f" - {p[1:]}" if p.startswith("-") else f" + {p}" for p in parts[1:])
    return parts[0] + "".join(tail)


def _product(factors: list[Any], style: _Style) -> str:
    sign = ""
    if factors[0].is_Number and factors[0] < 0:
        sign, factors = "-", [-factors[0], *factors[1:]]
    if factors[0] == 1 and len(factors) > 1:
        factors = factors[1:]
    number = factors[0].is_Number  # p/q binds as the product does: no parentheses in front
    parts = [
        _wrap(_walk(f, style), PRODUCT if number and not i else POWER)
        for i, f in enumerate(factors)
    ]
    return sign + style.times.join(parts)


def _decimal(value: sympy.Rational) -> str | None:
    """The shortest decimal that is exactly this number, if there is one."""
    if value.q == 1:
        return str(value.p)
    short = repr(float(value))
    return short if sympy.Rational(short) == value else None


def _text_number(value: sympy.Rational) -> str:
    return _decimal(value) or f"{value.p}/{value.q}"


def _text_power(base: str, exponent: int) -> str:
    """A power by exponents that the language takes, which end at 8."""
    if exponent <= 8:
        return base if exponent == 1 else f"{base}**{exponent}"
    eights, rest = divmod(exponent, 8)
    power = _text_power(f"({base}**8)", eights) if eights > 1 else f"{base}**8"
    return f"hadamard({power}, {_text_power(base, rest)})" if rest else power


def _latex_number(value: sympy.Rational) -> str:
    sign, value = ("-", -value) if value < 0 else ("", value)
    decimal = _decimal(value)
    if decimal is None:
        return rf"{sign}\frac{{{value.p}}}{{{value.q}}}"
    mantissa, _, exponent = decimal.partition("e")
    if not exponent:
        return sign + decimal
    power = f"10^{{{int(exponent)}}}"
    return sign + (power if mantissa == "1" else rf"{mantissa} \times {power}")


def _latex_power(base: str, exponent: int, entrywise: bool) -> str:
    mark = r"\odot " if entrywise else ""
    return f"{_unraised(base)}^{{{mark}{exponent}}}"


def _latex_transposed(base: str) -> str:
    # The paper writes the feedback weight as B^T, which undoes itself.
    return base[: -len("^{T}")] if base == VOCABULARY["B"].latex else f"{_unraised(base)}^{{T}}"


def _unraised(base: str) -> str:
    """A base that can carry a superscript."""
    return f"({base})" if _RAISED.search(_flat(base, _BRACES)) else base


def _flat(latex: str, group: str) -> str:
    """With one letter in place of what stands in braces, or in other parentheses."""
    while latex != (less := re.sub(group, "x", latex)):
        latex = less
    return latex


def _own(symbol: str) -> str:
    """A symbol of one's own, in parentheses where it is a sum."""
    flat = _flat(_flat(symbol, _BRACES), _PARENTHESES)
    return f"({symbol})" if re.search(r"(?<![\^_])[+-]", flat) else symbol


def _latex_function(name: str, argument: str) -> str:
    if name == "abs":
        return rf"|{argument}|"
    command = {"tanh": r"\tanh", "exp": r"\exp"}.get(name, rf"\mathrm{{{name}}}")
    return f"{command}({argument})"


_TEXT = _Style(
    times=" * ",
    symbol=lambda name: name,
    transposed=lambda base: f"{base}.T",
    power=lambda base, exponent, _: _text_power(base, exponent),
    function=lambda name, argument: f"{name}({argument})",
    hadamard=lambda parts: (f"hadamard({', '.join(body for body, _ in parts)})", ATOM),
    number=_text_number,
    zero="0 * W",
)
_LATEX = _Style(
    times=" ",
    symbol=lambda name: VOCABULARY[name].latex,
    transposed=_latex_transposed,
    power=_latex_power,
    function=_latex_function,
    hadamard=lambda parts: (r" \odot ".join(_wrap(part, POWER) for part in parts), PRODUCT),
    number=_latex_number,
    zero=r"\mathbf{0}",
)


def text(expr: Any) -> str:
    """Return the expression in the language of a grammar; it reads back as the same term."""
    return _walk(expr, _TEXT)[0]


def latex(expr: Any, symbols: Mapping[str, str] | None = None) -> str:
    r"""Return LaTeX in the paper's notation, as ``-\mathbf{e}_{\ell} \mathbf{y}_{\ell-1}^{T}``.

    It has no display commands around it, and matplotlib's mathtext renders it.

    Parameters
    ----------
    symbols : mapping of str to str, optional
        LaTeX of some of the vocabulary, in place of the paper's.

    Raises
    ------
    ConfigError
        If one of them is not of the vocabulary.
    """
    if not symbols:
        return _walk(expr, _LATEX)[0]
    check_kind("symbols", symbols, Mapping, r"LaTeX by name, as {'y_post': r'\mathbf{r}'}")
    for name, spelled in symbols.items():
        if name not in VOCABULARY:
            hint = did_you_mean(str(name), VOCABULARY) or f"; known are {', '.join(VOCABULARY)}"
            raise ConfigError(f"symbols: unknown symbol {name!r}{hint}")
        check_kind(f"symbols[{name!r}]", spelled, str, "a text")
    own = {name: _own(spelled) for name, spelled in symbols.items()}
    style = replace(_LATEX, symbol=lambda name: own.get(name, VOCABULARY[name].latex))
    return _walk(expr, style)[0]
