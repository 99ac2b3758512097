"""What a grammar takes, it prints as text that reads back; and it says where a text does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import sympy
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from rulesearch.errors import GrammarError
from rulesearch.grammar import Grammar, Term
from rulesearch.grammar.symbols import signal
from rulesearch.networks import PlasticNetwork
from rulesearch.search.config import Experiment, load_config
from rulesearch.search.settings import Settings
from rulesearch.tasks import LinearTeacher


def generated(post: str, pre: str) -> Grammar:
    return Grammar.from_string(f"generate: [{{outer: {{post: {post}, pre: {pre}}}}}]", "g.yaml")


@pytest.mark.parametrize(
    ("post", "pre", "text", "latex"),
    [
        (
            "[-e_post]",
            "[e_pre]",
            "e_post * e_pre.T",
            r"\mathbf{e}_{\ell} \mathbf{e}_{\ell-1}^{T}",
        ),
        (
            "[2 * y_post]",
            "[e_pre / 4]",
            "-2 * y_post * (0.25 * e_pre).T",
            r"-2 \mathbf{y}_{\ell} (0.25 \mathbf{e}_{\ell-1})^{T}",
        ),
        (
            "[sum(y_post) * -e_post]",
            "[y_pre]",
            "(ones_post.T * y_post) * e_post * y_pre.T",
            r"(\mathbf{1}_{\ell}^{T} \mathbf{y}_{\ell}) \mathbf{e}_{\ell} \mathbf{y}_{\ell-1}^{T}",
        ),
    ],
)
def test_numbers_of_generated_vectors_stand_in_front(
    post: str, pre: str, text: str, latex: str
) -> None:
    (term,) = generated(post, pre).pool
    assert (str(term), term.latex()) == (text, latex)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("%YAML 1.2\n---\nterms: {a: W}", "1:1: directives (%...) are not read"),
        ("# 100 %\n%YAML 1.2\n---\nterms: {a: W}", "2:1: directives (%...) are not read"),
        ("generate: [{decay: [1, 0]}]", "1:24: a decay shrinks weights: write 1, not 0"),
        ("generate: [{decay: [-1]}]", "1:21: a decay shrinks weights: write 1, not -1"),
        ("terms: {a: }", "1:11: 'a': should be an expression, or a mapping with 'expr:'"),
        ("terms: {a: [W]}", "1:12: 'a': should be an expression, or a mapping with 'expr:'"),
        ("terms: {a: Y_post * y_pre.T}", "1:12: unknown symbol 'Y_post'; did you mean 'y_post'?"),
        ("terms: {a: e_post * Y_PRE.T}", "1:21: unknown symbol 'Y_PRE'; did you mean 'y_pre'?"),
        ("terms: {a: omega - W}", "1:12: unknown symbol 'omega'; did you mean 'Omega'?"),
        ("generate: [{decay: [B]}]", "1:21: wrong shape: a decay is 1 or a vector"),
    ],
)
def test_mistakes_are_shown_where_they_stand(source: str, message: str) -> None:
    with pytest.raises(GrammarError) as raised:
        Grammar.from_string(source, "g.yaml")
    assert str(raised.value).startswith(f"g.yaml:{message}")


LONG = [f"tanh({'+'.join(['y_post'] * n)})" for n in (9, 10, 11)]  # names cut to the same letters


@pytest.mark.parametrize(
    ("post", "names"),
    [
        (["2*y_post - e_post"], ["outer_2_y_post_e_post_y_pre"]),
        (["1e-3 * e_post"], ["outer_1e_3_e_post_y_pre"]),
        (["-e_post"], ["e_post_y_pre"]),
        (["e_post", "-e_post - e_post", "e_post - 2 * W * y_pre"],
         ["e_post_y_pre", "e_post_2_W_y_pre_y_pre"]),
        (LONG, [f"tanh_{8 * 'y_post_'}{end}" for end in ("y_p", "y_2", "y_3")]),
    ],
)  # fmt: skip
def test_generated_names_are_names(post: list[str], names: list[str]) -> None:
    pool = generated(str(post), "[y_pre]").pool
    assert list(pool.names) == names
    assert max(map(len, names)) <= 64
    declared = "\n".join(f"  {term.name}: {term}" for term in pool)
    assert Grammar.from_string(f"terms:\n{declared}").pool == pool


@pytest.mark.parametrize("name", ["2x", "", "a b", "W", "T", "dot", "a" * 65, "naïve"])
def test_a_term_has_a_name_that_a_grammar_takes(name: str) -> None:
    with pytest.raises(GrammarError, match="name"):
        Term.from_text(name, "-W")
    with pytest.raises(GrammarError, match=r"g\.yaml:1:9: .*name"):
        Grammar.from_string(f"terms: {{'{name}': -W}}", "g.yaml")


# Random expressions of every construct, numbers of every kind among them.
NUMBERS = st.sampled_from(
    ("0", "1", "2", "-3", "1/3", "-22/7", "1e-12", "1e12", "1e15/1e4", "0.333333333333333333")
)
SIGNALS = {"post": ("y_post", "z_post", "ones_post"), "pre": ("y_pre", "e_pre")}
OTHER = {"post": "pre", "pre": "post"}


@st.composite
def vectors(draw: st.DrawFn, side: str, depth: int) -> str:
    kinds = ("number", "minus", "power", "function", "image", "sum", "hadamard", "scalar")
    kind = draw(st.sampled_from(kinds)) if depth else "signal"
    if kind == "signal":
        return draw(st.sampled_from(SIGNALS[side]))
    if kind == "image":
        m = draw(st.sampled_from(("W", "(W - B/3)", "diag(y_post) * W")))
        m = m if side == "post" else f"({m}).T"
        return f"{m} * ({draw(vectors(OTHER[side], depth - 1))})"
    a = draw(vectors(side, depth - 1))
    match kind:
        case "number":
            return f"{draw(NUMBERS)} * ({a})"
        case "minus":
            return f"-({a})"
        case "power":
            return f"({a})**{draw(st.integers(2, 8))}"
        case "function":
            return f"{draw(st.sampled_from(('tanh', 'abs')))}({a})"
        case "scalar":
            return f"({a}) * ({draw(scalars(depth - 1))})"
    b = draw(vectors(side, depth - 1))
    return f"({a}) - ({b})" if kind == "sum" else f"hadamard({a}, {b})"


@st.composite
def scalars(draw: st.DrawFn, depth: int) -> str:
    kind = draw(st.sampled_from(("sum", "dot", "row", "number", "power")))
    if kind == "number":
        return draw(NUMBERS)
    if kind == "power" and depth:
        return f"({draw(scalars(depth - 1))})**{draw(st.integers(2, 8))}"
    if kind in ("dot", "row"):
        side = draw(st.sampled_from(("post", "pre")))
        a, b = draw(vectors(side, depth)), draw(vectors(side, depth))
        return f"dot({a}, {b})" if kind == "dot" else f"({a}).T * ({b})"
    if depth == 0:
        return f"sum({draw(vectors('post', 0))})"
    a, b = draw(scalars(depth - 1)), draw(scalars(depth - 1))
    join = draw(st.sampled_from(("({}) + ({})", "({}) * ({})", "hadamard({}, {})")))
    return join.format(a, b)


@st.composite
def updates(draw: st.DrawFn, depth: int = 2) -> str:
    kinds = ("outer", "outer", "number", "scalar", "row", "sum", "hadamard", "tanh")
    kind = draw(st.sampled_from(kinds))
    if depth == 0:
        return draw(st.sampled_from(("W", "B")))
    if kind == "outer":
        return f"({draw(vectors('post', depth))}) * ({draw(vectors('pre', depth))}).T"
    if kind == "tanh":
        return f"tanh({draw(NUMBERS)} * W - B)"
    a = draw(updates(depth - 1))
    if kind == "number":
        return f"{draw(NUMBERS)} * -({a})"
    if kind == "scalar":
        return f"({draw(scalars(depth))}) * ({a})"
    if kind == "row":
        return f"diag({draw(vectors('post', depth - 1))}) * ({a})"
    b = draw(updates(depth - 1))
    return f"({a}) - ({b})" if kind == "sum" else f"hadamard({a}, {b})"


SUMS_OF_NUMBERS = (
    "((sum(y_post) + sum(y_post)) + (sum(y_post) + 0)) * (1 * -W)",
    "hadamard(sum(y_post) + sum(z_post), dot(0 * y_post, -y_post)) * -W",
)


@settings(max_examples=200, deadline=None)
@given(updates())
@example(SUMS_OF_NUMBERS[0])
@example(SUMS_OF_NUMBERS[1])
def test_a_term_that_is_taken_reads_back_from_its_text(expression: str) -> None:
    try:
        term = Term.from_text("F", expression)
    except GrammarError:  # a coefficient or a power of a power may be too large
        assume(False)
    again = Term.from_text("F", str(term))
    assert (again, str(again)) == (term, str(term))


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("0.333333333333333333 * W", "333333333333333333/1000000000000000000 * W"),
        ("0.123456789 * 0.987654321 * W", "121932631112635269/1000000000000000000 * W"),
        ("1e15 * W / 1e15", "W"),
        ("-W / 7e11", "-1/700000000000 * W"),
        ("hadamard(2 * sum(y_post), sum(z_post)) * W",
         "2 * (ones_post.T * y_post) * (ones_post.T * z_post) * W"),
        ("-2 * (sum(y_post) + sum(z_post)) * W",
         "-2 * (ones_post.T * y_post + ones_post.T * z_post) * W"),
    ],
)  # fmt: skip
def test_exact_numbers_are_written_so_that_they_can_be_read(expression: str, text: str) -> None:
    term = Term.from_text("F", expression)
    assert str(term) == text
    again = Term.from_text("F", text)
    assert (again, str(again)) == (term, text)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("W * 1e15", "1:17: number out of range; its size must be 1e-12 to 1e12"),
        ("W / 3e13", "1:17: number out of range"),
        ("1e-8 * (W * 1e-8)", "1:13: number out of range"),
        ("W * 1e99", "1:17: number out of range"),
        (f"1.{'0' * 50} * W", "1:13: the number has 52 characters; at most 40"),
        ("(1e12 + 1e12 + sum(y_post)) * W",
         "1:13: written out, the term cannot be read again: number out of range"),
        ("+".join(["W", "B"] * 1500),
         "1:13: written out, the term cannot be read again: the expression has 11997 characters, "
         "more than 10000; split it"),
    ],
)  # fmt: skip
def test_what_could_not_be_read_again_is_refused_where_it_stands(
    expression: str, message: str
) -> None:
    with pytest.raises(GrammarError) as raised:
        Grammar.from_string(f"terms: {{F0: {expression}}}", "g.yaml")
    assert str(raised.value).startswith(f"g.yaml:{message}")


def test_the_copy_that_a_run_keeps_reads_back(tmp_path: Path) -> None:
    grammar = """
    terms: {F0: {expr: -e_post * y_pre.T, init: 1e-3}, third: 0.333333333333333333 * W}
    generate: [{outer: {post: [2*y_post - e_post, -e_post], pre: [y_pre, -e_pre / 3]}}]
    """
    pool = Grammar.from_string(grammar).pool
    network = PlasticNetwork([6, 6], output="linear")
    experiment = Experiment(pool, network, LinearTeacher(), Settings())
    copy = tmp_path / "config.yaml"
    copy.write_text(experiment.to_yaml())
    again = load_config(copy).pool
    assert again == pool
    assert [str(term) for term in again] == [str(term) for term in pool]
    assert again.names == (
        "F0", "third", "outer_2_y_post_e_post_y_pre", "outer_2_y_post_e_post_e_pre_3",
        "e_post_e_pre_3",
    )  # fmt: skip


# -- terms made of SymPy expressions --

Y, X = signal("y_post"), signal("y_pre")


@pytest.mark.parametrize(
    ("expr", "message"),
    [
        (Y.applyfunc(lambda v: sympy.exp(-v)) * X.T, r"exp\(-x\) of every entry x is none of tanh"),
        (Y.applyfunc(lambda v: sympy.tanh(2 * v)) * X.T, r"tanh\(2\*x\) of every entry x is none"),
        (Y.applyfunc(sympy.cos) * X.T, r"cos\(x\) of every entry x is none of tanh, exp, abs, sig"),
        (sympy.MatrixSymbol("Q", *signal("W").shape), "unknown symbol 'Q'"),
        (
            sympy.MatrixSymbol("W", *reversed(signal("W").shape)).T,
            "W has shape .n_pre, n_post.;",
        ),
    ],
)
def test_what_a_grammar_does_not_know_is_no_term(expr: sympy.MatrixExpr, message: str) -> None:
    """A function that did more than its name says was taken for the name alone."""
    with pytest.raises(GrammarError, match=message):
        Term("t", expr)


def test_functions_of_sympy_and_of_texts_are_one() -> None:
    assert Term("t", Y.applyfunc(sympy.exp) * X.T) == Term.from_text("t", "exp(y_post) * y_pre.T")


@pytest.mark.parametrize(
    ("one", "other", "factor"),
    [
        ("tanh(-y_post)", "tanh(y_post)", -1),
        ("abs(y_post - e_post)", "abs(e_post - y_post)", 1),
        ("abs(-2 * y_post)", "abs(y_post)", 2),
        ("sign(-3 * y_post)", "sign(y_post)", -1),
    ],
)
def test_functions_let_numbers_out(one: str, other: str, factor: int) -> None:
    first, second = (Term.from_text("t", f"{text} * y_pre.T") for text in (one, other))
    assert first.normal_form == second.normal_form.scaled(factor)
    with pytest.raises(GrammarError, match="term 'b' is 'a' again, up to a factor"):
        Grammar.from_string(f'name: g\nterms: {{a: "{one} * y_pre.T", b: "{other} * y_pre.T"}}')


@pytest.mark.parametrize("one", ["exp(-y_post)", "tanh(2 * y_post)"])
def test_functions_keep_what_they_do_not_let_out(one: str) -> None:
    other = "exp(y_post)" if "exp" in one else "tanh(y_post)"
    Grammar.from_string(f'name: g\nterms: {{a: "{one} * y_pre.T", b: "{other} * y_pre.T"}}')


def test_the_size_of_a_layer_is_no_signal_of_it() -> None:
    assert Term.from_text("t", "sum(ones_post) * W").locality == "synapse"
    assert Term.from_text("t", "sum(y_pre) * W").locality == "layer"
