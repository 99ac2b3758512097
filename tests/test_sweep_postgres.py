"""Sweeps on a real PostgreSQL: killed workers, claims, a server that goes away and comes back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import postgres
import pytest
from sqlalchemy import create_engine, make_url, text
from tiny_sweep import assert_same, killed

from rulesearch.errors import ConfigError, RunError
from rulesearch.search.sweep import Study, StudyResult, load_sweep, work
from rulesearch.search.sweep.progress import StudyProgress
from rulesearch.search.sweep.storage import open_claims, open_storage

pytest.importorskip("psycopg", reason="psycopg, PostgreSQL's driver: pip install -e '.[postgres]'")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres.Server]:
    programs = postgres.binaries()
    if programs is None:
        pytest.skip(postgres.MISSING)
    with postgres.server(programs) as running:
        yield running


def test_workers_killed_in_mid_trial(
    server: postgres.Server, whole_sweep: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    found = killed(whole_sweep.parent / "tiny.yaml", folder, server.url, 2, 3)
    assert found["killed"] == 3
    assert_same(folder, whole_sweep, found)
    with pytest.raises(RunError, match=r"holds the study 'tiny' of postgresql://tester@"):
        Study.begin(load_sweep(whole_sweep.parent / "tiny.yaml"), folder)


def test_several_open_an_empty_database_at_once(server: postgres.Server) -> None:
    url = make_url(server.url)
    engine = create_engine(url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE DATABASE empty"))
    engine.dispose()
    empty = url.set(database="empty").render_as_string(hide_password=False)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: open_storage(empty).get_all_studies(), range(6)))
    assert found == [[]] * 6


def test_a_claim_goes_with_its_process(server: postgres.Server, tmp_path: Path) -> None:
    read, write = os.pipe()
    pid = os.fork()
    if not pid:  # takes 3, says so, and waits to be killed
        other = open_claims(server.url, "claims", tmp_path)
        os.write(write, b"y" if other.take(3) else b"n")
        signal.pause()
    assert os.read(read, 1) == b"y"
    claims = open_claims(server.url, "claims", tmp_path)
    another = open_claims(server.url, "another", tmp_path)
    assert claims.take(4)
    assert not claims.take(3)
    assert another.take(3)  # of a study of its own
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert any(claims.take(3) for _ in range(1000))  # once the server has noticed
    claims.close()
    another.close()
    os.close(read)
    os.close(write)


def test_a_server_that_goes_away(
    server: postgres.Server, whole_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rulesearch.search.sweep.worker.CHECK", 0.0)
    monkeypatch.setattr("rulesearch.search.sweep.worker.PATIENCE", (0.01, 0.01))
    sweep = load_sweep(whole_sweep.parent / "tiny.yaml", ["name=away"])
    with Study.begin(sweep, tmp_path / "study", server.url):
        pass
    updates = []

    def cut() -> bool:
        updates.append(1)
        if len(updates) == 10:
            server.stop()
        return True

    with pytest.raises(RunError, match="does not answer") as error:
        work(server.url, "away", wanted=cut)
    assert "\n" not in str(error.value)
    assert len(updates) == 10 + 2  # it stopped where it could no longer hold its claim, and waited
    with pytest.raises(RunError, match=r"tester@127.0.0.1:\d+/postgres does not answer .*refused"):
        open_storage(server.url)
    server.start()
    trials = StudyResult.load(work(server.url, "away")).content["trials"]
    assert trials == StudyResult.load(whole_sweep).content["trials"]


def test_a_server_that_comes_back_is_waited_for(
    server: postgres.Server, whole_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rulesearch.search.sweep.worker.CHECK", 0.0)
    monkeypatch.setattr("rulesearch.search.sweep.worker.PATIENCE", (0.1,) * 100)
    sweep = load_sweep(whole_sweep.parent / "tiny.yaml", ["name=back"])
    with Study.begin(sweep, tmp_path / "study", server.url):
        pass
    updates, said = [], []

    def cut() -> bool:
        updates.append(1)
        if len(updates) in (10, 30):
            server.stop()
        return True

    def say(line: str) -> None:
        said.append(line)
        if "does not answer" in line:
            server.start()

    trials = StudyResult.load(work(server.url, "back", say, cut)).content["trials"]
    assert trials == StudyResult.load(whole_sweep).content["trials"]
    lost = [line for line in said if "does not answer; tried again for 10 s" in line]
    assert len(lost) == 2  # a line each time
    assert len(updates) <= 4 * (12 + 4) + 2 * 4  # what was done since a checkpoint was done anew


def test_the_command_outlives_its_database(
    server: postgres.Server,
    whole_sweep: Path,
    tmp_path: Path,
    run_main: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rulesearch.search.sweep.command.LOOK", 0.05)
    folder, looked = tmp_path / "study", []
    lost = StudyProgress.lost
    monkeypatch.setattr(StudyProgress, "lost", lambda self: looked.append(1) or lost(self))

    def cut() -> None:
        while not list(folder.glob("trial-*/checkpoint-*.json")):
            time.sleep(0.01)
        server.stop()
        time.sleep(0.3)
        server.start()

    config = whole_sweep.parent / "tiny.yaml"
    arguments = ["--storage", server.url, "--out", folder, "--set", "name=outlived"]
    with ThreadPoolExecutor(1) as pool:
        cutting = pool.submit(cut)
        status, out, err = run_main("sweep", config, *arguments)
        cutting.result()
    assert status == 0, err
    assert looked
    assert "outlived: 4 trials, 4 done" in out
    assert (
        StudyResult.load(folder).content["trials"]
        == (StudyResult.load(whole_sweep).content["trials"])
    )


def test_several_studies_in_one_database(
    server: postgres.Server, whole_sweep: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        sweep = load_sweep(whole_sweep.parent / "tiny.yaml", [f"name={name}"])
        with Study.begin(sweep, tmp_path / name, server.url):
            pass
    with pytest.raises(ConfigError, match=r"several sweeps; it has .*one.*two.*; choose one with"):
        Study.open(server.url)
    with Study.open(server.url, "two") as study:
        assert study.folder == tmp_path / "two"
        assert study.unfinished() == [0, 1, 2, 3]
