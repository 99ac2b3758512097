"""Grammars, expressions, terms and pools."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.mathtext import MathTextParser
from sympy.matrices.expressions.applyfunc import ElementwiseApplyFunction
from sympy.matrices.expressions.diagonal import DiagMatrix
from sympy.matrices.expressions.matexpr import MatrixElement

from rulesearch.errors import ConfigError, GrammarError
from rulesearch.grammar import Grammar, Term, TermPool
from rulesearch.grammar.canonical import normal_form
from rulesearch.grammar.parser import parse_expression, parse_term
from rulesearch.grammar.printing import latex, text
from rulesearch.grammar.rebuild import to_sympy

Array = np.ndarray[Any, np.dtype[np.float64]]
Environment = dict[str, Array]

POOL10 = {  # section 4.2 of the paper, in its own LaTeX
    "F0": r"-\mathbf{e}_{\ell} \mathbf{y}_{\ell-1}^{T}",
    "F1": r"-\mathbf{y}_{\ell} \mathbf{e}_{\ell-1}^{T}",
    "F2": r"-\mathbf{e}_{\ell} \mathbf{e}_{\ell-1}^{T}",
    "F3": r"-\mathbf{W}_{\ell-1,\ell}",
    "F4": r"-\mathbf{1}_{\ell} \mathbf{e}_{\ell-1}^{T}",
    "F5": r"-\mathbf{e}_{\ell} \mathbf{1}_{\ell}^{T} \mathbf{y}_{\ell} \mathbf{y}_{\ell-1}^{T}",
    "F6": r"-\mathbf{y}_{\ell} \mathbf{y}_{\ell}^{T} \mathbf{W}_{\ell-1,\ell}"
    r" \mathbf{e}_{\ell-1} \mathbf{e}_{\ell-1}^{T}",
    "F7": r"-\mathbf{e}_{\ell} \mathbf{y}_{\ell}^{T} \mathbf{W}_{\ell-1,\ell}"
    r" \mathbf{e}_{\ell-1} \mathbf{y}_{\ell-1}^{T}",
    "F8": r"-\mathbf{y}_{\ell} \mathbf{y}_{\ell-1}^{T} \mathbf{W}_{\ell-1,\ell}^{T}"
    r" \mathbf{e}_{\ell} \mathbf{e}_{\ell-1}^{T}",
    "F9": r"\mathbf{y}_{\ell} \mathbf{y}_{\ell-1}^{T}"
    r" - \mathbf{y}_{\ell} \mathbf{y}_{\ell}^{T} \mathbf{W}_{\ell-1,\ell}",
}


def environment(seed: int = 0, n_post: int = 3, n_pre: int = 4) -> Environment:
    rng = np.random.default_rng(seed)
    names = {"post": ("y_post", "e_post"), "pre": ("y_pre", "e_pre")}
    sizes = {"post": n_post, "pre": n_pre}
    values = {n: rng.normal(size=(sizes[s], 1)) for s in sizes for n in names[s]}
    values |= {n: rng.normal(size=(n_post, n_pre)) for n in ("W", "B", "Omega")}
    values |= {"ones_post": np.ones((n_post, 1)), "ones_pre": np.ones((n_pre, 1))}
    return values | {"z_post": values["W"] @ values["y_pre"]}


def evaluate(expr: Any, env: Environment) -> Array:
    """Evaluate a SymPy expression node by node; scalars are 1 x 1."""

    def of(e: Any) -> Array:
        return evaluate(e, env)

    if isinstance(expr, sympy.MatrixSymbol):
        return env[expr.name]
    if isinstance(expr, sympy.Transpose):
        return of(expr.arg).T
    if isinstance(expr, sympy.MatAdd | sympy.Add):
        return sum(map(of, expr.args[1:]), of(expr.args[0]))
    if isinstance(expr, sympy.MatMul):
        matrices = [of(a) for a in expr.args if a.is_Matrix]
        scalars = [of(a).item() for a in expr.args if not a.is_Matrix]
        chain = matrices[0]
        for matrix in matrices[1:]:
            chain = chain @ matrix
        return np.prod(scalars) * chain
    if isinstance(expr, sympy.Mul | sympy.HadamardProduct):
        product = of(expr.args[0])
        for a in expr.args[1:]:
            product = product * of(a)
        return product
    if isinstance(expr, sympy.HadamardPower | sympy.Pow):
        return of(expr.args[0]) ** int(expr.args[1])
    if isinstance(expr, ElementwiseApplyFunction):
        names = {sympy.tanh: np.tanh, sympy.exp: np.exp, sympy.Abs: np.abs, sympy.sign: np.sign}
        return names[type(expr.function(sympy.Dummy()))](of(expr.expr))
    if isinstance(expr, DiagMatrix):
        return np.diagflat(of(expr.args[0]))
    if isinstance(expr, MatrixElement):
        return of(expr.args[0])
    if isinstance(expr, sympy.ZeroMatrix):
        return np.zeros((len(env["y_post"]), len(env["y_pre"])))
    return np.array([[float(expr)]])


# Random expressions: the text, and its value computed beside it without any of our code.
Value = Callable[[Environment], Array]
Random = tuple[str, Value]
SIGNALS = {
    "post": ("y_post", "z_post", "e_post", "ones_post"),
    "pre": ("y_pre", "e_pre", "ones_pre"),
}
FUNCTIONS = {"tanh": np.tanh, "abs": np.abs, "sign": np.sign}


@st.composite
def vectors(draw: Any, side: str, depth: int = 2) -> Random:
    kind = draw(
        st.sampled_from(["signal", "signal", "power", "image", "sum", "product", "function"])
    )
    if depth == 0 or kind == "signal":
        name = draw(st.sampled_from(SIGNALS[side]))
        return name, lambda env: env[name]
    t, f = draw(vectors(side, depth - 1))
    if kind == "power":
        n = draw(st.integers(2, 3))
        return f"({t})**{n}", lambda env: f(env) ** n
    if kind == "function":
        name = draw(st.sampled_from(sorted(FUNCTIONS)))
        return f"{name}({t})", lambda env: FUNCTIONS[name](f(env))
    if kind == "image":
        m = draw(st.sampled_from(["W", "B", "Omega"]))
        t, g = draw(vectors("pre" if side == "post" else "post", depth - 1))
        if side == "post":
            return f"{m} * ({t})", lambda env: env[m] @ g(env)
        return f"{m}.T * ({t})", lambda env: env[m].T @ g(env)
    u, g = draw(vectors(side, depth - 1))
    if kind == "sum":
        return f"({t}) - ({u}) / 2", lambda env: f(env) - g(env) / 2
    return f"hadamard({t}, {u})", lambda env: f(env) * g(env)


@st.composite
def terms(draw: Any, depth: int = 2) -> Random:
    kind = draw(
        st.sampled_from(
            ["weight", "outer", "outer", "scalar", "row", "column", "sum", "product", "function"]
        )
    )
    if depth == 0 or kind == "weight":
        name = draw(st.sampled_from(["W", "B", "Omega"]))
        return name, lambda env: env[name]
    if kind == "outer":
        (t, f), (u, g) = draw(vectors("post")), draw(vectors("pre"))
        return f"({t}) * ({u}).T", lambda env: f(env) @ g(env).T
    if kind == "function":  # of weights alone: of a product with vectors it is refused
        m, n = draw(st.tuples(*[st.sampled_from(["W", "B", "Omega"])] * 2))
        return f"tanh({m} - {n} / 2)", lambda env: np.tanh(env[m] - env[n] / 2)
    t, f = draw(terms(depth - 1))
    side = draw(st.sampled_from(["post", "pre"]))
    v, g = draw(vectors("post" if kind == "row" else "pre" if kind == "column" else side, 1))
    if kind == "scalar":
        w, h = draw(vectors(side, 1))
        return f"dot({v}, {w}) * ({t})", lambda env: (g(env).T @ h(env)) * f(env)
    if kind == "row":
        return f"diag({v}) * ({t})", lambda env: g(env) * f(env)
    if kind == "column":
        return f"({t}) * diag({v})", lambda env: f(env) * g(env).T
    u, k = draw(terms(depth - 1))
    if kind == "sum":
        return f"0.5 * ({t}) - ({u})", lambda env: 0.5 * f(env) - k(env)
    return f"hadamard({t}, {u})", lambda env: f(env) * k(env)


def refusal(read: Callable[[str], object], source: str) -> str:
    """What is said of a text that is not taken."""
    try:
        read(source)
    except GrammarError as error:
        return str(error)
    return ""


@settings(max_examples=120, deadline=None)
@given(terms(), st.integers(0, 100))
def test_every_reading_of_an_expression_is_one_number(random: Random, seed: int) -> None:
    source, value = random
    env = environment(seed)
    expected = value(env)
    expr = parse_term(source)
    form = normal_form(expr)
    tolerance = {"rtol": 1e-9, "atol": 1e-9 * (1 + np.abs(expected).max())}
    np.testing.assert_allclose(evaluate(expr, env), expected, **tolerance)
    np.testing.assert_allclose(evaluate(to_sympy(form), env), expected, **tolerance)
    for printed in (text(expr), text(to_sympy(form))):
        assert normal_form(parse_term(printed)) == form
    assert to_sympy(form) == to_sympy(normal_form(to_sympy(form)))


@settings(max_examples=60, deadline=None)
@given(terms())
def test_latex_is_mathematics_that_figures_can_show(random: Random) -> None:
    MathTextParser("path").parse(f"${latex(parse_term(random[0]))}$")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="We_post*.T+-/(),0123 hadamrsumd^y", max_size=40))
def test_any_text_is_read_or_refused_in_one_line(source: str) -> None:
    message = refusal(parse_term, source)
    assert re.fullmatch(r"(<expression>:1:\d+: .+)?", message)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.text(alphabet="terms:{}[] F0W-&*!|>%\n\t'\"\\,#?", max_size=60))
def test_any_file_is_read_or_refused_in_one_line(source: str) -> None:
    message = refusal(lambda text: Grammar.from_string(text, "g.yaml"), source)
    assert re.fullmatch(r"(g\.yaml:\d+:\d+: .+)?", message)


@pytest.mark.parametrize(
    "spellings",
    [
        (
            "-e_post * y_pre.T",
            "-(e_post * y_pre.T)",
            "e_post * -y_pre.T",
            "outer(e_post, y_pre) * -1",
        ),
        ("e_post * ones_post.T * y_post * y_pre.T", "sum(y_post) * e_post * y_pre.T"),
        ("e_post * y_post.T * W * e_pre * y_pre.T", "dot(W.T * y_post, e_pre) * e_post * y_pre.T"),
        ("y_post * y_pre.T * W.T * e_post * e_pre.T", "dot(z_post, e_post) * y_post * e_pre.T"),
        ("(y_post - e_post) * y_pre.T", "y_post * y_pre.T - e_post * y_pre.T"),
        ("diag(y_post) * W", "hadamard(W, y_post * ones_pre.T)"),
        ("hadamard(y_post, y_post) * y_pre.T", "y_post**2 * y_pre.T"),
        ("y_post * y_post.T * W", "y_post * (W.T * y_post).T"),
        ("0.5 * W", "W / 2", "1/2 * W", "5.0e-1 * W", ".5 * W"),
        ("(y_pre * y_post.T).T", "y_post * y_pre.T"),
    ],
)
def test_spellings_of_one_term_are_one_term(spellings: tuple[str, ...]) -> None:
    assert len({Term.from_text("F", spelling) for spelling in spellings}) == 1


def test_pool10_is_the_papers() -> None:
    pool = Grammar.from_yaml("pool10").enumerate()
    assert {term.name: term.latex() for term in pool} == POOL10
    assert pool.init == (1e-3, *[0.0] * 9)
    env = environment(1)
    y, z, e, w = (env[n] for n in ("y_post", "z_post", "e_post", "W"))
    x, d = env["y_pre"], env["e_pre"]
    expected = [
        -e @ x.T,
        -y @ d.T,
        -e @ d.T,
        -w,
        -np.ones_like(y) @ d.T,
        -y.sum() * e @ x.T,
        -(y.T @ w @ d) * y @ d.T,
        -(y.T @ w @ d) * e @ x.T,
        -(z.T @ e) * y @ d.T,
        y @ x.T - y @ (y.T @ w),
    ]
    for term, value in zip(pool, expected, strict=True):
        np.testing.assert_allclose(evaluate(term.expr, env), value, rtol=1e-12)
        np.testing.assert_allclose(evaluate(term.canonical(), env), value, rtol=1e-12)


GENERATED = """
terms: {mine: -2 * e_post * y_pre.T}
generate:
  - outer: {post: [y_post, e_post, z_post], pre: [y_pre, W.T * y_post]}
  - decay: [1, y_post, y_pre]
exclude: [W]
constraints: {locality: neuron, max_degree: 2}
"""


def test_generators_exclusion_and_constraints() -> None:
    pool = Grammar.from_string(GENERATED).pool
    assert [(t.name, str(t)) for t in pool] == [
        ("mine", "-2 * e_post * y_pre.T"),  # the generated twin is dropped, up to the factor
        ("y_post_y_pre", "-y_post * y_pre.T"),
        ("z_post_y_pre", "-z_post * y_pre.T"),
        ("decay_y_post", "-diag(y_post) * W"),
        ("decay_y_pre", "-W * diag(y_pre)"),
    ]


def test_generated_names_are_made_free() -> None:
    pool = Grammar.from_string("terms: {decay: -B}\ngenerate: [{decay: [1]}]").pool
    assert pool.names == ("decay", "decay_2")


def test_includes(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("terms: {own: {expr: B - W, init: 0.5, about: a}}")
    top = tmp_path / "top.yaml"
    top.write_text("include: {feedback: mine.own, oja: catalogue.oja}")
    pool = Grammar.from_yaml(top).pool
    assert pool.names == ("feedback", "oja")
    assert (pool[0].init, pool[0].about, str(pool[0])) == (0.5, "a", "B - W")
    top.write_text("include: [mine, ehebb]")
    assert Grammar.from_yaml(top).pool.names == ("own", "F0", "F2")
    (tmp_path / "mine.yaml").write_text("include: [top]")
    with pytest.raises(GrammarError, match=r"mine\.yaml:1:11: grammar 'top' includes itself"):
        Grammar.from_yaml(top)


def test_many_includes_are_read_once(tmp_path: Path) -> None:
    for i in range(7):
        (tmp_path / f"g{i}.yaml").write_text(f"include: [{', '.join([f'g{i + 1}'] * 100)}]")
    (tmp_path / "g7.yaml").write_text("terms: {F0: -W}")
    assert len(Grammar.from_yaml(tmp_path / "g0.yaml")) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("terms: {F0: -e_pst * y_pre.T}", "1:14: unknown symbol 'e_pst'; did you mean 'e_post'?"),
        ("terms:\n  F0:\n    expr: W * yy_pre", "3:15: unknown symbol 'yy_pre'; did you mean"),
        ("terms: {F0: 'hadamrd(W, W)'}", "1:14: unknown function 'hadamrd'; did you mean"),
        ("terms: {F0: y_post * y_post}", "1:22: wrong shape: (n_post, 1) * (n_post, 1); transp"),
        ("terms: {F0: y_post * y_pre.T + y_post}", "1:32: wrong shape: (n_post, n_pre) + (n_po"),
        ("terms: {F0: 'W^2'}", "1:15: unexpected character '^'; powers are written **"),
        ("terms: {F0: W *}", "1:16: the expression ends too early"),
        ("terms: {F0: >-\n  -e_pst\n  * y_pre.T}", "1:13: "),
        ("terms: {F0: -W}\ntrems: {}", "2:1: unknown key 'trems'; did you mean 'terms'?"),
        ("terms: {F0: {expr: -W, inti: 0}}", "1:24: unknown key 'inti'; did you mean 'init'?"),
        (
            "terms: {A: {expr: hadamard(y_post, e_post) * y_pre.T}}",
            "1:36: unknown key 'e_post) * y_pre.T'; in braces a comma ends a value, so quote",
        ),
        ("terms: {F0: -W, F0: W}", "1:17: duplicate key 'F0'; first in line 1"),
        ("terms: {}", "1:1: the pool is empty"),
        ("terms: {A: -W, B2: W - B, C: 3 * W}", "1:30: term 'C' is 'A' again, up to a factor"),
        ("terms: {A: -W, D: B}\nconstraints: {max_terms: 1}", "1:1: more than 1 terms"),
        # two mistakes: the one that stands first
        ("terms: {F0: {expr: -W, init: x}}\nbogus: 1", "1:30: 'init': should be a valid number"),
        ("bogus: 1\nterms: {F0: {expr: -W, init: x}}", "1:1: unknown key 'bogus'"),
    ],
)
def test_mistakes_are_shown_where_they_stand(source: str, message: str) -> None:
    with pytest.raises(GrammarError) as raised:
        Grammar.from_string(source, "g.yaml")
    assert str(raised.value).startswith(f"g.yaml:{message}")


def test_no_such_grammar() -> None:
    with pytest.raises(GrammarError, match=r"no bundled grammar 'pool1'; did you mean 'pool10'"):
        Grammar.from_yaml("pool1")


def test_byte_order_mark_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_bytes("\ufeffname: 10\nterms: {F0: {expr: -W, init: 1e-3}}".encode())
    grammar = Grammar.from_yaml(path)
    assert grammar.name == "10"
    assert grammar.pool.init == (1e-3,)


def test_pool_is_a_sequence_and_a_mapping() -> None:
    pool = Grammar.from_yaml("pool10").pool
    assert pool["F9"] is pool[9] is pool[-1]
    assert "F9" in pool
    assert "F10" not in pool
    assert pool["F3"] in pool
    assert pool.subset(["F9", "F0"]).names == ("F0", "F9") == (pool[:1] + pool[9:]).names
    assert pool["F8"].symbols == {"z_post", "e_post", "y_post", "e_pre"}
    assert "B" not in pool.symbols
    assert (pool + pool) == pool
    with pytest.raises(ConfigError, match=r"no term 'F11' in the pool; did you mean 'F1'"):
        pool["F11"]
    with pytest.raises(ConfigError, match="multiple of 'F3'"):
        TermPool([pool["F3"], Term.from_text("twice", "2 * W")])
    with pytest.raises(ConfigError, match="two terms of a pool are named 'F3'"):
        TermPool([pool["F3"], Term.from_text("F3", "B")])
    with pytest.raises(ConfigError, match="both pools name a term 'F3'"):
        pool + TermPool([Term.from_text("F3", "B")])


def test_pool_and_term_show_themselves() -> None:
    pool = Grammar.from_yaml("bio").pool
    first = " ".join(repr(pool).splitlines()[1].split())
    assert first == "F0 -e_post * y_pre.T synapse 0.001"
    assert "<td>F9</td>" in pool._repr_html_()
    assert str(pool["F9"]) == "y_post * y_pre.T - y_post * y_post.T * W"
    assert repr(pool["F0"]) == "Term(F0: -e_post * y_pre.T)"


def test_grammars_add_up() -> None:
    both = Grammar.from_yaml("ehebb") + Grammar.from_yaml("oja")
    assert both.enumerate() == Grammar.from_yaml("bio").enumerate()
    assert (both.name, len(both)) == ("ehebb+oja", 3)


def test_expressions_that_are_scalars_and_vectors() -> None:
    env = environment(3)
    y, e = env["y_post"], env["e_post"]
    for source, expected in {
        "1 + sum(y_post)**2": 1 + y.sum() ** 2,
        "dot(y_post, e_post) / 4 - 1": (y.T @ e).item() / 4 - 1,
        "y_post.T * e_post * e_post.T * y_post": (y.T @ e).item() ** 2,
        "2 * (y_post.T * y_post) * sum(e_post)": 2 * (y.T @ y).item() * e.sum(),
    }.items():
        assert evaluate(parse_expression(source), env).item() == pytest.approx(expected)
    np.testing.assert_allclose(
        evaluate(parse_expression("(y_post.T * e_post) * y_post - -e_post"), env),
        (y.T @ e) * y + e,
    )
