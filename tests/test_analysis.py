"""Analysis against formulas written once more, in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from rulesearch.analysis import (
    alignment_angles,
    angle,
    bootstrap_interval,
    mann_whitney,
    orthonormality_error,
    running_mean,
    running_median,
)
from rulesearch.networks import NetworkState, PlasticNetwork

LIFETIMES, QUERIES, SIZES = 3, 4, [6, 5, 4, 3]

Array = NDArray[np.float64]


def tanh_linear(z: Array, last: bool) -> Array:
    return z if last else np.tanh(z)


def softplus_softmax(z: Array, last: bool) -> Array:
    if last:
        return np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    return np.log1p(np.exp(10 * z)) / 10


# The network, its nonlinearities, and sigma' written in the activation y.
NETWORKS = [
    (PlasticNetwork(SIZES, activation="tanh", output="linear"), tanh_linear, lambda y: 1 - y**2),
    (PlasticNetwork(SIZES, beta=10.0), softplus_softmax, lambda y: 1 - np.exp(-10 * y)),
]


@pytest.fixture
def setting() -> tuple[NetworkState, Tensor, Tensor]:
    generators = [torch.Generator().manual_seed(seed) for seed in range(LIFETIMES)]
    state = NETWORKS[0][0].init(generators, torch.float64)
    g = generators[0]
    x = torch.rand(LIFETIMES, QUERIES, SIZES[0], generator=g, dtype=torch.float64)
    return state, x, torch.randint(0, SIZES[-1], (LIFETIMES, QUERIES), generator=g)


def numpy_layers(sigma: Callable[[Array, bool], Array], ws: list[Array], x: Array) -> list[Array]:
    layers = [x]
    for number, w in enumerate(ws, 1):
        layers.append(sigma(layers[-1] @ w.T, number == len(ws)))
    return layers


@pytest.mark.parametrize(("network", "sigma", "slope"), NETWORKS)
def test_angles_are_between_the_mean_errors(setting, network, sigma, slope):
    state, x, label = setting
    measured = alignment_angles(network, state, x, label)
    assert measured.shape == (LIFETIMES, len(SIZES) - 1)
    for b in range(LIFETIMES):
        ws, bs = [[m[b].numpy() for m in ms] for ms in (state.W, state.B)]
        y = numpy_layers(sigma, ws, x[b].numpy())
        e = g = y[-1] - np.eye(SIZES[-1])[label[b].numpy()]
        for layer in reversed(range(len(SIZES) - 1)):
            e = (e @ bs[layer]) * slope(y[layer])
            g = (g @ ws[layer]) * slope(y[layer])
            u, v = e.mean(axis=0), g.mean(axis=0)
            cosine = u @ v / (np.linalg.norm(u) * np.linalg.norm(v))
            assert measured[b, layer] == pytest.approx(math.degrees(math.acos(cosine)), abs=1e-9)


def test_symmetric_feedback_is_aligned(setting):
    state, x, label = setting
    symmetric = NetworkState(W=state.W, B=state.W)
    assert alignment_angles(NETWORKS[0][0], symmetric, x, label).abs().max() < 1e-10


def test_angle_keeps_its_digits_and_knows_nothing_of_length():
    u = torch.tensor([[1.0, 0.0], [3.0, 0.0], [1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    v = torch.tensor([[1.0, 1e-9], [0.0, 7.0], [-2.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    small, right, opposite, undefined = angle(u, v).tolist()
    assert small == pytest.approx(math.degrees(1e-9), rel=1e-9)
    assert right == pytest.approx(90.0)
    assert opposite == pytest.approx(180.0)
    assert math.isnan(undefined)


@pytest.mark.parametrize(("network", "sigma", "slope"), NETWORKS)
def test_orthonormality_is_equation_10(setting, network, sigma, slope):
    state, x, _ = setting
    measured = orthonormality_error(network, state, x)
    assert measured.shape == (LIFETIMES, len(SIZES) - 1)
    for b in range(LIFETIMES):
        ws = [m[b].numpy() for m in state.W]
        y = numpy_layers(sigma, ws, x[b].numpy())
        for layer, w in enumerate(ws):
            errors = [
                np.sum((w @ pre - w @ (w.T @ post)) ** 2)
                for pre, post in zip(y[layer], y[layer + 1], strict=True)
            ]
            assert measured[b, layer] == pytest.approx(np.mean(errors), rel=1e-12)


def test_orthonormal_rows_of_a_linear_layer_have_no_error(setting):
    state, x, _ = setting
    rows = torch.linalg.qr(state.W[-1].mT).Q.mT
    network = PlasticNetwork(SIZES[-2:], output="linear")
    single = NetworkState(W=[rows], B=[rows])
    assert orthonormality_error(network, single, x[..., : SIZES[-2]]).abs().max() < 1e-20


def test_bootstrap_mean_and_width():
    values = np.random.default_rng(1).normal(5.0, 2.0, size=(400, 3))
    mean, low, high = bootstrap_interval(values, samples=4000)
    np.testing.assert_allclose(mean, values.mean(axis=0))
    # The 1% and 99% quantiles of a mean lie 2.326 standard errors away.
    half = 2.326 * values.std(axis=0) / math.sqrt(400)
    np.testing.assert_allclose(high - mean, half, rtol=0.12)
    np.testing.assert_allclose(mean - low, half, rtol=0.12)


def test_bootstrap_agrees_with_one_made_by_hand():
    values = np.array([1.0, 2.0, 4.0, 8.0])
    draws = np.random.default_rng(7).multinomial(4, [0.25] * 4, size=50)
    means = [np.repeat(values, count).mean() for count in draws]
    interval = bootstrap_interval(values, 0.9, 50, np.random.default_rng(7))
    assert interval == pytest.approx((3.75, *np.quantile(means, [0.05, 0.95])))


def test_bootstrap_is_repeatable_and_leaves_global_randomness_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = bootstrap_interval([1.0, 2.0, 5.0]), bootstrap_interval([1.0, 2.0, 5.0])
    assert first == second
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_bootstrap_leaves_out_what_is_missing():
    values = np.array([[1.0, np.nan, np.nan], [3.0, 2.0, np.nan]])
    mean, low, high = bootstrap_interval(values)
    np.testing.assert_array_equal(mean, [2.0, 2.0, np.nan])
    np.testing.assert_array_equal(low, [1.0, 2.0, np.nan])
    np.testing.assert_array_equal(high, [3.0, 2.0, np.nan])


@pytest.mark.parametrize(("values", "level"), [([], 0.9), ([1.0], 0.0), ([1.0], 1.0), (3.0, 0.9)])
def test_bootstrap_refuses_what_makes_no_sense(values, level):
    with pytest.raises(ValueError, match=r"row|level"):
        bootstrap_interval(values, level)


@given(
    st.lists(st.one_of(st.floats(-1e3, 1e3), st.just(math.nan)), min_size=1, max_size=30),
    st.integers(1, 40),
)
def test_running_mean(values, window):
    measured = running_mean([values, values], window)
    for end in range(len(values)):
        seen = [v for v in values[max(0, end - window + 1) : end + 1] if not math.isnan(v)]
        expected = sum(seen) / len(seen) if seen else math.nan
        assert measured[1, end] == pytest.approx(expected, abs=1e-9, nan_ok=True)


def test_a_huge_entry_leaves_the_running_mean_with_its_window():
    mean = running_mean([7e32] + [3.0] * 10, 4)
    np.testing.assert_array_equal(mean[4:], 3.0)


def test_running_mean_needs_a_window():
    with pytest.raises(ValueError, match="window"):
        running_mean([1.0], 0)


def test_mann_whitney_counts_pairs():
    first, second = [3.0, 5.0, 9.0], [1.0, 2.0, 4.0]
    u, p = mann_whitney(first, second)
    assert u == sum(a > b for a in first for b in second) == 8
    # Of the 20 equally likely arrangements two have U >= 8.
    assert p == pytest.approx(2 / 20)
    assert mann_whitney(second, first, "less").p == pytest.approx(2 / 20)
    with pytest.raises(ValueError, match="at least one"):
        mann_whitney([], second)


def test_bootstrap_of_the_median_is_not_moved_by_an_outlier():
    rng = np.random.default_rng(4)
    values = rng.normal(size=(20, 7))
    values[3] = 1e9
    values[5, 2] = np.nan
    band = bootstrap_interval(values, statistic="median")
    np.testing.assert_allclose(band.centre, np.nanmedian(values, axis=0))
    assert (band.low <= band.centre).all()
    assert (band.centre <= band.high).all()
    assert band.high.max() < 3
    draws = np.random.default_rng(0).multinomial(20, np.full(20, 1 / 20), size=500)
    medians = [np.median(np.repeat(values[:, 0], count)) for count in draws]
    assert band.low[0] == pytest.approx(np.quantile(medians, 0.01))
    empty = bootstrap_interval(np.full((3, 2), np.nan), statistic="median")
    assert np.isnan(empty).all()


@pytest.mark.parametrize("window", [1, 4, 50])
def test_running_median_leaves_gaps_out(window):
    values = np.random.default_rng(1).normal(size=(2, 30))
    values[0, [3, 4]] = np.nan
    values[1, 7] = np.inf
    seen = np.where(np.isfinite(values), values, np.nan)
    for row, known in zip(running_median(values, window), seen, strict=True):
        for k, median in enumerate(row):
            part = known[max(0, k - window + 1) : k + 1]
            part = part[np.isfinite(part)]
            assert (median == np.median(part)) if part.size else np.isnan(median)
    with pytest.raises(ValueError, match="at least 1"):
        running_median(values, 0)
