"""The paper's formulas in JAX, for one lifetime: what ``vmap`` and ``scan`` are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rulesearch.bench.pools import generated_sides

__all__ = ["written_out"]


def written_out(jnp: Any, pool: str) -> Callable[..., Any]:
    """Return the change of one connection, each term a matrix of its own.

    Signals are (examples, n); the change is ``(n_post, n_pre)``.
    """

    def outer(u: Any, v: Any) -> Any:
        return u.T * v if len(u) == 1 else u.T @ v / len(u)

    def paper(
        theta: Any, W: Any, y_pre: Any, y_post: Any, e_pre: Any, e_post: Any, z_post: Any
    ) -> Any:
        y_W_e = ((y_post @ W) * e_pre).sum(-1, keepdims=True)
        y_W_e_post = (z_post * e_post).sum(-1, keepdims=True)
        terms = (
            outer(-e_post, y_pre),
            outer(-y_post, e_pre),
            outer(-e_post, e_pre),
            -W,
            outer(-jnp.ones_like(e_post), e_pre),
            outer(-e_post * y_post.sum(-1, keepdims=True), y_pre),
            outer(-y_post * y_W_e, e_pre),
            outer(-e_post * y_W_e, y_pre),
            outer(-y_post * y_W_e_post, e_pre),
            outer(y_post, y_pre) - outer(y_post, y_post @ W),
        )
        return sum(theta[r] * term for r, term in enumerate(terms))

    def generated(
        theta: Any, W: Any, y_pre: Any, y_post: Any, e_pre: Any, e_post: Any, z_post: Any
    ) -> Any:
        post, pre = generated_sides(len(theta))
        terms = (
            outer(-(y_post**a) * e_post**b, y_pre**c * e_pre**d) for a, b in post for c, d in pre
        )
        return sum(theta[r] * term for r, term in enumerate(terms))

    return paper if pool == "pool10" else generated
