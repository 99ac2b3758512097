"""Code in the documentation: each page's, from its top, names nothing that it has not made."""

from __future__ import annotations

import ast
import builtins
import re
from pathlib import Path

import pytest
import torch

import rulesearch as rs

DOCS = Path(__file__).parent.parent / "docs"


def blocks(page: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


PAGES = sorted(page.name for page in DOCS.glob("*.md") if blocks(page.name))


def names(code: str) -> tuple[set[str], set[str]]:
    """Names that code reads, and those that it makes."""
    read, made = set(), set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                read.add(name)
            case ast.Name(id=name) | ast.arg(arg=name):
                made.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                made.add(name)
            case ast.alias(name=name, asname=other):
                made.add(other or name.split(".")[0])
    return read, made


@pytest.mark.parametrize("page", PAGES)
def test_names_are_made_before_they_are_read(page: str) -> None:
    known = set(dir(builtins))
    for code in blocks(page):
        read, made = names(code)
        known |= made
        assert read <= known


def test_pages_on_searches_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of searching and of runs, one after another; only the sizes are small."""
    monkeypatch.chdir(tmp_path)
    [search], [run] = blocks("searching.md"), blocks("runs.md")
    for large, small in {
        "shots=50, queries=10": "shots=2, queries=2",
        "episodes=600, seeds=20": "episodes=4, seeds=2",
        "32, 32": "8",
    }.items():
        assert search.count(large) == 1
        search = search.replace(large, small)
    found: dict[str, object] = {}
    for code in (search, run):
        exec(compile(code, "docs", "exec"), found)  # noqa: S102 - our own files
    result = found["result"]
    assert isinstance(result, rs.Result)
    assert [entry["lam"] for entry in result.content["front"]] == [5, 10, 20]


def test_sines_of_the_page_on_data() -> None:
    found: dict[str, object] = {"rs": rs}
    exec(compile(blocks("data.md")[-1], "docs", "exec"), found)  # noqa: S102 - our own file
    x, target = found["x"], found["target"]
    assert isinstance(x, torch.Tensor)
    assert isinstance(target, torch.Tensor)
    assert x.shape[:2] == target.shape[:2] == (1, 1000)  # a hundred of each of ten sines
