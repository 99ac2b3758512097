"""CML's tables: what is learnt, judged and tested never shares an example, and tasks are new."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cml_images import FEW, FIVE, ONE, characters, write_images
from test_cml_table1 import table1
from torch import Tensor

from rulesearch.reproduce import make_plan
from rulesearch.reproduce.base import Job
from rulesearch.reproduce.cml_few_shot import rotated
from rulesearch.tasks import IMAGENET, ImageData, OnlineFewShot, load
from rulesearch.tasks.spiking_sines import SpikingSines

pytestmark = pytest.mark.usefixtures("one_thread")

SEEDS = 2


def each(examples: Tensor) -> list[bytes]:
    """Of examples ``(..., values)`` one by one what they are made of."""
    return [row.numpy().tobytes() for row in examples.flatten(0, -2)]


class Met:
    """What a family of tasks gave since it was last asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, family: Any, parts: Any) -> None:
        self.seen: list[bytes] = []
        sample = family.sample

        def watched(tasks: Any, draws: Any, *rest: Any) -> Any:
            batch = sample(tasks, draws, *rest)
            for part in parts(batch):
                self.seen += each(part)
            return batch

        monkeypatch.setattr(family, "sample", watched)

    def by(self, doing: Callable[..., object], *given: object) -> set[bytes]:
        """Examples met while something is done."""
        self.seen.clear()
        doing(*given)
        return set(self.seen)


def by_name(jobs: Iterable[Job]) -> dict[str, Job]:
    return {job.name: job for job in jobs}


def test_images_learnt_judged_and_tested_are_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of Table 1, of each seed its own; from update to update the order alone is another."""
    write_images(tmp_path / "train", 3, 8, 32)
    write_images(tmp_path / "test", 3, 4, 32, seed=1)
    jobs = by_name(table1(tmp_path, rows=("cml",)).jobs())
    training: Any = jobs["cml-evaluation"].begin({})
    problem, later = (training.problems(update).inner for update in (0, 1))
    learnt, judged = (part.source(None).x for part in (problem.learn, problem.evaluate))
    assert (learnt.shape[:2], judged.shape[:2]) == ((SEEDS, 12), (SEEDS, 9))
    assert torch.equal(later.learn.source(None).x, learnt)
    assert torch.equal(later.evaluate.source(None).x, judged)
    assert not torch.equal(later.learn.source(0).x, problem.learn.source(0).x)
    asked: list[tuple[Tensor, Tensor]] = []

    def accuracy(network: object, weights: object, source: Any, reference: Any) -> Tensor:
        asked.append((source(None).x, reference(None).x))
        return torch.ones(SEEDS)

    monkeypatch.setattr("rulesearch.reproduce.cml_cifar.accuracy", accuracy)
    for name in ("cml-evaluation", "cml-test"):
        jobs[name].measure(training)
    (at_the_end, shown), (tested, shown_too) = asked
    assert torch.equal(at_the_end, judged)
    assert torch.equal(shown, learnt)
    assert torch.equal(shown_too, learnt)
    for seed in range(SEEDS):
        groups = [set(each(part[seed])) for part in (learnt, judged, tested)]
        assert [len(group) for group in groups] == [12, 9, 10]
        assert len(set.union(*groups)) == 12 + 9 + 10
    assert set(each(learnt[0])) != set(each(learnt[1]))


def images(data: ImageData) -> set[bytes]:
    return set(each(data.examples(torch.arange(len(data.labels)), torch.float32)))


@pytest.mark.parametrize("name", ["cml-table2", "cml-table3"])
def test_classes_of_few_shot_tests_are_new(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "cml-table3":
        monkeypatch.setattr(
            "rulesearch.reproduce.cml_table3.load", lambda name, *, split, size: characters(split)
        )
        own = [f"one_shot={ONE}", f"five_shot={FIVE}"]
        train, test = rotated(characters("background")), characters("evaluation")
    else:
        for seed, part in enumerate(("train", "test")):
            write_images(tmp_path / part, 4, 12, 8, seed, part)
        own = [f"data={json.dumps(str(tmp_path))}", f"one_shot={ONE}"]
        options: dict[str, Any] = {"root": tmp_path, "size": 8, "colour": True}
        train, test = (
            load("image_folder", split=part, normalise=IMAGENET, **options)
            for part in ("train", "test")
        )
    assert not images(train) & images(test)
    met = Met(monkeypatch, OnlineFewShot, lambda batch: (batch.x[:], batch.x_query))
    jobs = by_name(make_plan(name, "small", [*FEW, *own, "lifetimes=20"]).jobs())
    for row in ("synaptic", "modulatory"):
        training: Any = jobs[f"{row}-1-shot"].begin({})
        updates = [met.by(training.training.problems, update) for update in range(20)]
        assert len({frozenset(update) for update in updates}) == 20  # tasks are new at each
        tested = met.by(jobs[f"{row}-1-shot"].measure, training)
        learnt = set.union(*updates)
        assert learnt <= images(train)
        assert tested <= images(test)
        assert len(learnt) > 0.8 * len(train.labels)
        assert len(tested) > 0.8 * len(test.labels)


def test_weights_of_spiking_networks_are_chosen_on_tasks_of_neither_training_nor_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    met = Met(monkeypatch, SpikingSines, lambda tasks: (tasks.learn.target, tasks.evaluate.target))
    few = (
        "updates=2", "validation=2", "seeds=2", "lifetimes=3", "hidden=4", "free_steps=1",
        "nudged_steps=1", "unrolled_steps=1", "truncated_steps=1", "window=1",
    )  # fmt: skip
    jobs = by_name(make_plan("cml-table4", "small", few).jobs())
    for row in ("bptl-bptt", "tbptl-eprop", "cml-eprop"):
        best: Any = jobs[f"{row}-own"].begin({})
        learnt = [met.by(best.training.problems, update) for update in (0, 1)]
        chosen_by = met.by(best.judge, best.model)
        told = met.by(jobs[f"{row}-validation"].measure, best)
        tested = met.by(jobs[f"{row}-own"].measure, best)
        counts = [len(tasks) for tasks in (*learnt, chosen_by, tested)]
        assert counts == [40, 40, 80, 120]  # 20 points of each task of both seeds
        assert told == chosen_by
        assert len(set.union(*learnt, chosen_by, tested)) == sum(counts)
        if row == "tbptl-eprop":
            assert met.by(jobs[f"{row}-bptt"].measure, best) == tested
