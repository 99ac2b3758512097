"""Workers of a sweep: killed ones, trials that come to nothing, the pick's stability, commands."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tiny_sweep import BASE, RANGES, assert_same, killed, swept, told

import rulesearch as rs
from rulesearch.search.config import load_config
from rulesearch.search.run import start_search
from rulesearch.search.sweep import Study, StudyResult, load_sweep, work


def test_workers_killed_in_mid_trial(whole_sweep: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    found = killed(whole_sweep.parent / "tiny.yaml", folder, str(folder / "journal.log"), 2, 4)
    assert found["killed"] == 4
    assert_same(folder, whole_sweep, found)


def test_a_trial_killed_as_its_folder_was_made(whole_sweep: Path, tmp_path: Path) -> None:
    with Study.begin(load_sweep(whole_sweep.parent / "tiny.yaml"), tmp_path / "study") as study:
        half = study.run_folder(0)
    half.mkdir()
    (half / "config.yaml").write_text("half")
    result = StudyResult.load(work(study.url))
    assert result.content["trials"] == StudyResult.load(whole_sweep).content["trials"]


def test_a_trial_that_makes_no_search_fails_and_says_why(sweep_config: Any, tmp_path: Path) -> None:
    text = f"{BASE}  over: {{tasks.ways: [3, 8], tasks.hold_out: [0, 4]}}\n"
    result = swept(sweep_config(text.replace("episodes: 12", "episodes: 2")), tmp_path / "study")
    states = {tuple(t["values"].values()): t["state"] for t in result.content["trials"]}
    assert states == {(3, 0): "done", (3, 4): "done", (8, 0): "done", (8, 4): "failed"}
    assert "trial 3 failed: data set 'digits': 8-way tasks need 8 classes" in str(result)


def test_a_trial_that_diverges_fails_and_says_why(sweep_config: Any, tmp_path: Path) -> None:
    text = BASE.replace("rate: 1.0e-3", "reject: false").replace("episodes: 12", "episodes: 6")
    path = sweep_config(f"{text}  over: {{optimiser.rate: [1.0e-3, 1.0e+6]}}\n")
    result = swept(path, tmp_path / "study")
    assert result.counts() == {"done": 1, "failed": 1}
    assert "trial 1 failed: a lifetime diverged at update 1 of 'search'" in str(result)


def test_hopeless_trials_are_given_up(sweep_config: Any, tmp_path: Path) -> None:
    path = sweep_config(f"{RANGES}  pruner: median\n".replace("trials: 12", "trials: 6"))
    with Study.begin(load_sweep(path), tmp_path / "study") as study:
        for number in range(5):
            study.start(number)
            assert not any(study.report(number, step, 0.1) for step in range(1, 21))
            told(study, number, 0.1)
    result = StudyResult.load(work(study.url))  # with random weights, a loss of about 2.3
    assert result.counts() == {"done": 5, "pruned": 1}
    events = (tmp_path / "study/trial-0005/events.jsonl").read_text().splitlines()
    updates = [e for e in map(json.loads, events) if e["event"] == "update"]
    assert 3 <= len(updates) < 12  # after the warm-up, before the end
    assert not (tmp_path / "study/trial-0005/result.json").exists()


# -- the pick's stability --

HALVED = BASE.replace("sweep:", "stability: {pairs: 2}\nsweep:") + "  over: {penalty.lam: [1, 5]}\n"


def halves_of(run: Path) -> int:
    """Updates of a run's searches on halves of the tasks."""
    return (run / "events.jsonl").read_text().count('"event":"update","phase":"stability"')


def test_the_pick_alone_searches_on_halves(sweep_config: Any, tmp_path: Path) -> None:
    result = swept(sweep_config(HALVED), tmp_path / "study")
    pick, other = (
        result.path / f"trial-{k:04d}" for k in (result.content["pick"], 1 - result.content["pick"])
    )
    assert (halves_of(pick), halves_of(other)) == (12, 0)
    assert "halves of the tasks" in str(result)
    # It is the run that its configuration makes, as if nobody had waited to see it picked.
    alone = start_search(load_config(pick / "config.yaml"), tmp_path / "alone").path
    for name in ("result.json", "events.jsonl"):
        assert (pick / name).read_bytes() == (alone / name).read_bytes()


def test_a_worker_killed_in_the_halves(sweep_config: Any, tmp_path: Path) -> None:
    whole = swept(sweep_config(HALVED), tmp_path / "whole")
    folder = tmp_path / "study"
    with Study.begin(load_sweep(sweep_config(HALVED)), folder) as study:
        url = study.url

    def until_halves() -> bool:
        return not any(halves_of(run) > 5 for run in folder.glob("trial-*"))

    with pytest.raises(KeyboardInterrupt):
        work(url, wanted=until_halves)
    with Study.open(url) as study:
        assert (study.unfinished(), study.left()) == ([], [whole.content["pick"]])
    assert "halves" not in str(StudyResult.load(folder))
    assert str(StudyResult.load(work(url))).splitlines()[1:] == str(whole).splitlines()[1:]


# -- the commands --


def workers_of(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_for(happened: Callable[[], Any], seconds: float = 240) -> Any:
    end = time.monotonic() + seconds
    while not (found := happened()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)
    return found


def interrupted_once(folder: Path) -> None:
    """Kill the first worker of a sweep's command, then interrupt this process, which runs it."""
    [first] = wait_for(lambda: folder.is_dir() and workers_of(os.getpid()))
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: set(workers_of(os.getpid())) - {first})
    wait_for(lambda: (folder / "trial-0000/events.jsonl").exists())
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def main(run_main: Any) -> Iterator[Any]:
    """As ``run_main``; what the commands do with SIGTERM is undone."""
    before = signal.getsignal(signal.SIGTERM)
    yield run_main
    signal.signal(signal.SIGTERM, before)


def test_the_command_replaces_workers_stops_and_goes_on(
    whole_sweep: Path, tmp_path: Path, main: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setattr("rulesearch.search.sweep.command.LOOK", 0.05)
    folder = tmp_path / "study"
    arguments = ["sweep", whole_sweep.parent / "tiny.yaml", "--out", folder]
    killer = ThreadPoolExecutor(1)
    kills = killer.submit(interrupted_once, folder)
    status, out, err = main(*arguments)
    kills.result()
    assert (status, out) == (3, "")
    assert "interrupted; " in err.splitlines()[-1]
    assert "the same command goes on with them" in err.splitlines()[-1]
    with (folder / ".claims").open("ab") as claims:
        fcntl.lockf(claims, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no worker is left

    assert main("worker", folder / "journal.log")[0] == 0
    status, out, _ = main(*arguments)
    assert status == 0
    assert "tiny: 4 trials, 4 done" in out
    ours, theirs = (json.loads((f / "study.json").read_text()) for f in (folder, whole_sweep))
    assert ours["trials"] == theirs["trials"]
    assert main("show", folder)[1] == out
    assert json.loads(main("show", folder, "--json")[1]) == ours
    rule = rs.Rule.load(folder / f"trial-{ours['pick']:04d}" / "rule.json")
    assert main("show", folder, "--latex")[1].strip().endswith(rule.latex())


def test_a_sweep_is_followed_to_its_end(
    sweep_config: Any, tmp_path: Path, main: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rulesearch.search.sweep.command.LOOK", 0.05)
    folder, begun = tmp_path / "study", time.monotonic()
    main("sweep", sweep_config(HALVED), "--out", folder, "--workers", 0)
    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(work, str(folder / "journal.log"))
        status, out, err = main("show", folder, "--follow")
        worker.result()
    assert (status, out) == (0, main("show", folder)[1])
    assert "trials 2/2" in err
    spent = json.loads((folder / "study.json").read_text())["seconds"]
    assert min(spent.values()) > 0
    assert sum(spent.values()) < time.monotonic() - begun


def test_a_worker_with_nothing_to_do(whole_sweep: Path, main: Any) -> None:
    journal = whole_sweep / "journal.log"
    said = f"all trials are finished: rulesearch show {whole_sweep}\n"
    assert main("worker", journal) == (0, "", said)
    status, _, line = main("worker", journal, "--study", "tinny")
    assert (status, line.count("\n")) == (2, 1)
    assert "holds no 'tinny'; did you mean 'tiny'?" in line
