"""Random terms as text, each with a NumPy function that computes it from its construction.

The function never sees the text: whoever parses, rearranges and compiles the text must come to
the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from rulesearch.errors import ConfigError
from rulesearch.grammar import Term, TermPool

Array = np.ndarray[Any, np.dtype[np.float64]]
Environment = Mapping[str, Array]  # vectors are columns


class Written(NamedTuple):
    """An expression and its meaning."""

    text: str
    value: Callable[[Environment], Array]


def environment(seed: int, n_post: int = 3, n_pre: int = 4) -> dict[str, Array]:
    """Draw every signal of the vocabulary for one connection."""
    rng = np.random.default_rng(seed)
    env = {name: rng.normal(size=(n_post, 1)) for name in ("y_post", "e_post")}
    env |= {name: rng.normal(size=(n_pre, 1)) for name in ("y_pre", "e_pre")}
    env |= {name: rng.normal(size=(n_post, n_pre)) for name in ("W", "B")}
    env |= {"ones_post": np.ones((n_post, 1)), "ones_pre": np.ones((n_pre, 1))}
    return env | {"z_post": env["W"] @ env["y_pre"]}


def named(name: str) -> Written:
    return Written(name, lambda env: env[name])


_LEAVES = {
    "post": ("y_post", "e_post", "z_post", "ones_post"),
    "pre": ("y_pre", "e_pre", "ones_pre"),
}


def weights() -> st.SearchStrategy[Written]:
    return st.sampled_from(("W", "B")).map(named)


@st.composite
def vectors(draw: st.DrawFn, side: str, depth: int = 2) -> Written:
    """A column of one side."""
    kinds = ("leaf", "leaf", "carried", "product", "difference", "squared", "squashed")
    kind = draw(st.sampled_from(kinds)) if depth else "leaf"
    if kind == "leaf":
        return named(draw(st.sampled_from(_LEAVES[side])))
    if kind == "carried":
        m = draw(weights())
        if side == "post":
            v = draw(vectors("pre", depth - 1))
            return Written(f"({m.text} * {v.text})", lambda env: m.value(env) @ v.value(env))
        v = draw(vectors("post", depth - 1))
        return Written(f"({m.text}.T * {v.text})", lambda env: m.value(env).T @ v.value(env))
    a = draw(vectors(side, depth - 1))
    if kind == "squared":
        return Written(f"({a.text}**2)", lambda env: a.value(env) ** 2)
    if kind == "squashed":
        return Written(f"tanh({a.text})", lambda env: np.tanh(a.value(env)))
    b = draw(vectors(side, depth - 1))
    if kind == "product":
        return Written(f"hadamard({a.text}, {b.text})", lambda env: a.value(env) * b.value(env))
    return Written(f"({a.text} - 2*{b.text})", lambda env: a.value(env) - 2 * b.value(env))


@st.composite
def scalars(draw: st.DrawFn) -> Written:
    """A contraction, 1 x 1."""
    side = draw(st.sampled_from(("post", "pre")))
    a = draw(vectors(side, 1))
    if draw(st.booleans()):
        return Written(f"sum({a.text})", lambda env: a.value(env).sum(keepdims=True))
    b = draw(vectors(side, 1))
    return Written(f"dot({a.text}, {b.text})", lambda env: a.value(env).T @ b.value(env))


@st.composite
def outers(draw: st.DrawFn) -> Written:
    """An outer product."""
    a, b = draw(vectors("post")), draw(vectors("pre"))
    return Written(f"{a.text} * {b.text}.T", lambda env: a.value(env) @ b.value(env).T)


@st.composite
def cores(draw: st.DrawFn, invertible: bool) -> Written:
    """W alone, or something elementwise of weights that an update cannot be undone with."""
    m = named("W") if invertible else draw(weights())
    kind = "plain" if invertible else draw(st.sampled_from(("plain", "powered", "squashed")))
    if kind == "powered":
        return Written(f"hadamard({m.text}, {m.text})", lambda env: m.value(env) ** 2)
    if kind == "squashed":
        return Written(f"tanh({m.text} - 2*B)", lambda env: np.tanh(m.value(env) - 2 * env["B"]))
    return m


@st.composite
def updates(draw: st.DrawFn, invertible: bool = False) -> Written:
    """An expression of shape (n_post, n_pre)."""
    kind = draw(st.sampled_from(("outer", "outer", "rows", "columns", "masked", "core")))
    if kind == "outer":
        update = draw(outers())
    elif kind == "rows":
        m, a = draw(cores(invertible)), draw(vectors("post"))
        update = Written(f"diag({a.text}) * {m.text}", lambda env: a.value(env) * m.value(env))
    elif kind == "columns":
        m, b = draw(cores(invertible)), draw(vectors("pre"))
        update = Written(f"{m.text} * diag({b.text})", lambda env: m.value(env) * b.value(env).T)
    elif kind == "masked":
        m, o = draw(cores(invertible)), draw(outers())
        update = Written(f"hadamard({o.text}, {m.text})", lambda env: o.value(env) * m.value(env))
    else:
        update = draw(cores(invertible))
    if draw(st.integers(0, 3)):
        return update
    s = draw(scalars())
    return Written(f"{s.text} * ({update.text})", lambda env: s.value(env) * update.value(env))


def pool_of(written: list[Written]) -> tuple[TermPool, list[Written]]:
    """Return a pool, and what each of its terms should be; zero and repeated terms left out."""
    kept: list[Term] = []
    meant = []
    for one in written:
        term = Term.from_text(f"T{len(kept)}", one.text)
        if term.normal_form.is_zero:
            continue
        try:
            TermPool([*kept, term])
        except ConfigError:  # a multiple of an earlier one
            continue
        kept.append(term)
        meant.append(one)
    return TermPool(kept), meant


def pools(largest: int = 4, invertible: bool = False) -> st.SearchStrategy[Any]:
    """Pools of one term or more, with the meaning of each."""
    written = st.lists(updates(invertible), min_size=1, max_size=largest)
    return written.map(pool_of).filter(lambda found: len(found[0]) > 0)
