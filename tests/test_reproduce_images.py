"""Reproductions of images: FLP's Table 2, and what it asks of data."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_data import write_characters
from tiny_reproduction import check_jobs

from rulesearch.errors import ConfigError, DataError, RuleSearchError
from rulesearch.reproduce import (
    make_plan,
    reproduce,
)
from rulesearch.reproduce.flp import new_lives

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random images where Omniglot's would be, and mini-ImageNet's beside them."""
    write_characters(tmp_path / "data")
    monkeypatch.setenv("RULESEARCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


TINY = (
    "updates=2", "lifetimes=3", "ways=3", "shots=2", "size=12", "channels=[2, 3]",
    "strides=[2, 1]", "hidden=4", "outputs=6", "mini_channels=[2, 2]", "mini_hidden=3",
    "oml_shots=3",
)  # fmt: skip


def test_images(characters: Path, tmp_path: Path) -> None:
    plan = make_plan("flp-table2", "small", (*TINY, f"mini_imagenet={characters / 'mini'}"))
    check_jobs(plan)
    trained = {job.row: job.needs for job in plan.jobs() if job.condition == "continual"}
    from_flp = {row for row, needs in trained.items() if needs == ("flp-2-continual",)}
    assert from_flp == {"gradient-2", "gradient-2-first-order"}
    content = reproduce(plan, tmp_path / "run").content
    assert list(content["conditions"]) == ["iid", "continual", "mini-imagenet"]
    assert [row["row"] for row in content["rows"]] == [row.key for row in plan.reproduction.rows]
    for row in content["rows"]:
        for condition, figure in row["ours"].items():
            errors = load_file(tmp_path / "run" / "jobs" / f"{row['row']}-{condition}.safetensors")
            wrong = errors["measured.error"] * 6 / 100  # of 3 ways and 2 queries each
            torch.testing.assert_close(wrong, wrong.round(), rtol=0, atol=1e-4)
            assert 0 <= figure["value"] <= 100


def test_test_lifetimes_are_of_classes_never_met(
    characters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here Omniglot has 6 classes of 5 images to train on, mini-ImageNet 5; both 4 for tests."""
    met: list[Any] = []
    monkeypatch.setattr(
        "rulesearch.reproduce.flp.new_lives",
        lambda model, tasks, *rest: met.append(tasks) or new_lives(model, tasks, *rest),
    )
    plan = make_plan("flp-table2", "small", (*TINY, f"mini_imagenet={characters / 'mini'}"))
    for job in [job for job in plan.jobs() if job.row == "flp-2"]:
        training: Any = job.begin({})
        job.measure(training)
        learnt, tested = (
            {image.numpy().tobytes() for image in tasks.data.images}
            for tasks in (training.training.tasks, met.pop())
        )
        assert (len(learnt), len(tested)) == (25 if "mini" in job.condition else 30, 20)
        assert not learnt & tested


def test_mini_imagenet_only_where_it_is(characters: Path) -> None:
    plan = make_plan("flp-table2", "small", TINY)
    assert {job.condition for job in plan.jobs()} == {"iid", "continual"}
    started = make_plan("flp-table2", "small", (*TINY, "start=[0.5, 0.25]"))
    begun = {job.row: job.begin({}).model for job in started.jobs()[:2]}
    rates = {row: [r.unique().tolist() for r in model.rate] for row, model in begun.items()}
    assert rates == {"feature-reuse-1": [[0.25]], "flp-2": [[0.5], [0.25]]}
    uneven = make_plan("flp-table2", "small", (*TINY, "strides=[2]"))
    with pytest.raises(ConfigError, match=r"2 convolutions \(channels\) need as many strides"):
        uneven.jobs()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["strides=[2]"],
            "channels=[2, 3], strides=[2], size=12: 2 convolutions (channels) need as",
        ),
        (
            ["size=4"],
            "channels=[2, 3], strides=[2, 1], size=4: convolutions of strides (2, 1) need",
        ),
        (
            ["mini_imagenet={mini}", "mini_channels=[2]"],
            "mini_channels=[2], strides=[2, 1], size=12:",
        ),
        (["outputs=2"], "outputs=2: ways=3 need 3 outputs or more"),
        (["ways=700", "outputs=700"], "ways=700: Omniglot has 659 characters to test on"),
        (["shots=11"], "shots=11: that takes 22 images of each class, and Omniglot has 20"),
        (["oml_shots=21"], "oml_shots=21: that takes 21 images of each class, and Omniglot has 20"),
    ],
)
@pytest.mark.parametrize("name", ["flp-table2", "flp-rules-omniglot"])
def test_sizes_that_do_not_fit_are_told_before_anything_is_loaded(
    name: str, changes: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rulesearch.reproduce.flp_table2.load", None)
    conditions = [] if "mini" in changes[0] else ["conditions=[iid]"]
    chosen = [change.format(mini=tmp_path) for change in changes]
    plan = make_plan(name, "small", [*TINY, *conditions, *chosen])
    with pytest.raises(ConfigError) as raised:
        plan.jobs()
    assert str(raised.value).startswith(message)


def test_photographs_that_are_not_there_are_told_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train").mkdir()
    for name, setting in (
        ("flp-table2", "mini_imagenet"), ("cml-table1", "data"), ("cml-table2", "data")
    ):  # fmt: skip
        module = "cml_cifar" if name == "cml-table1" else name.replace("-", "_")
        monkeypatch.setattr(f"rulesearch.reproduce.{module}.load", None)
        for root, split in ((tmp_path / "none", "train"), (tmp_path, "test")):
            told = make_plan(name, "small", [f"{setting}={root}"])
            with pytest.raises(DataError) as raised:
                told.jobs()
            assert str(raised.value).startswith(
                f"{setting}={root}: data set 'image_folder': there is no '{root / split}'; name a "
            )


@pytest.mark.parametrize(
    ("name", "setting"), [("flp-table2", "mini_imagenet"), ("cml-table2", "data")]
)
def test_photographs_split_by_image_are_refused_before_anything_is_loaded(
    name: str, setting: str, characters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few-shot tests on classes of meta-training would be none."""
    monkeypatch.setattr(f"rulesearch.reproduce.{name.replace('-', '_')}.load", None)
    mini = characters / "mini"
    for k in range(4):
        (mini / "test" / f"test{k}").rename(mini / "test" / f"train{k}")
    plan = make_plan(name, "small", [f"{setting}={mini}"])
    with pytest.raises(DataError) as raised:
        plan.jobs()
    assert str(raised.value).startswith(
        f"{setting}={mini}: train and test share classes (4: train0, train1, train2, ...), and few"
    )


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("flp-table2", "mini_imagenet={}"), ("cml-table1", "data={}"), ("cml-table2", "data={}"),
        ("cml-figure1", "cifar.data={}"),
    ],
)  # fmt: skip
def test_a_folder_of_photographs_is_the_same_wherever_a_run_goes_on(
    name: str, setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(folder: str) -> str:
        return make_plan(name, "small", [setting.format(folder)]).to_yaml()

    (tmp_path / "here" / "photographs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert f"{tmp_path}/here/photographs" in told("photographs")
    assert str(tmp_path) not in told("of-the-data-folder")


def test_a_folder_of_photographs_that_nobody_named_is_the_same_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def kept() -> str:
        folder: str = yaml.safe_load(make_plan("cml-table1", "small").to_yaml())["settings"]["data"]
        return folder

    assert kept() == "cifar10"
    (tmp_path / "cifar10").mkdir()
    assert kept() == str(tmp_path / "cifar10")


def test_mini_imagenet_asks_for_no_other_data(
    characters: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Omniglot is not, its conditions are left out, unless they are asked for."""
    shutil.rmtree(characters / "omniglot")
    monkeypatch.setenv("RULESEARCH_CACHE", str(characters / "cache"))
    told = (*TINY, f"mini_imagenet={characters / 'mini'}")
    jobs = make_plan("flp-table2", "small", told).jobs()
    assert {job.condition for job in jobs} == {"mini-imagenet"}
    assert jobs[0].begin({}).update().loss.isfinite().all()


def test_conditions_are_chosen(characters: Path) -> None:
    def chosen(name: str, *told: str) -> set[str]:
        return {job.condition for job in make_plan(name, "small", told).jobs()}

    mini = f"mini_imagenet={characters / 'mini'}"
    assert chosen("flp-table1", "conditions=[continual]") == {"continual"}
    assert chosen("flp-table2", *TINY, mini, "conditions=[continual]") == {"continual"}
    assert chosen("flp-table2", *TINY, mini, "conditions=[mini-imagenet]") == {"mini-imagenet"}
    with pytest.raises(ConfigError, match="condition mini-imagenet needs its images"):
        chosen("flp-table2", *TINY, "conditions=[mini-imagenet]")
    for told in ("conditions=[]", "conditions=[mixed]"):
        with pytest.raises(RuleSearchError, match="conditions"):
            make_plan("flp-table1", "small", (told,))
