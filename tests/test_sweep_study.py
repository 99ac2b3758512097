"""Studies: where they are stored, who may run which trial, what the trials add up to."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_sweep import RANGES, RULE, told

from rulesearch.errors import ConfigError, RunError
from rulesearch.search.sweep import Study, StudyResult, load_sweep
from rulesearch.search.sweep.outcome import Score, front
from rulesearch.search.sweep.storage import open_claims, open_storage, shown

# -- studies and storages --


def test_a_study_goes_on_with_what_it_began_with(sweep_config: Any, tmp_path: Path) -> None:
    path = sweep_config(RANGES)

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
        ("mysql://user@host", "^storage mysql://user@host: unknown kind 'mysql'; known are"),
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


def test_a_line_torn_by_a_kill_is_cut_away(sweep_config: Any, tmp_path: Path) -> None:
    with Study.begin(load_sweep(sweep_config(RANGES)), tmp_path / "study") as study:
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


@pytest.mark.parametrize(
    "content", [b'{"schema": 1}', b'{"schema": 1, "name": "ti', b"", b"[]", b"\xff"]
)
def test_a_damaged_summary(
    content: bytes, sweep_config: Any, tmp_path: Path, run_main: Any
) -> None:
    path, folder = sweep_config(RANGES), tmp_path / "study"
    with Study.begin(load_sweep(path), folder):
        pass
    text, journal = (folder / "study.json").read_bytes(), folder / "journal.log"
    (folder / "study.json").write_bytes(content)
    for option in ((), ("--latex",), ("--json",), ("--follow",)):
        status, out, err = run_main("show", folder, *option)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"{folder}/study.json is damaged: ")
        assert err.endswith(f"; 'rulesearch worker {journal}' makes it anew from the study's "
                            "storage\n")  # fmt: skip
    with pytest.raises(RunError, match=r"study\.json is damaged"):  # another, of the same journal
        Study.begin(load_sweep(path, ["name=other"]), folder)
    with Study.begin(load_sweep(path), folder):
        assert (folder / "study.json").read_bytes() == text
    (folder / "study.json").write_bytes(content)
    journal.unlink()
    with pytest.raises(RunError, match="'rulesearch worker URL' makes it anew"):
        Study.begin(load_sweep(path), folder)
    assert not journal.exists()


# -- what the trials add up to --


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


@pytest.mark.parametrize("lifetimes", [20, 40, 59, 100])
def test_one_lifetime_that_diverges_fails_no_trial(lifetimes: int) -> None:
    for where in range(lifetimes):
        loss = np.ones(lifetimes)
        loss[where] = np.nan
        score = Score.of(RULE, 2.0, loss, np.ones(lifetimes))
        assert (score.loss, score.error) == (1.0, 0.0)


def test_two_objectives_show_the_front(sweep_config: Any, tmp_path: Path) -> None:
    path = sweep_config(RANGES.replace("trials: 12", "trials: 4\n  objectives: [loss, terms]"))
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
    assert str(result).startswith(  # four times 3 s of a run and 0.06 s beside it
        "tiny: 4 trials, 4 done; 0:00:12 of workers, 1.96% of it for the study"
    )
    lines = result.table().splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["1", "0", "2"]
    assert [line.split()[-1] for line in lines] == ["pick", "front", "front"]
