"""Lifetimes side by side: nothing shared, nothing moved that should not, nothing held too long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from lives import distance, terms
from plain_lives import (
    ENGINES,
    LIFETIMES,
    POOL,
    SIZES,
    THETA,
    assert_same_gradient,
    gradient,
    lifetimes,
    loss,
    rows_of_theta,
)
from torch import Tensor

from rulesearch.errors import ConfigError, LearnerError
from rulesearch.learners import PlasticityLearner
from rulesearch.networks import NetworkState, PlasticNetwork

pytestmark = pytest.mark.usefixtures("one_thread")


def test_lifetimes_held_at_once_keep_apart() -> None:
    """Memory of steps is used again, but only once nobody can ask for its gradient any more."""
    network = PlasticNetwork(SIZES)
    examples = [lifetimes(network, steps) for steps in (60, 40, 50)]
    learner = PlasticityLearner(network, POOL, engine="fused")
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    alone = [gradient(learner, e[0], theta.detach(), *e[1:])[1][0] for e in examples]
    values = [loss(learner.live(state, theta, x, label)).sum() for state, x, label in examples]
    for value, expected in zip(values, alone, strict=True):
        assert torch.equal(torch.autograd.grad(value, theta)[0], expected)


def one(state: NetworkState, i: int) -> NetworkState:
    return NetworkState([w[i : i + 1] for w in state.W], [b[i : i + 1] for b in state.B])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lifetimes_in_a_batch_are_those_alone_to_the_bit(dtype: torch.dtype) -> None:
    network = PlasticNetwork(SIZES)
    state, x, label = lifetimes(network, count=4, dtype=dtype)
    theta = rows_of_theta(4).to(dtype)
    learner = PlasticityLearner(network, POOL, engine="fused")
    together, grads = gradient(learner, state, theta, x, label)
    for i in range(4):
        mine = slice(i, i + 1)
        alone, found = gradient(learner, one(state, i), theta[mine], x[:, mine], label[:, mine])
        assert all(torch.equal(a, b[mine]) for a, b in zip(alone.W, together.W, strict=True))
        assert all(torch.equal(a, b[mine]) for a, b in zip(found, grads, strict=True))


def test_each_lifetime_has_its_own_coefficients_in_torch_too() -> None:
    assert_same_gradient(PlasticNetwork(SIZES), POOL, rows_of_theta(LIFETIMES))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_lifetime_that_diverges_leaves_the_others_alone(engine: str) -> None:
    network = PlasticNetwork(SIZES)
    state, x, label = lifetimes(network, count=3)
    theta = rows_of_theta(3)
    learner = PlasticityLearner(network, POOL, engine=engine)
    fine, fine_grads = gradient(learner, state, theta, x, label)
    theta[1] = 1e3
    spoilt, spoilt_grads = gradient(learner, state, theta, x, label)
    assert not any(bool(w[1].isfinite().all()) for w in spoilt.W)
    for i in (0, 2):
        for a, b in zip(spoilt.W, fine.W, strict=True):
            assert torch.equal(a[i], b[i])
        for a, b in zip(spoilt_grads, fine_grads, strict=True):
            assert distance(a[i], b[i]) < (1e-9 if engine == "torch" else 1e-300)


def test_results_do_not_depend_on_threads() -> None:
    network = PlasticNetwork(SIZES)
    state, x, label = lifetimes(network, count=5, dtype=torch.float32)
    theta = rows_of_theta(5).float()
    learner = PlasticityLearner(network, POOL, engine="fused")
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        final, grads = gradient(learner, state, theta, x, label)
        results.append([*final.W, *grads])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("method", ["fused", "torch", "autograd"])
def test_only_what_is_plastic_moves(method: str) -> None:
    network = PlasticNetwork(SIZES)
    state, x, label = lifetimes(network)
    copies = [t.clone() for t in (*state.W, *state.B, x, label)]
    options = {"method": "autograd"} if method == "autograd" else {"engine": method}
    learner = PlasticityLearner(network, POOL, **options)
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    final = learner.live(state, theta, x, label)
    loss(final).sum().backward()
    for before, after in zip(copies, (*state.W, *state.B, x, label), strict=True):
        assert torch.equal(before, after)
    assert torch.equal(theta.detach(), torch.tensor(THETA, dtype=torch.float64))
    assert all(a is b for a, b in zip(final.B, state.B, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(final.W, state.W, strict=True))


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of a nested structure."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors(part)
    elif is_dataclass(value):
        yield from tensors([getattr(value, f.name) for f in fields(value)])


def held(value: Any) -> int:
    """Numbers in memory; a tensor that is held twice is there once."""
    return sum({t.data_ptr(): t.numel() for t in tensors(value)}.values())


@pytest.mark.parametrize(
    ("engine", "expressions"),
    [
        ("fused", [str(term) for term in POOL]),
        ("torch", [str(term) for term in POOL]),
        ("torch", ["-e_post * y_pre.T", "hadamard(e_post * y_pre.T, tanh(B))"]),
    ],
)
def test_memory_is_that_of_vectors(engine: str, expressions: list[str]) -> None:
    """O(T (n + m)) and a checkpoint here and there, not O(T n m)."""
    network = PlasticNetwork((60, 60, 60))
    weights, steps = 2 * 60 * 60, 200
    pool = terms(*expressions)
    learner = PlasticityLearner(network, pool, engine=engine, checkpoint_every=50)
    state, x, label = lifetimes(network, steps, 1)
    theta = torch.full((len(pool),), 1e-4, dtype=torch.float64, requires_grad=True)
    node: Any = learner.live(state, theta, x, label).W[0].grad_fn
    kept = held(getattr(node, "stored", None)) + held(getattr(node, "history", None))
    assert 0 < kept < 60 * (steps * (60 + 60))
    assert kept < 0.5 * steps * weights
    assert held(node.checkpoints) <= 4 * weights
    assert learner.bytes_per_lifetime(steps, torch.float64) >= 8 * kept / 2


def test_network_is_drawn_by_its_own_generator() -> None:
    network = PlasticNetwork((30, 40, 10), feedback_init="normal")
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    state = network.init(generators)
    alone = network.init([torch.Generator().manual_seed(2)])
    for a, b in zip((*state.W, *state.B), (*alone.W, *alone.B), strict=True):
        assert torch.equal(a[2:], b)
    bound = np.sqrt(6 / 70)
    assert float(state.W[0].abs().max()) <= bound
    assert float(state.W[0].std()) == pytest.approx(bound / np.sqrt(3), rel=0.05)
    assert float(state.B[0].std()) == pytest.approx(np.sqrt(2 / 70), rel=0.05)
    assert float(state.B[0].abs().max()) > bound


GOOD = PlasticNetwork(SIZES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"theta": torch.zeros(9, dtype=torch.float64)}, "theta has shape"),
        ({"theta": torch.zeros(3, 10, dtype=torch.float64)}, "theta has shape"),
        ({"theta": torch.zeros(10)}, "theta is torch.float32"),
        ({"theta": None}, "a pool has no coefficients"),
        ({"x": torch.zeros(5, 2, 6, dtype=torch.float64)}, r"should be \(steps, 2, 7\)"),
        ({"x": torch.zeros(0, 2, 7, dtype=torch.float64)}, "a lifetime needs a step"),
        ({"x": torch.zeros(5, 2, 7)}, "x is torch.float32"),
        ({"label": torch.zeros(5, 3, dtype=torch.int64)}, "label has shape"),
        ({"label": torch.full((5, 2), 4)}, "the output has 4 units"),
        ({"label": torch.full((5, 2), -1)}, "labels run from -1"),
        ({"label": torch.zeros(5, 2, dtype=torch.float64)}, "as targets it should be"),
    ],
)
def test_arguments_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    state, x, label = lifetimes(GOOD, 5)
    arguments = {"theta": torch.zeros(10, dtype=torch.float64), "x": x, "label": label, **change}
    with pytest.raises(LearnerError, match=message):
        PlasticityLearner(GOOD, POOL).live(state, **arguments)


def test_states_that_do_not_fit() -> None:
    state, x, label = lifetimes(GOOD, 5)
    theta = torch.zeros(10, dtype=torch.float64)
    cases = [
        (replace(state, W=state.W[:2]), "2 matrices, the network 3"),
        (replace(state, B=[b.mT for b in state.B]), r"state.B\[0\] has shape"),
        (replace(state, B=[b.float() for b in state.B]), r"state.B\[0\] is torch.float32"),
        (replace(state, W=[state.W[0], *(w.float() for w in state.W[1:])]), r"state.W\[1\] is"),
    ]
    for broken, message in cases:
        with pytest.raises(LearnerError, match=message):
            PlasticityLearner(GOOD, POOL).live(broken, theta, x, label)


def test_choices_that_do_not_exist() -> None:
    with pytest.raises(ConfigError, match="method is one of"):
        PlasticityLearner(GOOD, POOL, "magic")
    with pytest.raises(ConfigError, match="engine is one of"):
        PlasticityLearner(GOOD, POOL, engine="magic")
    with pytest.raises(ConfigError, match="checkpoint_every"):
        PlasticityLearner(GOOD, POOL, checkpoint_every=0)
    with pytest.raises(ConfigError, match="did you mean 'softplus'"):
        PlasticNetwork(SIZES, activation="softpluss")
    with pytest.raises(ConfigError, match="two layers or more"):
        PlasticNetwork([5])
    with pytest.raises(ConfigError, match="beta"):
        PlasticNetwork(SIZES, beta=float("nan"))
    with pytest.raises(LearnerError, match="direct feedback does not have"):
        PlasticityLearner(PlasticNetwork(SIZES, feedback="direct"), terms("B - W"))
