"""CML's tables of images: a tiny run of each on random images, from end to end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from rulesearch.errors import ConfigError, DataError, GrammarError
from rulesearch.outer.bilevel import BilevelTraining, Descent, UnrolledDescent
from rulesearch.reproduce import load_outcome, make_plan, reproduce, resume_reproduction
from rulesearch.reproduce.cml_table1 import Cifar, CifarSettings, SharedStrength


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def write_images(folder: Path, classes: int, each: int, size: int) -> None:
    """Class folders of noise around a colour of their own."""
    for k in range(classes):
        place = folder / f"class{k}"
        place.mkdir(parents=True)
        for n in range(each):
            colour = torch.randint(256, (1, 1, 3), generator=generator(k))
            noise = torch.randint(-60, 60, (size, size, 3), generator=generator(100 * k + n))
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


# -- Table 1 --


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cifar")
    write_images(folder / "train", 3, 8, 32)
    write_images(folder / "test", 3, 4, 32)
    return folder


METHODS = ("cml", "t1_t2", "cg", "rbp", "tbptl")


def table1(folder: Path, *overrides: str, rows: tuple[str, ...] = ()) -> Any:
    few = "{steps: 3, rate: 0.02, strength: 0.01, meta_rate: 0.005}"
    tiny = (
        f"data={json.dumps(str(folder))}", "updates=2", "examples=12", "judged=9", "tested=10",
        "batch=6", "channels=[2, 3]", "hidden=[5]", "nudged_steps=2", "iterations=2", "terms=2",
        "window=2", "shared=[0, 0.1]", *(f"{method}={few}" for method in METHODS),
    )  # fmt: skip
    return make_plan("cml-table1", "small", (*tiny, *overrides), rows)


def test_a_tiny_run_of_table_1(cifar: Path, tmp_path: Path) -> None:
    plan = table1(cifar)
    content = reproduce(plan, tmp_path / "run").content
    found = {row["row"]: row["ours"] for row in content["rows"]}
    assert set(found) == {row.key for row in plan.reproduction.rows}
    for ours in found.values():
        for condition, images in (("evaluation", 9), ("test", 10)):
            for accuracy in ours[condition]["seeds"]:
                right = accuracy / 100 * images
                assert abs(right - round(right)) < 1e-4 and 0 <= round(right) <= images
    jobs = left(tmp_path / "run")
    for row in found:
        learnt, tested = (
            {k.split(": ")[1]: v for k, v in jobs.items() if k.startswith(f"{row}-{condition}: m")
             and "model" in k}
            for condition in ("evaluation", "test")
        )  # fmt: skip
        assert learnt == tested and learnt
    # Adam's first step is the rate for all strengths: two of them, and none below zero.
    strengths = torch.tensor(jobs["cml-evaluation: model.named.lambda/conv0/W"])
    assert strengths.shape == (2, 2, 3, 5, 5)
    assert (strengths >= 0).all() and ((strengths - 0.01).abs() <= 0.0101).all()
    assert strengths.unique().numel() > 100


def test_interrupted_it_ends_in_the_same_bits(cifar: Path, tmp_path: Path) -> None:
    rows, updates = ("cml", "no-meta"), 0
    plan = table1(cifar, "seeds=1", "checkpoint_every=1", rows=rows)
    reproduce(plan, tmp_path / "whole")

    def interrupt(event: object) -> None:
        nonlocal updates
        updates += isinstance(event, dict) and event["event"] == "update"
        if updates in (2, 5):  # within each job
            updates += 1
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            reproduce(plan, tmp_path / "run", [interrupt])
    resume_reproduction(tmp_path / "run")
    assert left(tmp_path / "run") == left(tmp_path / "whole")


def test_controls_begin_as_cml_and_nothing_else_differs(cifar: Path) -> None:
    jobs = {job.name: job for job in table1(cifar, "cml={steps: 4, rate: 0.1, strength: 0.7, meta_rate: 0.3}").jobs()}  # fmt: skip
    plain, control = (jobs[f"tbptl{end}-evaluation"].begin({}) for end in ("", "-control"))
    for training, strength, rate in ((plain, 0.01, 0.005), (control, 0.7, 0.3)):
        assert isinstance(training, BilevelTraining)
        assert training.rate == rate
        assert all((p == strength).all() for p in training.model.parameters())
        gradient = training.meta_gradient
        assert isinstance(gradient, UnrolledDescent)
        assert (gradient.learner.steps, gradient.last) == (3, 2)


def test_the_best_shared_strength_is_kept() -> None:
    """Losses of two seeds by strength are made up: the least wins, what diverged never."""
    losses = iter(([3.0, 2.0], [1.0, float("nan")], [2.0, 1.5]))
    settings = CifarSettings(updates=1, seeds=2, shared=(0.1, 0.2, 0.3))
    born = {"a": torch.zeros(2, 4)}

    class Told:
        def start(self, theta: object) -> dict[str, Tensor]:
            return born

        def eval_loss(self, phi: object, theta: object) -> Tensor:
            return torch.tensor(next(losses))

    class Stub(Cifar):
        def problem(self, update: int) -> Any:
            return Told()

    stub: Any = Stub(settings, None, born, None, None, ())  # type: ignore[arg-type]
    training = SharedStrength(stub, Descent(0), _parameters(stub))
    rejected = [training.update().rejected.tolist() for _ in range(3)]
    assert rejected == [[False, False], [False, True], [False, False]]
    (kept,) = training.model.theta().values()
    torch.testing.assert_close(kept.detach(), torch.tensor([[0.2] * 4, [0.3] * 4]))


def _parameters(cifar: Cifar) -> Any:
    from rulesearch.outer.bilevel import MetaParameters

    return MetaParameters(cifar.strengths(0.0))


def test_full_scale_is_the_papers() -> None:
    """Strengths and their steps are twice the released code's, which has no factor 1/2."""
    full = make_plan("cml-table1", "full").settings.model_dump()
    assert (full["updates"], full["seeds"], full["batch"]) == (100, 10, 500)
    assert full["cml"] == {"steps": 5000, "rate": 3e-4, "strength": 0.2, "meta_rate": 0.06}
    assert (full["nudged_steps"], full["nudged_rate"], full["beta"]) == (200, 1e-4, 10)


def test_data_and_settings_that_do_not_fit(cifar: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no"):
        table1(tmp_path / "nothing").jobs()
    with pytest.raises(ConfigError, match="25 train images are asked for .* there are 24"):
        table1(cifar, "examples=16").jobs()
    with pytest.raises(GrammarError, match="beta.*greater than 0"):
        table1(cifar, "beta=0")
    with pytest.raises(ConfigError, match=r"last is a number of steps from 1 to 3, not 9"):
        table1(cifar, "window=9").jobs()
    assert load_outcome  # the run's table is read in the tests above
