"""Threads that share one lifetime: the same numbers to the bit, whoever computes them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lives import OJA, lifetimes, terms
from plain_lives import POOL
from torch import Tensor

from rulesearch.compile import native
from rulesearch.grammar import Term, TermPool
from rulesearch.learners import PlasticityLearner
from rulesearch.networks import NetworkState, PlasticNetwork

MASKED = TermPool(
    Term.from_text(f"T{i}", text)
    for i, text in enumerate(("-e_post * y_pre.T", "-hadamard(y_post * y_pre.T, W)", "-W"))
)
NETWORK = PlasticNetwork((201, 150, 37, 5))  # of which the first connection is worth sharing alone


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def adjoints(pool: TermPool, steps: int, examples: int, dtype: torch.dtype) -> list[Tensor]:
    """Final weights of one lifetime, then what their sum of squares leaves in theta, W and B."""
    learner = PlasticityLearner(NETWORK, pool, engine="fused", checkpoint_every=7)
    g = torch.Generator().manual_seed(examples)
    state = learner.init(1, g, dtype)
    born = NetworkState(
        [w.requires_grad_() for w in state.W], [b.requires_grad_() for b in state.B]
    )
    x = torch.rand(steps, 1, examples, NETWORK.sizes[0], generator=g, dtype=dtype)
    label = torch.randint(NETWORK.sizes[-1], (steps, 1, examples), generator=g)
    theta = torch.linspace(0.02, 0.002, len(pool), dtype=dtype).requires_grad_()
    final = learner.live(born, theta, x, label)
    loss = torch.stack([w.square().sum() for w in final.W]).sum()
    return [*final.detach().W, *torch.autograd.grad(loss, (theta, *born.W, *born.B))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("examples", [1, 3, 8, 40])
@pytest.mark.parametrize("pool", [POOL, MASKED], ids=["ten terms", "masks"])
def test_threads_change_no_bit(pool: TermPool, examples: int, dtype: torch.dtype) -> None:
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(adjoints(pool, 17, examples, dtype))
    one, *others = found
    assert all(w.isfinite().all() for w in one)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("examples", [8, 32, 40])
def test_threads_change_no_bit_of_learnt_feedback(examples: int) -> None:
    """Nor of what its biases and mixing share: a column, which all examples add to."""
    network = PlasticNetwork(
        (40, 130, 90, 5), activation="relu", output="linear", feedback="flp", bias=True
    )
    state, x, label = lifetimes(network, steps=6, examples=examples, plastic_bias=False, count=1)
    state = NetworkState(**{name: [t.float() for t in part] for name, part in state.parts()})
    rated = NetworkState(**{**dict(state.parts()), "rate": [1e-3 * t for t in state.rate]})
    learner = PlasticityLearner(network, terms(*OJA), engine="fused")
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        leaves = {n: [t.clone().requires_grad_() for t in part] for n, part in rated.parts()}
        theta = torch.ones(learner.n_terms).requires_grad_()
        final = learner.live(NetworkState(**leaves), theta, x.float(), label.float())
        loss = torch.stack([w.square().sum() for w in final.W]).sum()
        flat = [theta, *(t for part in leaves.values() for t in part)]
        found.append([*final.detach().W, *torch.autograd.grad(loss, flat, allow_unused=True)])
    assert all(w is not None and w.isfinite().all() and bool(w.any()) for w in found[0][:10])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert (a is None and b is None) or torch.equal(a, b)


def test_lifetimes_share_what_threads_there_are() -> None:
    torch.set_num_threads(8)
    shares = [native._threads_each(lifetimes) for lifetimes in (1, 2, 3, 4, 8, 20)]
    assert shares == [8, 4, 2, 2, 1, 1]
    torch.set_num_threads(1)
    assert native._threads_each(1) == 1


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
def test_helpers_come_and_go() -> None:
    torch.set_num_threads(3)
    adjoints(POOL, 17, 8, torch.float32)  # whatever torch starts once is there
    before, most, over = threads(), 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not over.is_set():
            most = max(most, threads())

    watcher = threading.Thread(target=look)
    watcher.start()
    adjoints(POOL, 100, 8, torch.float32)
    over.set()
    watcher.join()
    assert most == before + 3  # the watcher, and two that help
    until = time.monotonic() + 5
    while threads() > before and time.monotonic() < until:  # the system takes a moment
        time.sleep(0.01)
    assert threads() == before


def threads() -> int:
    return len(os.listdir("/proc/self/task"))
