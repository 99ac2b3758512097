"""Workers of a sweep: killed ones, trials that come to nothing, the pick's stability, commands."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tiny_sweep import BASE, RANGES, assert_same, killed, swept, told

import rulesearch as rs
from rulesearch.errors import RunError
from rulesearch.report.result import Result
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
    text = f"{BASE}  over: {{tasks.shots: [4, 120], tasks.queries: [4, 120]}}\n"
    result = swept(sweep_config(text.replace("episodes: 12", "episodes: 2")), tmp_path / "study")
    states = {tuple(t["values"].values()): t["state"] for t in result.content["trials"]}
    assert states == {(4, 4): "done", (4, 120): "done", (120, 4): "done", (120, 120): "failed"}
    assert "trial 3 failed: data set 'digits': class '8' has 174 images but" in str(result)


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


def test_a_trial_whose_lifetimes_diverge_is_hopeless(sweep_config: Any, tmp_path: Path) -> None:
    text = BASE.replace("F3: -W", "F3: {expr: y_post * y_pre.T, init: 1.0e+6}")
    path = sweep_config(f"{text}  over: {{penalty.lam: [1]}}\n  pruner: median\n")
    result = swept(path, tmp_path / "study")  # no other trial is there to be compared with
    assert result.counts() == {"pruned": 1}
    events = (tmp_path / "study/trial-0000/events.jsonl").read_text().splitlines()
    updates = [e for e in map(json.loads, events) if e["event"] == "update"]
    assert 3 <= len(updates) < 12  # after the warm-up, before the end
    assert all(sum(e["rejected"]) == 2 for e in updates)


def test_hyperband_gives_more_to_the_better(sweep_config: Any, tmp_path: Path) -> None:
    path = sweep_config(f"{RANGES}  pruner: hyperband\n".replace("trials: 12", "trials: 30"))
    reached: dict[int, int] = {}
    with Study.begin(load_sweep(path), tmp_path / "study") as study:
        for number in range(30):
            study.start(number)
            loss = 1.0 + (number * 7) % 30  # every loss once, in no order
            steps = (s for s in range(1, 21) if study.report(number, s, loss))
            reached[number] = next(steps, 21)
            if reached[number] > 20:
                told(study, number, loss)
            else:
                study.prune(number)
        states = StudyResult(tmp_path, study._content()).counts()
    best, worst = 0, (29 * 13) % 30  # 7 * 13 is 1 modulo 30
    assert reached[best] == 21
    assert reached[worst] < 21
    assert states["pruned"] >= 10
    assert states["done"] >= 3
    half = sorted(reached, key=lambda n: (n * 7) % 30)
    assert sum(reached[n] for n in half[:15]) > sum(reached[n] for n in half[15:])


def test_without_a_pruner_no_event_is_read_again(
    sweep_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr("rulesearch.search.sweep.worker.RunData.load", refuse)
    path = sweep_config(f"{BASE}  over: {{penalty.lam: [1]}}\n")
    assert swept(path, tmp_path / "study").counts() == {"done": 1}


# -- workers that die --


def died(url: str, when: Callable[[str], bool]) -> bool:
    """Let a worker work in a process of its own that dies as it says some line; did it?"""
    pid = os.fork()
    if not pid:
        try:
            work(url, say=lambda line: os.kill(os.getpid(), signal.SIGKILL) if when(line) else None)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


@pytest.mark.usefixtures("one_thread")
def test_a_trial_that_its_workers_die_of_is_given_up(whole_sweep: Path, tmp_path: Path) -> None:
    with Study.begin(load_sweep(whole_sweep.parent / "tiny.yaml"), tmp_path / "study") as study:
        url = study.url
    for _ in range(7):  # who is interrupted has not died

        def interrupted(line: str) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            work(url, say=interrupted)
    deaths = sum(died(url, lambda line: line.startswith("trial 1: penalty")) for _ in range(6))
    assert deaths == 5
    result = StudyResult.load(tmp_path / "study")
    assert result.counts() == {"done": 3, "failed": 1}
    assert "trial 1 failed: its process died 5 times with no checkpoint" in str(result)
    whole = StudyResult.load(whole_sweep).content["trials"]
    assert [t for t in result.content["trials"] if t["number"] != 1] == whole[:1] + whole[2:]


@pytest.mark.usefixtures("one_thread")
def test_deaths_with_a_checkpoint_between_are_no_reason(whole_sweep: Path, tmp_path: Path) -> None:
    with Study.begin(load_sweep(whole_sweep.parent / "tiny.yaml"), tmp_path / "study") as study:
        run = study.run_folder(0)
        run.mkdir()
        for update in range(12):
            assert study.take() == 0
            study._claims.release(0)  # as a death does
            (run / f"checkpoint-search-{update // 4:06d}.json").write_text("{}")
        assert study.take() == 0
        assert [study.take() for _ in range(5)] == [0, 1, 1, 1, 1]  # four more at the same place
        assert study.trials()[0].user_attrs["reason"].endswith("see what ended the workers")


def test_a_pick_whose_halves_kill_is_left_without(sweep_config: Any, tmp_path: Path) -> None:
    swept(sweep_config(BASE + "  over: {penalty.lam: [1, 5]}\n"), tmp_path / "study")
    with Study.open(str(tmp_path / "study" / "journal.log")) as study:
        study.sweep.config["stability"] = {"pairs": 2}  # as if it had been asked for
        [pick] = study.unproven()
        for _ in range(5):
            assert study.take() == pick
            study._claims.release(pick)
        assert study.take() is None
        assert study.left() == []
    text = str(StudyResult.load(tmp_path / "study"))
    assert "no worker can tell the pick's stability: its process died 5 times with" in text


def test_a_damaged_result_is_made_anew(whole_sweep: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    with Study.begin(load_sweep(whole_sweep.parent / "tiny.yaml"), folder) as study:
        url = study.url
    shutil.copytree(whole_sweep / "trial-0000", folder / "trial-0000")
    path = folder / "trial-0000" / "result.json"
    text = path.read_text()
    where = text.index('"coefficients"') + 30  # in a digit, so that it is a number still
    where += next(k for k, c in enumerate(text[where:]) if c in "2345")
    path.write_text(text[:where] + chr(ord(text[where]) ^ 1) + text[where + 1 :])
    json.loads(path.read_text())
    with pytest.raises(RunError, match=r"result.json is damaged: .* 'rulesearch resume"):
        Result.load(path.parent)
    result = StudyResult.load(work(url))
    assert result.content["trials"] == StudyResult.load(whole_sweep).content["trials"]
    assert path.read_text() == text


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


def test_the_command_replaces_workers_stops_and_goes_on(
    whole_sweep: Path, tmp_path: Path, run_main: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setattr("rulesearch.search.sweep.command.LOOK", 0.05)
    folder = tmp_path / "study"
    arguments = ["sweep", whole_sweep.parent / "tiny.yaml", "--out", folder]
    killer = ThreadPoolExecutor(1)
    kills = killer.submit(interrupted_once, folder)
    status, out, err = run_main(*arguments)
    kills.result()
    assert (status, out) == (3, "")
    assert "interrupted; " in err.splitlines()[-1]
    assert "the same command goes on with them" in err.splitlines()[-1]
    with (folder / ".claims").open("ab") as claims:
        fcntl.lockf(claims, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no worker is left

    assert run_main("worker", folder / "journal.log")[0] == 0
    status, out, _ = run_main(*arguments)
    assert status == 0
    assert "tiny: 4 trials, 4 done" in out
    ours, theirs = (json.loads((f / "study.json").read_text()) for f in (folder, whole_sweep))
    assert ours["trials"] == theirs["trials"]
    assert run_main("show", folder)[1] == out
    shown = json.loads(run_main("show", folder, "--json")[1])
    assert {**shown, "sha256": ours["sha256"]} == ours
    rule = rs.Rule.load(folder / f"trial-{ours['pick']:04d}" / "rule.json")
    assert run_main("show", folder, "--latex")[1].strip().endswith(rule.latex())


def test_a_sweep_without_a_rule_says_so(sweep_config: Any, tmp_path: Path, run_main: Any) -> None:
    text = BASE.replace("rate: 1.0e-3", "reject: false").replace("episodes: 12", "episodes: 6")
    path = sweep_config(f"{text}  over: {{optimiser.rate: [1.0e+6, 1.0e+7]}}\n")
    folder = tmp_path / "study"
    status, out, err = run_main("sweep", path, "--out", folder)
    said = f"{folder}: no trial came to a rule: 2 failed; trial 0: a lifetime diverged at update 1"
    assert status == 2
    assert "trial 1 failed: a lifetime diverged" in out
    assert err.splitlines()[-1].startswith(said)
    assert run_main("show", folder)[:2] == (0, out)
    status, out, err = run_main("show", folder, "--latex")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(said)


def test_a_sweep_is_followed_to_its_end(
    sweep_config: Any, tmp_path: Path, run_main: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rulesearch.search.sweep.command.LOOK", 0.05)
    folder, begun = tmp_path / "study", time.monotonic()
    run_main("sweep", sweep_config(HALVED), "--out", folder, "--workers", 0)
    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(work, str(folder / "journal.log"))
        status, out, err = run_main("show", folder, "--follow")
        worker.result()
    assert (status, out) == (0, run_main("show", folder)[1])
    assert "trials 2/2" in err
    spent = json.loads((folder / "study.json").read_text())["seconds"]
    assert min(spent.values()) > 0
    assert sum(spent.values()) < time.monotonic() - begun


def test_a_worker_with_nothing_to_do(whole_sweep: Path, run_main: Any) -> None:
    journal = whole_sweep / "journal.log"
    said = f"all trials are finished: rulesearch show {whole_sweep}\n"
    assert run_main("worker", journal) == (0, "", said)
    status, _, line = run_main("worker", journal, "--study", "tinny")
    assert (status, line.count("\n")) == (2, 1)
    assert "holds no 'tinny'; did you mean 'tiny'?" in line
