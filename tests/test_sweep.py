"""Sweeps: what is swept, the same again, killed workers, pruning, the front, the commands."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

import rulesearch as rs
from rulesearch import cli
from rulesearch.errors import ConfigError, GrammarError, RunError
from rulesearch.search.run import start_search
from rulesearch.search.sweep import Study, StudyResult, load_sweep, work
from rulesearch.search.sweep.outcome import Score, front
from rulesearch.search.sweep.storage import open_claims, open_storage, shown

HERE = Path(__file__).parent
ROOT = HERE.parent
BASE = """\
name: tiny
grammar: {terms: {F0: {expr: -e_post * y_pre.T, init: 1.0e-3}, F2: -e_post * e_pre.T, F3: -W}}
network: {hidden: [8]}
tasks: {data: digits, ways: 3, shots: 4, queries: 4}
episodes: 12
seeds: 2
refit_episodes: 4
controls: false
optimiser: {rate: 1.0e-3}
checkpoint_every: 4
sweep:
  lifetimes: 20
"""
GRID = BASE + "  over: {penalty.lam: [1, 5], network.hidden: [[8], [8, 6]]}\n"
RULE = rs.Rule(rs.Grammar.from_yaml("pool10").enumerate(), {"F0": 1e-3, "F9": 2e-3})


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str, name: str = "tiny.yaml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


def swept(config: Path, folder: Path) -> StudyResult:
    """A sweep with one worker, in this process."""
    with Study.begin(load_sweep(config), folder) as study:
        url = study.url
    return StudyResult.load(work(url))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep over a grid that nothing disturbed, its configuration beside it."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "tiny.yaml").write_text(GRID)
    return swept(folder / "tiny.yaml", folder / "whole").path


# -- what is swept --


def test_a_grid_has_every_combination_once(whole: Path) -> None:
    result = StudyResult.load(whole)
    values = [trial["values"] for trial in result.content["trials"]]
    lists = [(lam, hidden) for lam in (1, 5) for hidden in ([8], [8, 6])]
    assert [(v["penalty.lam"], v["network.hidden"]) for v in values] == lists
    assert result.counts() == {"done": 4}
    for k, (lam, hidden) in enumerate(lists):
        manifest = json.loads((whole / f"trial-{k:04d}" / "manifest.json").read_text())
        assert manifest["network"]["sizes"] == [64, *hidden, 10]
        assert {row["lam"] for row in manifest["rows"]} == {lam}


def test_a_trial_is_a_run_like_any_other(whole: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.yaml"
    alone.write_text(GRID[: GRID.index("sweep:")] + "penalty: {lam: 5}\n")
    run = start_search(rs.search.load_config(alone), tmp_path / "run").path
    for name in ("result.json", "events.jsonl"):
        assert (run / name).read_bytes() == (whole / "trial-0002" / name).read_bytes()


RANGES = (
    BASE
    + """\
  over:
    penalty.lam: {low: 1, high: 50, log: true}
    optimiser.meta_batch: {low: 1, high: 3}
    network.feedback: [random, symmetric]
  trials: 12
"""
)


def test_ranges_are_whole_where_the_setting_counts(config: Any) -> None:
    distributions = load_sweep(config(RANGES)).distributions
    assert {k: type(d).__name__ for k, d in distributions.items()} == {
        "penalty.lam": "FloatDistribution",
        "optimiser.meta_batch": "IntDistribution",
        "network.feedback": "CategoricalDistribution",
    }


def told(study: Study, number: int, loss: float, terms: int = 2) -> None:
    """Finish a trial without running it."""
    assert study.take() == number
    study.start(number)
    score = Score([loss] * 20, 0.5, 1.0, ["F0", "F9", "F3"][:terms], RULE.to_json())
    study.finish(number, score)
    study.release(number)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_seed_gives_the_same_trials(sampler: str, config: Any, tmp_path: Path) -> None:
    path = config(f"{RANGES}  sampler: {sampler}\n")

    def values(name: str, *overrides: str) -> list[Any]:
        with Study.begin(load_sweep(path, overrides), tmp_path / name) as study:
            for number in range(12):
                told(study, number, (number * 7) % 5)
            return [study.sweep.values(trial.params) for trial in study.trials()]

    first = values("first")
    assert values("second") == first
    assert values("third", "sweep.seed=1") != first
    lams = [v["penalty.lam"] for v in first]
    assert len(set(lams)) == 12
    assert min(lams) >= 1
    assert max(lams) <= 50


def test_a_trial_left_half_chosen_is_chosen_the_same(config: Any, tmp_path: Path) -> None:
    path = config(RANGES)
    with Study.begin(load_sweep(path), tmp_path / "one") as study:
        wanted = study.start(0)
    with Study.begin(load_sweep(path), tmp_path / "two") as study:
        study._storage.set_trial_state_values(study._id(0), 0)  # running, and nothing more
        assert study.trials()[0].params == {}
        assert study.start(0) == wanted
        assert study.trials()[0].params == wanted


def test_grammars_in_files_go_with_the_study(config: Any, tmp_path: Path) -> None:
    one = config("name: one\nterms: {A: {expr: -e_post * y_pre.T, init: 1.0e-3}}\n", "one.yaml")
    text = GRID.replace("network.hidden: [[8], [8, 6]]", "grammar: [one.yaml, pool10]")
    with Study.begin(load_sweep(config(text)), tmp_path / "study") as study:
        url = study.url
    one.unlink()
    with Study.open(url) as study:
        experiment = study.sweep.experiment({"grammar": "one.yaml"})
        assert experiment.pool.names == ("A",)
        assert len(study.sweep.experiment({"grammar": "pool10"}).pool) == 10


MISTAKES = [
    ("{penalty.lamb: [1, 2]}", 13, "unknown key 'lamb'; did you mean 'lam'?"),
    ("{optimizer.rate: [1, 2]}", 13, "unknown key 'optimizer'; did you mean 'optimiser'?"),
    ("{penalty.lam: [1, -2]}", 13, "'lam': should be greater than or equal to 0"),
    ("{penalty.lam: [1, 1]}", 13, "should not hold one value twice"),
    ("{penalty.lam: {low: 2, high: 1}}", 13, "'low' should be below 'high'"),
    ("{penalty.lam: {low: 1, high: 2, logg: true}}", 13, "unknown key 'logg'; did you mean 'log'?"),
    ("{tasks.ways: [3, 99]}", 13, "tasks.ways: data set 'digits': 99-way tasks need 99 classes"),
    ("{episodes.x: [3, 4]}", 13, "'episodes' is a value, there is nothing in it to set"),
    ("{penalty.lam: {low: 1, high: 2}}", 12, "missing key 'trials': how many"),
    ("{penalty.lam: [1, 2]}\n  trials: 7", 12, "this grid has 2 trials"),
    ("{penalty.lam: [1, 2]}\n  pruner: medain", 14, "did you mean 'median'?"),
    ("{penalty.lam: [1, 2]}\n  pruner: median\n  objectives: [loss, terms]", 12, "one objective"),
    ("{}", 13, "at least 1 item"),
]


@pytest.mark.parametrize(("over", "line", "message"), MISTAKES)
def test_mistakes_are_told_with_their_place(
    over: str, line: int, message: str, config: Any
) -> None:
    path = config(f"{BASE}  over: {over}\n")
    with pytest.raises((ConfigError, GrammarError)) as error:
        load_sweep(path)
    assert str(error.value).startswith(f"{path}:{line}:")
    assert message in str(error.value)


def test_a_search_of_a_sweep_is_refused(config: Any) -> None:
    path = config(GRID)
    with pytest.raises(ConfigError, match=f"^{path}:11:1: this is a sweep; run it with"):
        rs.search.load_config(path)


@pytest.mark.parametrize("example", sorted((ROOT / "examples" / "sweep").glob("*.yaml")))
def test_examples_are_sound(example: Path) -> None:
    text = example.read_text()
    if example.name == "compose.yaml":
        services = YAML(typ="safe", pure=True).load(text)["services"]
        assert {"database", "worker"} <= set(services)
        assert all(set(s.get("depends_on", {})) <= set(services) for s in services.values())
    else:
        assert load_sweep(example).trials > 1


# -- studies and storages --


def test_a_study_goes_on_with_what_it_began_with(config: Any, tmp_path: Path) -> None:
    path = config(RANGES)

    def begin(*overrides: str, folder: Path = tmp_path / "study") -> int:
        with Study.begin(load_sweep(path, overrides), folder) as study:
            return len(study.unfinished())

    assert begin() == 12
    assert begin("sweep.trials=15") == 15  # more are welcome
    with pytest.raises(ConfigError, match="more trials already"):
        begin()
    with pytest.raises(ConfigError, match="'episodes' is not what the study 'tiny' began with"):
        begin("episodes=21", "sweep.trials=15")
    with pytest.raises(RunError, match=r"holds the study 'tiny' of .*journal.log; go on"):
        begin("name=other")
    with pytest.raises(RunError, match="is no study"):
        begin(folder=tmp_path)


def test_storages_are_refused_in_one_line(tmp_path: Path) -> None:
    for url, message in [
        ("mysql://user@host/base", "unknown kind 'mysql'; known are"),
        ("postgressql://user@host/base", "did you mean 'postgresql'"),
        ("postgresql://user@host:port/base", "write postgresql://user@host:port/database"),
        (str(tmp_path / "none.log"), "there is no such journal"),
        (f"journal://{tmp_path}/none.log", "there is no such journal"),
    ]:
        with pytest.raises((ConfigError, RunError), match=message):
            open_storage(url)
    (tmp_path / "some.log").write_text("no JSON\n" * 2)
    with pytest.raises(RunError, match="is no journal of a study"):
        open_storage(str(tmp_path / "some.log"))
    assert shown("postgresql://user:secret@host/base") == "postgresql://user:***@host/base"


def test_a_line_torn_by_a_kill_is_cut_away(config: Any, tmp_path: Path) -> None:
    with Study.begin(load_sweep(config(RANGES)), tmp_path / "study") as study:
        pass
    with (tmp_path / "study" / "journal.log").open("ab") as journal:
        journal.write(b'{"op_code": 5, "worker')
    with Study.open(study.url) as study:
        told(study, 0, 1.0)
    with Study.open(study.url) as study:
        assert study.unfinished() == list(range(1, 12))
    lines = (tmp_path / "study" / "journal.log").read_text().splitlines()
    assert [line for line in lines if not json.loads(line)] == []


def test_a_claim_goes_with_its_process(tmp_path: Path) -> None:
    claims = open_claims(str(tmp_path / "journal.log"), "tiny", tmp_path)
    read, write = os.pipe()
    pid = os.fork()
    if not pid:  # takes 3, says so, and waits to be killed
        other = open_claims(str(tmp_path / "journal.log"), "tiny", tmp_path)
        os.write(write, b"y" if other.take(3) else b"n")
        signal.pause()
    assert os.read(read, 1) == b"y"
    assert claims.take(4)
    assert not claims.take(3)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert claims.take(3)
    claims.close()
    os.close(read)
    os.close(write)


# -- workers --


def killed(config: Path, folder: Path, url: str, workers: int, kills: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, HERE / "killed_sweep.py", config, folder, url, str(workers), str(kills)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def assert_same(folder: Path, whole: Path, found: dict[str, Any]) -> None:
    """Nothing was lost or run twice, and trials went on from their checkpoints."""
    ours, theirs = (json.loads((f / "study.json").read_text()) for f in (folder, whole))
    assert ours["trials"] == theirs["trials"]
    assert (ours["front"], ours["pick"]) == (theirs["front"], theirs["pick"])
    for trial in sorted(whole.glob("trial-*")):
        for name in ("result.json", "events.jsonl", "rule.json"):
            assert (folder / trial.name / name).read_bytes() == (trial / name).read_bytes()
    assert len(set(found["ends"])) == len(found["ends"])
    events = [path.read_text() for path in whole.glob("trial-*/events.jsonl")]
    needed = sum(text.count('"event":"update"') for text in events)
    assert needed <= found["updates"] <= needed + 4 * found["killed"]  # a checkpoint every 4


def test_workers_killed_in_mid_trial(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    found = killed(whole.parent / "tiny.yaml", folder, str(folder / "journal.log"), 2, 4)
    assert found["killed"] == 4
    assert_same(folder, whole, found)


def test_a_trial_killed_as_its_folder_was_made(whole: Path, tmp_path: Path) -> None:
    with Study.begin(load_sweep(whole.parent / "tiny.yaml"), tmp_path / "study") as study:
        half = study.run_folder(0)
    half.mkdir()
    (half / "config.yaml").write_text("half")
    result = StudyResult.load(work(study.url))
    assert result.content["trials"] == StudyResult.load(whole).content["trials"]


def test_a_trial_that_makes_no_search_fails_and_says_why(config: Any, tmp_path: Path) -> None:
    text = f"{BASE}  over: {{tasks.ways: [3, 8], tasks.hold_out: [0, 4]}}\n"
    result = swept(config(text.replace("episodes: 12", "episodes: 2")), tmp_path / "study")
    states = {tuple(t["values"].values()): t["state"] for t in result.content["trials"]}
    assert states == {(3, 0): "done", (3, 4): "done", (8, 0): "done", (8, 4): "failed"}
    assert "trial 3 failed: data set 'digits': 8-way tasks need 8 classes" in str(result)


def test_a_trial_that_diverges_fails_and_says_why(config: Any, tmp_path: Path) -> None:
    text = BASE.replace("rate: 1.0e-3", "reject: false").replace("episodes: 12", "episodes: 6")
    path = config(f"{text}  over: {{optimiser.rate: [1.0e-3, 1.0e+6]}}\n")
    result = swept(path, tmp_path / "study")
    assert result.counts() == {"done": 1, "failed": 1}
    assert "trial 1 failed: a lifetime diverged at update 1 of 'search'" in str(result)


def test_hopeless_trials_are_given_up(config: Any, tmp_path: Path) -> None:
    path = config(f"{RANGES}  pruner: median\n".replace("trials: 12", "trials: 6"))
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


# -- what they add up to --


def test_the_front_and_the_pick() -> None:
    points = [(0.5, 3), (0.4, 4), (0.6, 1), (0.6, 2), (0.9, 1), (0.4, 5)]
    beaten = {
        k for k, p in enumerate(points) for q in points if q != p and q[0] <= p[0] and q[1] <= p[1]
    }
    assert set(front(points)) == set(range(len(points))) - beaten
    assert front(points) == [1, 0, 2]


def test_a_score_is_the_mean_of_twenty_medians() -> None:
    rng = np.random.default_rng(0)
    loss = rng.random(200)
    loss[7], loss[100] = 1e9, np.nan  # one of ten does not move a median far
    score = Score.of(RULE, 2.0, loss, np.where(np.isfinite(loss), 0.25, np.nan))
    medians = np.median(np.where(np.isnan(loss), np.inf, loss).reshape(20, 10), axis=1)
    assert score.losses == medians.tolist()
    assert score.loss == pytest.approx(medians.mean())
    assert score.error == pytest.approx(medians.std(ddof=1) / np.sqrt(20))
    assert score.accuracy == 0.25
    assert score.values(["loss", "terms"]) == [score.loss, 2.0]


def test_two_objectives_show_the_front(config: Any, tmp_path: Path) -> None:
    path = config(RANGES.replace("trials: 12", "trials: 4\n  objectives: [loss, terms]"))
    losses, terms = [0.5, 0.4, 0.6, 0.45], [2, 3, 1, 3]
    with Study.begin(load_sweep(path), tmp_path / "study") as study:
        for number in range(4):
            told(study, number, losses[number], terms[number])
        study.record()
        assert [t.values for t in study.trials()] == [
            [loss, float(n)] for loss, n in zip(losses, terms, strict=True)
        ]
        assert sorted(t.number for t in study._study.best_trials) == [0, 1, 2]
    result = StudyResult.load(tmp_path / "study")
    assert result.content["front"] == [1, 0, 2]
    assert result.content["pick"] == 1  # equal losses in every group: no error to be within
    lines = result.table().splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["1", "0", "2"]
    assert [line.split()[-1] for line in lines] == ["pick", "front", "front"]


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
def main(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run ``rulesearch ...`` in this process: status, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rulesearch", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0), *capsys.readouterr()

    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)


def test_the_command_replaces_workers_stops_and_goes_on(
    whole: Path, tmp_path: Path, main: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    monkeypatch.setattr("rulesearch.search.sweep.command.LOOK", 0.05)
    folder = tmp_path / "study"
    arguments = ["sweep", whole.parent / "tiny.yaml", "--out", folder]
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
    ours, theirs = (json.loads((f / "study.json").read_text()) for f in (folder, whole))
    assert ours["trials"] == theirs["trials"]
    assert main("show", folder)[1] == out
    assert json.loads(main("show", folder, "--json")[1]) == ours
    rule = rs.Rule.load(folder / f"trial-{ours['pick']:04d}" / "rule.json")
    assert main("show", folder, "--latex")[1].strip().endswith(rule.latex())


def test_a_worker_with_nothing_to_do(whole: Path, main: Any) -> None:
    journal = whole / "journal.log"
    said = f"all trials are finished: rulesearch show {whole}\n"
    assert main("worker", journal) == (0, "", said)
    status, _, line = main("worker", journal, "--study", "tinny")
    assert (status, line.count("\n")) == (2, 1)
    assert "holds no 'tinny'; did you mean 'tiny'?" in line
