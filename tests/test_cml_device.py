"""CML's reproductions on a device: the same tasks, weights and numbers, on a pretended GPU too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pretended_gpu import GPU, pretended_gpu
from safetensors.torch import load_file, save
from test_cml_images import FEW, FIVE, ONE, characters, write_images
from test_cml_table1 import table1

from rulesearch.errors import INTERRUPTED, ConfigError, GrammarError
from rulesearch.networks import ConvNet
from rulesearch.networks.modulated import ModulatedNetwork
from rulesearch.outer.fit import usable_device
from rulesearch.reproduce import Plan, load_plan, make_plan, reproduce
from rulesearch.reproduce.progress import JobProgress

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # torch thinks that nothing is copied to its device meta, which stands for the GPU here.
    pytest.mark.filterwarnings("ignore:for named.* copying from a non-meta parameter"),
]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

TABLES = ("cml-table1", "cml-table2", "cml-table3")
OTHERS = ("cml-table4", "cml-rules", "cml-theta", "cml-table5", "cml-figure1")
ROWS = {
    "cml-table1": ("cml", "t1-t2", "cg", "rbp", "tbptl", "no-meta"),  # by all six methods
    "cml-figure1": ("beta-1",),
    "cml-rules": ("omega-lambda",),
    "cml-theta": ("beta-0.01",),
    "cml-table4": ("bptl-eprop", "tbptl-eprop", "cml-eprop"),
    "cml-table5": ("maml", "cml-synaptic", "cml-modulatory"),
}
LOADERS = dict(zip(TABLES, ("cml_cifar", "cml_table2", "cml_table3"), strict=True))
SHORT = {
    "cml_theta.STEPS": (20,),
    "cml_figure1.RIDGE": (30,),
    "cml_figure1.DIGITS": (30,),
    "cml_figure1.CIFAR": (500,),
    "cml_figure1_cifar.CIFAR": (500,),
}
"""What tables and figures are measured at, in place of more."""
ABSENT = f"device=cuda:{torch.cuda.device_count()}"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of images for Tables 1 and 2."""
    folder = tmp_path_factory.mktemp("images")
    for seed, split in enumerate(("train", "test")):
        write_images(folder / "cifar" / split, 3, 8, 32, seed)
        write_images(folder / "mini" / split, 4, 3, 8, seed, split)
    return folder


@pytest.fixture
def tiny(images: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """Tiny plans, by default of all rows."""
    monkeypatch.setattr(
        "rulesearch.reproduce.cml_table3.load", lambda name, *, split, size: characters(split)
    )
    for name, only in SHORT.items():
        monkeypatch.setattr(f"rulesearch.reproduce.{name}", only)
    told = {
        "cml-table2": (*FEW, f"data={json.dumps(str(images / 'mini'))}", f"one_shot={ONE}"),
        "cml-table3": (*FEW, f"one_shot={ONE}", f"five_shot={FIVE}"),
        "cml-continual": (
            "updates=2", "seeds=2", "episodes=2", "lifetimes=3", "functions=2", "batches=2",
            "examples=4", "hidden=[5, 5]",
        ),
        "cml-table4": (
            "updates=1", "seeds=2", "lifetimes=2", "hidden=4", "free_steps=2", "nudged_steps=2",
            "unrolled_steps=1", "truncated_steps=2", "window=1", "validate_every=1", "validation=1",
        ),
        "cml-table5": (
            "updates=4", "seeds=2", "episodes=1", "lifetimes=1", "hidden=4", "tasks=2",
            "learnt=6", "judged=4", "horizon=60", "batch=4", "shorter=250",
            "conditions=[0.5, 0.9]",
        ),
        "cml-rules": (
            "updates=1", "seeds=2", "lifetimes=2", "data=digits", "held_out=5", "hidden=[8]",
            "steps=2", "nudged_steps=2", "meta_rate=1e-4",  # Adam's first step is of any slope
        ),
        "cml-theta": ("seeds=2", "lifetimes=1", "hidden=[4]", "examples=10", "judged=12"),
        "cml-figure1": (
            "updates=1", "seeds=2", "hidden=4", "examples=10", "judged=12", "nudged_steps=2",
        ),
    }  # fmt: skip

    def plan(name: str, *overrides: str, rows: tuple[str, ...] = ()) -> Plan:
        if name == "cml-table1":
            found: Plan = table1(images / "cifar", *overrides, rows=rows)
            return found
        return make_plan(name, "small", (*told[name], *overrides), rows)

    return plan


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``cuda`` be the pretended GPU."""

    def here(name: str) -> torch.device:
        return GPU if name == "cuda" else usable_device(name)

    for module in ("base", "plan", "run"):
        monkeypatch.setattr(f"rulesearch.reproduce.{module}.usable_device", here)

    def saved(tensors: dict[str, torch.Tensor], *about: dict[str, str]) -> bytes:
        assert all(t.is_cpu for name, t in tensors.items() if name.startswith("measured."))
        return save(tensors, *about)

    monkeypatch.setattr("rulesearch.reproduce.outcome.save", saved)


def jobs_of(run: Path) -> dict[str, torch.Tensor]:
    """Everything that a run found, but for the time that it took."""
    return {
        f"{file.stem}: {key}": tensor
        for file in sorted((run / "jobs").iterdir())
        for key, tensor in load_file(file).items()
        if key != "seconds"
    }


def interrupt(event: Any) -> None:
    """At the end of an update, which is lost by it."""
    if event["event"] == "update":
        raise KeyboardInterrupt


def assert_alike(run: Path, other: Path) -> None:
    """The same meta-parameters, figures and records, to rounding."""
    mine, theirs = jobs_of(run), jobs_of(other)
    assert mine.keys() == theirs.keys() != set()
    for key, tensor in mine.items():
        torch.testing.assert_close(theirs[key], tensor, rtol=1e-4, atol=1e-6, msg=key)
    here, there = (
        [json.loads(line) for line in (each / "events.jsonl").read_text().splitlines()]
        for each in (run, other)
    )
    assert len(here) == len(there)
    for one, two in zip(here, there, strict=True):
        assert (one["phase"], one["update"], one["rejected"]) == (
            two["phase"], two["update"], two["rejected"],
        )  # fmt: skip
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)


# -- on a pretended GPU --


@pytest.mark.usefixtures("pretend")
@pytest.mark.parametrize("name", [*TABLES, "cml-continual", *OTHERS])
def test_a_reproduction_on_a_pretended_gpu(
    name: str, tiny: Callable[..., Plan], tmp_path: Path
) -> None:
    """From birth to the figures, nothing is left on the wrong device."""
    rows = ROWS.get(name, ())
    reproduce(tiny(name, rows=rows), tmp_path / "cpu")
    with pretended_gpu() as memory:
        outcome = reproduce(tiny(name, "device=cuda", rows=rows), tmp_path / "gpu")
    assert memory.most > 10_000
    assert outcome.content["settings"]["device"] == "cuda"
    assert_alike(tmp_path / "cpu", tmp_path / "gpu")


@pytest.mark.usefixtures("pretend")
def test_panel_b_of_figure_1_on_a_pretended_gpu(
    tiny: Callable[..., Plan], images: Path, tmp_path: Path
) -> None:
    data = json.dumps(str(images / "cifar"))
    panel = f"cifar={{data: {data}, examples: 12, judged: 8, batch: 4, shorter: 250}}"
    reproduce(tiny("cml-figure1", panel, rows=("beta-1",)), tmp_path / "cpu")
    with pretended_gpu():
        reproduce(tiny("cml-figure1", panel, "device=cuda", rows=("beta-1",)), tmp_path / "gpu")
    assert (tmp_path / "gpu" / "jobs" / "beta-1-cifar-500.safetensors").is_file()
    assert_alike(tmp_path / "cpu", tmp_path / "gpu")


@pytest.mark.usefixtures("pretend")
@pytest.mark.parametrize(
    ("name", "row", "settings"),
    [
        ("cml-table1", "cml", ("updates=3",)),
        ("cml-table1", "no-meta", ("updates=3", "shared=[0, 0.1, 0.2]")),
        ("cml-table4", "cml-eprop", ("updates=3",)),
        ("cml-table5", "neural-linear", ("horizon=30",)),
        ("cml-table5", "cml-synaptic", ("updates=1",)),  # and then lives
        ("cml-figure1", "beta-1", ("updates=3",)),
    ],
)
def test_a_run_goes_on_on_another_device(
    name: str,
    row: str,
    settings: tuple[str, ...],
    tiny: Callable[..., Plan],
    tmp_path: Path,
    run_main: Any,
) -> None:
    rows, run = (row,), tmp_path / "run"
    reproduce(tiny(name, *settings, rows=rows), tmp_path / "cpu")
    plan = tiny(name, *settings, "device=cuda", rows=rows)

    def after(updates: int) -> Callable[[Any], None]:
        def interrupt(event: Any) -> None:
            if event["event"] == "update" and event["update"] == updates:
                raise KeyboardInterrupt  # which this one is lost by

        return interrupt

    with pretended_gpu() as memory:
        with pytest.raises(KeyboardInterrupt):
            reproduce(plan, run, [after(1)])
        with pytest.raises(KeyboardInterrupt):
            reproduce(plan.on("cpu"), run, [after(2)])
        memory.most = 0
        reproduce(plan, run)
        assert memory.most > 10_000
    assert_alike(tmp_path / "cpu", run)
    status, out, _ = run_main("resume", run, "--device", "cpu")  # there is nothing left to do
    assert status == 0
    assert plan.reproduction.title in out


@pytest.mark.usefixtures("pretend")
def test_a_run_stays_on_the_device_it_was_last_resumed_on(
    tiny: Callable[..., Plan], tmp_path: Path, run_main: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def resumed(*device: str) -> int:
        status: int = run_main("resume", run, *device)[0]
        return status

    with pytest.raises(KeyboardInterrupt):
        reproduce(tiny("cml-table1", "updates=3", rows=("cml",)), run, [interrupt])
    with monkeypatch.context() as patched:
        patched.setattr(JobProgress, "__call__", lambda self, event: interrupt(event))
        with pretended_gpu() as memory:
            assert resumed("--device", "cuda") == INTERRUPTED
            assert memory.most > 10_000
    moved = (run / "manifest.json").read_bytes()
    with pretended_gpu() as memory:
        assert resumed() == 0
        assert memory.most > 10_000
    assert (run / "manifest.json").read_bytes() == moved
    assert json.loads(moved)["machine"]["devices"] == ["cpu", "cuda"]
    assert json.loads((run / "result.json").read_text())["settings"]["device"] == "cuda"
    assert run_main("show", run)[0] == 0  # where there is no such device
    assert resumed("--device", "cpu") == 0
    assert load_plan(run).settings.device == "cpu"


# -- a device is named, and is there --


@pytest.mark.parametrize("name", TABLES)
def test_a_device_that_is_not_there_is_told_before_data_is_loaded(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"rulesearch.reproduce.{LOADERS[name]}.load", None)
    with pytest.raises(ConfigError, match=r"^device cuda:.*; use device=cpu$"):
        reproduce(make_plan(name, "small", (ABSENT,)), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    wrong = r"^--set device:1:1: .*device.* should be cpu or cuda, or one of several as cuda:1"
    with pytest.raises(GrammarError, match=wrong):
        make_plan(name, "small", ("device=gpu",))


def test_plans_move_to_devices_that_are_here() -> None:
    with pytest.raises(ConfigError, match=r"device cuda:\d+: .*use device=cpu"):
        make_plan("cml-table3").on(ABSENT.removeprefix("device="))


def test_networks_are_drawn_on_the_cpu_and_moved() -> None:
    nets = (ConvNet((1, 8, 8), 3, (2, 2), hidden=(4,)), ModulatedNetwork([3, 4, 2], "tanh"))
    for network in nets:
        here = network.init([torch.Generator().manual_seed(3)])
        with pretended_gpu():
            there = network.init([torch.Generator().manual_seed(3)], GPU)
            assert {w.device for w in there.values()} == {GPU}
            assert all(w.cpu().equal(here[name]) for name, w in there.items())
        with pytest.raises(ConfigError, match="device is cpu or cuda"):
            network.init([torch.Generator()], "gpu")


# -- on a GPU --


@needs_gpu
@pytest.mark.parametrize("name", TABLES)
def test_a_gpu_finds_the_same(name: str, tiny: Callable[..., Plan], tmp_path: Path) -> None:
    """The first losses to rounding: figures are counts, which rounding may turn."""
    rows = ROWS.get(name, ())
    mine, theirs = (
        reproduce(tiny(name, f"device={device}", rows=rows), tmp_path / device)
        for device in ("cpu", "cuda")
    )
    assert [row["row"] for row in mine.content["rows"]] == [
        r["row"] for r in theirs.content["rows"]
    ]
    here, there = (
        [json.loads(line) for line in (tmp_path / device / "events.jsonl").read_text().splitlines()]
        for device in ("cpu", "cuda")
    )
    for one, two in zip(here, there, strict=True):
        if one["update"] == 0:
            assert two["loss"] == pytest.approx(one["loss"], rel=1e-3)
            assert two["rejected"] == one["rejected"]
