"""Lifetimes of networks with weights and feedback alone, an example a step, and their gradients."""

from __future__ import annotations

from typing import Any

import torch
from lives import distance
from torch import Tensor

from rulesearch.grammar import Grammar, TermPool
from rulesearch.learners import PlasticityLearner
from rulesearch.networks import NetworkState, PlasticNetwork

POOL = Grammar.from_yaml("pool10").enumerate()
SIZES = (7, 6, 5, 4)
STEPS, LIFETIMES = 60, 2
THETA = (0.05, -0.01, -0.04, 0.003, 0.005, 0.01, 0.02, -0.03, 0.01, 0.02)
ENGINES = ("fused", "torch")


def lifetimes(
    network: PlasticNetwork,
    steps: int = STEPS,
    count: int = LIFETIMES,
    dtype: torch.dtype = torch.float64,
) -> tuple[NetworkState, Tensor, Tensor]:
    """Networks at birth, and what they see."""
    g = torch.Generator().manual_seed(1)
    state = network.init([torch.Generator().manual_seed(i) for i in range(count)], dtype)
    x = torch.rand(steps, count, network.sizes[0], generator=g, dtype=dtype)
    label = torch.randint(network.sizes[-1], (steps, count), generator=g)
    return state, x, label


def loss(state: NetworkState) -> Tensor:
    """Some smooth function of the final weights, another one in every entry."""
    return torch.stack(
        [
            (w * torch.linspace(-1, 1, w[0].numel(), dtype=w.dtype).view_as(w[0])).sin().sum((1, 2))
            for w in state.W
        ]
    ).sum(0)


def gradient(
    learner: PlasticityLearner,
    state: NetworkState,
    theta: Tensor,
    x: Tensor,
    label: Tensor,
) -> tuple[NetworkState, list[Tensor]]:
    """Final state, and the adjoints of theta, of W and of B."""
    theta = theta.clone().requires_grad_()
    born = NetworkState(
        [w.clone().requires_grad_() for w in state.W], [b.clone().requires_grad_() for b in state.B]
    )
    final = learner.live(born, theta, x, label)
    inputs = (theta, *born.W, *born.B)
    grads = torch.autograd.grad(
        loss(final).sum(), inputs, allow_unused=True, materialize_grads=True
    )
    return final.detach(), list(grads)


def assert_same_gradient(
    network: PlasticNetwork,
    pool: TermPool,
    theta: Tensor,
    steps: int = STEPS,
    tolerance: float = 1e-7,
    engines: tuple[str, ...] = ENGINES,
    **options: Any,
) -> list[PlasticityLearner]:
    example = lifetimes(network, steps)
    twin = PlasticityLearner(network, pool, "autograd")
    oracle_state, oracle = gradient(twin, example[0], theta, *example[1:])
    assume_finite = all(g.isfinite().all() for g in oracle)
    assert assume_finite
    learners = []
    for engine in engines:
        learner = PlasticityLearner(network, pool, engine=engine, **options)
        state, found = gradient(learner, example[0], theta, *example[1:])
        for w, expected in zip(state.W, oracle_state.W, strict=True):
            assert distance(w, expected) < 1e-10
        for number, (g, expected) in enumerate(zip(found, oracle, strict=True)):
            assert distance(g, expected) < tolerance, (engine, number)
        learners.append(learner)
    return learners


def rows_of_theta(count: int) -> Tensor:
    return torch.tensor(THETA, dtype=torch.float64) * torch.linspace(0.5, 1.5, count)[:, None]
