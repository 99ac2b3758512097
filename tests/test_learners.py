"""The gradient of a lifetime: the same by every path."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lives import distance, terms
from plain_lives import (
    ENGINES,
    POOL,
    SIZES,
    STEPS,
    THETA,
    assert_same_gradient,
    gradient,
    lifetimes,
    loss,
)
from random_terms import pools

from rulesearch.errors import LearnerError
from rulesearch.grammar import TermPool
from rulesearch.learners import PlasticityLearner
from rulesearch.networks import NetworkState, PlasticNetwork
from rulesearch.rules import Rule

pytestmark = pytest.mark.usefixtures("one_thread")


CONFIGURATIONS = {
    "random": {},
    "symmetric": {"feedback": "symmetric"},
    "symmetric, detached": {"feedback": "symmetric", "detach_feedback": True},
    "direct": {"feedback": "direct", "feedback_init": "normal"},
    "tanh": {"activation": "tanh"},
    "linear output": {"output": "linear", "feedback": "symmetric"},
    "tanh, linear, direct": {"activation": "tanh", "output": "linear", "feedback": "direct"},
    "soft": {"beta": 2.0},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_ten_terms_at_once_have_the_gradient_of_plain_autograd(name: str) -> None:
    network = PlasticNetwork(SIZES, **CONFIGURATIONS[name])
    theta = torch.tensor(THETA, dtype=torch.float64)
    if network.output == "linear":
        theta = 0.2 * theta
    fused, in_torch = assert_same_gradient(network, POOL, theta, checkpoint_every=25)
    assert (fused.report.path, in_torch.report.path) == ("fused", "torch")
    for learner in (fused, in_torch):
        assert float(learner.report.drift.max()) < 1e-9
        assert not learner.report.recomputed.any()


@pytest.mark.parametrize("name", ["random", "symmetric", "direct", "linear output"])
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    network = PlasticNetwork(SIZES, **CONFIGURATIONS[name])
    state, x, label = lifetimes(network, 80)
    theta = torch.tensor(THETA, dtype=torch.float64) * (0.2 if network.output == "linear" else 1)
    learner = PlasticityLearner(network, POOL, engine="fused")
    _, (found, *_) = gradient(learner, state, theta, x, label)
    h = 1e-6
    with torch.no_grad():
        above, below = (
            [
                loss(learner.live(state, theta + step * unit, x, label)).sum()
                for unit in torch.eye(len(POOL), dtype=torch.float64)
            ]
            for step in (h, -h)
        )
    assert distance(found, (torch.stack(above) - torch.stack(below)) / (2 * h)) < 1e-5


@settings(max_examples=10, deadline=None)
@given(
    found=pools(3),
    feedback=st.sampled_from(("random", "symmetric")),
    size=st.floats(1e-4, 3e-3),
)
def test_random_grammars_have_the_gradient_of_plain_autograd(
    found: tuple[TermPool, Any], feedback: str, size: float
) -> None:
    pool, _ = found
    network = PlasticNetwork((4, 3, 3), activation="tanh", feedback=feedback)
    theta = torch.tensor([(-1.0) ** r * size for r in range(len(pool))], dtype=torch.float64)
    state, x, label = lifetimes(network)
    with torch.no_grad():
        final = PlasticityLearner(network, pool, engine="torch").live(state, theta, x, label)
    assume(all(bool((w.abs() < 10).all()) for w in final.W))
    (learner,) = assert_same_gradient(network, pool, theta, engines=("auto",), checkpoint_every=20)
    if learner.report.path == "fused":
        assert_same_gradient(network, pool, theta, engines=("torch",), checkpoint_every=20)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("decay", [0.5, 0.9, 1.0])
def test_strong_decay_is_recomputed_and_right(engine: str, decay: float) -> None:
    """Dividing by 1 - decay at every step amplifies rounding beyond use."""
    network = PlasticNetwork(SIZES)
    pool = POOL.subset(("F0", "F3", "F9"))
    theta = torch.tensor([0.05, decay, 0.02], dtype=torch.float64)
    (learner,) = assert_same_gradient(
        network, pool, theta, engines=(engine,), checkpoint_every=30, steps=90
    )
    assert (learner.report.recomputed >= 2).all()  # of three segments
    assert not (learner.report.drift < 1e-9).any()


@pytest.mark.parametrize("engine", ENGINES)
def test_an_update_that_cannot_be_inverted_is_recomputed(engine: str) -> None:
    pool = terms("-e_post * y_pre.T", "-hadamard(W, W)", "-hadamard(y_post * y_pre.T, W, W)")
    theta = torch.tensor([0.05, 0.01, 0.02], dtype=torch.float64)
    (learner,) = assert_same_gradient(
        PlasticNetwork(SIZES), pool, theta, engines=(engine,), checkpoint_every=25
    )
    assert learner.report.recomputed.tolist() == [3, 3]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("feedback", ["random", "symmetric"])
def test_feedback_weights_in_a_term(engine: str, feedback: str) -> None:
    """Where feedback is symmetric B is W, and adding it cannot be undone by subtraction."""
    pool = terms("-e_post * y_pre.T", "B - W", "hadamard(e_post * y_pre.T, B, B)")
    theta = torch.tensor([0.05, 0.01, 0.02], dtype=torch.float64)
    network = PlasticNetwork(SIZES, feedback=feedback)
    (learner,) = assert_same_gradient(network, pool, theta, engines=(engine,))
    assert bool(learner.report.recomputed.any()) == (feedback == "symmetric")


MASKS = ("-e_post * y_pre.T", "-diag(y_post**2) * W", "-W * diag(tanh(y_pre))",
         "-hadamard(y_post * y_pre.T, W)", "-sum(y_post) * W")  # fmt: skip


def test_masks_and_wide_updates() -> None:
    theta = torch.tensor([0.05, 0.01, 0.02, 0.01, 0.002], dtype=torch.float64)
    assert_same_gradient(PlasticNetwork((19, 18, 17, 5)), terms(*MASKS), theta, steps=30)
    outers = [f"{a} * {b}.T" for a in ("y_post", "e_post", "ones_post", "z_post", "tanh(z_post)")
              for b in ("y_pre", "e_pre", "ones_pre", "(y_pre**2)", "exp(-y_pre)")]  # fmt: skip
    theta = torch.linspace(-2e-3, 2e-3, 25, dtype=torch.float64)
    pool = terms(*outers)
    assert PlasticityLearner(PlasticNetwork(SIZES), pool).program.rank == 5
    assert_same_gradient(PlasticNetwork((19, 18, 5)), pool, theta, steps=20)


def test_what_the_engine_cannot_run_runs_in_torch_and_says_why() -> None:
    network = PlasticNetwork(SIZES)
    for text in ("tanh(W)", "hadamard(W, W) * y_pre * y_pre.T"):
        learner = PlasticityLearner(network, terms("-e_post * y_pre.T", text))
        theta = torch.tensor([0.05, -0.01], dtype=torch.float64)
        assert_same_gradient(network, learner.pool, theta, engines=("auto",), steps=20)
        state, x, label = lifetimes(network, 3)
        learner.live(state, theta, x, label)
        assert learner.report.path == "general"
        assert "function" in learner.report.reason
        assert learner.bytes_per_lifetime(100) > 100
        with pytest.raises(LearnerError, match="fused engine cannot run"):
            PlasticityLearner(network, learner.pool, engine="fused").live(state, theta, x, label)


def test_checkpoints_do_not_change_the_gradient() -> None:
    network = PlasticNetwork(SIZES)
    example = lifetimes(network)
    theta = torch.tensor(THETA, dtype=torch.float64)
    learners = [PlasticityLearner(network, POOL, checkpoint_every=k) for k in (1, 7, 60, 500)]
    first, *rest = (gradient(learner, example[0], theta, *example[1:])[1] for learner in learners)
    for other in rest:
        for a, b in zip(first, other, strict=True):
            assert distance(a, b) < 1e-10


def test_backward_twice_gives_the_same() -> None:
    network = PlasticNetwork(SIZES)
    state, x, label = lifetimes(network)
    for engine in ENGINES:
        theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
        value = loss(PlasticityLearner(network, POOL, engine=engine).live(state, theta, x, label))
        first = torch.autograd.grad(value.sum(), theta, retain_graph=True)[0]
        assert torch.equal(torch.autograd.grad(value.sum(), theta)[0], first)


@pytest.mark.parametrize("engine", ENGINES)
def test_single_precision_is_close_to_double(engine: str) -> None:
    network = PlasticNetwork(SIZES)
    state, x, label = lifetimes(network)
    learner = PlasticityLearner(network, POOL, engine=engine)
    theta = torch.tensor(THETA, dtype=torch.float64)
    final, grads = gradient(learner, state, theta, x, label)
    narrow = NetworkState([w.float() for w in state.W], [b.float() for b in state.B])
    final32, grads32 = gradient(learner, narrow, theta.float(), x.float(), label)
    for a, b in zip([*final32.W, *grads32], [*final.W, *grads], strict=True):
        assert a.dtype == torch.float32
        assert distance(a.double(), b) < 1e-3


def test_gradient_is_not_the_first_order_one() -> None:
    network = PlasticNetwork(SIZES)
    state, x, label = lifetimes(network)
    theta = torch.tensor(THETA, dtype=torch.float64)
    learner = PlasticityLearner(network, POOL)
    _, (whole, *_) = gradient(learner, state, theta, x, label)
    theta.requires_grad_()
    totals = [torch.zeros_like(w) for w in state.W]
    now = state
    for t in range(STEPS):  # every step's change as if the weights before it were given
        then = learner.live(now.detach(), theta, x[t : t + 1], label[t : t + 1])
        totals = [s + a - b for s, a, b in zip(totals, then.W, now.detach().W, strict=True)]
        now = then
    final = NetworkState([w + s for w, s in zip(state.W, totals, strict=True)], state.B)
    first_order = torch.autograd.grad(loss(final).sum(), theta)[0]
    assert distance(first_order, whole) > 0.05


@pytest.mark.parametrize("method", ["reversible", "autograd"])
def test_relu_lives_but_has_no_meta_gradient(method: str) -> None:
    network = PlasticNetwork(SIZES, activation="relu")
    learner = PlasticityLearner(network, Rule(POOL, {"F0": 0.05, "F2": -0.01}), method)
    state, x, label = lifetimes(network)
    theta = torch.tensor([0.05, -0.01], dtype=torch.float64, requires_grad=True)
    with pytest.raises(LearnerError, match=r"relu cannot be differentiated twice.*use softplus"):
        learner.live(state, theta, x, label)
    with torch.no_grad():
        final = learner.live(state, theta, x, label)
    torch.testing.assert_close(final.W, learner.live(state, None, x, label).W)
    assert not torch.equal(final.W[0], state.W[0])


@pytest.mark.parametrize(
    "options", [{"engine": "fused"}, {"engine": "torch"}, {"method": "autograd"}], ids=str
)
def test_relu_hides_no_input_that_is_no_number(options: dict[str, str]) -> None:
    """By a rule that sees activations alone."""
    network = PlasticNetwork(SIZES, activation="relu")
    pool = terms("-diag(y_post**2) * W")
    learner = PlasticityLearner(network, pool, almost_everywhere=True, **options)
    state, x, label = lifetimes(network)
    x[2, 0, 1] = torch.nan
    theta = torch.full((2, 1), 0.05, dtype=torch.float64, requires_grad=True)
    final = learner.live(state, theta, x, label)
    for w in final.W:
        assert w.isfinite().flatten(1).all(1).tolist() == [False, True]
    (slope,) = torch.autograd.grad(sum(w.sum() for w in final.W), theta)
    assert slope.isfinite().flatten().tolist() == [False, True]


def test_rule_brings_its_coefficients_and_the_paths_agree_on_steps() -> None:
    """By hand: one step of the pseudo-gradient with symmetric feedback is a step of SGD."""
    network = PlasticNetwork((5, 4, 3), feedback="symmetric")
    state, x, label = lifetimes(network, 1)
    weights = [w.clone().requires_grad_() for w in state.W]
    output = network(NetworkState(weights, state.B), x.transpose(0, 1))
    picked = torch.nn.functional.cross_entropy(output[:, 0], label[0], reduction="sum")
    slopes = torch.autograd.grad(picked, weights)
    for options in ({"engine": "fused"}, {"engine": "torch"}, {"method": "autograd"}):
        learner = PlasticityLearner(network, Rule(POOL, {"F0": 0.1}), **options)
        final = learner.live(state, None, x, label)
        for w, slope, after in zip(state.W, slopes, final.W, strict=True):
            torch.testing.assert_close(after, w - 0.1 * slope)
