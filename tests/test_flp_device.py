"""Meta-training on a device: named, checked before anything runs, and the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_flp import IMAGE, SINE, WIDE, tasks_of, training_of, values
from tiny_reproduction import TINY, left, tiny

from rulesearch.errors import ConfigError
from rulesearch.learners import Indexed
from rulesearch.outer import FLPSettings, MetaTraining, flp_model
from rulesearch.outer.fit import usable_device
from rulesearch.reproduce import make_plan, reproduce
from rulesearch.tasks import TaskBatch

pytestmark = pytest.mark.usefixtures("one_thread")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def on(device: str, settings: FLPSettings) -> MetaTraining:
    model = flp_model(settings, 2, dtype=WIDE, device=device)
    return MetaTraining(model, tasks_of(settings), settings.rates)


def test_the_cpu_is_a_device() -> None:
    named, usual = on("cpu", SINE), training_of(SINE)
    assert named.update().loss.equal(usual.update().loss)
    assert all(v.equal(values(usual.model)[k]) for k, v in values(named.model).items())
    assert named.model.device == usable_device("cpu") == torch.device("cpu")


def test_a_batch_moves_as_a_whole() -> None:
    x, label = torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64)
    for given in (x, Indexed(torch.zeros(5, 4), label)):
        moved = TaskBatch(given, label, x, label).to("meta" if given is x else "cpu")
        assert {
            t.device.type for t in (moved.x, moved.label, moved.x_query, moved.label_query)
        } == {"meta" if given is x else "cpu"}
        assert moved.x.shape == given.shape


def test_devices_that_are_not_there() -> None:
    for name in ("gpu", "meta", "cuda:x", ""):
        with pytest.raises(ConfigError, match=f"device is cpu or cuda, .* not '{name}'"):
            usable_device(name)
    count = torch.cuda.device_count()
    with pytest.raises(ConfigError, match=f"device cuda:{count}: .*use device=cpu"):
        usable_device(f"cuda:{count}")


def test_a_reproduction_says_so_before_it_begins(tmp_path: Path) -> None:
    count = torch.cuda.device_count()
    plan = make_plan("flp-table1", "small", (*TINY, f"device=cuda:{count}"), ("flp-3",))
    with pytest.raises(ConfigError, match="use device=cpu"):
        reproduce(plan, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    told = tiny("device=cpu", "conditions=[iid]", rows=("flp-3",))
    reproduce(told, tmp_path / "told")
    reproduce(tiny("conditions=[iid]", rows=("flp-3",)), tmp_path / "usual")
    assert left(tmp_path / "told") == left(tmp_path / "usual")


@needs_gpu
@pytest.mark.parametrize("settings", [SINE, IMAGE])
def test_a_gpu_finds_the_same(settings: FLPSettings) -> None:
    here, there = on("cpu", settings), on("cuda", settings)
    for _ in range(3):
        mine, theirs = here.update(), there.update()
        torch.testing.assert_close(theirs.loss.cpu(), mine.loss, rtol=1e-8, atol=0)
    resumed = on("cuda", settings)
    resumed.load({k: v.cpu() for k, v in there.tensors().items()}, 3)
    assert resumed.update().loss.equal(there.update().loss)
    found = values(there.model)
    here.update()
    for key, value in values(here.model).items():
        torch.testing.assert_close(found[key].cpu(), value, rtol=1e-6, atol=1e-9)


@needs_gpu
@pytest.mark.parametrize("name", ["flp-table1", "flp-figure2", "flp-longer", "flp-rules"])
def test_reproductions_run_on_a_gpu(name: str, tmp_path: Path) -> None:
    told = (*TINY, "device=cuda", "conditions=[continual]")
    rows = ("refitted",) if name == "flp-rules" else ("flp-3",)
    outcome = reproduce(make_plan(name, "small", told, rows), tmp_path / "run")
    (row, *_) = outcome.content["rows"]
    assert row["ours"]["continual"]["diverged"] == 0
