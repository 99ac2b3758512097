"""From terms to programs: the fewest outer products, the same numbers, nothing costly."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lives import terms
from random_terms import Written, environment, pools
from torch.utils.flop_counter import FlopCounterMode

from rulesearch.compile.naive import evaluate
from rulesearch.compile.program import Program, lower
from rulesearch.compile.torch_source import torch_source
from rulesearch.errors import GrammarError
from rulesearch.grammar import Grammar, Term, TermPool
from rulesearch.rules import Rule

GRAMMARS = Path(__file__).parent.parent / "grammars"
POOL = Grammar.from_yaml(GRAMMARS / "pool10.yaml").enumerate()
QUADRATIC = Grammar.from_yaml(GRAMMARS / "quadratic.yaml").enumerate()


def compiled(pool: TermPool) -> Program:
    return lower([(term.name, term.normal_form) for term in pool])


def delta(pool: TermPool, env: dict[str, Any], coefficients: list[float]) -> torch.Tensor:
    signals = {
        name: torch.from_numpy(value if name in ("W", "B") else value[:, 0])
        for name, value in env.items()
        if not name.startswith("ones")
    }
    return Rule(pool, dict(zip(pool.names, coefficients, strict=True))).delta(**signals)


LEFT = ("y_post", "e_post", "ones_post", "y_post**2")
RIGHT = ("y_pre", "e_pre", "ones_pre", "e_pre**2")


def smallest_cover(edges: set[tuple[str, str]]) -> int:
    """By trying every set of vertices, small sets first."""
    vertices = (*LEFT, *RIGHT)
    return next(
        size
        for size in range(len(vertices) + 1)
        for chosen in combinations(vertices, size)
        if all(a in chosen or b in chosen for a, b in edges)
    )


@settings(max_examples=60, deadline=None)
@given(edges=st.sets(st.sampled_from(list(product(LEFT, RIGHT))), min_size=1, max_size=12))
def test_outer_products_are_as_few_as_can_be(edges: set[tuple[str, str]]) -> None:
    ordered = sorted(edges)
    plain = compiled(terms(*(f"{a} * ({b}).T" for a, b in ordered)))
    assert plain.rank == len(plain.outers) == smallest_cover(edges)
    assert not plain.masks
    bare = ("ones_post", "ones_pre")  # that mask is W itself, and only scales
    masked = compiled(terms(*(f"hadamard({a} * ({b}).T, W)" for a, b in ordered)))
    assert len(masked.masks) == smallest_cover(edges - {bare})
    assert (masked.scale is not None) == (bare in edges)
    assert not masked.outers


@settings(max_examples=60, deadline=None)
@given(found=pools(), seed=st.integers(0, 1000))
def test_programs_compute_the_sum_of_their_terms(
    found: tuple[TermPool, list[Written]], seed: int
) -> None:
    pool, meant = found
    env = environment(seed)
    coefficients = [(-1.5) ** r for r in range(len(pool))]
    values = [one.value(env) for one in meant]
    expected = sum(c * value for c, value in zip(coefficients, values, strict=True))
    change = delta(pool, env, coefficients).numpy()
    largest = max(float(np.abs(value).max()) for value in values)
    np.testing.assert_allclose(change, expected, rtol=1e-9, atol=1e-9 * (1 + largest))


@settings(max_examples=25, deadline=None)
@given(found=pools(2), seed=st.integers(0, 1000))
def test_the_oracle_of_autograd_computes_terms_as_they_are_written(
    found: tuple[TermPool, list[Written]], seed: int
) -> None:
    pool, meant = found
    env = environment(seed)
    signals = {k: torch.from_numpy(v if k in "WB" else v[:, 0]) for k, v in env.items()}
    for term, one in zip(pool, meant, strict=True):
        value = one.value(env)
        found_value = evaluate(term.expr, signals).numpy()
        np.testing.assert_allclose(found_value, value, rtol=1e-9, atol=1e-9)


E = environment(7)
BY_HAND = [
    ("diag(y_post**2) * W", np.diag(E["y_post"][:, 0] ** 2) @ E["W"]),
    ("diag(y_post) * B", np.diag(E["y_post"][:, 0]) @ E["B"]),
    ("W * diag(y_pre)", E["W"] @ np.diag(E["y_pre"][:, 0])),
    ("hadamard(y_post * y_pre.T, W, W)", E["y_post"] @ E["y_pre"].T * E["W"] ** 2),
    ("hadamard(y_post * y_pre.T, ones_post * ones_pre.T - W**2)",
     E["y_post"] @ E["y_pre"].T * (1 - E["W"] ** 2)),
    ("tanh(W)", np.tanh(E["W"])),
    ("tanh(ones_post * ones_pre.T - W)", np.tanh(1 - E["W"])),
    ("hadamard(e_post * e_pre.T, tanh(W - 2*B))",
     E["e_post"] @ E["e_pre"].T * np.tanh(E["W"] - 2 * E["B"])),
    ("B - W", E["B"] - E["W"]),
    ("B * e_pre * y_pre.T", E["B"] @ E["e_pre"] @ E["y_pre"].T),
    ("hadamard(W, B) * y_pre * e_pre.T", (E["W"] * E["B"]) @ E["y_pre"] @ E["e_pre"].T),
    ("tanh(W).T * 1 * y_post * ones_pre.T * 0 + W", None),
    ("W * B.T * W * y_pre * y_pre.T", E["W"] @ E["B"].T @ E["W"] @ E["y_pre"] @ E["y_pre"].T),
    ("sum(y_post) * dot(e_pre, W.T * e_post) * W",
     E["y_post"].sum() * (E["e_pre"].T @ E["W"].T @ E["e_post"]) * E["W"]),
    ("sum(ones_pre) * e_post * y_pre.T", 4 * E["e_post"] @ E["y_pre"].T),
    ("ones_post * ones_pre.T", np.ones((3, 4))),
    ("-ones_post * e_pre.T", -np.ones((3, 1)) @ E["e_pre"].T),
]  # fmt: skip
BY_HAND = [(text, value) for text, value in BY_HAND if value is not None]


@pytest.mark.parametrize(("text", "value"), BY_HAND, ids=[text for text, _ in BY_HAND])
def test_each_kind_of_product(text: str, value: Any) -> None:
    change = delta(terms(text), E, [1.0]).numpy()
    np.testing.assert_allclose(change, value, rtol=1e-12, atol=1e-13)


def test_what_a_term_takes_beside_outer_products() -> None:
    program = compiled(terms("-W", "diag(y_post**2) * W", "hadamard(y_post*y_pre.T, W, W)", "B"))
    assert (program.scale is not None, len(program.masks), len(program.others)) == (True, 1, 2)
    assert not program.invertible()
    assert compiled(terms("-W", "diag(y_post**2) * W", "B")).invertible()
    assert not compiled(terms("B")).invertible(("W", "B"))  # where feedback is symmetric
    assert compiled(terms("B * e_pre * y_pre.T")).invertible(("W", "B"))


def test_a_function_of_a_matrix_takes_weights() -> None:
    for text in ("tanh(y_post * y_pre.T)", "exp(sum(y_post) * W)", "abs(ones_post * ones_pre.T)"):
        with pytest.raises(GrammarError, match="of a matrix takes weights and numbers"):
            Term.from_text("t", text)


@pytest.mark.parametrize(
    ("names", "products"), [(POOL.names, 1), (("F0", "F2", "F9"), 1), (("F0", "F2"), 0)]
)
def test_vectors_that_nothing_needs_are_not_computed(names: tuple[str, ...], products: int) -> None:
    program = compiled(POOL.subset(names))
    kinds = [i.kind for i in program.instructions]
    assert kinds.count("matvec") == products
    read = {v for i in program.instructions for v in (*i.arguments, *sum(i.groups, ()))}
    read |= {v for p in (*program.outers, *program.masks) for v in (p.left, p.right)}
    read |= {program.scale}
    assert set(range(len(kinds))) <= read


def test_common_products_are_computed_once() -> None:
    program = compiled(
        terms("W.T * y_post * e_pre.T * e_pre * y_pre.T".replace("W.T * y_post", "y_post"),
              "dot(W * e_pre, y_post) * e_post * y_pre.T", "y_post * (W.T * y_post).T")
    )  # fmt: skip
    assert [i.kind for i in program.instructions].count("matvec") == 1


@pytest.mark.parametrize("pool", [POOL, QUADRATIC], ids=["pool10", "quadratic"])
def test_no_product_of_two_matrices(pool: TermPool) -> None:
    n = 96
    g = torch.Generator().manual_seed(0)
    names = ("y_pre", "y_post", "e_pre", "e_post")
    signals = {name: torch.randn(n, generator=g) for name in names}
    weight = torch.randn(n, n, generator=g)
    rule = Rule(pool, dict.fromkeys(pool.names, 1e-3))
    with FlopCounterMode(display=False) as counter:
        rule.delta(weight, **signals)
    matvecs = sum(i.kind == "matvec" for i in rule.program.instructions)
    assert counter.get_total_flops() <= 2 * n * n * (matvecs + 1) < n**3
    assert "@" not in rule.source()
    with pytest.raises(GrammarError, match="n x n x n"):
        Term.from_text("t", "W * W.T * W")


def test_source_is_the_same_in_every_process() -> None:
    """Whatever seed Python hashes with: a resumed run must add in the same order."""
    code = (
        "from rulesearch.grammar import Grammar\n"
        "from rulesearch.compile.program import lower\n"
        f"for name in ('pool10', 'quadratic'):\n"
        f"    pool = Grammar.from_yaml(r'{GRAMMARS}/' + name + '.yaml').enumerate()\n"
        "    print(lower([(t.name, t.normal_form) for t in pool]))\n"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    }
    assert texts == {f"{compiled(POOL)}\n{compiled(QUADRATIC)}\n"}


def test_source_can_be_read() -> None:
    source = torch_source(compiled(POOL.subset(("F0", "F2", "F9"))))
    assert source.startswith("def factors(theta, e_post, e_pre, y_post, y_pre, W):\n")
    assert "# rank 2; theta: F0, F2, F9" in source
    assert "matvec(W.mT, y_post)" in source
