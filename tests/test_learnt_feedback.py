"""Learnt feedback, biases and rates: each step as the paper has it, each gradient autograd's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lives import (
    LINEAR,
    MASKS,
    NETWORKS,
    OJA,
    PATHS,
    SIZES,
    assert_same_gradients,
    assert_slopes,
    coefficients,
    distance,
    gradients,
    learner_on,
    lifetimes,
    loss,
    terms,
    terms_for,
)
from random_terms import pool_of, pools
from torch import Tensor

from rulesearch.errors import LearnerError
from rulesearch.grammar import TermPool
from rulesearch.learners import Indexed, PlasticityLearner, memory
from rulesearch.learners.tape import not_fusible
from rulesearch.networks import LearntFeedback, NetworkState, PlasticNetwork

pytestmark = pytest.mark.usefixtures("one_thread")


# Steps, against the formula


def oja_by_hand(
    network: PlasticNetwork, state: NetworkState, i: int, x: Tensor, target: Tensor, size: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """W and B of network i after steps of section 4.1, in NumPy; ``size`` scales the update."""
    parts = {name: [t[i].numpy() for t in part] for name, part in state.parts()}
    for seen, wanted in zip(x.numpy(), target.numpy(), strict=True):
        parts["W"], parts["B"] = step_by_hand(network, parts, seen, wanted, size)
    return parts["W"], parts["B"]


def step_by_hand(
    network: PlasticNetwork, parts: dict[str, Any], x: np.ndarray, wanted: np.ndarray, size: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    names = ("W", "B", "bias", "feedback_bias", "mixing", "rate")
    W, B, b, c, beta, alpha = (parts[name] for name in names)
    how, last = network.learnt_feedback, len(W) - 1
    a = [x]
    for k, weight in enumerate(W):
        z = a[-1] @ weight.T + b[k]
        a.append(np.maximum(z, 0) if k < last else z)
    if network.output == "softmax":
        a[-1] = np.exp(a[-1]) / np.exp(a[-1]).sum(-1, keepdims=True)
    s = wanted if how.source == "target" else wanted - a[-1]
    f, post, source = s, [*a], [s] * (last + 1)
    for k in range(last, -1, -1):
        source[k] = f if how.pathway == "layered" else s
        f = source[k] @ B[k] + c[k]
        f = np.maximum(f, 0) if how.activation == "relu" else f
        post[k + 1] = (1 - beta[k]) * a[k + 1] + beta[k] * f
        if how.clamp_output and k == last:
            f = post[-1] = wanted
    pre = post if how.presynaptic == "after" else a
    squares = [(y**2).sum(0) for y in post[1:]]
    forward = [
        w + size * alpha[k] * (post[k + 1].T @ pre[k] - squares[k][:, None] * w)
        for k, w in enumerate(W)
    ]
    if not how.plastic:
        return forward, B
    eta = parts["feedback_rate"]
    return forward, [
        v + size * eta[k] * (source[k].T @ post[k + 1] - v * squares[k]) for k, v in enumerate(B)
    ]


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"activation": "identity"},
        {"presynaptic": "after"},
        {"source": "target"},
        {"source": "target", "clamp_output": True},
        {"pathway": "layered"},
        {"pathway": "layered", "source": "target", "clamp_output": True},
        {"plastic": True},
        {"plastic": True, "source": "target", "clamp_output": True},
        {"plastic": True, "pathway": "layered", "presynaptic": "after"},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", [*PATHS, "autograd", "first-order"])
def test_steps_of_oja_are_the_papers(path: str, how: dict[str, Any], reduction: str) -> None:
    """Sums over the batch; fixed biases and rates, and fixed feedback but where it is plastic."""
    network = PlasticNetwork(SIZES, **LINEAR, learnt_feedback=LearntFeedback(**how))
    state, x, label = lifetimes(network, steps=2, plastic_bias=False)
    learner = learner_on(path, network, terms(*OJA), reduction=reduction)
    theta = torch.zeros(learner.n_terms, dtype=torch.float64)  # nothing of the term for `general`
    theta[0] = 0.3
    final = learner.live(state, theta, x, label)
    size = 0.3 / (1 if reduction == "sum" else x.shape[2])
    for i in range(2):
        by_hand = oja_by_hand(network, state, i, x[:, i], label[:, i], size)
        for part, expected in zip((final.W, final.B), by_hand, strict=True):
            for t, value in zip(part, expected, strict=True):
                np.testing.assert_allclose(t[i].numpy(), value, rtol=1e-11, atol=1e-13)
    moves = {"W", "B"} if network.plastic_feedback else {"W"}
    for (name, part), (_, before) in zip(final.parts(), state.parts(), strict=True):
        assert all((a is b) == (name not in moves) for a, b in zip(part, before, strict=True)), name


@pytest.mark.parametrize("path", [*PATHS, "autograd", "first-order"])
def test_classification_moves_only_the_row_of_the_true_class(path: str) -> None:
    """By one example; with a mixing of one a label has a pattern, whatever is seen."""
    how = LearntFeedback(source="target", clamp_output=True)
    network = PlasticNetwork(
        SIZES, activation="relu", feedback="flp", bias=True, learnt_feedback=how
    )
    state, x, _ = lifetimes(network, steps=1, examples=1, plastic_bias=False)
    state = replace(state, mixing=[torch.ones_like(beta) for beta in state.mixing])
    label = torch.tensor([[[2], [0]]])
    learner = learner_on(path, network, terms(*OJA))
    theta = torch.eye(learner.n_terms, dtype=torch.float64)[0]
    final = learner.live(state, theta, x, label)
    hidden = network.activations(state, x[0])[-2]
    for i, true in enumerate((2, 0)):
        row = state.W[-1][i, true]
        moved = row + state.rate[-1][i, true] * (hidden[i, 0] - row)
        torch.testing.assert_close(final.W[-1][i, true], moved)
        others = [k for k in range(3) if k != true]
        assert torch.equal(final.W[-1][i, others], state.W[-1][i, others])
        pattern = (state.B[-2][i, true] + state.feedback_bias[-2][i]).relu()
        entering = network.activations(state, x[0])[-3][i, 0]
        change = torch.outer(pattern, entering) - (pattern**2)[:, None] * state.W[-2][i]
        torch.testing.assert_close(final.W[-2][i], state.W[-2][i] + state.rate[-2][i] * change)


def test_biases_learn_as_weights_from_a_unit_that_is_always_on() -> None:
    """The pseudo-gradient with symmetric feedback is gradient descent, biases included."""
    network = NETWORKS["symmetric"]
    state, x, label = lifetimes(network, steps=1)
    leaves = [t.clone().requires_grad_() for t in (*state.W, *state.bias)]
    alive = replace(state, W=leaves[:3], bias=leaves[3:])
    slopes = torch.autograd.grad(network.loss(network(alive, x[0]), label[0]).sum(), leaves)
    for path in (*PATHS, "autograd", "first-order"):
        learner = learner_on(path, network, terms("-e_post * y_pre.T"))
        theta = 0.1 * torch.eye(learner.n_terms, dtype=torch.float64)[0]
        final = learner.live(state, theta, x, label)
        rates = (*state.rate, *state.bias_rate)
        for after, leaf, rate, slope in zip(
            (*final.W, *final.bias), leaves, rates, slopes, strict=True
        ):
            torch.testing.assert_close(after, leaf.detach() - 0.1 * rate * slope)


# Whole lifetimes


@pytest.mark.parametrize("plastic_bias", [False, True])
@pytest.mark.parametrize("rated", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("path", PATHS)
def test_gradients_of_everything_are_those_of_plain_autograd(
    path: str, name: str, rated: bool, plastic_bias: bool
) -> None:
    network = NETWORKS[name]
    life = lifetimes(network, rated=rated, plastic_bias=plastic_bias)
    pool = terms_for(network)
    theta = coefficients(pool, examples=3)
    report, expected = assert_same_gradients(
        path, network, pool, theta, life, reduction="sum", checkpoint_every=4
    )
    assert not report.recomputed.any()
    assert float(report.drift.max()) < 1e-12
    silent = {"symmetric": ["B[0]", "B[1]", "B[2]"], "direct": ["B[0]"], "random": ["B[0]"]}
    clamped = [f"{part}[2]" for part in ("B", "feedback_bias", "mixing")]
    clamped = clamped[network.plastic_feedback :]  # B then changes, though it is not read
    # Feedback to the input is read by no term here; that to an output which is clamped, by none.
    unused = silent.get(name, clamped if network.learnt_feedback.clamp_output else [])
    for part, gradient in expected.items():
        assert bool(gradient.any()) == (part not in unused), part


def without(signals: dict[str, str], found: tuple[TermPool, Any]) -> TermPool:
    """The pool with other signals in the place of some."""
    written = []
    for w in found[1]:
        text = w.text
        for name, other in signals.items():
            text = text.replace(name, other)
        written.append(w._replace(text=text))
    return pool_of(written)[0]


@settings(max_examples=25, deadline=None)
@given(
    found=pools(3),
    name=st.sampled_from(sorted(NETWORKS)),
    rated=st.booleans(),
    plastic_bias=st.booleans(),
    examples=st.sampled_from((1, 2, 17)),
    store=st.booleans(),
    general=st.integers(0, 3),
    size=st.floats(1e-4, 3e-3),
)
def test_random_grammars(
    found: tuple[TermPool, Any], name: str, rated: bool, plastic_bias: bool, examples: int,
    store: bool, general: int, size: float,
) -> None:  # fmt: skip
    network = replace(NETWORKS[name], sizes=(4, 3, 2))
    plastic_bias = plastic_bias and network.bias
    keeps = network.has_own_feedback and not plastic_bias
    pool = found[0] if keeps else without({"B": "W"}, found)
    if network.plastic_feedback:
        pool = without({"B": "W", "e_p": "y_p"}, found)
    assume(len(pool) > 0)
    untaped = not_fusible(PlasticityLearner(network, pool).program)
    path = "general" if untaped or not general else "fused"
    life = lifetimes(network, 7, examples, rated, plastic_bias)
    theta = coefficients(pool, 1, size)
    with torch.no_grad():
        final = PlasticityLearner(network, pool, "autograd").live(life[0], theta, *life[1:])
    assume(all(bool((w.abs() < 10).all()) for w in final.W))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "MEMORY", 2**29 if store else 0)
        assert_same_gradients(path, network, pool, theta, life, 1e-8, checkpoint_every=4)


@pytest.mark.parametrize(
    "how",
    [
        {"source": "error"},
        {"source": "target"},
        {"pathway": "layered"},
        {"plastic": True},
        {"plastic": True, "pathway": "layered", "source": "target", "presynaptic": "after"},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", [*PATHS, "autograd"])
def test_gradients_are_those_of_finite_differences(path: str, how: dict[str, Any]) -> None:
    """Of a network without kinks."""
    feedback = LearntFeedback(activation="identity", **how)
    network = PlasticNetwork(
        (3, 4, 2), beta=2.0, output="linear", feedback="flp", bias=True, learnt_feedback=feedback
    )
    life = lifetimes(network, steps=5, examples=2)
    learner = learner_on(path, network, terms_for(network))
    theta = coefficients(learner.pool)
    _, found = gradients(learner, life[0], theta, *life[1:])
    assert_slopes(found, learner, life[0], theta, *life[1:])


@pytest.mark.parametrize("path", PATHS)
def test_weights_that_drift_are_recomputed(path: str) -> None:
    """No drift at all is tolerated."""
    network, pool = NETWORKS["error"], terms(*MASKS)
    life = lifetimes(network, steps=20, examples=1)
    report, _ = assert_same_gradients(
        path, network, pool, coefficients(pool), life,
        checkpoint_every=8, drift_tolerance=0.0,
    )  # fmt: skip
    assert bool((report.recomputed >= 2).all())  # a short segment may come back to the bit


@pytest.mark.parametrize("path", PATHS)
def test_a_birth_that_lifetimes_share_gathers_their_gradients(path: str) -> None:
    """Views, without memory of their own, in and out; x in another order than memory's."""
    network, pool = NETWORKS["error"], terms(*OJA)
    state, x, label = lifetimes(network)
    learner = learner_on(path, network, pool)
    theta = coefficients(learner.pool)
    one = {name: [t[:1] for t in part] for name, part in state.parts()}
    shared = NetworkState(**{n: [t.expand(2, *t.shape[1:]) for t in p] for n, p in one.items()})
    _, apart = gradients(learner, shared, theta, x, label)
    leaves = {n: [t.clone().requires_grad_() for t in p] for n, p in one.items()}
    born = NetworkState(**{n: [t.expand(2, *t.shape[1:]) for t in p] for n, p in leaves.items()})
    turned = x.mT.contiguous().mT.requires_grad_()
    final = learner.live(born, theta, turned, label)
    flat = [t for part in leaves.values() for t in part]
    *found, of_x = torch.autograd.grad(loss(final), [*flat, turned])
    names = [f"{n}[{k}]" for n, p in leaves.items() for k in range(len(p))]
    for name, gradient in zip(names, found, strict=True):
        torch.testing.assert_close(gradient[0], apart[name].sum(0))
    torch.testing.assert_close(of_x, apart["x"])


@pytest.mark.parametrize("path", PATHS)
def test_lifetimes_in_a_batch_are_those_alone(path: str) -> None:
    network = NETWORKS["target"]
    learner = learner_on(path, network, terms(*MASKS))
    state, x, label = lifetimes(network, count=3)
    theta = coefficients(learner.pool) * torch.tensor([[1.0], [-0.5], [0.7]], dtype=torch.float64)
    final, together = gradients(learner, state, theta, x, label)
    for i in range(3):
        row = slice(i, i + 1)
        born = NetworkState(**{name: [t[row] for t in part] for name, part in state.parts()})
        alone, found = gradients(learner, born, theta[row], x[:, row], label[:, row])
        for a, b in zip(alone.tensors(), final.tensors(), strict=True):
            torch.testing.assert_close(a, b[row], rtol=1e-13, atol=1e-13)
        for part in ("theta", "rate[0]", "bias_rate[1]", "mixing[0]", "B[1]"):
            assert distance(found[part], together[part][row]) < 1e-12


@pytest.mark.parametrize("path", PATHS)
def test_examples_from_a_table_are_the_same_ones(path: str) -> None:
    network = NETWORKS["error"]
    learner = learner_on(path, network, terms(*OJA))
    state, x, label = lifetimes(network)
    theta = coefficients(learner.pool)
    index = torch.arange(x[..., 0].numel()).view(x.shape[:-1])
    final = learner.live(state, theta, Indexed(x.flatten(0, -2), index), label)
    torch.testing.assert_close(final.W, learner.live(state, theta, x, label).W)


@pytest.mark.parametrize("path", PATHS)
def test_single_precision_is_close_to_double(path: str) -> None:
    network = NETWORKS["error"]
    state, x, label = lifetimes(network, steps=40)
    learner = learner_on(path, network, terms(*OJA), checkpoint_every=20)
    theta = coefficients(learner.pool, size=0.005)
    _, expected = gradients(learner, state, theta, x, label)
    single = NetworkState(**{name: [t.float() for t in part] for name, part in state.parts()})
    _, found = gradients(learner, single, theta.float(), x.float(), label.float())
    for name, gradient in found.items():
        assert distance(gradient.double(), expected[name]) < 1e-4, name
    report: Any = learner.report
    assert 0 < float(report.drift.max()) < 1e-5
    assert not report.recomputed.any()


# Relu, whose derivative errors hold


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("feedback", ["random", "symmetric"])
def test_relu_is_differentiated_almost_everywhere(path: str, feedback: str) -> None:
    """As plain autograd does it, which is right but where a unit is about to turn on or off."""
    network = PlasticNetwork(SIZES, activation="relu", feedback=feedback, bias=True)
    life = lifetimes(network, steps=6)
    pool = terms("-e_post * y_pre.T", "-e_post * e_pre.T")
    theta = coefficients(pool)
    assert_same_gradients(path, network, pool, theta, life)
    learner = learner_on(path, network, pool, almost_everywhere=True)
    theta = coefficients(learner.pool)
    _, found = gradients(learner, life[0], theta, *life[1:])
    assert_slopes(found, learner, life[0], theta, *life[1:], step=1e-7)
    with pytest.raises(LearnerError, match=r"relu cannot.*almost_everywhere=True"):
        gradients(learner_on(path, network, pool), life[0], theta, *life[1:])


@pytest.mark.parametrize("part", ["x", "W", "rate", "bias_rate"])
def test_relu_is_refused_whatever_wants_the_gradient(part: str) -> None:
    network = PlasticNetwork(SIZES, activation="relu", bias=True)
    state, x, label = lifetimes(network, steps=2)
    wanted = x if part == "x" else getattr(state, part)[0]
    wanted.requires_grad_()
    learner = PlasticityLearner(network, terms(*OJA))
    with pytest.raises(LearnerError, match="relu cannot be differentiated twice"):
        learner.live(state, coefficients(learner.pool), x, label)
