"""Lifetimes that are drawn to consolidated weights: Omega as a symbol like another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lives import (
    NETWORKS,
    PATHS,
    SIZES,
    assert_same_gradients,
    assert_slopes,
    coefficients,
    gradients,
    learner_on,
    lifetimes,
    loss,
    terms,
)
from tiny_search import POOL as POOL10
from torch import Tensor

import rulesearch as rs
from rulesearch.errors import LearnerError
from rulesearch.learners import PlasticityLearner
from rulesearch.networks import NetworkState, PlasticNetwork
from rulesearch.tasks import FewShot

pytestmark = pytest.mark.usefixtures("one_thread")

POOL = terms(
    "-e_post * y_pre.T",
    "Omega - W",
    "hadamard(Omega, y_post * y_pre.T)",
    "y_post * (Omega.T * y_post).T",
)
PLAIN = terms("-e_post * y_pre.T", "Omega - W")
FIXED = ("error", "layered", "random", "symmetric", "direct")  # networks that take Omega


def life(name: str, *, own: bool) -> tuple[NetworkState, Tensor, Tensor]:
    """With consolidated weights of its own, or with those at birth."""
    born, x, label = lifetimes(NETWORKS[name], plastic_bias=False, rated=name == "error")
    g = torch.Generator().manual_seed(8)
    away = [0.3 * torch.randn(w.shape, generator=g, dtype=w.dtype) for w in born.W]
    omega = [w + a for w, a in zip(born.W, away, strict=True)] if own else []
    return replace(born, Omega=omega), x, label


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("path", PATHS)
def test_every_path_has_the_gradients_of_autograd(path: str, name: str, own: bool) -> None:
    report, found = assert_same_gradients(
        path, NETWORKS[name], POOL, coefficients(POOL), life(name, own=own)
    )
    assert report.path in (path, "general")
    if own:
        assert found["Omega[0]"].abs().max() > 0
    if path == "fused":
        assert report.path == "fused"


@pytest.mark.parametrize("engine", ["fused", "torch"])
def test_the_tape_takes_it_in_torch_as_compiled(engine: str) -> None:
    """Where no gradient of the inputs is wanted; with checkpoints within the life."""
    network = PlasticNetwork(SIZES)
    born, x, label = lifetimes(network, rated=False)
    born = replace(born, Omega=[w + 0.2 for w in born.W])

    def found(learner: PlasticityLearner) -> list[Tensor]:
        theta = coefficients(POOL).requires_grad_()
        leaves = replace(born, Omega=[o.clone().requires_grad_() for o in born.Omega])
        final = loss(learner.live(leaves, theta, x, label)).sum()
        return list(torch.autograd.grad(final, [theta, *leaves.Omega]))

    learner = PlasticityLearner(network, POOL, engine=engine, checkpoint_every=4)
    pairs = zip(found(learner), found(PlasticityLearner(network, POOL, "autograd")), strict=True)
    for ours, exact in pairs:
        torch.testing.assert_close(ours, exact, rtol=1e-8, atol=1e-12)
    assert learner.report is not None
    assert learner.report.path == engine


def test_the_gradients_of_autograd_are_slopes() -> None:
    network = NETWORKS["random"]
    born, x, label = life("random", own=True)
    learner = PlasticityLearner(network, POOL, "autograd")
    _, found = gradients(learner, born, coefficients(POOL), x, label)
    assert_slopes(found, learner, born, coefficients(POOL), x, label)


def test_a_step_is_what_the_rule_says() -> None:
    network = NETWORKS["random"]
    born, x, label = life("random", own=True)
    held = PlasticityLearner(network, PLAIN).live(born, torch.tensor([0.0, 0.3]).double(), x, label)
    kept = (1 - 0.3) ** len(x)
    for w, omega, final in zip(born.W, born.Omega, held.W, strict=True):
        torch.testing.assert_close(final, kept * w + (1 - kept) * omega)


@pytest.mark.parametrize("path", [*PATHS, "autograd", "first-order"])
def test_a_life_in_two_parts_is_drawn_to_the_same(path: str) -> None:
    """Omega is that of birth, not of the second part's beginning."""
    network = NETWORKS["random"]
    born, x, label = life("random", own=False)
    learner = learner_on(path, network, POOL)
    theta = coefficients(POOL)
    theta = torch.cat([theta, theta.new_zeros(learner.n_terms - len(theta))])
    whole = learner.live(born, theta, x, label)
    half = learner.live(born, theta, x[:4], label[:4])
    assert all(torch.equal(o, w) for o, w in zip(half.Omega, born.W, strict=True))
    both = learner.live(half, theta, x[4:], label[4:])
    for a, b in zip(both.W, whole.W, strict=True):
        torch.testing.assert_close(a, b)
    assert not torch.allclose(learner.live(replace(half, Omega=[]), theta, x[4:], label[4:]).W[0],
                              whole.W[0], rtol=1e-8)  # fmt: skip


def test_a_rule_without_it_leaves_it_alone() -> None:
    network = NETWORKS["random"]
    born, x, label = life("random", own=True)
    pool = terms("-e_post * y_pre.T")
    theta = coefficients(pool)
    with_it = PlasticityLearner(network, pool).live(born, theta, x, label)
    without = PlasticityLearner(network, pool).live(replace(born, Omega=[]), theta, x, label)
    assert torch.equal(loss(with_it), loss(without))
    assert with_it.Omega == born.Omega


def test_what_has_no_consolidated_weights_says_so() -> None:
    with pytest.raises(LearnerError, match="Omega, which the synapses of plastic feedback"):
        PlasticityLearner(NETWORKS["plastic"], terms("Omega - W"))
    biased, x, label = lifetimes(NETWORKS["random"], rated=False)
    with pytest.raises(LearnerError, match="Omega, which biases do not have"):
        PlasticityLearner(NETWORKS["random"], PLAIN).live(biased, coefficients(PLAIN), x, label)
    born, x, label = life("random", own=True)
    with pytest.raises(LearnerError, match=r"state\.Omega has 2 tensors"):
        PlasticityLearner(NETWORKS["random"], PLAIN).live(
            replace(born, Omega=born.Omega[:2]), coefficients(PLAIN), x, label
        )


def test_consolidation_is_searched_as_any_term(tmp_path: Path) -> None:
    """It moves nothing at birth, where its scale is taken, and gets a coefficient all the same."""
    pool = POOL10.subset(["F0", "F2"]) + rs.TermPool([rs.Term.from_text("held", "Omega - W")])
    parts: dict[str, Any] = {
        "network": rs.PlasticNetwork([64, 8, 10]),
        "tasks": FewShot("digits", ways=3, shots=4, queries=4),
    }
    result = rs.search(
        pool, out=tmp_path / "run", **parts, episodes=6, seeds=2, controls=False,
        refit_episodes=2, rate=1e-3, lams=[0.0],
    )  # fmt: skip
    first = next(iter(result.history.values()))
    held = first.theta[:, :, pool.index("held")]
    assert np.isfinite(first.theta).all()
    assert (held[:, -1] != 0).all()
