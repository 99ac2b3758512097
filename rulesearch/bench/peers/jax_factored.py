r"""The terms factored by hand, as an expert in JAX would: products with vectors, one update.

With q = W^T y_post, s = q . e_pre and r = e_post . z_post the ten terms are

.. math:: \Delta W = -\theta_3 W + e_{post} a^T + y_{post} b^T + 1 c^T.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rulesearch.bench.pools import generated_sides

__all__ = ["factored"]


def factored(jnp: Any, pool: str) -> Callable[..., Any]:
    """Return the change of one connection; signals are (examples, n)."""

    def paper(
        theta: Any, W: Any, y_pre: Any, y_post: Any, e_pre: Any, e_post: Any, z_post: Any
    ) -> Any:
        q = y_post @ W
        s = (q * e_pre).sum(-1, keepdims=True)
        r = (e_post * z_post).sum(-1, keepdims=True)
        total = y_post.sum(-1, keepdims=True)
        a = -(theta[0] + theta[5] * total + theta[7] * s) * y_pre - theta[2] * e_pre
        b = -(theta[1] + theta[6] * s + theta[8] * r) * e_pre + theta[9] * (y_pre - q)
        c = -theta[4] * e_pre.mean(0)
        if len(y_pre) == 1:  # elementwise, which XLA fuses into one pass
            low_rank = e_post.T * a + y_post.T * b
        else:
            low_rank = (e_post.T @ a + y_post.T @ b) / len(y_pre)
        return low_rank + c - theta[3] * W

    def generated(
        theta: Any, W: Any, y_pre: Any, y_post: Any, e_pre: Any, e_post: Any, z_post: Any
    ) -> Any:
        post, pre = generated_sides(len(theta))
        u = jnp.stack([y_post**a * e_post**b for a, b in post])
        v = jnp.stack([y_pre**c * e_pre**d for c, d in pre])
        mixed = jnp.einsum("pq,qej->pej", theta.reshape(len(post), len(pre)), v)
        return -jnp.einsum("pei,pej->ij", u, mixed) / len(y_pre)

    return paper if pool == "pool10" else generated
