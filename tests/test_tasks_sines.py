from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from draws import generators
from torch import Tensor

from rulesearch.errors import ConfigError
from rulesearch.tasks import IncrementalSines, TaskBatch, TaskFamily

SMALL: dict[str, Any] = {"functions": 4, "batches": 3, "examples": 5, "queries": 6}


def parts(batch: TaskBatch) -> list[Tensor]:
    """Return a batch as tensors whose first dimension is the lifetime."""
    assert isinstance(batch.x, Tensor)
    return [batch.x.transpose(0, 1), batch.label.transpose(0, 1), batch.x_query, batch.label_query]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("order", ["continual", "iid", "mixed"])
def test_every_target_is_that_of_its_slot(order: Any, dtype: torch.dtype) -> None:
    tasks = IncrementalSines(**SMALL, order=order)
    sines = tasks.draw(generators(0, 1, 2), dtype)
    batch = tasks.sample(generators(0, 1, 2), dtype)
    assert batch.x.shape == (12, 3, 5, 5)
    assert batch.label.shape == (12, 3, 5, 1)
    assert batch.x_query.shape == (3, 24, 5)
    assert batch.label_query.shape == (3, 24, 1)
    assert {part.dtype for part in parts(batch)} == {dtype}
    x, label, x_query, label_query = parts(batch)
    for i in range(3):
        rows = torch.cat([x[i].flatten(0, 1), x_query[i]]).tolist()
        targets = torch.cat([label[i].flatten(), label_query[i].flatten()]).tolist()
        for (*code, point), target in zip(rows, targets, strict=True):
            assert sorted(code) == [0, 0, 0, 1]
            slot = code.index(1)
            amplitude, phase = float(sines.amplitude[i, slot]), float(sines.phase[i, slot])
            assert target == pytest.approx(amplitude * math.sin(point + phase), abs=1e-5)


def test_amplitude_phase_and_points_are_uniform() -> None:
    sines = IncrementalSines(batches=10, pool=None).draw(generators(*range(400)), torch.float64)
    for values, low, high in (
        (sines.amplitude, 0.1, 5.1),
        (sines.phase, 0.0, math.pi),
        (sines.points, -5.0, 5.0),
    ):
        assert low <= values.min()
        assert values.max() < high
        place = (values.flatten() - low) / (high - low)
        quarters = torch.histc(place, 4, 0, 1) / place.numel()
        assert torch.allclose(quarters, torch.full_like(quarters, 0.25), atol=0.04)
    both = torch.stack([sines.amplitude.flatten(), sines.phase.flatten()])
    assert abs(float(torch.corrcoef(both)[0, 1])) < 0.06


def test_orders_arrange_the_same_sines_and_points() -> None:
    drawn = {
        order: IncrementalSines(**SMALL, order=order).draw(generators(7, 8))
        for order in ("continual", "iid", "mixed")
    }
    for sines in drawn.values():
        assert torch.equal(sines.amplitude, drawn["continual"].amplitude)
        assert torch.equal(sines.points, drawn["continual"].points)
        for i in range(2):
            assert torch.bincount(sines.slot[:, i].flatten()).tolist() == [15] * 4
    in_turn = torch.arange(4).repeat_interleave(3)
    for order in ("continual", "iid"):
        slot = drawn[order].slot
        assert torch.equal(slot, slot[..., :1].expand_as(slot))
        assert all(torch.equal(slot[:, i, 0], in_turn) == (order == "continual") for i in (0, 1))
    assert not torch.equal(drawn["iid"].slot[:, 0], drawn["iid"].slot[:, 1])
    mixed = drawn["mixed"].slot
    assert (mixed != mixed[..., :1]).any(-1).float().mean() > 0.9  # by chance, 1 in 256 is pure


def test_queries_come_slot_after_slot_and_are_new() -> None:
    batch = IncrementalSines(**SMALL).sample(generators(3))
    assert batch.x_query[0, :, :4].argmax(-1).tolist() == [s for s in range(4) for _ in range(6)]
    train = set(parts(batch)[0][..., -1].flatten().tolist())
    assert not train & set(batch.x_query[..., -1].flatten().tolist())


@pytest.mark.parametrize("pool", [None, 9])
@pytest.mark.parametrize("order", ["continual", "iid", "mixed"])
def test_a_lifetime_depends_on_its_generator_alone(order: Any, pool: int | None) -> None:
    tasks = IncrementalSines(**SMALL, order=order, pool=pool)
    batch = parts(tasks.sample(generators(3, 1, 4)))
    for again, part in zip(parts(tasks.sample(generators(3, 1, 4))), batch, strict=True):
        assert torch.equal(again, part)
    for alone, part in zip(parts(tasks.sample(generators(1))), batch, strict=True):
        assert torch.equal(alone[0], part[1])
    assert not torch.equal(batch[0][0], batch[0][1])
    g, state = generators(3), torch.random.get_rng_state()
    first, second = (parts(tasks.sample(g)) for _ in range(2))
    assert not torch.equal(first[0], second[0])  # a generator moves on
    assert torch.equal(state, torch.random.get_rng_state())


def test_precision_changes_nothing_but_rounding() -> None:
    tasks = IncrementalSines(**SMALL, order="mixed")
    single = tasks.sample(generators(5), torch.float32)
    double = tasks.sample(generators(5), torch.float64)
    for a, b in zip(parts(single), parts(double), strict=True):
        assert torch.allclose(a.double(), b, atol=1e-5)


def test_fresh_examples_are_of_the_same_sines() -> None:
    tasks = IncrementalSines(**SMALL)
    g = generators(0, 1)
    sines = tasks.draw(g)
    batch, again = sines.batch(g, tasks.queries), tasks.sample(generators(0, 1))
    assert all(torch.equal(a, b) for a, b in zip(parts(batch), parts(again), strict=True))
    x, target = sines.fresh(generators(8, 9), 7)
    assert x.shape == (2, 28, 5)
    expected = sines.amplitude.repeat_interleave(7, 1) * torch.sin(
        x[..., -1] + sines.phase.repeat_interleave(7, 1)
    )
    assert torch.allclose(target[..., 0], expected)
    with pytest.raises(ConfigError, match="2 lifetimes need as many generators, not 1"):
        sines.fresh(generators(0), 7)


def test_a_pool_is_the_same_for_every_lifetime() -> None:
    def sines(**options: Any) -> list[set[object]]:
        drawn = IncrementalSines(**{**SMALL, **options}).draw(generators(*range(40)))
        pairs = torch.stack([drawn.amplitude, drawn.phase], -1).tolist()
        return [{tuple(pair) for pair in lifetime} for lifetime in pairs]

    pooled = sines(pool=6)
    assert {len(lifetime) for lifetime in pooled} == {4}  # without replacement
    assert len(set.union(*pooled)) == 6
    assert len({frozenset(lifetime) for lifetime in pooled}) > 5
    assert set.union(*sines(pool=6)) == set.union(*pooled)
    assert not set.union(*sines(pool=6, pool_seed=1)) & set.union(*pooled)
    assert len(set.union(*sines())) == 160


def test_the_family_and_its_description() -> None:
    tasks = IncrementalSines()
    assert isinstance(tasks, TaskFamily)
    assert (tasks.n_in, tasks.n_out, tasks.steps) == (11, 1, 400)
    assert tasks.name == "sines-10-continual"
    assert tasks.sample(generators(0)).x.shape == (400, 1, 32, 11)
    other = IncrementalSines(**SMALL, order="iid", pool=400, pool_seed=2)
    assert IncrementalSines(**json.loads(json.dumps(other.arguments))) == other
    assert other.describe() == {"family": "incremental-sines", **other.arguments}


def test_answering_nothing_costs_half_the_mean_square_of_the_amplitude() -> None:
    label = IncrementalSines(batches=4).sample(generators(*range(200)), torch.float64).label
    # E[A^2] / 2 for A uniform in [0.1, 5.1), plus what sin(2 (x + phase)) leaves over [-5, 5).
    square = (5.1**3 - 0.1**3) / 15
    assert float(label.square().mean()) == pytest.approx(square / 2, rel=0.06)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"functions": 0}, "functions must be at least 1, not 0"),
        ({"batches": 0}, "batches must be at least 1"),
        ({"examples": -1}, "examples must be at least 1, not -1"),
        ({"queries": 0}, "queries must be at least 1"),
        ({"order": "contnual"}, "not 'contnual'; did you mean 'continual'"),
        ({"pool": 9}, "a lifetime has 10 sines, but the pool 9; enlarge the pool"),
    ],
)
def test_mistakes_are_explained(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        IncrementalSines(**options)


def test_lifetimes_need_generators() -> None:
    with pytest.raises(ConfigError, match="at least one generator"):
        IncrementalSines().sample([])
