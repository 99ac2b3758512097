"""Few-shot tasks: what a lifetime holds, and what it depends on."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from draws import generators
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import numbered

from rulesearch.errors import ConfigError, DataError
from rulesearch.tasks import FewShot, ImageData, OnlineFewShot, TaskBatch, TaskFamily


def same(a: TaskBatch, b: TaskBatch) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in vars(a))


def check_lifetimes(batch: TaskBatch, data: ImageData, ways: int, shots: int, queries: int) -> None:
    """Check what must hold of any draw of distinct classes from `numbered` data."""
    lifetimes = batch.x.shape[1]
    assert batch.x.shape == (ways * shots, lifetimes, 1)
    assert batch.x_query.shape == (lifetimes, ways * queries, 1)
    for i in range(lifetimes):
        train, query = batch.x[:, i, 0].long(), batch.x_query[i, :, 0].long()
        assert torch.equal(data.labels[train], batch.label[:, i])
        assert torch.equal(data.labels[query], batch.label_query[i])
        images = train.tolist() + query.tolist()
        assert len(set(images)) == len(images)
        classes, counts = batch.label[:, i].unique(return_counts=True)
        assert counts.tolist() == [shots] * ways
        query_classes, counts = batch.label_query[i].unique(return_counts=True)
        assert counts.tolist() == [queries] * ways
        assert torch.equal(classes, query_classes)


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_lifetimes_hold_distinct_classes_and_images(draw: st.DataObject) -> None:
    shots, queries = draw.draw(st.integers(1, 6)), draw.draw(st.integers(1, 4))
    counts = draw.draw(
        st.lists(st.integers(shots + queries, shots + queries + 5), min_size=1, max_size=6)
    )
    ways = draw.draw(st.integers(1, len(counts)))
    data = numbered(counts)
    tasks = FewShot(data, ways=ways, shots=shots, queries=queries)
    batch = tasks.sample(
        generators(*draw.draw(st.lists(st.integers(0, 9), min_size=1, max_size=3)))
    )
    check_lifetimes(batch, data, ways, shots, queries)


def test_a_lifetime_depends_on_its_generator_alone() -> None:
    tasks = FewShot("digits", shots=5)
    batch = tasks.sample(generators(3, 1, 4))
    assert same(batch, tasks.sample(generators(3, 1, 4)))
    alone = tasks.sample(generators(1))
    assert torch.equal(alone.x[:, 0], batch.x[:, 1])
    assert torch.equal(alone.label[:, 0], batch.label[:, 1])
    assert torch.equal(alone.x_query[0], batch.x_query[1])
    assert torch.equal(alone.label_query[0], batch.label_query[1])
    assert not torch.equal(batch.x[:, 0], batch.x[:, 1])
    g = generators(3)
    first, second = tasks.sample(g), tasks.sample(g)  # a generator moves on
    assert not same(first, second)
    state = torch.random.get_rng_state()
    tasks.sample(generators(0))
    assert torch.equal(state, torch.random.get_rng_state())


def test_training_order_is_mixed_and_images_vary() -> None:
    tasks = FewShot("digits", ways=2, shots=50)
    batch = tasks.sample(generators(0, 1))
    changes = (batch.label[1:] != batch.label[:-1]).sum(0)
    assert (changes > 25).all()  # 50 expected of a random order, 1 of a sorted one


def test_the_family_and_its_description() -> None:
    tasks = FewShot("digits", ways=3, shots=4, queries=2, hold_out=["8", 0])
    assert isinstance(tasks, TaskFamily)
    assert (tasks.n_in, tasks.n_out, tasks.n_classes, tasks.steps) == (64, 10, 10, 12)
    assert tasks.classes == (1, 2, 3, 4, 5, 6, 7, 9)
    assert tasks.name == "digits-3way-4shot"
    assert tasks.describe() == {
        "family": "few-shot",
        "data": "digits",
        "split": "all",
        "images": 1797,
        "shape": [8, 8],
        "n_classes": 10,
        "fingerprint": tasks.data.fingerprint(),
        "ways": 3,
        "shots": 4,
        "queries": 2,
        "hold_out": [0, 8],
        "held_out": False,
        "replacement": False,
        "fixed_images": False,
    }


def test_held_out_classes_never_leak() -> None:
    tasks = FewShot("digits", ways=2, shots=3, queries=2, hold_out=4)
    batch = tasks.sample(generators(*range(60)))
    assert set(batch.label.unique().tolist()) == set(range(6))
    assert set(batch.label_query.unique().tolist()) == set(range(6))
    held_out = tasks.with_held_out()
    assert held_out.data is tasks.data
    batch = held_out.sample(generators(*range(60)))
    assert set(batch.label.unique().tolist()) == {6, 7, 8, 9}
    assert held_out.n_out == 10
    assert held_out.name == "digits-2way-3shot-held-out"


def test_pixels_are_scaled_in_either_precision() -> None:
    data = ImageData(
        images=torch.tensor([[0, 51], [255, 102]], dtype=torch.uint8),
        labels=torch.tensor([0, 0]),
        n_classes=1,
        class_names=("a",),
        name="bytes",
        shape=(1, 2),
    )
    for dtype in (torch.float32, torch.float64):
        batch = FewShot(data, ways=1, shots=1, queries=1, fixed_images=True).sample(
            generators(0), dtype
        )
        assert batch.x.dtype == batch.x_query.dtype == dtype
        assert torch.equal(batch.x[:, 0], torch.tensor([[0, 51 / 255]], dtype=dtype))
        assert torch.equal(batch.x_query[0], torch.tensor([[1, 102 / 255]], dtype=dtype))


def test_fixed_images_are_the_first_in_stored_order() -> None:
    data = numbered([9, 9, 9])
    batch = FewShot(data, ways=3, shots=4, queries=2, fixed_images=True).sample(generators(0, 1))
    for c in range(3):
        stored = (data.labels == c).nonzero()[:, 0]
        for i in range(2):
            train = batch.x[batch.label[:, i] == c, i, 0].sort().values
            query = batch.x_query[i, batch.label_query[i] == c, 0]
            assert train.tolist() == stored[:4].tolist()
            assert query.tolist() == stored[4:6].tolist()
    assert not torch.equal(batch.label[:, 0], batch.label[:, 1])


@pytest.mark.parametrize(("count", "apart"), [(12, True), (11, False)])
def test_a_repeated_class_gets_other_images_if_it_has_enough(count: int, apart: bool) -> None:
    data = numbered([count])
    tasks = FewShot(data, ways=2, shots=4, queries=2, replacement=True)
    for seed in range(20):
        batch = tasks.sample(generators(seed))
        train, query = set(batch.x.view(-1).tolist()), set(batch.x_query.view(-1).tolist())
        assert not train & query
        assert (len(train), len(query)) == ((8, 4) if apart else (4, 2))
        assert batch.x.shape == (8, 1, 1)


def test_classes_may_repeat_only_with_replacement() -> None:
    def classes(replacement: bool) -> set[int]:
        tasks = FewShot("digits", ways=5, shots=2, queries=1, replacement=replacement)
        labels = tasks.sample(generators(*range(40))).label
        return {len(labels[:, i].unique()) for i in range(40)}

    assert classes(False) == {5}
    assert {3, 4, 5} <= classes(True)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ways": 0}, ConfigError, "ways must be at least 1, not 0"),
        ({"queries": -1}, ConfigError, "queries must be at least 1"),
        ({"hold_out": 11}, ConfigError, "'digits' has 10 classes, not 11"),
        ({"hold_out": -1}, ConfigError, "hold_out must be at least 0, not -1"),
        ({"hold_out": [-1]}, ConfigError, "hold_out must be at least 0, not -1"),
        ({"hold_out": True}, ConfigError, "hold_out is True; give a whole number"),
        ({"hold_out": [True, False]}, ConfigError, "hold_out is True; give a whole number"),
        ({"hold_out": torch.ones(2) > 0}, ConfigError, "hold_out is True; give a whole number"),
        ({"hold_out": list(torch.ones(2) > 0)}, ConfigError, "hold_out is True; give a whole numb"),
        ({"hold_out": [7.5]}, ConfigError, "hold_out is 7.5; give a whole number"),
        ({"hold_out": [7.0]}, ConfigError, "hold_out is 7.0; give a whole number"),
        ({"hold_out": 2.5}, ConfigError, "hold_out should be how many classes, or which"),
        ({"hold_out": [[3, 4]]}, ConfigError, r"hold_out is \[3, 4\]; give a whole number"),
        ({"ways": True}, ConfigError, "ways is True; give a whole number"),
        ({"hold_out": (10,)}, ConfigError, "has no class 10"),
        ({"hold_out": "nine"}, ConfigError, "has no class 'nine'"),
        ({"held_out": True}, ConfigError, "needs classes in hold_out"),
        ({"ways": 11}, DataError, "11-way tasks need 11 classes but there are 10"),
        ({"hold_out": 6}, DataError, "need 5 classes but there are 4 .*hold out fewer"),
        ({"hold_out": 2, "held_out": True}, DataError, "5 held-out .* 2 .*hold out more"),
        ({"hold_out": 10, "replacement": True}, DataError, "but there are 0"),
        ({"shots": 170}, DataError, r"class '8' has 174 images but shots \+ queries = 180"),
    ],
)
def test_tasks_that_cannot_be_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        FewShot("digits", **options)


@pytest.mark.parametrize(
    ("hold_out", "classes"),
    [
        (torch.tensor([3, 4]), [3, 4]),
        (np.array([3, 4]), [3, 4]),
        (list(torch.tensor([3, 4])), [3, 4]),
        (np.array(["3", "9"]), [3, 9]),
        (torch.tensor([2]), [2]),
        (np.int64(2), [8, 9]),
        (torch.tensor(2), [8, 9]),
    ],
)
def test_whole_numbers_of_numpy_and_torch_are_taken(hold_out: Any, classes: list[int]) -> None:
    counts: Any = {"ways": np.int64(3), "shots": torch.tensor(2), "queries": np.int32(1)}
    tasks = FewShot("digits", hold_out=hold_out, **counts)
    assert sorted(set(range(10)) - set(tasks.classes)) == classes
    assert json.loads(json.dumps(tasks.describe()))["hold_out"] == classes
    online = OnlineFewShot("digits", hold_out=hold_out, outputs=np.int64(4), **counts)
    assert json.loads(json.dumps(online.describe()))["outputs"] == 4


def test_other_mistakes() -> None:
    data = numbered([70] * 5)
    with pytest.raises(ConfigError, match="need the name of a data set"):
        FewShot(data, split="train")
    with pytest.raises(ConfigError, match="at least one generator"):
        FewShot(data).sample([])
    with pytest.raises(ConfigError, match="needs classes in hold_out"):
        FewShot(data).with_held_out()


def test_the_last_images_of_each_class_are_set_apart() -> None:
    data = numbered([5, 3, 4])
    first, last = data.apart(2)
    for label, count in enumerate([5, 3, 4]):
        stored, early, late = (d.images[d.labels == label, 0].tolist() for d in (data, first, last))
        assert stored == early + late
        assert (len(early), len(late)) == (count - 2, 2)
    assert (first.n_classes, last.class_names) == (3, data.class_names)
    for count in (0, 3):
        with pytest.raises(DataError, match=r"class 'c.' has . images, of which . cannot be set"):
            data.apart(count)
