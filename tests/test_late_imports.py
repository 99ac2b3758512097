"""A run under way imports nothing: an interrupt within an import ends it with no word more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_reproduction import TINY
from tiny_search import TINY as TINY_SEARCH

RUN = """
import sys
from pathlib import Path
from rulesearch.reproduce import make_plan, reproduce
from rulesearch.search import load_config, start_search

name, out, *overrides = sys.argv[1:]
known = set()

def begun(event):
    if event["event"] == "update" and not known:
        known.update(sys.modules)

if Path(name).is_file():
    start_search(load_config(Path(name), overrides), out, [begun])
else:
    reproduce(make_plan(name, "small", overrides), out, [begun])
assert known
print(*sorted(set(sys.modules) - known))
"""
# Of tests' machines and versions the rest may depend.
OURS = {"rulesearch", "numpy", "torch", "scipy", "sympy", "matplotlib", "pooch", "sklearn"}


def imported_late(name: str, tmp_path: Path, *overrides: str) -> list[str]:
    """Modules that are imported after a run's first update, from the command on."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, name, str(tmp_path / "run"), *overrides],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [module for module in done.stdout.split() if module.partition(".")[0] in OURS]


@pytest.mark.parametrize("term", ["-W", "tanh(W)"])  # with the engine, and without
def test_a_search_imports_nothing_after_its_first_update(term: str, tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(TINY_SEARCH.replace("F3: -W", f"F3: {term}"))
    assert imported_late(str(config), tmp_path, "controls=true") == []


SPIKES = (
    "updates=2", "seeds=2", "lifetimes=2", "hidden=4", "free_steps=2", "nudged_steps=2",
    "unrolled_steps=1", "truncated_steps=2", "window=1", "validate_every=1", "validation=1",
)  # fmt: skip
SINES = (
    "updates=2", "seeds=2", "episodes=2", "lifetimes=3", "functions=2", "batches=2", "examples=4",
    "hidden=[5, 5]",
)  # fmt: skip
PANELS = ("updates=1", "seeds=2", "hidden=4", "examples=10", "judged=12", "nudged_steps=2")


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("flp-table1", TINY),
        ("flp-rules", TINY),
        ("cml-table4", SPIKES),
        ("cml-continual", SINES),
        ("cml-figure1", PANELS),  # which ends in figures
    ],
)
def test_a_reproduction_imports_nothing_after_its_first_update(
    name: str, overrides: tuple[str, ...], tmp_path: Path
) -> None:
    assert imported_late(name, tmp_path, *overrides) == []
