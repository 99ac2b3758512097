"""CML's Tables 2 and 3: a tiny run of each on random images, from end to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from draws import generator
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from rulesearch.errors import DataError
from rulesearch.networks import ConvNet
from rulesearch.outer.averaged import Averaged
from rulesearch.outer.bilevel import (
    Contrastive,
    Descent,
)
from rulesearch.outer.seeds import NETWORK, TEST, generators
from rulesearch.reproduce import make_plan, reproduce
from rulesearch.reproduce.cml_few_shot import rotated
from rulesearch.tasks import ImageData, OnlineFewShot

pytestmark = pytest.mark.usefixtures("one_thread")


def write_images(
    folder: Path, classes: int, each: int, size: int, seed: int = 0, kind: str = "class"
) -> None:
    """Class folders of noise around a colour of their own."""
    for k in range(classes):
        place = folder / f"{kind}{k}"
        place.mkdir(parents=True)
        for n in range(each):
            colour = torch.randint(256, (1, 1, 3), generator=generator(k))
            noise = torch.randint(
                -60, 60, (size, size, 3), generator=generator(10_000 * seed + 100 * k + n)
            )
            pixels = (colour + noise).clamp(0, 255).to(torch.uint8)
            Image.fromarray(pixels.numpy()).save(place / f"{n}.png")


def left(run: Path) -> dict[str, list[Any]]:
    """Everything that a run found, but for the time that it took."""
    return {
        f"{file.stem}: {key}": tensor.tolist()
        for file in sorted((run / "jobs").iterdir())
        for key, tensor in load_file(file).items()
        if key != "seconds"
    }


ONE = "{shots: 1, steps: 3, nudged_steps: 2, beta: 0.1, strength: 0.3, meta_rate: 0.01}"
FIVE = "{shots: 5, steps: 3, nudged_steps: 2, beta: 0.1, strength: 0.3, meta_rate: 0.01}"
FEW = (
    "updates=2", "seeds=2", "episodes=2", "lifetimes=3", "ways=3", "queries=2", "size=8",
    "channels=[3, 4]",
)  # fmt: skip


def characters(split: str) -> ImageData:
    """As many drawings of as many classes, all noise."""
    seed = {"background": 10, "evaluation": 11}[split]
    images = torch.randint(256, (40, 64), generator=generator(seed)).to(torch.uint8)
    names = tuple(f"character{k}" for k in range(5))
    return ImageData(images, torch.arange(40) // 8, 5, names, "omniglot", (8, 8), split)


@pytest.fixture
def omniglot(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, *, split: str, size: int) -> ImageData:
        assert (name, size) == ("omniglot", 8)
        return characters(split)

    monkeypatch.setattr("rulesearch.reproduce.cml_table3.load", load)


@pytest.mark.usefixtures("omniglot")
def test_a_tiny_run_of_table_3(tmp_path: Path) -> None:
    plan = make_plan("cml-table3", "small", (*FEW, f"one_shot={ONE}", f"five_shot={FIVE}"))
    content = reproduce(plan, tmp_path / "run").content
    check_few_shot(content, ("1-shot", "5-shot"))
    model = {k: torch.tensor(v) for k, v in left(tmp_path / "run").items() if "model" in k}

    def of(row: str) -> dict[str, Tensor]:
        start = f"{row}-1-shot: model.named."
        return {k.removeprefix(start): v for k, v in model.items() if k.startswith(start)}

    synaptic, modulatory = of("synaptic"), of("modulatory")
    layers = [f"conv{k}/{part}" for k in range(2) for part in ("W", "bias", "gain", "shift")]
    layers += ["head/W", "head/bias"]
    assert set(synaptic) == {f"omega/{name}" for name in layers}
    slow = {name for name in layers if name.startswith("conv") and name.endswith(("W", "bias"))}
    fast = {f"omega/{name}" for name in set(layers) - slow}
    assert set(modulatory) == slow | fast
    # Two updates of Adam have moved both: a gain was 1.
    for found in (synaptic, modulatory):
        moved = (found["omega/conv0/gain"] - 1).abs()
        assert 0 < moved.max() < 0.021


def check_few_shot(content: dict[str, Any], conditions: tuple[str, ...]) -> None:
    rows = ["synaptic", "synaptic-untrained", "modulatory", "modulatory-untrained"]
    assert [row["row"] for row in content["rows"]][:4] == rows
    for row in content["rows"][:4]:
        for condition in conditions:
            ours = row["ours"][condition]
            assert ours["lifetimes"] == 3
            assert ours["diverged"] == 0
            assert len(ours["seeds"]) == 2
            for accuracy in ours["seeds"]:  # of 3 tasks with 6 queries each
                right = accuracy / 100 * 18
                assert abs(right - round(right)) < 1e-4
                assert 0 <= right <= 18


def test_a_tiny_run_of_table_2(tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "test")):
        write_images(tmp_path / "mini" / split, 4, 3, 8, seed, split)
    data = f"data={json.dumps(str(tmp_path / 'mini'))}"
    plan = make_plan("cml-table2", "small", (*FEW, data, f"one_shot={ONE}"))
    check_few_shot(reproduce(plan, tmp_path / "run").content, ("1-shot",))
    with pytest.raises(DataError, match="there is no"):
        make_plan("cml-table2", "small", (f"data={tmp_path / 'none'}",)).jobs()


def test_classes_are_turned_by_quarters() -> None:
    data = characters("background")
    turned = rotated(data)
    assert (turned.n_classes, len(turned.labels)) == (20, 160)
    assert turned.class_names[7] == "character2, 90 degrees"
    assert turned.labels[47] == 5
    assert turned.labels[159] == 19
    square = data.images[7].reshape(8, 8)
    found = turned.images[47].reshape(8, 8)
    for i in range(8):
        for j in range(8):
            assert found[7 - j, i] == square[i, j]


@pytest.mark.usefixtures("omniglot")
def test_learning_few_shots_is_that_of_anchored_descent() -> None:
    """One task by hand: Nesterov on cross-entropy and lambda/2 of the way from omega."""
    plan = make_plan("cml-table3", "small", (*FEW, f"one_shot={ONE}", f"five_shot={FIVE}"))
    job = plan.jobs()[0]
    averaged = job.begin({})
    assert isinstance(averaged, Averaged)
    training = averaged.training
    problem = training.problems(0)
    theta = {k: t.detach().repeat_interleave(2, 0) for k, t in training.model.theta().items()}
    gradient = training.meta_gradient
    assert isinstance(gradient, Contrastive)
    assert isinstance(gradient.nudged, Descent)
    learner = gradient.free
    assert (learner.steps, gradient.nudged.steps) == (3, 2)
    found = learner(problem, theta, problem.start(theta))
    network, (x, label) = problem.inner.learn.network, problem.inner.learn.source(0)
    at = [t.clone().requires_grad_() for t in theta.values()]
    optimiser = torch.optim.SGD(at, lr=0.03, momentum=0.9, nesterov=True)
    for _ in range(3):
        optimiser.zero_grad()
        logits = network(dict(zip(found, at, strict=True)), x)
        loss = torch.nn.functional.cross_entropy(logits[1], label[1])
        for value, omega in zip(at, theta.values(), strict=True):
            loss = loss + 0.15 * (value[1] - omega[1]).square().sum()
        loss.backward()
        optimiser.step()
    for value, expected in zip(found.values(), at, strict=True):
        torch.testing.assert_close(value[1], expected[1].detach())


@pytest.mark.usefixtures("omniglot")
def test_the_control_learns_the_same_tasks_from_birth() -> None:
    """By hand: the weights as drawn, which are also what they are drawn to."""
    plan = make_plan("cml-table3", "small", (*FEW, f"one_shot={ONE}", f"five_shot={FIVE}"))
    jobs = {job.name: job for job in plan.jobs()}
    control = jobs["synaptic-untrained-1-shot"]
    assert control.updates == 0
    found = control.measure(control.begin({}))["error"]
    network = ConvNet((1, 8, 8), 3, (3, 4))
    born = network.init(generators(0, 0, NETWORK, [(row, 0) for row in range(2)]))
    pairs = [(row, k) for row in range(2) for k in range(3)]
    family = OnlineFewShot(characters("evaluation"), ways=3, shots=1, queries=2, order="iid")
    task = family.sample(generators(0, 0, TEST, pairs))
    x = task.x[:]
    for life, (row, member) in enumerate(pairs):
        start = {name: w[row : row + 1].clone() for name, w in born.items()}
        at = {name: w.clone().requires_grad_() for name, w in start.items()}
        optimiser = torch.optim.SGD(at.values(), lr=0.03, momentum=0.9, nesterov=True)
        for _ in range(3):
            optimiser.zero_grad()
            logits = network(at, x[:, life][None])[0]
            loss = torch.nn.functional.cross_entropy(logits, task.label[:, life])
            for name, value in at.items():
                loss = loss + 0.15 * (value - start[name]).square().sum()
            loss.backward()
            optimiser.step()
        answer = network(at, task.x_query[life][None])[0].argmax(-1)
        right = answer.eq(task.label_query[life]).float().mean()
        torch.testing.assert_close(found[row, member], 100 * right)
