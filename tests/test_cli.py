"""The command line: what it prints, and how it refuses."""

from __future__ import annotations

import gzip
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rulesearch as rs

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-W", "error", "-m", "rulesearch"]
ENDS = ("rule.json", "result.json", "events.jsonl")

TINY = """\
name: tiny
grammar: pool10
network: {hidden: [40]}
tasks: {data: digits, ways: 3, shots: 4, queries: 4, hold_out: 4}
episodes: 100
seeds: 2
refit_episodes: 20
penalty: {lam: [1, 5]}
optimiser: {rate: 1.0e-3}
"""


def process(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True, text=True, check=False, env=environment, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def finished(config: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    run = config.parent / "finished"
    return run, process("search", config, "--out", run)


# -- a search, from its start to its report --


def test_search_prints_the_table(
    finished: tuple[Path, subprocess.CompletedProcess[str]], run_main: Any
) -> None:
    run, done = finished
    assert done.returncode == 0, done.stderr
    result = rs.load_run(run)
    assert done.stdout.startswith(result.summary())
    assert f"rulesearch report {run}" in done.stdout
    lines = [line for line in done.stderr.splitlines() if not line.startswith("compiling")]
    assert len(lines) == 4 * 10  # a line at every tenth of a phase
    assert max(map(len, lines)) < 100
    assert re.fullmatch(
        r"pool with penalty +10/100  accuracy 0\.\d+  terms \d+( to \d+)?", lines[0]
    )

    status, out, _ = run_main("show", run)
    assert (status, out) == (0, done.stdout)
    status, out, _ = run_main("show", run, "--latex")
    assert out == rf"\Delta \mathbf{{W}}_{{\ell-1,\ell}} = {result.rule.latex()}" + "\n"
    status, out, _ = run_main("show", run, "--json")
    assert json.loads(out) == result.content


def test_report(finished: tuple[Path, subprocess.CompletedProcess[str]], run_main: Any) -> None:
    status, out, _ = run_main("report", finished[0])
    assert (status, out) == (0, f"{finished[0] / 'report.html'}\n")
    assert (finished[0] / "report.html").read_text().startswith("<!doctype html>")


def test_evaluate(finished: tuple[Path, subprocess.CompletedProcess[str]], run_main: Any) -> None:
    run, _ = finished
    status, out, err = run_main("evaluate", run, "--lifetimes", 20)
    assert status == 0, err
    # The run held four classes out, so they are what it is evaluated on.
    assert out.startswith("FewShot('digits', ways=3, shots=4, queries=4, classes=4 of 10): 20 ")
    assert [line.split("  ")[0] for line in out.splitlines()[3:]] == [
        "rule", "backprop", "feedback alignment",
    ]  # fmt: skip
    _, again, _ = run_main("evaluate", run, "--lifetimes", 20)
    assert out == again
    shape = ("--ways", 3, "--shots", 2, "--queries", 2, "--lifetimes", 4)
    _, out, _ = run_main("evaluate", run, "--tasks", "digits", *shape)
    assert "classes=4 of 10" in out
    _, out, _ = run_main("evaluate", run, "--tasks", "digits", "--no-held-out", *shape)
    assert "classes=6 of 10" in out
    _, out, _ = run_main("evaluate", run / "rule.json", "--tasks", "digits", *shape)
    assert "[64, 170, 130, 100, 70, 10]" in out
    assert out.splitlines()[-1].startswith("rule")
    for name, value in (("ways", 2), ("shots", 2), ("queries", 2), ("root", run)):
        status, out, err = run_main("evaluate", run, f"--{name}", value)
        assert (status, out) == (2, "")
        assert err.startswith(f"--{name} is for the data set of --tasks, and the run's own tasks")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rule.json"], "--tasks: name the data set"),
        (["rule.json", "--tasks", "digts"], "unknown data set 'digts'; did you mean 'digits'?"),
        (["rule.json", "--tasks", "digits", "--held-out"], "held no classes of this data out"),
        (["rule.json", "--tasks", "digits", "--lifetimes", "0"], "Invalid value for '--lifetimes'"),
        (["missing.json", "--tasks", "digits"], "missing.json: cannot be read as a rule"),
        (["pickle.json", "--tasks", "digits"], "pickle.json: cannot be read as a rule"),
        (["hostile.json", "--tasks", "digits"], "hostile.json: term 1: unexpected character"),
        (["."], "is not a run: it has no manifest.json"),
    ],
)
def test_evaluate_refuses(
    arguments: list[str], message: str, run_main: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    rule = rs.Rule(rs.Grammar.from_yaml("pool10").enumerate(), {"F0": 1e-3})
    rule.save("rule.json")
    Path("pickle.json").write_bytes(b"\x80\x04cos\nsystem\n(S'touch ran'\ntR.")
    content = rule.to_json()
    content["terms"][0]["expr"] = "__import__('os').system('touch ran')"
    Path("hostile.json").write_text(json.dumps(content))
    status, out, err = run_main("evaluate", *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not Path("ran").exists()


# -- configurations --

MISTAKES: dict[str, tuple[str, str]] = {
    "unknown key": ("grammar: pool10\nepisods: 3\n", "2:1: unknown key 'episods'; did you me"),
    "unknown inner key": ("grammar: pool10\ntasks: {data: digits, wayz: 3}\n", "2:23: unknown key"),
    "unknown key of other tasks": (
        "grammar: pool10\ntasks: {family: linear-teacher, ways: 3}\n", "2:33: unknown key 'ways'",
    ),
    "wrong type": ("grammar: pool10\nepisodes: ten\n", "2:11: 'episodes': should be a valid int"),
    "fraction": ("grammar: pool10\nseeds: 2.5\n", "2:8: 'seeds': should be a valid integer"),
    "negative": ("grammar: pool10\nepisodes: 0\n", "2:11: 'episodes': should be greater"),
    "negative lambda": ("grammar: pool10\npenalty: {lam: [1, -1]}\n", "2:20: 'lam': should be gr"),
    "no lambdas": ("grammar: pool10\npenalty: {lam: []}\n", "2:16: 'lam': should have at least 1"),
    "lambda twice": ("grammar: pool10\npenalty: {lam: [1, 1]}\n", "2:16: 'lam': should not name"),
    "unknown penalty": ("grammar: pool10\npenalty: {name: l3}\n", "2:17: 'name': should be 'none'"),
    "ramp": ("grammar: pool10\noptimiser: {ramp: [9, 3]}\n", "2:19: 'ramp': should be two updates"),
    "ramp beyond the episodes": (
        "grammar: pool10\nepisodes: 30\noptimiser: {ramp: [40, 80]}\n",
        "3:19: the penalty comes in along the ramp [40, 80], which ends after the last of 30 epi",
    ),
    "lambdas of no penalty": (
        "grammar: pool10\npenalty: {name: none, lam: [1, 2]}\n",
        "2:28: there are 2 lambdas and no penalty that they could weigh; give one alone, or a pen",
    ),
    "unknown family": (
        "grammar: pool10\ntasks: {family: linear-teachr}\n",
        "2:17: 'family': should be 'few-shot' or 'linear-teacher'; did you mean 'linear-teacher'?",
    ),
    "the grammar's key": ("gramar: pool10\n", "1:1: unknown key 'gramar'; did you mean 'grammar'"),
    "no grammar": ("tasks: {data: digits}\n", "1:1: missing key 'grammar'"),
    "missing grammar": ("name: x\ngrammar: pool11\n", "2:10: no file and no bundled grammar"),
    "grammar is a number": ("grammar: 3\n", "1:10: 'grammar': should be"),
    "term inside": ("grammar:\n  terms: {F0: -e_pst * y_pre.T}\n", "2:16: unknown symbol 'e_pst'"),
    "term twice inside": ("grammar: {terms: {a: -W, b: 2 * W}}\n", "1:29: term 'b' is 'a' again"),
    "key of the grammar inside": ("grammar: {trems: {a: -W}}\n", "1:11: unknown key 'trems'"),
    "all zero": ("grammar: {terms: {a: -e_post * y_pre.T}}\n", "every term starts at zero"),
    "name with a path": ("grammar: pool10\nname: ../../x\n", "2:7: 'name': should hold letters"),
    "alias": ("grammar: &g pool10\nname: *g\n", "1:10: anchors (&name) are not read"),
    "bomb": ("a: &a [x, x]\nb: &b [*a, *a]\ngrammar: [*b, *b]\n", "1:4: anchors"),
    "tag": ("grammar: !!python/name:os.system pool10\n", "1:10: tags (!name) are not read"),
    "deep": ("grammar: " + "[" * 900 + "]" * 900 + "\n", "nested deeper than 20 levels"),
    "not a mapping": ("- 1\n", "1:1: a configuration is a mapping"),
    "empty": ("", "1:1: a configuration is a mapping"),
    "not UTF-8": ("grammar: \udcff\n", "not UTF-8"),
    "twice": ("grammar: pool10\ngrammar: bio\n", "2:1: duplicate key 'grammar'"),
    "too few outputs": ("grammar: pool10\nnetwork: {outputs: 3}\n", "2:20: the network has 3"),
    "relu": ("grammar: pool10\nnetwork: {activation: relu}\n", "2:23: relu cannot be diff"),
    "no layer": ("grammar: pool10\nnetwork: {hidden: [0]}\n", "2:20: 'hidden': should be greater"),
    "unknown data": ("grammar: pool10\ntasks: {data: digts}\n", "2:15: unknown data set 'digts'"),
    "too many ways": ("grammar: pool10\ntasks: {ways: 11}\n", "2:15: data set 'digits': 11-w"),
    "no such held-out class": (
        "grammar: pool10\ntasks: {hold_out: [seven]}\n", "2:19: hold_out: data set 'digits' has no",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_a_configuration(mistake: str, run_main: Any, tmp_path: Path) -> None:
    content, message = MISTAKES[mistake]
    path = tmp_path / "config.yaml"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    status, out, err = run_main("search", path, "--out", tmp_path / "run")
    assert (status, out) == (2, "")
    assert message in err
    assert not re.match(r"\d+:\d+: ", message) or err.startswith(f"{path}:{message}")
    assert err.count("\n") == 1
    assert len(err) < 400
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("episodes", "--set episodes: write key=value"),
        ("=3", "--set =3: write key=value"),
        ("episods=3", "--set episods:1:1: unknown key 'episods'; did you mean 'episodes'?"),
        ("taks.ways=3", "--set taks.ways:1:1: unknown key 'taks'; did you mean 'tasks'?"),
        ("tasks.wayz=3", "--set tasks.wayz:1:1: unknown key 'wayz'; did you mean 'ways'?"),
        ("tasks.ways=three", "--set tasks.ways:1:1: 'ways': should be a valid integer"),
        ("episodes.x=1", "--set episodes.x: 'episodes' is a value"),
        ("tasks.family=linear-teacher", "{config}:4:9: unknown key 'data'; known are family, inp"),
        ("network.hidden=[0]", "--set network.hidden:1:1: 'hidden': should be greater than or eq"),
        ("grammar=pool11", "--set grammar:1:1: no file and no bundled grammar 'pool11'"),
        ("penalty.lam=[1, *a]", "--set penalty.lam:1:5: aliases (*name) are not read"),
        ("name=[", "--set name:1:2: not YAML"),
    ],
)
def test_mistakes_in_a_setting(
    setting: str, message: str, run_main: Any, config: Path, tmp_path: Path
) -> None:
    status, out, err = run_main("search", config, "--set", setting, "--out", tmp_path / "run")
    assert (status, out) == (2, "")
    assert err.startswith(message.replace("{config}", str(config)))
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_settings_change_the_configuration(config: Path, run_main: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = ("episodes=3", "penalty={name: l2, lam: 0.5}", "tasks.ways=2", "controls=false",
                "grammar=bio", "optimiser.clip=null", "optimiser.ramp=[0, 1]")  # fmt: skip
    flags = [word for setting in settings for word in ("--set", setting)]
    status, _, err = run_main("search", config, *flags, "--out", run)
    assert status == 0, err
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["episodes"] == 3
    assert manifest["settings"]["penalty"] == {"name": "l2", "lam": 0.5}
    assert manifest["settings"]["optimiser"]["clip"] is None
    assert manifest["tasks"]["ways"] == 2
    assert manifest["grammar"] == "bio"


def test_a_grammar_beside_the_configuration(run_main: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("terms: {F0: {expr: -e_post * y_pr.T, init: 1.0e-3}}\n")
    (tmp_path / "config.yaml").write_text("name: x\ngrammar: mine.yaml\n")
    status, _, err = run_main("search", tmp_path / "config.yaml", "--out", tmp_path / "run")
    assert status == 2
    assert err.startswith(f"{tmp_path / 'mine.yaml'}:1:30: unknown symbol 'y_pr'")


def test_the_papers_recipe(run_main: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 255, (47 * 5, 28, 28), np.uint8)
    labels = np.repeat(np.arange(47, dtype=np.uint8), 5)
    folder = tmp_path / "data" / "emnist"
    folder.mkdir(parents=True)
    for kind, header, array in (
        ("images-idx3", struct.pack(">4I", 2051, *images.shape), images),
        ("labels-idx1", struct.pack(">2I", 2049, len(labels)), labels),
    ):
        path = folder / f"emnist-balanced-train-{kind}-ubyte.gz"
        path.write_bytes(gzip.compress(header + array.tobytes(), 1))
    monkeypatch.setenv("RULESEARCH_DATA", str(tmp_path / "data"))
    changes = ("episodes=4", "seeds=2", "tasks.shots=3", "tasks.queries=2", "network.hidden=[12]")
    flags = [word for change in changes for word in ("--set", change)]
    run = tmp_path / "run"
    status, _, err = run_main("search", ROOT / "examples" / "paper.yaml", *flags, "--out", run)
    assert status == 0, err
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["scales"] == [1.0] * 10
    assert manifest["settings"]["optimiser"] == {
        "rate": 1e-3, "decay": 1, "clip": None, "meta_batch": 1, "ramp": [0, 0],
        "scaling": False, "scale_cap": 3.0, "reject": False,
    }  # fmt: skip
    assert manifest["settings"]["penalty"] == {"name": "l1", "lam": 10}
    assert manifest["tasks"]["replacement"]
    assert manifest["tasks"]["fixed_images"]
    # Adam's first step is its rate in every coordinate, whatever the size of the gradient.
    theta = rs.load_run(run).history["search"].theta[:, 0]
    np.testing.assert_allclose(np.abs(theta[:, 1:]), 1e-3, rtol=1e-4)


def test_the_example_configurations_are_sound(run_main: Any, tmp_path: Path) -> None:
    flags = ["--set", "episodes=2", "--set", "seeds=1", "--set", "tasks.shots=2"]
    status, _, err = run_main(
        "search", ROOT / "examples" / "quickstart.yaml", *flags, "--out", tmp_path / "run"
    )
    assert status == 0, err


# -- interrupted, refused --


def test_ctrl_c_then_resume(
    config: Path,
    finished: tuple[Path, subprocess.CompletedProcess[str]],
    tmp_path: Path,
    run_main: Any,
) -> None:
    events = (run := tmp_path / "run") / "events.jsonl"
    with subprocess.Popen(
        [*COMMAND, "search", str(config), "--out", str(run)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as started:  # fmt: skip
        deadline = time.monotonic() + 60
        while not events.exists() or b'"update"' not in events.read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        started.send_signal(signal.SIGSTOP)  # or it would be done before the second begins
        second = run_main("resume", run)
        started.send_signal(signal.SIGINT)
        started.send_signal(signal.SIGCONT)
        out, err = started.communicate(timeout=60)
    assert second == (2, "", f"{run}: another process is writing this run\n")
    assert (started.returncode, out) == (3, "")
    assert err.splitlines()[-1] == f"interrupted; continue with: rulesearch resume {run}"
    assert "Traceback" not in err
    assert list(run.glob("checkpoint-*.json"))
    status, _, refused = run_main("show", run)
    assert status == 2
    assert refused == f"{run} has no result yet; continue it with 'rulesearch resume {run}'\n"

    done = process("resume", run)
    assert done.returncode == 0, done.stderr
    for name in ENDS:
        assert (run / name).read_bytes() == (finished[0] / name).read_bytes()
    assert done.stdout == finished[1].stdout.replace(str(finished[0]), str(run))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serch"], "No such command 'serch'"),
        (["search"], "Missing argument 'CONFIG'; see 'rulesearch search --help'"),
        (["search", "nowhere.yaml"], "nowhere.yaml: cannot be read: No such file or directory"),
        (["search", "."], ".: cannot be read: Is a directory"),
        (["search", "x", "--fast"], "No such option: --fast"),
        (["evaluate", "x", "--lifetimes", "ten"], "Invalid value for '--lifetimes'"),
        (["resume", "nowhere"], "nowhere is not a run: it has no manifest.json"),
        (["show", "nowhere"], "nowhere is not a run: it has no manifest.json"),
        (["report", "nowhere"], "nowhere is not a run: it has no manifest.json"),
        (["check", "nowhere"], "no file and no bundled grammar 'nowhere'"),
        (["data", "fetch", "mnst"], "unknown data set 'mnst'; did you mean 'mnist'?"),
    ],
)
def test_refusals_are_one_line(
    arguments: list[str], message: str, run_main: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    status, out, err = run_main(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_run_is_never_overwritten(
    config: Path, finished: tuple[Path, subprocess.CompletedProcess[str]], run_main: Any
) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in finished[0].iterdir()}
    unread = "tasks.data=nowhere"  # which is refused too, but only when it is read
    status, _, err = run_main("search", config, "--set", unread, "--out", finished[0])
    assert status == 2
    assert err == (
        f"{finished[0]} exists and is not empty; choose another folder, or continue it with "
        f"'rulesearch resume {finished[0]}'\n"
    )
    assert {p.name: p.stat().st_mtime_ns for p in finished[0].iterdir()} == before


def test_a_full_disk_is_one_line_and_resumable(config: Path, tmp_path: Path) -> None:
    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))

    run = tmp_path / "run"
    done = process("search", config, "--out", run, preexec_fn=full)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"{run}")
    assert "Traceback" not in done.stderr
