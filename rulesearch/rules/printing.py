"""A rule as text and as LaTeX: coefficients before terms, signs folded into them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import sympy

from rulesearch.grammar import Term

__all__ = ["latex_number", "rule_latex", "rule_text"]

Weighted = Sequence[tuple[float, Term]]


def rule_text(weighted: Weighted, digits: int | None = 4) -> str:
    """Return text that a grammar can read back, as ``-0.001 * e_post * y_pre.T``.

    Coefficients are rounded to ``digits`` significant digits, or exact where it is None.
    """
    parts = [_folded(c, term, str(term)) for c, term in weighted]
    shown = [
        (sign, f"{size!r} * {body}" if digits is None else f"{size:.{digits}g} * {body}")
        for sign, size, body in parts
    ]
    return _joined(shown) or "0 * W"


def rule_latex(
    weighted: Weighted, digits: int = 3, symbols: Mapping[str, str] | None = None
) -> str:
    """Return LaTeX with coefficients of ``digits`` significant digits, and one's own symbols."""
    parts = [_folded(c, term, term.latex(symbols)) for c, term in weighted]
    shown = [
        (sign, f"{latex_number(size, digits)} {_times(body)} {body}") for sign, size, body in parts
    ]
    return _joined(shown) or r"\mathbf{0}"


def latex_number(value: float, digits: int = 3) -> str:
    r"""Return ``1.23 \times 10^{-3}``; plain decimals from 0.01 to 1000, as far as digits go."""
    plain = f"{value:#.{digits}g}"
    if (value == 0 or 0.01 <= abs(value) < 1000) and "e" not in plain:
        return plain.removesuffix(".")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return rf"{mantissa} \times 10^{{{int(exponent)}}}"


def _times(body: str) -> str:
    r"""What stands between two factors: a space, but between two numbers a dot."""
    return r"\cdot" if re.match(r"\d|\\frac", body) else r"\,"


def _folded(coefficient: float, term: Term, body: str) -> tuple[bool, float, str]:
    """Return (negative, size, body): a product's own minus sign moves into the coefficient."""
    if isinstance(term.expr, sympy.MatAdd):
        return coefficient < 0, abs(coefficient), f"({body})"
    if body.startswith("-"):
        return coefficient >= 0, abs(coefficient), body[1:]
    return coefficient < 0, abs(coefficient), body


def _joined(parts: Sequence[tuple[bool, str]]) -> str:
    text = " ".join(f"{'-' if negative else '+'} {body}" for negative, body in parts)
    return text[2:] if text.startswith("+") else text.replace("- ", "-", 1)
