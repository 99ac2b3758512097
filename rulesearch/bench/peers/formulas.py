"""The candidate terms, written as they stand in the paper, and a step of the network.

Every function takes any leading dimensions: all lifetimes at once, or one under ``vmap``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from rulesearch.bench.pools import generated_sides

__all__ = ["live_step", "query_loss"]

BETA = 10.0


def live_step(
    pool: str, W: Sequence[Tensor], B: Sequence[Tensor], theta: Tensor, x: Tensor, target: Tensor
) -> list[Tensor]:
    """All connections after one step: forward, error back, every term, their sum.

    Parameters
    ----------
    W, B : sequence of Tensor (..., n_post, n_pre)
    theta : Tensor (n_terms,)
    x : Tensor (..., examples, n_in)
    target : Tensor (..., examples, n_out)
        One-hot.
    """
    y, z = [x], []
    for k, w in enumerate(W):
        z.append(y[-1] @ w.mT)
        y.append(_softplus(z[-1]) if k < len(W) - 1 else z[-1].softmax(-1))
    e = [y[-1] - target]
    for y_l, b in zip(reversed(y[:-1]), reversed(B), strict=True):
        e.insert(0, (e[0] @ b) * (1 - torch.exp(-BETA * y_l)))
    terms = paper_terms if pool == "pool10" else generated_terms
    new = []
    for k, w in enumerate(W):
        for r, term in enumerate(terms(W[k], y[k], y[k + 1], e[k], e[k + 1], z[k], len(theta))):
            w = w + theta[r] * term
        new.append(w)
    return new


def paper_terms(
    W: Tensor, y_pre: Tensor, y_post: Tensor, e_pre: Tensor, e_post: Tensor, z_post: Tensor, _: int
) -> list[Tensor]:
    """F0 to F9 (Shervani-Tabar & Rosenbaum 2023, section 4.2), signs as in ``pool10``."""
    y_W_e = ((y_post @ W) * e_pre).sum(-1, keepdim=True)  # y_post^T W e_pre
    y_W_e_post = (z_post * e_post).sum(-1, keepdim=True)  # y_pre^T W^T e_post
    return [
        outer(-e_post, y_pre),
        outer(-y_post, e_pre),
        outer(-e_post, e_pre),
        -W,
        outer(-torch.ones_like(e_post), e_pre),
        outer(-e_post * y_post.sum(-1, keepdim=True), y_pre),
        outer(-y_post * y_W_e, e_pre),
        outer(-e_post * y_W_e, y_pre),
        outer(-y_post * y_W_e_post, e_pre),
        outer(y_post, y_pre) - outer(y_post, y_post @ W),
    ]


def generated_terms(
    W: Tensor,
    y_pre: Tensor,
    y_post: Tensor,
    e_pre: Tensor,
    e_post: Tensor,
    _: Tensor,
    terms: int,
) -> list[Tensor]:
    """All ``-u v^T`` of :mod:`rulesearch.bench.pools`."""
    post, pre = generated_sides(terms)
    return [outer(-(y_post**a) * e_post**b, y_pre**c * e_pre**d) for a, b in post for c, d in pre]


def outer(u: Tensor, v: Tensor) -> Tensor:
    """``u v^T`` averaged over examples: (..., examples, n), (..., examples, m) to (..., n, m)."""
    examples = u.shape[-2]
    return u.mT * v if examples == 1 else u.mT @ v / examples


def query_loss(W: Sequence[Tensor], x: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy of each lifetime: x (..., queries, n_in), label (..., queries)."""
    for w in W[:-1]:
        x = _softplus(x @ w.mT)
    picked = (x @ W[-1].mT).log_softmax(-1).gather(-1, label.unsqueeze(-1))
    return -picked.squeeze(-1).mean(-1)


def _softplus(z: Tensor) -> Tensor:
    if z.dtype == torch.float32:
        return functional.softplus(z, beta=BETA)
    # torch's softplus turns linear at 20, which float64 can tell
    return torch.logaddexp(BETA * z, torch.zeros_like(z)) / BETA
