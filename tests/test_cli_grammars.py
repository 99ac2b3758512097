"""The commands that read a grammar, and hostile ones in a process each."""

from __future__ import annotations

import json
import re
import resource
from pathlib import Path
from typing import Any

import pytest
from hostile import corpus
from test_cli import ROOT, process


def test_enumerate(run_main: Any) -> None:
    status, out, _ = run_main("enumerate", "pool10")
    lines = out.splitlines()
    assert status == 0
    assert lines[0].split() == ["term", "expression", "locality", "start"]
    assert [line.split()[0] for line in lines[1:]] == [f"F{i}" for i in range(10)]
    status, out, _ = run_main("enumerate", ROOT / "grammars" / "bio.yaml", "--latex")
    assert status == 0
    assert all(re.match(r"\w+: .*\\mathbf", line) for line in out.splitlines())
    status, out, _ = run_main("enumerate", "pool10", "--json")
    terms = json.loads(out)
    assert [term["name"] for term in terms] == [f"F{i}" for i in range(10)]
    assert {"expr", "latex", "locality", "degree", "init", "about"} <= terms[0].keys()


@pytest.mark.parametrize("command", [("enumerate", "pool10"), ("show", "nowhere")])
def test_one_form_at_a_time(run_main: Any, command: tuple[str, str]) -> None:
    status, out, err = run_main(*command, "--latex", "--json")
    assert (status, out) == (2, "")
    assert err == "--latex and --json are two forms of one thing: give one of them\n"


def test_check(run_main: Any, tmp_path: Path) -> None:
    assert run_main("check", "quadratic")[0] == 0
    path = tmp_path / "mine.yaml"
    path.write_text("terms:\n  F0: -e_pst * y_pre.T\n")
    status, out, err = run_main("check", path)
    assert (status, out) == (2, "")
    assert err == f"{path}:2:8: unknown symbol 'e_pst'; did you mean 'e_post'?\n"


# Every third of the corpus, in a process each; test_hostile_grammars.py takes all of it in one.
HOSTILE = list(corpus().items())[::3]
assert len(HOSTILE) >= 30


@pytest.mark.parametrize(("name", "content"), HOSTILE, ids=[name for name, _ in HOSTILE])
def test_hostile_grammars_end_in_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_bytes(content)
    limit = 500_000_000

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CPU, (10, 10))  # seconds of work, whatever else runs

    done = process("check", path, cwd=tmp_path, preexec_fn=small)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"{re.escape(str(path))}:\d+:\d+: [^\n]+\n", done.stderr)
    assert [p.name for p in tmp_path.iterdir()] == ["hostile.yaml"]
