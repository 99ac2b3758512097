"""Lifetimes in JAX: ``jit``, ``lax.scan`` over steps, lives side by side or one by one.

JAX is the optional extra ``jax``; nothing else of rulesearch uses it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any, Literal

import numpy as np
import torch

from rulesearch.bench.peers.base import Answer, Prepared
from rulesearch.bench.problem import Data, Problem

__all__ = ["Change", "Kept", "jax_lives"]

Change = Callable[[Any, str], Callable[..., Any]]
# What the gradient keeps of a scan: all, the weights of every step, or those of sqrt(steps).
Kept = Literal["all", "steps", "segments"]
BETA = 10.0


def jax_lives(change: Change, kept: Kept, batched: bool) -> Callable[[Problem, Data], Prepared]:
    """Return the peer that takes a connection's change from ``change``.

    Parameters
    ----------
    batched : bool
        ``vmap`` over the lifetimes; else ``lax.map``, the gradient taken of one at a time.
    """

    def prepare(problem: Problem, data: Data) -> Prepared:
        jax = import_module("jax")
        jax.config.update("jax_enable_x64", data.table.dtype == torch.float64)
        life = _life(jax, change(jax.numpy, problem.pool), kept, problem)
        each = jax.value_and_grad(life)
        axes = (None, None, 0, 0, 0, 0, 0, 0)

        def together(theta: Any, table: Any, *lives: Any) -> Any:
            return jax.vmap(life, axes)(theta, table, *lives).sum()

        def one_by_one(theta: Any, table: Any, *lives: Any) -> Any:
            loss, gradient = jax.lax.map(lambda own: each(theta, table, *own), lives)
            return loss.sum(), gradient.sum(0)

        function = jax.jit(jax.value_and_grad(together) if batched else one_by_one)
        arguments = jax.block_until_ready(jax.device_put(_arguments(data)))
        start = time.perf_counter()
        compiled = function.lower(*arguments).compile()
        seconds = time.perf_counter() - start

        def run() -> Answer:
            loss, gradient = jax.block_until_ready(compiled(*arguments))
            return Answer(float(loss), np.asarray(gradient).tolist())

        return Prepared(run, seconds, lambda: {"backend": jax.default_backend()})

    return prepare


def _arguments(data: Data) -> tuple[Any, ...]:
    """Theta, the table, then all that has a leading dimension of lifetimes."""

    def array(tensor: torch.Tensor) -> Any:
        return np.array(tensor.cpu())

    W, B = ([array(w) for w in weights] for weights in (data.state.W, data.state.B))
    index, label = (
        array(t).astype(np.int32).swapaxes(0, 1).copy() for t in (data.index, data.label)
    )
    query = array(data.x_query), array(data.label_query).astype(np.int32)
    return array(data.theta), array(data.table), W, B, index, label, *query


def _life(jax: Any, change: Callable[..., Any], kept: Kept, problem: Problem) -> Callable[..., Any]:
    jnp, classes = jax.numpy, problem.sizes[-1]

    def softplus(z: Any) -> Any:
        return jax.nn.softplus(BETA * z) / BETA

    def step(theta: Any, W: Any, B: Any, x: Any, label: Any) -> Any:
        y, z = [x], []
        for k, w in enumerate(W):
            z.append(y[-1] @ w.T)
            y.append(softplus(z[-1]) if k < len(W) - 1 else jax.nn.softmax(z[-1]))
        e = [y[-1] - jax.nn.one_hot(label, classes, dtype=x.dtype)]
        for y_l, b in zip(reversed(y[:-1]), reversed(B), strict=True):
            e.insert(0, (e[0] @ b) * -jnp.expm1(-BETA * y_l))
        return [w + change(theta, w, y[k], y[k + 1], e[k], e[k + 1], z[k]) for k, w in enumerate(W)]

    def life(
        theta: Any, table: Any, W: Any, B: Any, index: Any, label: Any, x_query: Any, answer: Any
    ) -> Any:
        def next_weights(W: Any, seen: Any) -> Any:
            shown, classes = seen
            return step(theta, W, B, table[shown], classes), None

        if kept == "steps":
            next_weights = jax.checkpoint(next_weights)
        if kept == "segments":
            W = _in_segments(jax, next_weights, W, (index, label))
        else:
            W, _ = jax.lax.scan(next_weights, W, (index, label))
        y = x_query
        for w in W[:-1]:
            y = softplus(y @ w.T)
        picked = jnp.take_along_axis(jax.nn.log_softmax(y @ W[-1].T), answer[:, None], 1)
        return -picked.mean()

    return life


def _in_segments(jax: Any, step: Callable[..., Any], W: Any, seen: tuple[Any, ...]) -> Any:
    """A scan of scans: only the weights between segments are kept, of about sqrt(steps)."""
    steps = len(seen[0])
    length = math.isqrt(steps)
    whole = steps - steps % length

    def segment(W: Any, part: Any) -> Any:
        return jax.lax.scan(step, W, part)[0], None

    parts = tuple(s[:whole].reshape(-1, length, *s.shape[1:]) for s in seen)
    W, _ = jax.lax.scan(jax.checkpoint(segment), W, parts)
    return jax.lax.scan(step, W, tuple(s[whole:] for s in seen))[0]
