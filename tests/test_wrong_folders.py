"""Searches, sweeps and reproductions, given to commands or with options that are for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_search import TINY
from tiny_sweep import RANGES

from rulesearch.reproduce.plan import make_plan
from rulesearch.search.folder import RunFolder
from rulesearch.search.sweep import Study, load_sweep


@pytest.fixture
def search(tmp_path: Path) -> Path:
    with RunFolder.create(tmp_path / "search", TINY, {"name": "tiny"}) as folder:
        return folder.path


@pytest.fixture
def study(tmp_path: Path, sweep_config: Any) -> Path:
    with Study.begin(load_sweep(sweep_config(RANGES)), tmp_path / "study") as study:
        return study.folder


@pytest.fixture
def reproduction(tmp_path: Path) -> Path:
    plan = make_plan("flp-table1")
    with RunFolder.create(tmp_path / "table", plan.to_yaml(), plan.manifest()) as folder:
        return folder.path


@pytest.mark.parametrize("command", ["resume", "report", "evaluate"])
def test_a_sweep_is_no_run(command: str, study: Path, run_main: Any) -> None:
    status, out, err = run_main(command, study)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"{study} is a sweep: name one of its runs, {study}/trial-*, or see ")


def test_a_folder_is_no_storage(study: Path, search: Path, run_main: Any) -> None:
    told = f"{study} is a sweep's folder; its storage is '{study}/journal.log'\n"
    assert run_main("worker", study) == (2, "", told)
    assert run_main("worker", search) == (2, "", f"{search} is a folder, no journal of a sweep\n")


def test_a_reproduction_is_no_search(reproduction: Path, run_main: Any) -> None:
    told = f"{reproduction} is a reproduction, no search; see 'rulesearch show {reproduction}'\n"
    assert run_main("evaluate", reproduction) == (2, "", told)
    assert run_main("show", reproduction, "--follow") == (2, "", told)


def test_a_search_is_no_reproduction(search: Path, run_main: Any) -> None:
    told = f"{search} holds a search, no reproduction; choose another folder with --out\n"
    assert run_main("reproduce", "flp-table1", "--out", search) == (2, "", told)
    status, out, err = run_main("reproduce", "flp-figure2", "--trained", search)
    assert (status, out) == (2, "")
    assert err == f"--trained {search}: this is no run of flp-table1\n"


def test_searches_make_no_table(search: Path, tmp_path: Path, run_main: Any) -> None:
    with RunFolder.create(tmp_path / "other", TINY, {"name": "other"}) as folder:
        other = folder.path
    for form in ((), ("--json",)):
        status, out, err = run_main("show", search, other, *form)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"{search} is a search, and only runs of one reproduction make one ")
        assert f"'rulesearch show {search}' shows it alone, 'rulesearch evaluate' compares " in err
    assert run_main("show", search, search) == run_main("show", search)


@pytest.mark.parametrize("form", ["--json", "--latex"])
def test_what_is_watched_has_no_other_form(form: str, search: Path, run_main: Any) -> None:
    told = f"--follow and {form} cannot be combined: follow it, or show it with {form}\n"
    assert run_main("show", search, "--follow", form) == (2, "", told)


def test_a_search_is_no_sweep(tmp_path: Path, run_main: Any) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY)
    status, out, err = run_main("sweep", config, "--out", tmp_path / "study")
    assert (status, out) == (2, "")
    assert err.startswith(f"{config}:1:1: this is a search, for it has no 'sweep'; run it with ")
    assert not (tmp_path / "study").exists()


def test_nothing_is_no_rule(run_main: Any) -> None:
    told = "nowhere: cannot be read as a rule or a run: there is no such file\n"
    assert run_main("evaluate", "nowhere") == (2, "", told)
