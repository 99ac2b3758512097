"""Help: of every command, in the terminal and in the documentation."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_cli import ROOT
from typer.testing import CliRunner

import rulesearch as rs
from rulesearch import cli
from rulesearch.__main__ import WAITING
from rulesearch.bench.suites import SUITES
from rulesearch.reproduce import REPRODUCTIONS


@pytest.mark.parametrize(
    "command",
    ["", "enumerate", "check", "search", "resume", "show", "report", "evaluate", "data",
     "data list", "data fetch"],
)  # fmt: skip
def test_help(command: str) -> None:
    shown = CliRunner().invoke(cli.app, [*command.split(), "--help"], prog_name="rulesearch")
    assert shown.exit_code == 0
    assert f"Usage: rulesearch {command}".strip() in shown.output
    assert shown.output == CliRunner().invoke(cli.app, [*command.split(), "-h"],
                                              prog_name="rulesearch").output  # fmt: skip


def test_every_suite_is_listed() -> None:
    shown = CliRunner().invoke(cli.app, ["bench", "--help"], env={"COLUMNS": "400"}).output
    listed = set(re.split(r"[ ,.│]+", shown))
    assert {"main", "steps-one", "terms-dense", "flp", "cml", "compile", "all"} <= listed
    assert set(SUITES) <= listed


def test_whose_networks_are_taken_is_told() -> None:
    shown = CliRunner().invoke(cli.app, ["reproduce", "--help"], env={"COLUMNS": "400"}).output
    taking = {name for name, each in REPRODUCTIONS.items() if each.trained_by is not None}
    assert taking <= set(re.findall(r"[\w-]+", shown))


@pytest.mark.parametrize(
    ("said", "spins"),
    [
        ({}, "30000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None),
    ],
)
def test_threads_do_not_wait_long_unless_the_user_says_so(
    said: dict[str, str], spins: str | None, monkeypatch: pytest.MonkeyPatch, run_main: Any
) -> None:
    for name in WAITING:
        monkeypatch.setenv(name, "")  # as it is now, afterwards
        monkeypatch.delenv(name)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    run_main("--version")
    assert os.environ.get("GOMP_SPINCOUNT") == spins


def test_torch_is_not_loaded_before_its_threads_are_told() -> None:
    code = "import sys, rulesearch.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_command_is_documented() -> None:
    documented = (ROOT / "docs" / "cli.md").read_text()
    listed = set(re.findall(r"^rulesearch (\w+)", documented, re.MULTILINE))
    known = {
        info.name or info.callback.__name__  # type: ignore[union-attr]
        for info in cli.app.registered_commands
    } | {group.name for group in cli.app.registered_groups}
    assert listed == known


def test_the_version(run_main: Any) -> None:
    assert run_main("--version") == (0, f"rulesearch {rs.__version__}\n", "")


# -- Ctrl-C before a command has begun --


@pytest.mark.parametrize("module", ["rulesearch.cli", "rulesearch.search.command"])
def test_an_interrupt_while_modules_are_imported(
    module: str, run_main: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Interrupted:
        def find_spec(self, name: str, *_: object) -> None:
            if name == module:
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    assert run_main("search", tmp_path / "x.yaml") == (3, "", "interrupted\n")


SWALLOWED = """
import os, signal, sys

class Swallows:
    def find_spec(self, name, *_):
        if name == "rulesearch.search.command":
            try:
                os.kill(os.getpid(), signal.SIGINT)
                sum(range(1000))
            except BaseException:
                pass

sys.meta_path.insert(0, Swallows())
sys.argv = ["rulesearch", "search", "nowhere.yaml"]
from rulesearch.__main__ import main
main()
"""


def test_an_interrupt_that_a_library_would_swallow() -> None:
    command = [sys.executable, "-c", SWALLOWED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "interrupted\n")


# -- what a mistaken word may have meant --


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["serach"],
            "No such command 'serach'. Did you mean 'search'? Else see 'rulesearch --help'",
        ),
        (["reproduce", "lst"], "unknown reproduction 'lst'; did you mean 'list'?"),
        (
            ["evaluate", "x", "--seed", "-1"],
            "Invalid value for '--seed': Input should be greater than or equal to 0; see ",
        ),
        (["search", "x.yaml", "--out", ""], "Invalid value for '--out': name a folder; see 'ru"),
        (
            ["bench", "--out", "none/x.json"],
            "none/x.json cannot be written: there is no folder none",
        ),
    ],
)
def test_refusals_name_the_remedy(arguments: list[str], told: str, run_main: Any) -> None:
    status, out, err = run_main(*arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(told)
