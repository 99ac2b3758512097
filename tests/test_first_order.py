"""The first-order meta-gradient: of birth and rates alone, as if a rule asked for constants."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from lives import (
    MASKS,
    MIXED,
    NETWORKS,
    SIZES,
    UNTAPED,
    coefficients,
    distance,
    gradients,
    holding,
    lifetimes,
    lived,
    loss,
    named,
    terms,
)
from torch import Tensor

from rulesearch.errors import LearnerError
from rulesearch.grammar import Term, TermPool
from rulesearch.learners import Indexed, PlasticityLearner
from rulesearch.networks import NetworkState, PlasticNetwork
from rulesearch.rules import Rule

pytestmark = pytest.mark.usefixtures("one_thread")

Life = tuple[NetworkState, Tensor, Tensor]
Found = tuple[NetworkState, dict[str, Tensor]]

DESCENT = terms("-e_post * y_pre.T")  # with symmetric feedback, whose errors are backprop's
BACKPROP = {
    "tanh": NETWORKS["symmetric"],
    "relu": PlasticNetwork(SIZES, activation="relu", feedback="symmetric", bias=True),
    "linear": PlasticNetwork(SIZES, feedback="symmetric", bias=True, output="linear"),
}


def first_order(
    network: PlasticNetwork, pool: TermPool, life: Life, theta: Tensor, **options: Any
) -> Found:
    """Final state, and the adjoint of everything but theta."""
    state, x, label = life
    learner = PlasticityLearner(network, pool, "first-order", **options)
    leaves = {name: t.clone().requires_grad_() for name, t in named(state, x=x).items()}
    final = lived(learner, state, {"theta": theta, **leaves}, label)
    assert learner.report is not None
    assert learner.report.path == "first-order"
    return slopes(final, leaves)


def slopes(final: NetworkState, leaves: dict[str, Tensor]) -> Found:
    found = torch.autograd.grad(
        loss(final), list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    return final.detach(), dict(zip(leaves, found, strict=True))


def of_constants(state: NetworkState, weights: list[Tensor], biases: list[Tensor]) -> Found:
    """``W_0 + alpha o asked``, given what was asked for of weights, and of biases if they learn."""
    leaves = {name: t.clone().requires_grad_() for name, t in named(state).items()}
    born = holding(leaves, state)

    def moved(birth: list[Tensor], rates: list[Tensor], asked: list[Tensor]) -> list[Tensor]:
        by = rates or [torch.ones_like(change) for change in asked]
        return [t + a * change for t, a, change in zip(birth, by, asked, strict=True)]

    final = replace(born, W=moved(born.W, born.rate, weights))
    if biases:
        final = replace(final, bias=moved(born.bias, born.bias_rate, biases))
    return slopes(final, leaves)


def assert_alike(found: Found, expected: Found) -> None:
    """And that nothing has a gradient but birth and rates."""
    (final, gradient), (other, others) = found, expected
    for a, b in zip((*final.W, *final.bias), (*other.W, *other.bias), strict=True):
        assert distance(a, b) < 1e-12
    for name, slope in gradient.items():
        learns = name.startswith(("W", "bias", "rate", "bias_rate"))
        assert bool(slope.any()) == learns, name
        assert not learns or distance(slope, others[name]) < 1e-10, name


@pytest.mark.parametrize("plastic_bias", [False, True])
@pytest.mark.parametrize("rated", [False, True])
@pytest.mark.parametrize("name", BACKPROP)
def test_gradient_descent_has_the_gradient_of_first_order_maml(
    name: str, rated: bool, plastic_bias: bool
) -> None:
    """Of inner gradients by plain autograd, through which no gradient flows."""
    network, size = BACKPROP[name], 0.1
    life = state, x, label = lifetimes(network, rated=rated, plastic_bias=plastic_bias)
    current = state.detach()
    asked = [torch.zeros_like(t) for t in (*state.W, *state.bias)]
    for seen, wanted in zip(x, label, strict=True):
        leaves = [t.clone().requires_grad_() for t in (*current.W, *current.bias)]
        alive = replace(current, W=leaves[:3], bias=leaves[3:])
        found = torch.autograd.grad(network.loss(network(alive, seen), wanted).sum(), leaves)
        asked = [before - size * slope for before, slope in zip(asked, found, strict=True)]
        current, _ = of_constants(state, asked[:3], asked[3:] if plastic_bias else [])
    expected = of_constants(state, asked[:3], asked[3:] if plastic_bias else [])
    theta = torch.tensor([size], dtype=torch.float64)
    assert_alike(first_order(network, DESCENT, life, theta), expected)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", ["error", "after", "target", "random", "direct"])
def test_every_rule_has_the_gradient_of_what_it_asks_for(name: str, reduction: str) -> None:
    """Seen as the change by one step at a time, without rates."""
    network, pool = NETWORKS[name], terms(*MIXED, *MASKS[1:2], UNTAPED, "tanh(W)")
    life = state, x, label = lifetimes(network)
    theta = coefficients(pool, examples=3 if reduction == "sum" else 1)
    plain = PlasticityLearner(network, pool, "autograd", reduction=reduction)
    ones = {
        rate: [torch.ones_like(t) for t in getattr(state, rate)] for rate in ("rate", "bias_rate")
    }
    current, asked = state, [torch.zeros_like(t) for t in (*state.W, *state.bias)]
    for t in range(len(x)):
        after = plain.live(replace(current, **ones), theta, x[t : t + 1], label[t : t + 1])
        pairs = zip((*after.W, *after.bias), (*current.W, *current.bias), asked, strict=True)
        asked = [before + new - old for new, old, before in pairs]
        current, _ = of_constants(state, asked[:3], asked[3:])
    expected = of_constants(state, asked[:3], asked[3:])
    assert_alike(first_order(network, pool, life, theta, reduction=reduction), expected)


def test_it_is_not_the_exact_gradient() -> None:
    """Though the lifetime is the same."""
    network = BACKPROP["tanh"]
    life = lifetimes(network)
    theta = torch.tensor([0.1], dtype=torch.float64)
    final, found = first_order(network, DESCENT, life, theta)
    exact = PlasticityLearner(network, DESCENT)
    lived_exactly, expected = gradients(exact, life[0], theta, *life[1:])
    for a, b in zip((*final.W, *final.bias), (*lived_exactly.W, *lived_exactly.bias), strict=True):
        assert distance(a, b) < 1e-12
    for name in ("W[0]", "bias[0]", "rate[0]", "bias_rate[1]"):
        assert distance(found[name], expected[name]) > 0.05, name


def test_without_rates_birth_has_the_gradient_of_death() -> None:
    network = BACKPROP["tanh"]
    state, x, label = lifetimes(network, rated=False, plastic_bias=False)
    born = replace(state, W=[w.requires_grad_() for w in state.W])
    final = PlasticityLearner(network, Rule(DESCENT, {"T0": 0.1}), "first-order").live(
        born, None, x, label
    )
    found = torch.autograd.grad(loss(final), born.W, retain_graph=True)
    expected = torch.autograd.grad(loss(final), final.W)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def nodes(root: Any) -> int:
    """How many operations a graph holds."""
    seen, waiting = set(), [root]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [child for child, _ in node.next_functions]
    return len(seen)


def test_no_step_is_kept() -> None:
    network = BACKPROP["tanh"]
    theta = torch.tensor([0.1], dtype=torch.float64)
    sizes = []
    for steps in (2, 20):
        state, x, label = lifetimes(network, steps=steps)
        born = replace(state, W=[w.requires_grad_() for w in state.W])
        final = PlasticityLearner(network, DESCENT, "first-order").live(born, theta, x, label)
        sizes.append(nodes(final.W[0].grad_fn))
    assert sizes[0] == sizes[1] > 0


def test_theta_is_refused_where_its_gradient_is_wanted() -> None:
    network = BACKPROP["relu"]
    state, x, label = lifetimes(network, steps=2)
    theta = torch.tensor([0.1], dtype=torch.float64, requires_grad=True)
    learner = PlasticityLearner(network, DESCENT, "first-order")
    with pytest.raises(LearnerError, match="first-order meta-gradient tells nothing of theta"):
        learner.live(state, theta, x, label)
    with torch.no_grad():
        final = learner.live(state, theta, x, label)
    rows = torch.arange(x[..., 0].numel()).view(x.shape[:-1])
    table = Indexed(x.flatten(0, -2), rows)
    same = learner.live(state, theta.detach(), table, label)
    assert all(torch.equal(a, b) for a, b in zip(final.W, same.W, strict=True))
    assert not torch.equal(final.W[0], state.W[0])


@pytest.mark.parametrize("terms", [{}, {"none": 1.0}])
def test_a_rule_that_asks_for_nothing_leaves_weights_alone(terms: dict[str, float]) -> None:
    pool = TermPool([Term.from_text("none", "W - W")])
    learner = PlasticityLearner(PlasticNetwork([4, 5, 3]), Rule(pool, terms), "first-order")
    born = learner.init(1)
    before = [w.clone() for w in born.W]
    final = learner.live(born, None, torch.rand(3, 1, 4), torch.zeros(3, 1, dtype=torch.int64))
    for given, w, expected in zip(born.W, final.W, before, strict=True):
        assert torch.equal(given, expected)
        assert torch.equal(w, expected)


def test_rates_of_a_slow_rule_keep_their_digits() -> None:
    """What is asked for is far below what weights are rounded to."""
    pool = TermPool([Term.from_text("pull", "-e_post * y_pre.T")])
    network, draws = PlasticNetwork([6, 5, 3]), torch.Generator().manual_seed(0)
    x = torch.rand(4, 1, 6, generator=draws, dtype=torch.float64)
    label, found = torch.tensor([[0], [2], [1], [1]]), dict[torch.dtype, Tensor]()
    learner = PlasticityLearner(network, Rule(pool, {"pull": 1e-7}), "first-order")
    exact = learner.init(1, dtype=torch.float64)
    for dtype in (torch.float64, torch.float32):
        W, B = ([m.to(dtype) for m in own] for own in (exact.W, exact.B))
        rate = [torch.ones_like(w).requires_grad_() for w in W]
        state = replace(exact, W=W, B=B, rate=rate)
        final = learner.live(state, None, x.to(dtype), label)
        (slope,) = torch.autograd.grad(final.W[0].sum(), rate[:1])
        found[dtype] = slope.double()
    single, double = found[torch.float32], found[torch.float64]
    assert (single - double).norm() < 1e-5 * double.norm()
