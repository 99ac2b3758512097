"""Spiking networks against loops written from the equations, and BPTT against differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from draws import generators
from torch import Tensor

from rulesearch.errors import ConfigError, LearnerError
from rulesearch.learners.bptt import BPTT
from rulesearch.learners.eprop import EProp
from rulesearch.networks.spiking import SpikingNetwork, fast_sigmoid_spike, filtered

SMALL: dict[str, Any] = {"n_in": 4, "hidden": 3, "n_out": 2, "membrane": 5.0, "readout": 3.0}
TIME, EXAMPLES = 8, 2


def weights(network: SpikingNetwork, *seeds: int) -> dict[str, Tensor]:
    """Of a size with which small networks spike and influence one another."""
    drawn = network.init(generators(*seeds), torch.float64)
    return {name: {"W_in": 5, "W_rec": 20, "W_out": 5}[name] * w for name, w in drawn.items()}


def inputs(lifetimes: int, seed: int = 9) -> tuple[Tensor, Tensor]:
    (g,) = generators(seed)
    x = (torch.rand(lifetimes, TIME, EXAMPLES, 4, generator=g, dtype=torch.float64) < 0.5).double()
    return x, torch.randn(lifetimes, EXAMPLES, 2, generator=g, dtype=torch.float64)


def test_states_are_those_of_the_equations() -> None:
    network = SpikingNetwork(**SMALL)
    phi, (x, _) = weights(network, 0, 1), inputs(2)
    found = network(phi, x)
    alpha, kappa = math.exp(-1 / 5), math.exp(-1 / 3)
    for life in range(2):
        W_in, W_rec, W_out = (phi[name][life].tolist() for name in ("W_in", "W_rec", "W_out"))
        for example in range(EXAMPLES):
            v, z, u = [0.0] * 3, [0.0] * 3, [0.0] * 2
            total = [0.0] * 2
            for t in range(TIME):
                assert found.v[life, t, example].tolist() == pytest.approx(v, abs=1e-12)
                assert found.z[life, t, example].tolist() == z
                assert found.u[life, t, example].tolist() == pytest.approx(u, abs=1e-12)
                total = [a + b for a, b in zip(total, u, strict=True)]
                frame = x[life, t, example].tolist()
                v = [
                    alpha * v[j]
                    + sum(W_in[j][i] * frame[i] for i in range(4))
                    + sum(W_rec[j][k] * z[k] for k in range(3))
                    - 0.1 * z[j]
                    for j in range(3)
                ]
                z = [float(each > 0.1) for each in v]
                u = [kappa * u[k] + sum(W_out[k][j] * z[j] for j in range(3)) for k in range(2)]
            mean = [each / TIME for each in total]
            assert found.answer[life, example].tolist() == pytest.approx(mean, abs=1e-12)
    assert 0.1 < found.z.mean() < 0.9


def test_of_a_single_step_there_is_rest_alone() -> None:
    network = SpikingNetwork(**SMALL)
    phi, (x, target) = weights(network, 0, 1), inputs(2)
    found = network(phi, x[:, :1])
    assert found.v.shape == (2, 1, EXAMPLES, 3)
    assert not torch.cat([part.flatten() for part in found]).any()
    slope = EProp(network)(phi, x[:, :1], target)
    assert {name: g.shape for name, g in slope.items()} == {k: w.shape for k, w in phi.items()}
    assert not torch.cat([g.flatten() for g in slope.values()]).any()


def test_filter_is_the_sum_that_it_says() -> None:
    signal = torch.randn(2, 5, 3, generator=generators(0)[0], dtype=torch.float64)
    for delay in (0, 1):
        found = filtered(signal, 0.7, delay)
        for t in range(5):
            expected = torch.zeros(2, 3, dtype=torch.float64)
            for s in range(t - delay + 1):
                expected += 0.7 ** (t - delay - s) * signal[:, s]
            torch.testing.assert_close(found[:, t], expected)


def test_surrogate_derivative_is_that_of_the_fast_sigmoid_and_so_is_its_own() -> None:
    excess = torch.tensor([-0.03, -0.001, 0.002, 0.05], dtype=torch.float64, requires_grad=True)
    spike = fast_sigmoid_spike(excess)
    assert spike.tolist() == [0, 0, 1, 1]
    (first,) = torch.autograd.grad(spike.sum(), excess, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), excess)
    for x, a, b in zip(excess.tolist(), first.tolist(), second.tolist(), strict=True):
        base = 100 * abs(x) + 1
        assert a == pytest.approx(base**-2)
        assert b == pytest.approx(-200 * math.copysign(1, x) * base**-3)


def test_bptt_descends_mean_errors_and_the_square_of_the_mean_rate() -> None:
    """The loss of each network by its formula, from states that are held to their equations."""
    network = SpikingNetwork(**SMALL)
    phi, (x, target) = weights(network, 0, 1), inputs(2)
    found = BPTT(network, rate_strength=3.0, rate_target=0.6).loss(phi, x, target)
    activity = network(phi, x)
    for life in range(2):
        answer = activity.u[life].numpy().mean(0)
        error = np.mean((answer - target[life].numpy()) ** 2)
        rate = np.mean(activity.z[life].numpy())
        assert 3 * (rate - 0.6) ** 2 > 0.05
        assert float(found[life]) == pytest.approx(error + 3 * (rate - 0.6) ** 2)


def test_bptt_of_a_smooth_network_is_its_finite_difference() -> None:
    """With a sigmoid for spikes; resets carry no gradient, and a small one shows it as little."""
    network = SpikingNetwork(**SMALL, threshold=1e-9, spike=torch.sigmoid)
    phi, (x, target) = weights(network, 3), inputs(1)
    bptt = BPTT(network, rate_strength=0.3, rate_target=0.1)
    with torch.no_grad():
        gradient = bptt(phi, x, target)
    for name, value in phi.items():
        for index in range(value.numel()):
            nudge = torch.zeros_like(value)
            nudge.view(-1)[index] = 1e-5
            up, down = (bptt.loss({**phi, name: value + s * nudge}, x, target) for s in (1, -1))
            difference = float(up - down) / 2e-5
            assert float(gradient[name].reshape(-1)[index]) == pytest.approx(
                difference, rel=1e-5, abs=1e-8
            )


def test_networks_side_by_side_are_strangers() -> None:
    network = SpikingNetwork(**SMALL)
    phi, (x, target) = weights(network, 4, 5), inputs(2)
    bptt = BPTT(network)
    both = bptt(phi, x, target)
    for life in range(2):
        alone = {name: w[life : life + 1] for name, w in phi.items()}
        part = slice(life, life + 1)
        for name, value in bptt(alone, x[part], target[part]).items():
            torch.testing.assert_close(value[0], both[name][life])


def test_spread_of_first_weights() -> None:
    drawn = SpikingNetwork().init(generators(*range(5)))
    for name, gain in (("W_in", 0.1), ("W_rec", 0.01), ("W_out", 0.1)):
        assert float(drawn[name].std()) == pytest.approx(gain * math.sqrt(2 / 100), rel=0.1)


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match="threshold must be positive, not 0"):
        SpikingNetwork(threshold=0)
    with pytest.raises(ConfigError, match="at least one generator"):
        SpikingNetwork().init([])
    network = SpikingNetwork(**SMALL)
    with pytest.raises(LearnerError, match=r"here \(1, time, examples, 4\)"):
        network(weights(network, 0), inputs(2)[0])


def test_weights_of_another_shape_are_refused() -> None:
    network = SpikingNetwork(**SMALL)
    phi, (x, target) = weights(network, 0, 1), inputs(2)
    wrong = {"W_in": phi["W_in"][:, :2], "W_rec": phi["W_rec"][:, :1], "W_out": phi["W_out"][:, :1]}
    for name, part in wrong.items():  # W_out would answer once, for both outputs
        said = rf"weights\['{name}'\] has shape \(2, \d, \d\); it should be \(2, [23], [34]\)"
        with pytest.raises(LearnerError, match=said):
            EProp(network)({**phi, name: part}, x, target)
    with pytest.raises(LearnerError, match=r"W_rec'\] is torch\.float32, 'W_in' torch\.float64"):
        network({**phi, "W_rec": phi["W_rec"].float()}, x)


def test_bptt_leaves_no_graph_behind_unless_it_is_wanted() -> None:
    """A loop of one's own would otherwise keep the graph of all of its steps."""
    network = SpikingNetwork(3, 4, 1)
    phi = network.init(generators(0))
    x, target = torch.ones(1, 5, 2, 3), torch.ones(1, 2, 1)
    assert not any(g.requires_grad for g in BPTT(network)(phi, x, target).values())
    wanted = {name: w.requires_grad_() for name, w in phi.items()}
    assert all(g.requires_grad for g in BPTT(network)(wanted, x, target).values())
