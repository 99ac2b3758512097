"""What a network with learnt feedback starts with, and the states and choices it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from lives import NETWORKS, OJA, PATHS, SIZES, coefficients, learner_on, lifetimes, terms

from rulesearch.errors import ConfigError, LearnerError
from rulesearch.learners import Indexed, PlasticityLearner
from rulesearch.networks import LearntFeedback, PlasticNetwork


def test_every_part_is_drawn_by_its_own_generator() -> None:
    network = PlasticNetwork(
        (50, 400, 20), weight_init="kaiming", feedback_init="kaiming", feedback="flp", bias=True
    )
    state = network.init([torch.Generator().manual_seed(i) for i in range(3)])
    alone = network.init([torch.Generator().manual_seed(2)])
    for a, b in zip(state.tensors(), alone.tensors(), strict=True):
        assert torch.equal(a[2:], b)
    for w, b, (_, listens) in zip(state.W, state.B, network.connections, strict=True):
        assert float(w.std()) == pytest.approx(np.sqrt(2 / listens), rel=0.03)
        assert float(b.std()) == pytest.approx(np.sqrt(2 / 20), rel=0.05)  # to the outputs
    assert [tuple(b.shape) for b in state.B] == [(3, 20, 400), (3, 20, 20)]
    assert [beta.tolist() for beta in state.mixing] == [[0.5] * 3] * 2
    assert not any(bool(t.any()) for t in (*state.bias, *state.feedback_bias))
    assert (state.rate, state.bias_rate) == ([], [])
    assert len({t.data_ptr() for t in state.tensors()}) == len(state.tensors())


@pytest.mark.parametrize("feedback", ["random", "symmetric", "direct"])
def test_choices_of_learnt_feedback_want_learnt_feedback(feedback: str) -> None:
    """They would be of no consequence."""
    how = LearntFeedback(source="target", clamp_output=True)
    message = f"learnt_feedback is for feedback='flp', and this network has '{feedback}'"
    with pytest.raises(ConfigError, match=message):
        PlasticNetwork(SIZES, feedback=feedback, learnt_feedback=how)
    learnt = PlasticNetwork(SIZES, feedback="flp", learnt_feedback=how)
    assert learnt.with_feedback("flp") == learnt
    assert learnt.with_feedback(feedback) == PlasticNetwork(SIZES, feedback=feedback)


def test_a_network_is_remade_with_another_feedback() -> None:
    network = replace(NETWORKS["target"].with_feedback("random"), bias=False)
    state = network.init([torch.Generator().manual_seed(0)])
    assert [b.shape for b in state.B] == [w.shape for w in state.W]
    assert not any((state.bias, state.feedback_bias, state.mixing))
    assert "learnt_feedback" not in network.describe()
    assert NETWORKS["target"].describe()["learnt_feedback"] == {
        "source": "target", "activation": "relu", "presynaptic": "before", "clamp_output": True,
        "pathway": "direct", "plastic": False,
    }  # fmt: skip


def test_feedback_in_layers_goes_from_each_to_the_one_below() -> None:
    state = NETWORKS["layered"].init([torch.Generator().manual_seed(0)])
    assert SIZES == (5, 6, 4, 3)
    assert [tuple(b.shape) for b in state.B] == [(1, 4, 6), (1, 3, 4), (1, 3, 3)]
    wide = PlasticNetwork(
        (2, 50, 400, 3),
        feedback="flp",
        feedback_init="kaiming",
        learnt_feedback=LearntFeedback(pathway="layered"),
    )
    first = wide.init([torch.Generator().manual_seed(0)]).B[0]
    assert float(first.std()) == pytest.approx(np.sqrt(2 / 400), rel=0.03)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("W", lambda part: [], "state.W has 0 matrices, the network 3 connections"),
        (
            "B",
            lambda part: [b.mT for b in part],
            r"state.B\[0\] has shape \(2, 6, 3\).*\(2, 3, 6\)",
        ),
        ("bias", lambda part: [], "state.bias has 0 tensors, the network 3 connections"),
        ("bias", lambda part: [b[..., None] for b in part], r"state.bias\[0\] has shape"),
        ("feedback_bias", lambda part: part[:2], "state.feedback_bias has 2 tensors"),
        (
            "feedback_bias",
            lambda part: [c[:1] for c in part],
            r"state.feedback_bias\[0\] has shape",
        ),
        ("mixing", lambda part: [], "state.mixing has 0 tensors, the network 3 connections"),
        ("mixing", lambda part: [b[:, None] for b in part], r"state.mixing\[0\] has.*needs \(2,\)"),
        ("rate", lambda part: part[1:], "state.rate has 2 tensors"),
        ("rate", lambda part: [r[:, :1] for r in part], r"state.rate\[0\] has shape \(2, 1, 5\)"),
        ("rate", lambda part: [part[0], *(r.float() for r in part[1:])], r"state.rate\[1\] is"),
        ("bias_rate", lambda part: part[:1], "state.bias_rate has 1 tensors"),
        ("bias_rate", lambda part: [*part[:2], part[0]], r"state.bias_rate\[2\] has shape"),
        ("feedback_rate", lambda part: part[1:], "state.feedback_rate has 2 tensors"),
        (
            "feedback_rate",
            lambda part: [r.mT for r in part],
            r"state.feedback_rate\[0\] has shape \(2, 6, 3\).*\(2, 3, 6\)",
        ),
    ],
)
def test_states_that_do_not_fit(path: str, part: str, change: Any, message: str) -> None:
    state, x, label = lifetimes(NETWORKS["plastic"], steps=2)
    learner = learner_on(path, NETWORKS["plastic"], terms(*OJA))
    broken = replace(state, **{part: change(getattr(state, part))})
    with pytest.raises(LearnerError, match=message):
        learner.live(broken, coefficients(learner.pool), x, label)


def test_parts_that_a_network_does_not_have() -> None:
    network, (state, x, label) = NETWORKS["plastic"], lifetimes(NETWORKS["plastic"], steps=2)
    cases = {
        "bias": replace(network, bias=False),
        "feedback_bias": network.with_feedback("direct"),
        "bias_rate": replace(network, bias=False),
        "feedback_rate": NETWORKS["error"],
    }
    for part, other in cases.items():
        born = other.init([torch.Generator().manual_seed(i) for i in range(2)], torch.float64)
        given_it = replace(born, **{part: getattr(state, part)})
        learner = PlasticityLearner(other, terms(*OJA), almost_everywhere=True)
        with pytest.raises(LearnerError, match=f"state.{part} has 3 tensors, the network 0 such"):
            learner.live(given_it, coefficients(learner.pool), x, label)


def test_what_does_not_go_together() -> None:
    with pytest.raises(LearnerError, match="flp feedback does not have: leave it out, or use"):
        PlasticityLearner(NETWORKS["error"], terms("B - W"))
    message = "e_post and e_pre, which the synapses of plastic feedback.*set plastic=False"
    for path in ("reversible", "autograd", "first-order"):
        with pytest.raises(LearnerError, match=message):
            PlasticityLearner(NETWORKS["plastic"], terms(*OJA, "-e_post * e_pre.T"), path)
    network = NETWORKS["random"]
    state, x, label = lifetimes(network, steps=2)
    learner = PlasticityLearner(network, terms("hadamard(e_post * y_pre.T, B)"))
    with pytest.raises(LearnerError, match="biases do not have: leave bias_rate empty"):
        learner.live(state, coefficients(learner.pool), x, label)
    table = Indexed(
        torch.ones(4, 5, dtype=torch.float64).requires_grad_(), torch.zeros(2, 2, 3).long()
    )
    learner = PlasticityLearner(network, terms(*OJA))
    with pytest.raises(LearnerError, match="table of inputs wants a gradient: give x as a tensor"):
        learner.live(state, coefficients(learner.pool), table, label)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (
            {"source": "errors"},
            "learnt feedback: source is one of error, target.*did you mean 'error'",
        ),
        ({"activation": "tanh"}, "activation is one of relu, identity, not 'tanh'"),
        ({"presynaptic": "befor"}, "did you mean 'before'"),
        ({"pathway": "layers"}, "pathway is one of direct, layered, not 'layers'"),
    ],
)
def test_choices_that_do_not_exist(choice: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LearntFeedback(**choice)
    with pytest.raises(ConfigError, match=r"feedback is one of.*did you mean 'flp'"):
        PlasticNetwork(SIZES, feedback="flq")
    with pytest.raises(ConfigError, match=r"weight_init is one of.*did you mean 'kaiming'"):
        PlasticNetwork(SIZES, weight_init="kaimin")
