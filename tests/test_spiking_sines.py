from __future__ import annotations

import math

import pytest
import torch
from draws import generators

from rulesearch.errors import ConfigError
from rulesearch.tasks.spiking_sines import SpikingSines, firing_probability


def test_neurons_are_tuned_to_places() -> None:
    found = firing_probability(torch.tensor([0.0, 0.3, 1.0]), 11, 0.05)
    for row, place in zip(found.tolist(), (0.0, 0.3, 1.0), strict=True):
        for k, probability in enumerate(row):
            assert probability == pytest.approx(
                math.exp(-((k / 10 - place) ** 2) / 0.005), abs=1e-6
            )


def test_spikes_tell_where_the_point_is_and_targets_are_one_sine() -> None:
    """With many narrow neurons the mean of those that spike is the point."""
    tasks = SpikingSines(examples=12, queries=30, neurons=400, time=200, width=0.005)
    learn, evaluate = tasks.sample(generators(0, 1), torch.float64)
    assert learn.x.shape == (2, 200, 12, 400)
    assert evaluate.x.shape == (2, 200, 30, 400)
    for life in range(2):
        x = torch.cat([learn.x[life], evaluate.x[life]], 1)
        assert set(x.unique().tolist()) == {0, 1}
        target = torch.cat([learn.target[life], evaluate.target[life]])
        centres = torch.linspace(0, 1, 400, dtype=torch.float64)
        point = 10 * (x.sum(0) @ centres) / x.sum((0, 2)) - 5
        waves = torch.stack([point.sin(), point.cos()], 1)
        fit = torch.linalg.lstsq(waves, target).solution  # A sin(x + p) is linear in these
        assert (waves @ fit - target).abs().max() < 0.1
        amplitude, phase = float(fit.norm()), math.atan2(float(fit[1]), float(fit[0]))
        assert 0.05 < amplitude < 5.05
        assert -0.05 < phase < math.pi + 0.05


def test_rates_and_amplitudes() -> None:
    learn, _ = SpikingSines().sample(generators(*range(200)))
    # A neuron's tuning is of area sqrt(2 pi) w, and there are 99 to a unit of length.
    expected = 99 * math.sqrt(2 * math.pi * 2e-4)
    assert float(learn.x.sum(-1).mean()) == pytest.approx(expected, rel=0.03)
    # E A^2 / 2 with A uniform in [0.1, 5)
    power = (5**3 - 0.1**3) / 3 / 4.9 / 2
    assert float(learn.target.square().mean()) == pytest.approx(power, rel=0.15)


def test_a_task_is_that_of_its_generator_alone() -> None:
    both, alone = SpikingSines().sample(generators(3, 4)), SpikingSines().sample(generators(4))
    assert torch.equal(both.learn.x[1], alone.learn.x[0])
    assert torch.equal(both.evaluate.target[1], alone.evaluate.target[0])


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match="neurons must be at least 1, not 0"):
        SpikingSines(neurons=0)
    with pytest.raises(ConfigError, match="at least one generator"):
        SpikingSines().sample([])
