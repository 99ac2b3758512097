"""Help: of every command, in the terminal and in the documentation."""

from __future__ import annotations

import re
from typing import Any

import pytest
from test_cli import ROOT
from typer.testing import CliRunner

import rulesearch as rs
from rulesearch import cli
from rulesearch.bench.suites import SUITES


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
