"""Where terms act, and the grammars that come with the package."""

from __future__ import annotations

import pytest

from rulesearch.grammar import Grammar, Term, bundled_grammars


def test_pool10_locality() -> None:
    pool = Grammar.from_yaml("pool10").pool
    assert [t.locality for t in pool] == ["synapse"] * 5 + ["layer"] * 5


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("diag(y_post**2) * W", "synapse"),
        ("W * diag(y_pre)", "synapse"),
        ("tanh(W) + hadamard(W, B)", "synapse"),
        ("hadamard(e_post, tanh(y_post)) * y_pre.T", "synapse"),
        ("z_post * y_pre.T", "neuron"),
        ("W * y_pre * y_pre.T", "neuron"),
        ("tanh(W * e_pre) * y_pre.T", "neuron"),
        ("diag(tanh(z_post)) * W", "neuron"),
        ("W * ones_pre * y_pre.T", "neuron"),
        ("y_post * (W.T * e_post).T", "layer"),
        ("y_post * tanh(W.T * e_post).T", "layer"),
        ("W * (W.T * y_post) * y_pre.T", "layer"),
        ("sum(y_post) * W", "layer"),
        ("tanh(sum(y_pre) * y_post) * y_pre.T", "layer"),
        ("W - z_post * y_pre.T", "neuron"),
    ],
)
def test_locality_is_computed(expression: str, expected: str) -> None:
    assert Term.from_text("F", expression).locality == expected


def test_bundled_grammars() -> None:
    sizes = {name: len(Grammar.from_yaml(path)) for name, path in bundled_grammars().items()}
    assert sizes["pool10"] == 10
    assert (sizes["ehebb"], sizes["oja"], sizes["bio"]) == (2, 2, 3)
    assert {"catalogue", "quadratic"} <= set(sizes)
    for name, names in {"ehebb": "F0 F2", "oja": "F0 F9", "bio": "F0 F2 F9"}.items():
        grammar = Grammar.from_yaml(name)
        assert grammar.pool == Grammar.from_yaml("pool10").pool.subset(names.split())
        assert grammar.pool.init[0] == 1e-3


def test_quadratic_is_every_product_but_hebbs() -> None:
    pool = Grammar.from_yaml("quadratic").pool
    hebb = Term.from_text("hebb", "y_post * y_pre.T").normal_form.direction()
    assert hebb not in {term.normal_form.direction() for term in pool}
    expected = [
        f"-{u} * {v}.T"
        for u in ("y_post", "e_post", "ones_post")
        for v in ("y_pre", "e_pre", "ones_pre")
    ][1:]
    expected += ["-W", "-diag(y_post**2) * W", "y_post * y_pre.T - y_post * y_post.T * W"]
    assert {t.normal_form for t in pool} == {Term.from_text("F", e).normal_form for e in expected}
    assert len(pool) == len(expected) == 11
