"""The README's code runs, top to bottom, as a reader would run it; only the sizes are small."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import rulesearch as rs

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALL = {
    "shots=30, queries=10": "shots=2, queries=1",
    "episodes=300, seeds=6": "episodes=4, seeds=2",
    "50, 40, 30, tasks.n_out": "50, tasks.n_out",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def test_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (grammar,) = blocks("yaml")
    name = re.match(r"# (\S+)\n", grammar)
    assert name
    Path(name[1]).write_text(grammar, encoding="utf-8")
    code = "\n".join(blocks("python"))
    for large, small in SMALL.items():
        assert code.count(large) == 1
        code = code.replace(large, small)
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102 - our own file
    result = names["result"]
    assert isinstance(result, rs.Result)
    assert str(result) in capsys.readouterr().out
    assert rs.Rule.load("runs/mine/rule.json") == result.rule
    accuracy, dW = names["accuracy"], names["dW"]
    assert isinstance(accuracy, torch.Tensor)
    assert 0 <= float(accuracy) <= 1
    assert isinstance(dW, torch.Tensor)
    assert dW.shape == (50, 64)


def test_commands_exist():
    (commands,) = blocks("bash")
    targets = re.findall(r"^make (\w+)", commands, flags=re.MULTILINE)
    assert targets
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_links_lead_somewhere(link):
    assert "://" in link or (ROOT / link).exists()
