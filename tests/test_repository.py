"""The repository agrees with itself: versions, layers, sizes, imports without side effects."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import resolve_name
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import rulesearch

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rulesearch"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# From low to high; a module may import its own layer and those below. Layers on one line are
# strangers to one another. Errors, arguments, files, machine, paths, named, torch_arguments and cli
# are modules, the others are folders.
LAYERS = [
    {"errors"},
    {"arguments", "files", "machine", "paths"},
    {"named", "torch_arguments"},
    {"grammar"},
    {"compile"},
    {"rules"},
    {"networks"},
    {"learners"},
    {"tasks"},
    {"outer"},
    {"analysis"},
    {"report"},
    {"search"},
    {"reproduce"},
    {"bench"},
    {"cli"},
]
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> str | None:
    """The layer of ``rulesearch.x.y`` is x; the package itself gathers all and has none."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def imported_layers(path: Path) -> set[str]:
    """Every layer of rulesearch that a file imports, inside functions too."""
    package = module_name(path.parent / "__init__.py")
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = resolve_name("." * node.level + (node.module or ""), package)
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        ours = (layer_of(name) for name in names if name.split(".")[0] == "rulesearch")
        found |= {layer for layer in ours if layer is not None}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_run_one_way(path: Path) -> None:
    here = layer_of(module_name(path))
    if here is None or here == "__main__":
        return
    strangers = {
        name
        for name in imported_layers(path) - {here, "__version__"}
        if HEIGHT.get(name, len(LAYERS)) >= HEIGHT[here]
    }
    assert not strangers, f"{module_name(path)} imports {sorted(strangers)}, which are not below it"


def test_every_folder_has_a_layer() -> None:
    layers = {layer_of(module_name(path)) for path in SOURCES} - {None, "__main__"}
    assert layers <= set(HEIGHT)


def test_a_file_is_one_idea() -> None:
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in PACKAGE.rglob("*")
        if path.suffix in {".py", ".h", ".cpp", ".lark", ".j2"}
    }
    assert {name: count for name, count in lines.items() if count > 400} == {}


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = YAML(typ="safe", pure=True).load(ROOT / "CITATION.cff")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert project["version"] == rulesearch.__version__ == citation["version"]
    assert f"## [{project['version']}]" in changelog


def test_citation_names_the_three_papers() -> None:
    citation = YAML(typ="safe", pure=True).load(ROOT / "CITATION.cff")
    first_authors = [paper["authors"][0]["family-names"] for paper in citation["references"]]
    assert first_authors == ["Shervani-Tabar", "Lindsey", "Zucchet"]


def test_the_lock_pins_exactly_and_holds_every_dependency() -> None:
    lock = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lock if line and not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["docs"], *extras["test"], *extras["dev"]]
    names = {re.split(r"[\[<>=~! ]", item)[0] for item in wanted} - {"rulesearch"}

    def plain(name: str) -> str:
        return re.sub(r"[-_.]+", "-", name).lower()

    assert {plain(name) for name in names} <= {plain(pin.split("==")[0]) for pin in pins}


# Runs in a fresh interpreter: imports every module and says what changed in the process.
IMPORT_ALL = """
import json, logging, os, random, sys, threading, warnings
import matplotlib, numpy, optuna, rich.style, torch
def world():
    return {
        "torch seed": torch.initial_seed(),
        "torch state": torch.get_rng_state().tolist(),
        "torch threads": torch.get_num_threads(),
        "torch dtype": str(torch.get_default_dtype()),
        "numpy state": repr(numpy.random.get_state(legacy=False)),
        "random state": hash(random.getstate()),
        "environment": dict(os.environ),
        "handlers": [repr(handler) for handler in logging.getLogger().handlers],
        "pyplot": "matplotlib.pyplot" in sys.modules,
        "recursion": sys.getrecursionlimit(),
        "threads": threading.active_count(),
        "folder": sorted(os.listdir(".")),
    }
names = json.loads(sys.argv[1])
before, filters = world(), list(warnings.filters)
for name in names:
    __import__(name)
after = world()
changed = {key: [before[key], after[key]] for key in before if before[key] != after[key]}
ours = [repr(entry) for entry in warnings.filters if entry not in filters and entry[0] == "ignore"
        and entry[1] is None and entry[3] is None]
if ours:
    changed["warnings silenced"] = ours
print(json.dumps(changed, default=str))
"""


def test_modules_import_without_side_effects(tmp_path: Path) -> None:
    modules = [module_name(path) for path in SOURCES if path.name != "__main__.py"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_ALL, json.dumps(modules)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}
    assert done.stderr == ""


def test_a_wheel_carries_everything_and_works(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling builds the wheel; it is in the lock")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    installed = tmp_path / "installed"
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        wheel.extractall(installed)

    expected = {path.relative_to(ROOT) for path in PACKAGE.rglob("*") if path.is_file()}
    expected = {path for path in expected if "__pycache__" not in path.parts}
    expected |= {"rulesearch" / path.relative_to(ROOT) for path in (ROOT / "grammars").iterdir()}
    held = {path.relative_to(installed) for path in (installed / "rulesearch").rglob("*.*")}
    assert held == expected

    use = (
        "import rulesearch as r; print(r.__file__, len(r.Grammar.from_yaml('pool10').enumerate()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", use],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(installed / "rulesearch" / "__init__.py"), "10"]


def test_grammar_never_imports_torch() -> None:
    code = "import sys, rulesearch.grammar; sys.exit('torch' in sys.modules)"
    # The package's own __init__ gathers everything, so it is replaced by an empty one.
    bare = (
        "import sys, types; package = types.ModuleType('rulesearch'); "
        f"package.__path__ = [{str(PACKAGE)!r}]; sys.modules['rulesearch'] = package; "
    )
    done = subprocess.run([sys.executable, "-c", bare + code], check=False)
    assert done.returncode == 0
