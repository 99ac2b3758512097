"""What a grammar takes, it prints as text that reads back; and it says where a text does not."""

from __future__ import annotations

import pytest

from rulesearch.errors import GrammarError
from rulesearch.grammar import Grammar, Term


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
        (LONG, ["tanh_" + 8 * "y_post_" + "y_p", *("tanh_" + 8 * "y_post_" + f"y_{i}" for i in "23")]),
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
