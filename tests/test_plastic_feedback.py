"""Feedback in layers, and feedback that is itself plastic: its synapses, rates and meta-training.

Steps, and the gradients of whole lifetimes, are tested with those of all learnt feedback.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lives import (
    LINEAR,
    LOCAL,
    NETWORKS,
    PATHS,
    SIZES,
    coefficients,
    distance,
    learner_on,
    lifetimes,
    loss,
    terms,
)

from rulesearch.learners import PlasticityLearner
from rulesearch.networks import LearntFeedback, NetworkState, PlasticNetwork
from rulesearch.outer import FLPSettings, MetaRates, MetaTraining, flp_model
from rulesearch.tasks import IncrementalSines

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("path", [*PATHS, "autograd", "first-order"])
@pytest.mark.parametrize("pathway", ["direct", "layered"])
def test_a_rule_sees_feedback_synapses_as_it_sees_others(path: str, pathway: str) -> None:
    """With ``z_post`` what arrives, before bias and activation, and ``W`` B transposed."""
    how = LearntFeedback(activation="identity", plastic=True, pathway=pathway)
    network = PlasticNetwork(SIZES, **LINEAR, learnt_feedback=how)
    state, x, label = lifetimes(network, steps=1, plastic_bias=False)
    learner = learner_on(path, network, terms("hadamard(z_post * y_pre.T, W)"))
    theta = 0.3 * torch.eye(learner.n_terms, dtype=torch.float64)[0]
    final = learner.live(state, theta, x, label)
    signal = carried = label[0] - network.activations(state, x[0])[-1]
    for k in (2, 1, 0):
        source = carried if pathway == "layered" else signal
        arriving = torch.einsum("les,lsn->len", source, state.B[k])
        asked = torch.einsum("les,len,lsn->lsn", source, arriving, state.B[k]) / x.shape[2]
        moved = state.B[k] + 0.3 * state.feedback_rate[k] * asked
        torch.testing.assert_close(final.B[k], moved)
        carried = arriving + state.feedback_bias[k].unsqueeze(1)


@pytest.mark.parametrize("name", ["plastic", "plastic target", "plastic layered"])
def test_the_first_order_gradient_takes_what_plastic_feedback_asks_for_as_constant(
    name: str,
) -> None:
    """Of a matrix at birth that of it at death, of its rate that times the change by unit rate."""
    network = NETWORKS[name]
    state, x, label = lifetimes(network)
    learner = learner_on("first-order", network, terms(*LOCAL))
    theta = coefficients(learner.pool)
    leaves = {n: [t.clone().requires_grad_() for t in part] for n, part in state.parts()}
    final = learner.live(NetworkState(**leaves), theta, x, label)
    exact = PlasticityLearner(network, learner.pool).live(state, theta, x, label)
    flat = [t for part in leaves.values() for t in part]
    found = iter(
        torch.autograd.grad(loss(final, True), flat, allow_unused=True, materialize_grads=True)
    )
    gradient = {n: [next(found) for _ in part] for n, part in leaves.items()}
    ends = exact.W + exact.bias + exact.B
    dead = [t.clone().requires_grad_() for t in ends]
    slopes = torch.autograd.grad(loss(NetworkState(dead[:3], dead[6:], dead[3:6]), True), dead)
    births = state.W + state.bias + state.B
    by = state.rate + state.bias_rate + state.feedback_rate
    of_birth = gradient["W"] + gradient["bias"] + gradient["B"]
    of_rate = gradient["rate"] + gradient["bias_rate"] + gradient["feedback_rate"]
    for k, slope in enumerate(slopes):
        assert distance(final.detach().tensors()[k], exact.tensors()[k]) < 1e-12
        assert distance(of_birth[k], slope) < 1e-12
        assert distance(of_rate[k], slope * (ends[k] - births[k]) / by[k]) < 1e-9
    assert not any(bool(g.any()) for n in ("feedback_bias", "mixing") for g in gradient[n])


@pytest.mark.parametrize(
    "how",
    [{"pathway": "layered"}, {"plastic": True}, {"plastic": True, "pathway": "layered"}],
    ids=str,
)
def test_an_outer_loop_learns_all_of_it(how: dict[str, Any]) -> None:
    """Rates of feedback too, which Adam's first step moves at a pace of their own."""
    rates = MetaRates(1e-2, 1e-2, 1e-2, 1e-4, feedback_rate=2e-5, clip=2.0)
    settings = FLPSettings(
        (3, 16, 16, 1), 2, feedback=LearntFeedback(**how), rate=1e-3, rates=rates
    )
    sines = IncrementalSines(functions=2, batches=3, examples=8)
    unseen = sines.sample([torch.Generator().manual_seed(i) for i in range(50)])
    training = MetaTraining(flp_model(settings), sines, rates, episodes=4)
    rate = training.model.feedback_rate
    born = [t.detach().clone() for t in rate]
    with torch.no_grad():
        before = float(training.model(unseen).loss.mean())
    training.update()
    moves = [float((a - b).detach().abs().max()) for a, b in zip(rate, born, strict=True)]
    plastic = settings.feedback.plastic
    assert moves == pytest.approx([2e-5, 2e-5] if plastic else [], rel=1e-3)
    for _ in range(39):
        training.update()
    with torch.no_grad():
        assert float(training.model(unseen).loss.mean()) < 0.8 * before


@pytest.mark.parametrize("rate", [1e-4, (1e-4, 3.0)])
def test_rates_of_feedback_are_learnt_a_hundred_times_as_slowly(rate: Any) -> None:
    """Where nothing else is said, also where those of W have each a step of their own."""
    rates = MetaRates(rate=rate)
    settings = FLPSettings(
        (3, 16, 16, 1), 2, feedback=LearntFeedback(plastic=True), rate=1e-3, rates=rates
    )
    training = MetaTraining(flp_model(settings), IncrementalSines(2, 3, 8), rates)
    born = [t.detach().clone() for t in training.model.feedback_rate]
    training.update()
    for a, b in zip(training.model.feedback_rate, born, strict=True):
        assert float((a - b).detach().abs().max()) == pytest.approx(1e-6, rel=1e-2)
