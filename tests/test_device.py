"""A search on a device: named, checked, written down, and the same numbers wherever it lives.

Without a GPU the path to one is walked on a pretended one, which refuses what a GPU refuses:
operations on tensors of two devices, and reading a tensor's memory without bringing it here. That
says nothing of kernels that CUDA may lack, of their rounding, or of its memory; tests that need a
GPU say so and skip.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pretended_gpu import GPU, pretended_gpu
from tiny_search import SMALL, ends, interrupt_after, tiny_search

import rulesearch as rs
from rulesearch.compile import native
from rulesearch.errors import ConfigError, GrammarError
from rulesearch.search import run as searches
from rulesearch.search.config import load_config
from rulesearch.search.device import dealt_out, device_here
from rulesearch.search.evaluation import evaluate_rules
from rulesearch.search.ranks import _backends
from rulesearch.search.run import resume_search, start_search
from rulesearch.tasks import FewShot

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
CONFIG = (
    SMALL.replace("episodes: 24", "episodes: 8")
    .replace("refit_episodes: 6", "refit_episodes: 4\nstability: {pairs: 1}")
    .replace("seeds: 2", "seeds: 1")
    .replace("shots: 4", "shots: 2")
)
GENERAL = "{terms: {F0: {expr: -e_post * y_pre.T, init: 1.0e-3}, F1: 'tanh(W)', F2: '-W**3'}}"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
needs_gpus = pytest.mark.skipif(
    torch.cuda.device_count() < 2 or not torch.distributed.is_nccl_available(),
    reason="fewer than two CUDA devices, or no NCCL, to exchange by",
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def whole(config: Path) -> Path:
    """On the CPU, by the torch path, which a GPU takes."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(native, "engine_unavailable", lambda dtype: "not wanted")
        return start_search(load_config(config), config.parent / "whole").path


def pretend(patched: pytest.MonkeyPatch) -> None:
    """Let ``cuda`` be the pretended GPU."""

    def here(name: str, processes: int = 1) -> torch.device:
        return GPU if name.startswith("cuda") else device_here(name, processes)

    patched.setattr(searches, "device_here", here)


def assert_alike(one: Path, other: Path, digits: float = 1e-4) -> None:
    """The same events and rule, numbers to rounding; what lifetimes ran on is another thing."""
    for name in ("events.jsonl", "rule.json"):
        here, there = (
            [json.loads(line) for line in text.splitlines()]
            if name.endswith("l")
            else [json.loads(text)]
            for text in ((one / name).read_text(), (other / name).read_text())
        )
        assert len(here) == len(there)
        for mine, theirs in zip(here, there, strict=True):
            _assert_close(mine, theirs, digits)


def _assert_close(mine: Any, theirs: Any, digits: float) -> None:
    if isinstance(mine, Mapping):
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            _assert_close(value, theirs[key], digits)
    elif isinstance(mine, list):
        assert len(mine) == len(theirs)
        for one, other in zip(mine, theirs, strict=True):
            _assert_close(one, other, digits)
    elif isinstance(mine, float) and isinstance(theirs, float):
        assert mine == pytest.approx(theirs, rel=digits, abs=1e-7)
    else:
        assert mine == theirs


def devices_of(run: Path) -> list[str]:
    found: list[str] = json.loads((run / "manifest.json").read_text())["machine"]["devices"]
    return found


# -- the pretended GPU, and a search on it --


def test_a_pretended_gpu_refuses_what_a_gpu_refuses() -> None:
    with pretended_gpu() as memory:
        there, here = torch.arange(6.0).to(GPU), torch.ones(6)
        for mixed in (
            lambda: there + here,
            lambda: here.mul_(there),
            lambda: torch.stack([there, here]),
            lambda: there[torch.tensor([1])],
            lambda: torch.add(there, there, out=here),
        ):
            with pytest.raises(AssertionError, match=r"of tensors on .*(meta.*cpu|cpu.*meta)"):
                mixed()
        with pytest.raises((TypeError, RuntimeError)):
            there.numpy()
        there[2:4].mul_(10)  # views share memory, and copies do not
        assert there.cpu().tolist() == there.tolist() == [0, 1, 20, 30, 4, 5]
        assert (there.device, there.cpu().device) == (GPU, CPU)
        assert here.copy_(there).sum() == 60
        assert memory.now == memory.most == 6 * 4
    with pytest.raises(AssertionError, match="nobody watches"):
        there + 1


def test_a_whole_search_on_a_pretended_gpu(
    config: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pool, refit, held-out tasks, stability, controls and probes, and no tensor left behind."""
    pretend(monkeypatch)
    with pretended_gpu() as memory:
        result = start_search(load_config(config, ["device=cuda"]), tmp_path / "run")
    assert memory.most > 100_000
    assert_alike(result.path, whole)
    assert devices_of(result.path) == ["cuda"]
    assert result.content["engine"] == {
        "path": "torch", "reason": "the tensors are on meta", "device": "cuda",
    }  # fmt: skip
    assert not any("compiled" in note for note in result.notes)


@pytest.mark.parametrize(
    "changes",
    [
        ["grammar=quadratic", "network.feedback=symmetric"],
        ["grammar=catalogue", "network.feedback_init=normal"],
        [f"grammar={GENERAL}"],
        ["network.feedback=direct", "optimiser.scaling=false"],
        ["tasks={family: linear-teacher}", "network.bias=false"],
        ["penalty.lam={low: 1, high: 5, number: 2}", "stability=null"],
    ],
)
def test_other_searches_on_a_pretended_gpu(
    changes: list[str], config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dense updates, terms without a tape, other networks and tasks."""
    monkeypatch.setattr(native, "engine_unavailable", lambda dtype: "not wanted")
    pretend(monkeypatch)
    changes = [*changes, "episodes=3", "refit_episodes=2", "controls=false", "probe_every=2"]
    here = start_search(load_config(config, changes), tmp_path / "cpu").path
    with pretended_gpu():
        there = start_search(load_config(config, [*changes, "device=cuda"]), tmp_path / "gpu").path
    assert_alike(here, there)


def test_rules_are_judged_on_a_pretended_gpu() -> None:
    tasks, network = FewShot("digits", ways=3, shots=4, queries=4), rs.PlasticNetwork([64, 8, 10])
    pool = rs.Grammar.from_yaml("pool10").enumerate()
    rules = {"r": (rs.Rule(pool, {"F0": 1e-2, "F3": 1e-4, "F9": 3e-3}), network)}
    [here] = evaluate_rules(rules, tasks, 30)
    with pretended_gpu():
        [there] = evaluate_rules(rules, tasks, 30, device=GPU)
    np.testing.assert_allclose(there.loss, here.loss, rtol=1e-5)
    np.testing.assert_array_equal(there.accuracy, here.accuracy)


# -- a device is named, checked and written down --


def test_the_cpu_is_the_device_unless_told(tmp_path: Path) -> None:
    named, usual = tiny_search(tmp_path / "cpu", device="cpu"), tiny_search(tmp_path / "usual")
    assert ends(named.path) == ends(usual.path)
    assert devices_of(named.path) == devices_of(usual.path) == ["cpu"]


def test_a_configuration_names_a_device(config: Path, tmp_path: Path) -> None:
    assert load_config(config).device == "cpu"
    given = load_config(config, ["device=cuda:1"])
    (tmp_path / "again.yaml").write_text(given.to_yaml())
    again = load_config(tmp_path / "again.yaml")
    assert again.device == given.device == "cuda:1"
    assert again.to_yaml() == given.to_yaml()
    (tmp_path / "bad.yaml").write_text("device: gpu\n" + CONFIG)
    with pytest.raises(GrammarError, match=r"bad\.yaml:1:9: .*should be cpu or cuda, or one of"):
        load_config(tmp_path / "bad.yaml")


def test_a_run_goes_on_on_another_device(
    config: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch)
    monkeypatch.setattr(native, "engine_unavailable", lambda dtype: "not wanted")
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        start_search(load_config(config), run, [interrupt_after(11)])
    with pretended_gpu() as memory:
        with pytest.raises(KeyboardInterrupt):
            resume_search(run, [interrupt_after(20)], device="cuda:1")
        assert devices_of(run) == ["cpu", "cuda:1"]
        used, memory.most = memory.most, 0
        with pytest.raises(KeyboardInterrupt):
            resume_search(run, [interrupt_after(20)])  # where it was
        assert min(used, memory.most) > 10_000
        assert devices_of(run) == ["cpu", "cuda:1"]
        memory.most = 0
        result = resume_search(run, device="cpu")
        assert memory.most == 0
    assert devices_of(run) == ["cpu", "cuda:1", "cpu"]
    assert "device" not in result.content["engine"]
    assert_alike(run, whole)


def test_a_device_that_is_not_there_changes_nothing(whole: Path, run_main: Any) -> None:
    before = {path.name: path.read_bytes() for path in whole.iterdir() if path.is_file()}
    count = torch.cuda.device_count()
    status, out, err = run_main("resume", whole, "--device", f"cuda:{count}")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "use device=cpu" in err
    assert {p.name: p.read_bytes() for p in whole.iterdir() if p.is_file()} == before


def test_commands_say_so_before_they_begin(config: Path, run_main: Any, tmp_path: Path) -> None:
    absent = f"cuda:{torch.cuda.device_count()}"
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        CONFIG.replace("stability: {pairs: 1}\n", "") + "sweep: {over: {seeds: [1, 2]}}"
    )
    for command in (
        ("search", config, "--out", tmp_path / "run"),
        ("search", config, "--out", tmp_path / "run", "--set", f"device={absent}"),
        ("sweep", sweep, "--out", tmp_path / "run"),
        ("evaluate", tmp_path / "rule.json", "--tasks", "digits"),
    ):
        asked = () if "--set" in command else ("--device", absent)
        status, out, err = run_main(*command, *asked)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert f"device {absent}: " in err
        assert "use device=cpu" in err
        assert err.startswith("--set device:1:1: ") == ("--set" in command)
        assert not (tmp_path / "run").exists()
    assert "should be cpu or cuda" in run_main("search", config, "--set", "device=mps")[2]


def test_workers_of_a_sweep_have_devices_of_their_own(
    run_main: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = f"cuda:{torch.cuda.device_count()}"
    sweep = tmp_path / "sweep.yaml"
    text = SMALL.replace("episodes: 24", "episodes: 4")
    sweep.write_text(text + "sweep: {lifetimes: 20, over: {seeds: [1, 2]}}")
    made = ("sweep", sweep, "--out", tmp_path / "study", "--workers", 0)
    assert run_main(*made, "--set", f"device={absent}")[0] == 0  # it need not be on this machine
    assert run_main(*made)[0] == 0  # no other study for being on another device
    journal = tmp_path / "study" / "journal.log"
    status, _, err = run_main("worker", journal, "--device", absent)
    assert status == 2
    assert f"device {absent}: " in err
    assert run_main("worker", journal, "--device", "cpu")[0] == 0
    study = json.loads((tmp_path / "study" / "study.json").read_text())
    assert [trial["state"] for trial in study["trials"]] == ["done"] * 2
    sweep.write_text(text + "sweep: {over: {device: [cpu, cuda]}}")
    assert "'device' is the same in all trials" in run_main(*made)[2]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert [dealt_out("cuda", k) for k in range(5)] == [f"cuda:{k}" for k in (0, 1, 2, 0, 1)]
    assert [dealt_out(name, 4) for name in ("cpu", "cuda:1")] == ["cpu", "cuda:1"]


# -- a GPU for each of several processes --


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """As far as torch tells; what is chosen is put on a list."""
    chosen: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    return chosen


def test_each_process_of_a_machine_has_a_gpu(two_gpus: list[Any]) -> None:
    assert device_here("cuda", 6) == torch.device("cuda", 1)
    assert two_gpus == [torch.device("cuda", 1)]
    assert device_here("cpu", 6) == CPU
    assert device_here("cuda:0") == torch.device("cuda", 0)  # one process alone
    assert device_here("cuda") == torch.device("cuda")
    assert len(two_gpus) == 1


def test_processes_that_cannot_have_one(
    two_gpus: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="cuda:1: 2 processes cannot share one GPU; with device="):
        device_here("cuda:1", 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")  # the first of them refuses as the last does
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ConfigError, match="3 processes on this machine, and GPUs for 2; start no"):
        device_here("cuda", 3)
    monkeypatch.delenv("LOCAL_RANK")
    with pytest.raises(ConfigError, match=r"LOCAL_RANK does not say .* start them with torchrun"):
        device_here("cuda", 2)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    with pytest.raises(ConfigError, match=r"this build of torch has no NCCL, .* use device=cpu"):
        device_here("cuda", 2)
    assert two_gpus == []


def test_gpus_exchange_by_nccl(two_gpus: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_NCCL_BLOCKING_WAIT", raising=False)
    assert _backends() == "cpu:gloo,cuda:nccl"
    assert os.environ["TORCH_NCCL_BLOCKING_WAIT"] == "1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert _backends() == "gloo"


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpus)])
def test_processes_find_what_one_finds(
    device: str, config: Path, whole: Path, tmp_path: Path
) -> None:
    """With the device named; on GPUs each process has its own, and they exchange by NCCL."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", "rulesearch"]
    search = ["search", config, "--out", tmp_path / "run", "--device", device]
    done = subprocess.run(
        [*launcher, *search],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert devices_of(tmp_path / "run") == [device]
    assert_alike(tmp_path / "run", whole, 1e-3)


# -- a GPU --


@needs_gpu
def test_a_gpu_finds_what_the_cpu_finds(
    config: Path, whole: Path, tmp_path: Path, run_main: Any
) -> None:
    for name, device in (("run", "cuda"), ("again", "cuda:0")):
        assert run_main("search", config, "--out", tmp_path / name, "--device", device)[0] == 0
        assert_alike(tmp_path / name, whole, 1e-3)
        assert devices_of(tmp_path / name) == [device]
    shown = [
        json.loads(run_main("evaluate", whole, "--lifetimes", 40, "--json", *device)[1])
        for device in ((), ("--device", "cuda"))
    ]
    _assert_close(*shown, 1e-3)


@needs_gpu
def test_a_run_goes_on_on_a_gpu(config: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        start_search(load_config(config), run, [interrupt_after(11)])
    with pytest.raises(KeyboardInterrupt):
        resume_search(run, [interrupt_after(20)], device="cuda")
    resume_search(run, device="cpu")
    assert devices_of(run) == ["cpu", "cuda", "cpu"]
    assert_alike(run, whole, 1e-3)
