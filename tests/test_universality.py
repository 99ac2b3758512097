"""FLP's universality theorem: whole lifetimes are read from one activity."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from rulesearch.analysis.universality import UniversalNetwork
from rulesearch.errors import ConfigError, LearnerError

TERMS: tuple[Literal["oja_single", "hebb"], ...] = ("oja_single", "hebb")


def every_sequence(cells: int, classes: int, steps: int) -> tuple[Tensor, Tensor]:
    """All of them, side by side: cells and classes, (steps, lifetimes)."""
    kinds = cells * classes
    digits = torch.arange(kinds**steps) // kinds ** torch.arange(steps)[:, None] % kinds
    return digits // classes, digits % classes


def random_sequences(
    network: UniversalNetwork, steps: int, lifetimes: int, seed: int = 0
) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    shape = (steps, lifetimes)
    x = torch.randint(network.cells, shape, generator=g)
    return x, torch.randint(network.classes, shape, generator=g)


def last_activity(
    network: UniversalNetwork, x: Tensor, label: Tensor, *, feedback: bool = True
) -> Tensor:
    """What a lifetime leaves in z*, seen from every cell: (lifetimes, cells, n)."""
    W = network.live(network.init(x.shape[1]), x, label, feedback=feedback)
    return network.activations(W, torch.arange(network.cells).expand(x.shape[1], -1))[:, 0]


def tally(network: UniversalNetwork, x: Tensor, label: Tensor) -> Tensor:
    """How often each example occurs: (lifetimes, 1, cells, classes)."""
    counts = torch.zeros(x.shape[1], 1, network.cells, network.classes, dtype=torch.int64)
    for number in range(x.shape[1]):
        for cell, wanted in zip(x[:, number], label[:, number], strict=True):
            counts[number, 0, cell, wanted] += 1
    return counts


def share_right(network: UniversalNetwork, x: Tensor, label: Tensor) -> float:
    """Share of lifetimes and queries whose every example and query is read."""
    x_query, counts = network.decode(last_activity(network, x, label))
    right = (counts == tally(network, x, label)).flatten(2).all(-1)
    return float((right & (x_query == torch.arange(network.cells))).double().mean())


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("steps", [0, 1, 2, 3])
@pytest.mark.parametrize("cells", [1, 2, 3])
def test_every_sequence_is_read_from_every_query(cells: int, steps: int, term: Any) -> None:
    network = UniversalNetwork(cells, 2, term)
    x, label = every_sequence(cells, 2, steps)
    assert x.shape[1] == (2 * cells) ** steps
    assert share_right(network, x, label) == 1


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize(("cells", "classes", "steps"), [(2, 5, 60), (4, 3, 30), (6, 2, 20)])
def test_long_random_lifetimes_are_read(cells: int, classes: int, steps: int, term: Any) -> None:
    network = UniversalNetwork(cells, classes, term)
    assert share_right(network, *random_sequences(network, steps, lifetimes=5)) == 1


def test_without_feedback_nothing_of_the_examples_is_left() -> None:
    network = UniversalNetwork(3, 2)
    x, label = every_sequence(3, 2, 2)
    z = last_activity(network, x, label, feedback=False)
    # Plasticity goes on, but the labels never reach it.
    assert not torch.equal(z, last_activity(network, x[:0], label[:0]).expand_as(z))
    assert torch.equal(z, last_activity(network, x, 1 - label, feedback=False))
    x_query, counts = network.decode(z)
    assert torch.equal(x_query, torch.arange(3).expand_as(x_query))
    assert not counts.any()


@pytest.mark.parametrize("epsilon", [2.0**-1000, 2.0**-4, 1.0, 8.0])
def test_the_layers_at_birth_are_products_of_the_chosen_matrices(epsilon: float) -> None:
    """To the bit, epsilon being a power of two: no approximation, whatever its size."""
    J, d = 3, 2
    network = UniversalNetwork(J, d, epsilon=epsilon)
    x = torch.arange(J).unsqueeze(0)
    y = network.activations(network.init(), x)[0]
    assert y.shape == (J * J + 2, J, 1 + 2 * J + J * J * d)
    for cell in range(J):
        one = torch.eye(J, dtype=torch.float64)[cell]
        silent = torch.zeros(J * J * d, dtype=torch.float64)
        for i in range(J * J + 1):
            seen = float(i > 0 and cell in divmod(i - 1, J))
            expected = torch.cat(
                [one.new_tensor([seen]), epsilon * one, silent, one + epsilon * one]
            )
            assert torch.equal(y[i, cell], expected)
        assert torch.equal(y[-1, cell], torch.cat([one.new_zeros(1), one, silent, one]))


def exact_activity(
    network: UniversalNetwork, x: list[int], label: list[int], query: int
) -> NDArray[Any]:
    """z* in rational numbers, by the appendix's update, its identity layers spelt out.

    Presynaptic activity is taken after feedback here, as the appendix has it.
    """
    J, d, N = network.cells, network.classes, network.layers
    fraction = np.vectorize(Fraction, otypes=[object])
    plastic = list(fraction(network.init()[0].numpy()))
    alpha, oja = Fraction(network.alpha), network.term == "oja_single"

    def features(cell: int) -> NDArray[Any]:
        one = np.eye(J, dtype=int)[cell]
        units = np.concatenate([[0], one, np.zeros(J * J * d, dtype=int), one])
        whole: NDArray[Any] = fraction(units.astype(object))
        return whole

    for cell, wanted in zip(x, label, strict=True):
        # From the features on: the output of W_N, of its identity, of W_{N-1}, ...
        forward = [features(cell)]
        for i in reversed(range(N)):
            forward += [np.maximum(plastic[i] @ forward[-1], 0)] * 2
        after = list(forward)
        for i in range(N):
            fed = np.full(network.width, Fraction(0))
            if i < N - 1:
                fed[1 + J + i * d + wanted] += 1
            after[1 + 2 * (N - 1 - i)] = fed
        for i in range(N):
            a, b = after[2 * (N - 1 - i)], after[1 + 2 * (N - 1 - i)]
            decay = b[:, None] ** 2 * plastic[i] if oja else 0
            plastic[i] = plastic[i] + alpha * (np.outer(b, a) - decay)
    y = features(query)
    for w in plastic[::-1]:
        y = np.maximum(w @ y, 0)
    return y


@pytest.mark.parametrize("alpha", [2.0**-30, 0.25])
@pytest.mark.parametrize("term", TERMS)
def test_float64_is_the_appendix_in_rational_numbers(term: Any, alpha: float) -> None:
    network = UniversalNetwork(2, 2, term, alpha=alpha)
    x, label = random_sequences(network, steps=4, lifetimes=3)
    found = last_activity(network, x, label)
    for number in range(3):
        for query in range(2):
            exact = exact_activity(network, x[:, number].tolist(), label[:, number].tolist(), query)
            np.testing.assert_allclose(
                found[number, query], exact.astype(float), rtol=1e-14, atol=0
            )


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("epsilon", [0.1, 1.0])
def test_slots_hold_what_the_formula_says(epsilon: float, term: Any) -> None:
    J, d, steps = 3, 2, 5
    network = UniversalNetwork(J, d, term, alpha=1e-3, epsilon=epsilon)
    x, label = random_sequences(network, steps, lifetimes=1)
    slots = last_activity(network, x, label)[0, :, 1 + J : -J].unflatten(-1, (J, J, d))
    expected = torch.zeros_like(slots)
    for k, (cell, wanted) in enumerate(zip(x[:, 0].tolist(), label[:, 0].tolist(), strict=True)):
        later = label[k + 1 :, 0].tolist().count(wanted)
        weight = 1e-3 * (1 - 1e-3) ** later if term == "oja_single" else 1e-3
        for query in range(J):
            for j in range(J):
                for i in range(J):
                    overlap = (cell in (j, i)) * (query in (j, i))
                    overlap += (2 * (1 + epsilon + epsilon**2) - 1) * (cell == query)
                    expected[query, j, i, wanted] += weight * overlap
    # What is left out is h: of second order next to these, and never negative.
    assert ((slots - expected) >= -1e-17).all()
    torch.testing.assert_close(slots, expected, rtol=0, atol=1e-3 * network.error_bound(steps))


def test_order_leaves_a_trace_of_second_order_alone() -> None:
    x, label = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0, 0], [0, 0]])
    traces = []
    for alpha in (1e-3, 1e-4):
        z = last_activity(UniversalNetwork(2, 2, alpha=alpha), x, label)
        traces.append(float((z[0] - z[1]).abs().max()))
    assert traces[0] / traces[1] == pytest.approx(100, rel=1e-2)
    z = last_activity(UniversalNetwork(2, 2, "hebb", alpha=1e-3), x, label)
    assert float((z[0] - z[1]).abs().max()) < 1e-3 * traces[0]


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("alpha", [2.0**-12, 2.0**-8, 2.0**-5])
def test_a_lifetime_as_long_as_the_capacity_is_read(alpha: float, term: Any) -> None:
    network = UniversalNetwork(3, 2, term, alpha=alpha)
    steps = network.capacity
    assert network.error_bound(steps) < 0.5 <= network.error_bound(steps + 1)
    x, label = random_sequences(network, steps, lifetimes=6)
    x[:, 0] = label[:, 0] = 0  # nothing decays more than the same example again and again
    assert share_right(network, x, label) == 1


def test_decay_ends_the_capacity_of_ojas_rule() -> None:
    """One slot has no other to overlap with: of K alike, it holds (1 - (1 - alpha)^K) / alpha."""
    alpha, steps = 2.0**-16, 260
    x = torch.zeros(steps, 1, dtype=torch.int64)
    held = (1 - (1 - alpha) ** steps) / alpha
    assert held < steps - 0.5
    oja, hebb = (UniversalNetwork(1, 1, term, alpha=alpha) for term in TERMS)
    assert int(oja.decode(last_activity(oja, x, x)).counts) == round(held) == steps - 1
    assert int(hebb.decode(last_activity(hebb, x, x)).counts) == steps
    assert 0.8 * steps < oja.capacity < steps


def test_a_lifetime_far_beyond_the_capacity_is_misread() -> None:
    network = UniversalNetwork(2, 2, alpha=2.0**-6)
    assert share_right(network, *random_sequences(network, 10 * network.capacity, 20)) < 0.5


@pytest.mark.parametrize(
    ("alpha", "epsilon"),
    [(2.0**-1020, 2.0**-4), (1e-40, 1e-3), (1e-15, 1e-300), (1e-15, 0.3), (2.0**-60, 2.0**20)],
)
def test_constants_that_float64_can_hold(alpha: float, epsilon: float) -> None:
    network = UniversalNetwork(3, 2, alpha=alpha, epsilon=epsilon)
    assert network.capacity >= 10
    assert share_right(network, *random_sequences(network, 10, lifetimes=20)) == 1


def test_where_float64_runs_out() -> None:
    network = UniversalNetwork(3, 2, alpha=2.0**-200, epsilon=2.0**30)
    assert network.capacity == 0
    assert share_right(network, *random_sequences(network, 10, lifetimes=20)) < 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cells": 0}, "cells must be at least 1, not 0"),
        ({"classes": -1}, "classes must be at least 1, not -1"),
        ({"term": "oja"}, "term is one of oja_single, hebb, not 'oja'"),
        ({"alpha": 0.0}, "alpha is 0.0; it should be from 2.23e-308 to 1"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"epsilon": -1.0}, "epsilon is -1.0"),
        ({"epsilon": float("inf")}, "epsilon is inf"),
    ],
)
def test_networks_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        UniversalNetwork(**{"cells": 2, "classes": 2, **change})


STEPS = torch.zeros(4, 1, dtype=torch.int64)


@pytest.mark.parametrize(
    ("x", "label", "message"),
    [
        (STEPS + 2, STEPS, "x should be of int64, in 0 ... 1"),
        (STEPS, STEPS - 1, "label should be of int64, in 0 ... 2"),
        (STEPS.double(), STEPS, "x should be of int64"),
        (STEPS, STEPS[:2], r"x has shape \(4, 1\) and label \(2, 1\)"),
        (STEPS.expand(4, 2), STEPS.expand(4, 2), r"both should be \(steps, 1\)"),
    ],
)
def test_examples_that_do_not_fit(x: Tensor, label: Tensor, message: str) -> None:
    network = UniversalNetwork(2, 3)
    with pytest.raises(LearnerError, match=message):
        network.live(network.init(), x, label)


@pytest.mark.parametrize(("cells", "lifetimes"), [(3, 1), (2, 2)])
def test_weights_that_do_not_fit(cells: int, lifetimes: int) -> None:
    W = UniversalNetwork(cells, 2).init(lifetimes)
    with pytest.raises(
        LearnerError, match=r"W has shape .* and x \(1, 1\); .*\(lifetimes, 5, 13, 13"
    ):
        UniversalNetwork(2, 2).activations(W, STEPS[:1])
