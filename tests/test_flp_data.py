"""FLP's Table 2: tests meet classes that training never met, and ask about images never shown."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rulesearch.networks import NetworkState
from rulesearch.outer import MetaModel
from rulesearch.reproduce import make_plan
from rulesearch.tasks import ImageData, Normalisation, TaskBatch

pytestmark = pytest.mark.usefixtures("one_thread")

EACH = 5  # images of a class
CLASSES = {"background": range(6), "train": range(6)} | {
    "evaluation": range(20, 24), "test": range(20, 24),
}  # fmt: skip
FEW = (
    "updates=8", "seeds=2", "lifetimes=12", "ways=3", "shots=2", "size=8", "channels=[2, 3]",
    "strides=[2, 1]", "hidden=4", "outputs=6", "mini_channels=[2, 2]", "mini_hidden=3",
    "mini_imagenet=photographs", "oml_shots=3", "oml_remember=7",
)  # fmt: skip


def grey(
    name: str, *, split: str, size: int, normalise: Normalisation | None = None, **_: object
) -> ImageData:
    """Images of one tone each, which is their number: class 20 has those from 100 on."""
    classes = CLASSES[split]
    shape = (3, size, size) if name == "image_folder" else (size, size)
    tone = torch.arange(EACH * classes[0], EACH * (classes[-1] + 1), dtype=torch.uint8)
    images = tone[:, None].repeat(1, torch.Size(shape).numel())
    labels, names = torch.arange(len(tone)) // EACH, tuple(map(str, classes))
    return ImageData(images, labels, len(classes), names, name, shape, split, normalise)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Tensor]:
    """What networks see, ``(lifetimes, examples, n_in)``: learnt and asked about in turn."""
    monkeypatch.setattr("rulesearch.reproduce.flp_table2.load", grey)
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        for k in CLASSES[split]:  # whose names are looked at, before what is loaded by grey
            place = tmp_path / "photographs" / split / str(k)
            place.mkdir(parents=True)
            (place / "0.png").touch()
    see, found = MetaModel.see, list[Tensor]()

    def watched(model: MetaModel, x: Tensor, lifetimes: int) -> Tensor:
        found.append(x.squeeze(2).transpose(0, 1) if x.ndim == 4 else x)
        return see(model, x, lifetimes)

    monkeypatch.setattr(MetaModel, "see", watched)
    return found


def check_lives(seen: list[Tensor], condition: str, classes: range) -> None:
    """Of three classes two images are learnt and two others asked about; all classes are met."""
    mean, deviation = (0.485, 0.229) if condition == "mini-imagenet" else (0.0, 1.0)  # of red
    numbers = [(255 * (deviation * x[..., 0] + mean)).round().int().tolist() for x in seen]
    changes, met = [], set[int]()
    for some, others in zip(numbers[::2], numbers[1::2], strict=True):
        for learnt, asked in zip(some, others, strict=True):
            assert len({*learnt, *asked}) == len(learnt) + len(asked) == 12
            kinds = [n // EACH for n in learnt]
            assert sorted(kinds) == sorted(n // EACH for n in asked)
            assert list(Counter(kinds).values()) == [2, 2, 2]
            changes.append(sum(a != b for a, b in pairwise(kinds)))
            met |= set(kinds)
    assert met == set(classes)
    assert min(changes) == 2
    assert max(changes) == (2 if condition == "continual" else 5)  # else images are mixed


@pytest.mark.parametrize("condition", ["iid", "continual", "mini-imagenet"])
def test_lifetimes_ask_about_images_not_learnt_and_tests_about_new_classes(
    condition: str, seen: list[Tensor]
) -> None:
    trained: dict[str, Any] = {}
    plan = make_plan("flp-table2", "small", (*FEW, f"conditions=[{condition}]"))
    for job in (job for job in plan.jobs() if job.row != "oml-2"):
        training = job.begin(trained)
        seen.clear()
        for _ in range(job.updates):
            training.update()
        assert sum(len(x) for x in seen[::2]) == 2 * job.updates  # seeds, a lifetime each
        check_lives(seen, condition, range(6))
        seen.clear()
        job.measure(training)
        assert sum(len(x) for x in seen[::2]) == 2 * 12
        check_lives(seen, condition, range(20, 24))
        trained[job.name] = training.model.state_dict()
    assert len(trained) == 6  # rows


@pytest.mark.parametrize("conditions", [["iid", "continual"], ["continual"], ["mini-imagenet"]])
def test_oml_learns_a_class_remembers_all_and_is_tested_as_the_others_are(
    conditions: list[str], seen: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is trained once for the conditions that have the same images."""
    born, live = list[NetworkState](), MetaModel.live

    def watched(model: MetaModel, task: TaskBatch, state: NetworkState) -> NetworkState:
        born.append(state)
        return live(model, task, state)

    told = (*FEW, f"conditions={conditions}", "oml_rate=0.25", "oml_test_rate=[0.5, 0.125]")
    plan = make_plan("flp-table2", "small", told, ["oml-2"])
    first, *others = plan.jobs()
    training: Any = first.begin({})
    assert training.training.fresh_readout
    assert all(rate.eq(0.25).all() for rate in training.model.rate)
    mini = conditions == ["mini-imagenet"]
    mean, deviation = (0.485, 0.229) if mini else (0.0, 1.0)
    seen.clear()
    for _ in range(first.updates):
        training.update()
    numbers = [(255 * (deviation * x[..., 0] + mean)).round().int() for x in seen]
    remembered = set[int]()
    for learnt, asked in zip(numbers[::2], numbers[1::2], strict=True):
        assert (learnt.shape, asked.shape) == ((2, 3), (2, 3 + 7))  # seeds, images
        assert torch.equal(asked[:, :3], learnt)
        assert all(len(set(kinds)) == 1 for kinds in (learnt // EACH).tolist())
        remembered |= set((asked[:, 3:] // EACH).flatten().tolist())
    assert remembered == set(range(6))
    trained = {first.name: training.model.state_dict()}
    monkeypatch.setattr(MetaModel, "live", watched)
    assert [(job.condition, job.updates, job.needs) for job in others] == [
        (condition, 0, (first.name,)) for condition in conditions[1:]
    ]
    for job in (first, *others):
        tested = training if job is first else job.begin(trained)
        seen.clear()
        born.clear()
        assert job.measure(tested)["error"].shape == (2, 12)
        check_lives(seen, job.condition, range(20, 24))
        rate = 0.125 if job.condition == "continual" else 0.5
        assert all(r.eq(rate).all() for state in born for r in state.rate)
        readouts = torch.cat([state.W[1] for state in born])
        assert readouts.shape[:2] == (2 * 12, 6)  # outputs
        assert len(readouts.flatten(1).unique(dim=0)) == 2 * 12
