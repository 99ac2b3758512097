"""E-prop against synapse-by-synapse traces, and against BPTT where the two are one."""

from __future__ import annotations

import math

import pytest
import torch
from test_spiking import EXAMPLES, SMALL, TIME, inputs, weights
from torch import Tensor

from rulesearch.learners.eprop import EProp, triangle
from rulesearch.networks.spiking import SpikingNetwork


def traced(
    network: SpikingNetwork, phi: dict[str, Tensor], x: Tensor, target: Tensor, c: float, r: float
) -> dict[str, Tensor]:
    """One network: traces carried forward in time, one synapse and one example at a time."""
    alpha, kappa = math.exp(-1 / 5), math.exp(-1 / 3)
    v, z, u = (each[0] for each in network(phi, x))
    total = {name: torch.zeros_like(w[0]) for name, w in phi.items()}
    for example in range(EXAMPLES):
        for name, pre in (("W_in", x[0]), ("W_rec", z)):
            for j in range(3):
                rate = float(z[:, example, j].mean())
                for i in range(pre.shape[-1]):
                    trace = eligibility = 0.0
                    for t in range(TIME):
                        if t > 0:
                            trace = alpha * trace + float(pre[t - 1, example, i])
                        away = abs(float(v[t, example, j]) - 0.1)
                        raw = 0.3 * max(0.0, 1 - away / 0.1) * trace
                        eligibility = kappa * eligibility + raw
                        errors = u[t, example] - target[0, example]
                        signal = float(phi["W_out"][0, :, j] @ errors)
                        total[name][j, i] += signal * eligibility + c * (rate - r) * raw
        for j in range(3):
            trace = 0.0
            for t in range(TIME):
                trace = kappa * trace + float(z[t, example, j])
                total["W_out"][:, j] += (u[t, example] - target[0, example]) * trace
    return total


def test_gradients_are_sums_of_filtered_traces() -> None:
    network = SpikingNetwork(**SMALL)
    phi, (x, target) = weights(network, 0), inputs(1)
    factors = {"W_in": 1.0, "W_rec": 1.0, "W_out": 0.1}
    found = EProp(network, rate_strength=0.2, rate_target=0.15, modulation=factors)(phi, x, target)
    for name, expected in traced(network, phi, x, target, 0.2, 0.15).items():
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(found[name][0], factors[name] * expected)


def gradients(seed: int, coupling: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of e-prop, and of backprop of the same objective with the same derivative of spikes."""
    network = SpikingNetwork(**SMALL, spike=torch.sigmoid)
    phi, (x, target) = weights(network, seed, seed + 1), inputs(2, seed)
    phi["W_rec"] = coupling * phi["W_rec"]
    found = EProp(network, lambda excess, _: torch.sigmoid(excess) * torch.sigmoid(-excess))(
        phi, x, target
    )
    leaves = {name: w.requires_grad_() for name, w in phi.items()}
    loss = (network(leaves, x).u - target[:, None]).square().sum() / 2
    return found, dict(zip(phi, torch.autograd.grad(loss, list(leaves.values())), strict=True))


@pytest.mark.parametrize("seed", [0, 10])
def test_it_is_bptt_where_neurons_do_not_act_on_one_another(seed: int) -> None:
    found, exact = gradients(seed, 0.0)
    for name, expected in exact.items():
        torch.testing.assert_close(found[name], expected)


def test_it_is_not_where_they_do_but_for_the_readout() -> None:
    found, exact = gradients(0, 3.0)
    torch.testing.assert_close(found["W_out"], exact["W_out"])
    for name in ("W_in", "W_rec"):
        assert (found[name] - exact[name]).norm() > 0.05 * exact[name].norm()


def test_triangle() -> None:
    excess = torch.tensor([-0.2, -0.1, -0.05, 0.0, 0.025, 0.3])
    expected = torch.tensor([0.0, 0.0, 0.15, 0.3, 0.225, 0.0])
    torch.testing.assert_close(triangle(excess, 0.1), expected)
