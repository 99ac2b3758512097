"""A rule in LaTeX: its numbers, and symbols of one's own."""

from __future__ import annotations

import pytest
from matplotlib.mathtext import MathTextParser

from rulesearch.errors import ConfigError
from rulesearch.grammar import Term, TermPool
from rulesearch.rules import Rule


def test_latex_with_symbols_of_ones_own() -> None:
    pool = TermPool([Term.from_text("oja", "y_post * y_pre.T - diag(y_post**2) * W"),
                     Term.from_text("back", "e_post * y_pre.T * B.T * W")])  # fmt: skip
    own = {"y_post": r"\mathbf{r}", "y_pre": r"\mathbf{x}", "B": "B"}
    rule = Rule(pool, {"oja": 2.0})
    assert rule.latex(2, own) == (
        r"2.0 \, (\mathbf{r} \mathbf{x}^{T} - \mathrm{diag}(\mathbf{r}^{\odot 2})"
        r" \mathbf{W}_{\ell-1,\ell})"
    )
    assert pool["back"].latex(own) == (
        r"\mathbf{e}_{\ell} \mathbf{x}^{T} B^{T} \mathbf{W}_{\ell-1,\ell}"
    )
    with pytest.raises(ConfigError, match="unknown symbol 'y_pots'; did you mean 'y_post'"):
        rule.latex(symbols={"y_pots": "r"})
    with pytest.raises(ConfigError, match="unknown symbol 'reward'; known are y_pre, y_post"):
        pool["oja"].latex({"reward": "r"})


@pytest.mark.parametrize(
    ("expression", "latex"),
    [
        ("2 * W", r"0.500 \cdot 2 \mathbf{W}_{\ell-1,\ell}"),
        ("-1e-5 * W", r"-0.500 \cdot 10^{-5} \mathbf{W}_{\ell-1,\ell}"),
        ("W / 3", r"0.500 \cdot \frac{1}{3} \mathbf{W}_{\ell-1,\ell}"),
        ("-W", r"-0.500 \, \mathbf{W}_{\ell-1,\ell}"),
        ("2 * W - Omega", r"0.500 \, (2 \mathbf{W}_{\ell-1,\ell} - \mathbf{\Omega}_{\ell-1,\ell})"),
    ],
)
def test_a_coefficient_and_a_number_of_its_term_stand_apart(expression: str, latex: str) -> None:
    rule = Rule(TermPool([Term.from_text("F", expression)]), {"F": 0.5})
    assert rule.latex() == latex
    MathTextParser("agg").parse(f"${rule.latex()}$")


@pytest.mark.parametrize(
    ("coefficient", "digits", "latex"),
    [
        (123.0, 2, r"1.2 \times 10^{2}"),
        (999.9, 3, r"1.00 \times 10^{3}"),
        (12.0, 1, r"1 \times 10^{1}"),
        (123.4, 3, "123"),
        (9.99, 2, "10"),
        (0.5, 1, "0.5"),
    ],
)
def test_digits_of_large_coefficients(coefficient: float, digits: int, latex: str) -> None:
    rule = Rule(TermPool([Term.from_text("F", "W")]), {"F": coefficient})
    assert rule.latex(digits) == rf"{latex} \, \mathbf{{W}}_{{\ell-1,\ell}}"


@pytest.mark.parametrize(
    ("symbol", "raised"),
    [
        (r"\mathbf{r}^{\mathrm{in}}", r"(\mathbf{r}^{\mathrm{in}})^{T}"),
        ("r^+", "(r^+)^{T}"),
        (r"r^\dagger", r"(r^\dagger)^{T}"),
        ("x^{a}_{b}", "(x^{a}_{b})^{T}"),
        (r"\hat{y}-y", r"(\hat{y}-y)^{T}"),
        ("f(a-b)", "f(a-b)^{T}"),
        ("x_{a+b}", "x_{a+b}^{T}"),
    ],
)
def test_a_symbol_of_ones_own_keeps_together(symbol: str, raised: str) -> None:
    term = Term.from_text("F", "e_post * y_pre.T")
    assert term.latex({"y_pre": symbol}) == rf"\mathbf{{e}}_{{\ell}} {raised}"
    MathTextParser("agg").parse(f"${term.latex({'y_pre': symbol})}$")


def test_a_symbol_that_is_a_sum_is_in_parentheses() -> None:
    term = Term.from_text("F", "e_post * y_pre.T")
    found = term.latex({"e_post": r"\hat{y}-y"})
    assert found == r"(\hat{y}-y) \mathbf{y}_{\ell-1}^{T}"
