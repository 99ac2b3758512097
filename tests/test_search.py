"""Searches: planted rules, kill and resume, faults of the run folder, seeds, penalties."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rulesearch as rs
from rulesearch.errors import ConfigError, LearnerError, RunError
from rulesearch.outer import Unrolled
from rulesearch.search.config import Experiment, load_config
from rulesearch.search.folder import RunFolder
from rulesearch.search.outcome import Outcome
from rulesearch.search.phase import History
from rulesearch.search.run import resume_search, start_search
from rulesearch.search.selection import candidates, kept_terms, pick
from rulesearch.search.settings import Settings, settings_from
from rulesearch.tasks import FewShot, LinearTeacher

ROOT = Path(__file__).parent.parent
POOL = rs.Grammar.from_yaml("pool10").enumerate()
ENDS = ("rule.json", "result.json", "events.jsonl")

TINY = """\
name: tiny
grammar: pool10
network: {hidden: [8]}
tasks: {data: digits, ways: 3, shots: 4, queries: 4}
episodes: 24
seeds: 2
refit_episodes: 6
penalty: {lam: [1, 5]}
optimiser: {rate: 1.0e-3, meta_batch: 2}
checkpoint_every: 4
probe_every: 7
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def whole(tiny: Path) -> Path:
    """A run that nothing interrupted; tests copy it."""
    return start_search(load_config(tiny), tiny.parent / "whole").path


def ends(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in ENDS}


def tiny_search(out: Path, **changes: Any) -> rs.Result:
    arguments: dict[str, Any] = {
        "network": rs.PlasticNetwork([64, 8, 10]),
        "tasks": FewShot("digits", ways=3, shots=4, queries=4),
        "episodes": 12,
        "seeds": 2,
        "controls": False,
        "refit_episodes": 4,
        "rate": 1e-3,
    }
    return rs.search(POOL, out=out, **{**arguments, **changes})


# -- the pruning finds what is there --


@pytest.mark.parametrize("silent", [0, 6])
def test_a_planted_rule_is_found(silent: int, tmp_path: Path) -> None:
    tasks = LinearTeacher(silent=silent)
    result = rs.search(
        POOL,
        network=rs.PlasticNetwork(
            [tasks.n_in, tasks.n_out], output="linear", activation="tanh", feedback="random"
        ),
        tasks=tasks,
        episodes=120,
        seeds=20,
        penalty=rs.ProximalL1(3.0),
        ramp=(25, 50),
        rate=1e-2,
        meta_batch=4,
        clip=10.0,
        controls=False,
        refit_episodes=10,
        out=tmp_path / "run",
    )
    assert set(result.terms) == tasks.optimum == {"F0", *(["F9"] if silent else [])}
    assert set(result.rule.coefficients) == tasks.optimum

    # Each seed by itself, from what was logged: the terms above 5% of its largest.
    events = (result.path / "events.jsonl").read_text().splitlines()
    updates = [event for event in map(json.loads, events) if event["event"] == "update"]
    theta = np.array([event["theta"] for event in updates[90:120]])
    assert theta.shape == (30, 20, 10)
    scales = json.loads((result.path / "manifest.json").read_text())["scales"]
    t = np.abs(theta.mean(0) / scales)
    kept = t > 0.05 * t.max(1, keepdims=True)
    found = Counter(frozenset(np.array(POOL.names)[row]) for row in kept)
    assert found[tasks.optimum] >= 18, found


def test_the_planted_optimum_loses_less_than_its_neighbours() -> None:
    # 200 lifetimes of 600 steps: the delta rule with Oja's rule reaches the teacher and forgets
    # the silent inputs; the delta rule alone keeps them, and with decay it stays beside it.
    tasks = LinearTeacher(silent=6, steps=600)
    network = rs.PlasticNetwork([12, 6], output="linear", activation="tanh")
    generators = [torch.Generator().manual_seed(i) for i in range(200)]
    task = tasks.sample(generators)

    def loss(coefficients: dict[str, float]) -> float:
        learner = rs.PlasticityLearner(network, rs.Rule(POOL, coefficients))
        state = learner.live(learner.init(200), None, task.x, task.label)
        return float(network.loss(network(state, task.x_query), task.label_query).median())

    best = loss({"F0": 0.1, "F9": 0.02})
    assert best < 1e-6
    assert best < 1e-3 * min(loss({"F0": 0.1, "F3": d}) for d in (0.003, 0.01, 0.03))
    assert best < 1e-3 * loss({"F0": 0.1})
    assert best < 1e-3 * loss({"F9": 0.02})


# -- killed, interrupted, damaged --


def test_killed_at_any_moment_it_ends_in_the_same_bytes(
    tiny: Path, whole: Path, tmp_path: Path
) -> None:
    script = Path(__file__).with_name("killed_run.py")
    done = subprocess.run(
        [sys.executable, script, tiny, tmp_path / "run", "6", "0"],
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) >= 3
    assert ends(tmp_path / "run") == ends(whole)
    assert not [p for p in (tmp_path / "run").glob(".*.*") if p.name != ".lock"]


def interrupt_after(events: int) -> Callable[[Mapping[str, Any]], None]:
    seen = iter(range(events))

    def sink(_: Mapping[str, Any]) -> None:
        if next(seen, None) is None:
            raise KeyboardInterrupt

    return sink


@pytest.mark.parametrize("events", [0, 1, 2, 3, 6, 25, 33, 41, 60])
def test_interrupted_between_any_two_events(
    events: int, tiny: Path, whole: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        start_search(load_config(tiny), run, [interrupt_after(events)])
    with pytest.raises(KeyboardInterrupt):
        resume_search(run, [interrupt_after(3)])
    resume_search(run)
    assert ends(run) == ends(whole)


@pytest.fixture
def broken_off(tiny: Path, tmp_path: Path) -> Path:
    """A run interrupted in the search, with checkpoints at 12 and 15 updates."""
    with pytest.raises(KeyboardInterrupt):
        start_search(load_config(tiny), tmp_path / "run", [interrupt_after(19)])
    return tmp_path / "run"


def flip(path: Path, where: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 0x04
    path.write_bytes(data)


def extend(path: Path, data: bytes) -> None:
    path.write_bytes(path.read_bytes() + data)


def newest(run: Path, ending: str) -> Path:
    return max(run.glob(f"checkpoint-*.{ending}"))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "torn last line": lambda run: extend(run / "events.jsonl", b'{"event": "upd'),
    "later events": lambda run: extend(run / "events.jsonl", b'{"event": "x"}\n' * 9),
    "tensor bit": lambda run: flip(newest(run, "safetensors"), 0.8),
    "header bit": lambda run: flip(newest(run, "safetensors"), 0.05),
    "short tensors": lambda run: os.truncate(newest(run, "safetensors"), 40),
    "no tensors": lambda run: newest(run, "safetensors").unlink(),
    "empty description": lambda run: os.truncate(newest(run, "json"), 0),
    "description bit": lambda run: flip(newest(run, "json"), 0.45),
    "description of another kind": lambda run: newest(run, "json").write_text("[1]"),
    "short events": lambda run: os.truncate(run / "events.jsonl", 4000),
    "half a file": lambda run: (run / ".rule.json.x1").write_bytes(b"{"),
    "undescribed": lambda run: (run / "checkpoint-search-000099.safetensors").write_bytes(b"x"),
    "every checkpoint": lambda run: [flip(p, 0.5) for p in run.glob("checkpoint-*.safetensors")],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_costs_at_most_some_updates(damage: str, broken_off: Path, whole: Path) -> None:
    assert len(list(broken_off.glob("checkpoint-*.json"))) == 2
    DAMAGE[damage](broken_off)
    resume_search(broken_off)
    assert ends(broken_off) == ends(whole)


def test_a_finished_run_resumes_to_itself(whole: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(whole, tmp_path / "copy")
    told: list[Mapping[str, Any]] = []
    result = resume_search(copy, [told.append])
    assert ends(copy) == ends(whole)
    assert {event["event"] for event in told} == {"phase", "done"}
    assert str(result) == str(rs.load_run(whole))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("manifest.json", b"{", "manifest.json cannot be read"),
        ("manifest.json", b"[]", "manifest.json is damaged"),
        ("config.yaml", b"", "a configuration is a mapping"),
        ("config.yaml", b"grammar: pool10\n\xff", "not UTF-8"),
        ("config.yaml", None, "config.yaml: cannot be read"),
        ("manifest.json", None, "is not a run: it has no manifest.json"),
    ],
)
def test_a_damaged_run_is_refused(
    name: str, content: bytes | None, message: str, broken_off: Path
) -> None:
    (broken_off / name).unlink()
    if content is not None:
        (broken_off / name).write_bytes(content)
    with pytest.raises(rs.RuleSearchError, match=message):
        resume_search(broken_off)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("seeds: 2", "seeds: 3", "rows"),
        ("rate: 0.001", "rate: 0.01", "settings"),
        ("ways: 3", "ways: 4", "tasks"),
        ("- 8", "- 9", "network"),
        ("init: 0.001", "init: 0.002", None),
    ],
)
def test_a_run_goes_on_only_as_it_began(
    old: str, new: str, named: str | None, broken_off: Path
) -> None:
    config = broken_off / "config.yaml"
    assert old in config.read_text()
    config.write_text(config.read_text().replace(old, new, 1))
    if named is None:  # where a term started no longer matters once the search has begun
        resume_search(broken_off)
        return
    with pytest.raises(RunError, match=f"'{named}' is not what the run began with"):
        resume_search(broken_off)


def test_one_writer_at_a_time(broken_off: Path, whole: Path) -> None:
    with (
        RunFolder.open(broken_off),
        pytest.raises(RunError, match="another process is writing this run"),
    ):
        resume_search(broken_off)
    resume_search(broken_off)
    assert ends(broken_off) == ends(whole)


def test_a_run_never_overwrites(tiny: Path, whole: Path, tmp_path: Path) -> None:
    before = ends(whole)
    with pytest.raises(RunError, match="continue it with 'rulesearch resume"):
        start_search(load_config(tiny), whole)
    assert ends(whole) == before
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(RunError, match=r"is not empty; choose another folder$"):
        start_search(load_config(tiny), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("where", ["file/run", "file"])
def test_a_folder_that_cannot_be(where: str, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be made: \w"):
        start_search(load_config(tiny), tmp_path / where)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tiny: Path, whole: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(whole, tmp_path / "copy")
    (copy / "events.jsonl").chmod(0o400)
    copy.chmod(0o500)
    with pytest.raises(RunError, match="cannot be written: Permission denied"):
        resume_search(copy)
    with pytest.raises(RunError, match="cannot be made: Permission denied"):
        start_search(load_config(tiny), copy / "run")
    copy.chmod(0o700)


def test_nothing_is_unpickled(broken_off: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    result = resume_search(broken_off)
    assert rs.Rule.load(broken_off / "rule.json") == result.rule
    rs.load_run(broken_off)


def test_no_file_names_pickle_or_evaluates() -> None:
    for path in (ROOT / "rulesearch").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            alias.name.split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import)
            for alias in node.names
        } | {
            (node.module or "").split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
        }
        assert not imported & {"pickle", "dill", "joblib", "shelve", "marshal"}, path
        called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert not called & {"eval", "torch.load", "np.load", "sympy.sympify", "parse_expr"}, path


# -- seeds, penalties, rejected lifetimes --


def test_a_seed_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    def theta(out: str, **changes: Any) -> Any:
        result = tiny_search(tmp_path / out, episodes=8, refit_episodes=0, **changes)
        return result.history["search"].theta

    five = theta("five", seeds=5, lams=[4.0])
    four = theta("four", seeds=4, lams=[1.0, 4.0, 9.0])  # rows: four seeds of each lambda
    assert np.array_equal(five[3], four[4 + 3])
    assert not np.array_equal(five[3], four[3])
    assert not np.array_equal(five[3], five[2])
    other = theta("other", seeds=4, lams=[4.0], seed=1)
    assert not np.array_equal(five[3], other[3])


@pytest.mark.parametrize("activation", ["softplus", "tanh"])
def test_the_bits_of_a_lifetime_are_its_own(activation: str) -> None:
    """How many lifetimes run beside it does not change them."""
    network = rs.PlasticNetwork([64, 37, 23, 10], activation=activation)
    learner, tasks = rs.PlasticityLearner(network, POOL), FewShot(ways=3, shots=4, queries=3)

    def evaluated(lifetimes: int) -> tuple[torch.Tensor, torch.Tensor]:
        state, task = (
            draw([torch.Generator().manual_seed(i) for i in range(lifetimes)])
            for draw in (network.init, tasks.sample)
        )
        found = Unrolled()(learner, state, torch.full((lifetimes, 10), 1e-3), task)
        return found.loss, found.gradient

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a search's workers
    loss, gradient = evaluated(7)
    for lifetimes in (1, 2, 3, 6, 7):
        some = evaluated(lifetimes)
        assert torch.equal(some[0], loss[:lifetimes])
        assert torch.equal(some[1], gradient[:lifetimes])
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "penalty", [rs.L1(20.0), rs.L2(20.0), rs.NoPenalty(), rs.ProximalL1(20.0)], ids=lambda p: p.name
)
def test_penalties_run(penalty: rs.L1, tmp_path: Path) -> None:
    result = tiny_search(tmp_path / "run", penalty=penalty, episodes=16, ramp=(0, 4))
    last = result.history["search"].theta[:, -1]
    zeros = (last == 0).sum()
    assert zeros > 0 if penalty.name == "proximal-l1" else zeros == 0
    assert result.content["pick"]["lam"] == penalty.lam


def test_a_penalty_above_everything_leaves_no_rule(tmp_path: Path) -> None:
    result = tiny_search(tmp_path / "run", penalty=rs.ProximalL1(1e9), ramp=(0, 0), episodes=16)
    assert result.terms == ()
    assert result.rule.coefficients == {}
    assert "none" in repr(result)
    assert rs.Rule.load(result.path / "rule.json") == result.rule
    print(result, result.latex_table())


def test_lifetimes_that_diverge_are_told(tmp_path: Path) -> None:
    wild = POOL[:1] + rs.TermPool([rs.Term.from_text("wild", "y_post * y_pre.T", 1e3)])
    result = rs.search(
        wild,
        network=rs.PlasticNetwork([64, 8, 10]),
        tasks=FewShot("digits", ways=3, shots=4, queries=4),
        episodes=6,
        seeds=2,
        controls=False,
        rate=1.0,
        out=tmp_path / "run",
    )
    assert result.content["rejected"]["search"] > 0.2
    assert "diverged at the end; lower" in str(result)
    with pytest.raises(RunError, match="diverged at update 0 of 'search', and rejection is off"):
        rs.search(
            wild,
            network=rs.PlasticNetwork([64, 8, 10]),
            tasks=FewShot("digits", ways=3, shots=4, queries=4),
            episodes=6,
            seeds=2,
            reject=False,
            out=tmp_path / "off",
        )


def test_the_end_is_an_average_without_the_rejected() -> None:
    history = History()
    for accuracy in (0.1, None, 0.3, 0.5):
        loss = None if accuracy is None else 10 * accuracy
        history.add(
            {"accuracy": [accuracy, None], "loss": [loss, None], "theta": [[1.0], [2.0]],
             "rejected": [0, 1]}
        )  # fmt: skip
    np.testing.assert_allclose(history.end("accuracy", 3), [0.4, np.nan])
    np.testing.assert_allclose(history.end("loss", 4), [3.0, np.nan])
    np.testing.assert_allclose(history.end("theta", 2), [[1.0], [2.0]])


def test_selection() -> None:
    t = np.array([[[1.0, -0.04, 0.06], [1.0, 0.0, 0.9]], [[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]])
    assert kept_terms(t[0], 0.05).tolist() == [[True, False, True], [True, False, True]]
    assert not kept_terms(t[1], 0.05)[0].any()
    found = candidates("abc", [1.0, 9.0], t, np.ones((2, 2)), np.ones((2, 2)), 0.05)
    assert [c.terms for c in found] == [("a", "c"), ()]
    assert found[1].share == {"a": 0.5, "b": 0.0, "c": 0.0}
    best, close, far = np.array([1.0, 1.2, 0.8]), np.array([1.1, 1.0, 1.1]), np.array([2.0] * 3)
    assert pick([5, 3, 1], [best, close, far]) == 1
    assert pick([5, 3, 1], [best, far, far]) == 0
    assert pick([5, 3, 3], [best, close + 0.01, close]) == 2
    assert pick([1, 2], [np.array([np.nan]), best]) == 1
    assert pick([1, 2], [np.array([np.nan]), np.array([np.nan])]) == 0


def test_the_outcome_refits_each_support_once() -> None:
    settings = settings_from(lams=[1.0, 2.0, 3.0], seeds=1, episodes=4)
    outcome = Outcome(POOL[:3], settings, np.array([1.0, 2.0, 1.0]))
    theta = [[1.0, 0.2, 0.0], [1.0, 0.0, 0.0], [2.0, 0.0, 0.0]]
    for _ in range(4):
        outcome.history("search").add(
            {"accuracy": [0.5, 0.4, 0.3], "loss": [1.0, 1.0, 1.0], "theta": theta,
             "rejected": [0, 0, 0]}
        )  # fmt: skip
    assert outcome.supports() == [("F0",), ("F0", "F1")]
    assert [tuple(rule.coefficients) for rule in outcome.rules()] == [("F0", "F1"), *[("F0",)] * 2]
    held_out = [np.array([0.9, 1.1]), np.array([1.0, 1.1]), np.array([1.0, 1.1])]
    result = outcome.result(held_out)
    assert result["pick"] == {"lam": 2.0, "terms": ["F0"]}  # ties go to the first
    assert result["front"][0]["held_out_error"] == pytest.approx(0.1)
    assert [row["coefficient"] for row in result["table"]] == [1.0, None, None]


# -- from Python --


def test_the_contract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The Python of the documentation, at tiny sizes."""
    grammar = rs.Grammar.from_yaml(ROOT / "grammars" / "pool10.yaml")
    pool = grammar.enumerate()
    assert len(pool) == 10
    assert pool.names == tuple(f"F{i}" for i in range(10))
    assert pool["F9"].expr.shape[0] == pool["F9"].expr.args[0].shape[0]
    assert pool["F9"].latex()
    assert pool["F9"].locality == "layer"

    rule = rs.Rule(pool, {"F0": 1e-3, "F2": -2e-3, "F9": 2e-3})
    assert [t.name for t in rule.terms] == ["F0", "F2", "F9"]
    assert rule.coefficients == {"F0": 1e-3, "F2": -2e-3, "F9": 2e-3}
    assert rule.rank == 2
    assert str(rule).startswith("-0.001 * e_post * y_pre.T")
    assert rule.sympy().shape == pool["F9"].expr.shape
    W, y0, y1 = torch.randn(3, 4, 5), torch.randn(3, 5), torch.randn(3, 4)
    assert rule.delta(W, y_pre=y0, y_post=y1, e_pre=y0, e_post=y1).shape == W.shape
    rule.save(tmp_path / "rule.json")
    assert rs.Rule.load(tmp_path / "rule.json") == rule

    net = rs.PlasticNetwork([64, 8, 10], activation="softplus", beta=10.0, feedback="random")
    for method in ("reversible", "autograd"):
        learner = rs.PlasticityLearner(net, pool, method=method)
        state = learner.init(lifetimes=20, generator=torch.Generator().manual_seed(0))
        theta = torch.zeros(20, 10, requires_grad=True)
        x, label = torch.rand(6, 20, 64), torch.randint(10, (6, 20))
        state = learner.live(state, theta, x, label)
        logits = net(state, torch.rand(20, 7, 64))
        assert logits.shape == (20, 7, 10)
        logits.sum().backward()
        assert theta.grad is not None

    tasks = rs.tasks.FewShot("digits", ways=3, shots=4, queries=4)
    result = rs.search(
        pool,
        network=net,
        tasks=tasks,
        episodes=6,
        seeds=2,
        penalty=rs.L1(10.0),
        out=tmp_path / "runs" / "x",
    )
    print(result)
    table = capsys.readouterr().out
    for word in ("F0", "F9", "kept", "locality", "synapse", "2/2", "dW = ", "backprop"):
        assert word in table
    assert set(result.rule.coefficients) == set(result.terms)
    assert "\\toprule" in result.latex_table()
    assert result.history["search"].theta.shape == (2, 6, 10)
    assert result.history["backprop"].accuracy.shape == (2, 6)
    assert result.shares.keys() == set(pool.names)
    assert rs.load_run(tmp_path / "runs" / "x").content == result.content


def test_the_verb_survives_imports() -> None:
    import rulesearch.search.config

    assert rulesearch.search.config is sys.modules["rulesearch.search.config"]
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        rs.search(network=None, tasks=None)


def test_a_run_folder_is_found_where_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [str(tiny_search(None, episodes=1, refit_episodes=0).path) for _ in range(2)]  # type: ignore[arg-type]
    assert runs == ["runs/search", "runs/search-2"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"episodes": 0}, "episodes=0: input should be greater than or equal to 1"),
        ({"episodes": "many"}, "episodes='many': input should be a valid integer"),
        ({"meta_bach": 2}, "a search has no setting 'meta_bach'; did you mean 'meta_batch'"),
        ({"lams": [1.0, 1.0]}, "should not name one lambda twice"),
        ({"lams": []}, "at least 1 item"),
        ({"ramp": (9, 3)}, "the earlier one first"),
        ({"penalty": rs.ProximalL1(1.0), "lams": [-1.0]}, "greater than or equal to 0"),
        ({"rate": float("nan")}, "rate=nan"),
    ],
)
def test_settings_that_make_no_sense(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as raised:
        tiny_search(tmp_path / "run", **settings)
    assert message in str(raised.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"network": rs.PlasticNetwork([63, 10])}, ConfigError, "63 inputs, an example 64"),
        ({"network": rs.PlasticNetwork([64, 9])}, ConfigError, "9 outputs, the tasks 10 labels"),
        ({"network": rs.PlasticNetwork([64, 8, 10], activation="relu")}, ConfigError, "softplus"),
        ({"pool": POOL[1:]}, ConfigError, "every term starts at zero"),
        ({"pool": rs.TermPool()}, ConfigError, "every term starts at zero"),
        (
            {"pool": POOL + rs.TermPool([rs.Term.from_text("O", "Omega")])},
            LearnerError,
            "a term needs Omega",
        ),
    ],
)
def test_parts_that_do_not_fit(
    changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    parts = {"network": rs.PlasticNetwork([64, 8, 10]), "tasks": FewShot("digits"), **changes}
    with pytest.raises(error, match=message):
        rs.search(parts.pop("pool", POOL), out=tmp_path / "run", **parts)
    assert not (tmp_path / "run").exists()


def test_an_experiment_is_written_and_read_back(tmp_path: Path) -> None:
    root = tmp_path / "images"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for i in range(4):
            pixels = np.full((6, 6), 40 * i, np.uint8)
            (root / name / f"{i}.pgm").write_bytes(b"P5 6 6 255\n" + pixels.tobytes())
    families = [
        FewShot("digits", ways=3, shots=4, queries=4, hold_out=["7", 2], replacement=True),
        FewShot("image_folder", root=root, size=5, ways=2, shots=2, queries=2),
        LinearTeacher(inputs=5, silent=2, steps=7, queries=4),
    ]
    for tasks in families:
        net = rs.PlasticNetwork(
            [tasks.n_in, 7, tasks.n_out], activation="tanh", feedback="direct", beta=3.0
        )
        settings = settings_from(rs.L2(0.5), seeds=3, seed=7, clip=None, window=3)
        experiment = Experiment(POOL[:4], net, tasks, settings, "mine", "part")
        path = tmp_path / "config.yaml"
        path.write_text(experiment.to_yaml())
        again = load_config(path)
        assert (again.pool, again.settings, again.name, again.grammar) == (
            experiment.pool, settings, "mine", "part"
        )  # fmt: skip
        assert again.network.describe() == net.describe()
        assert again.tasks.describe() == tasks.describe()
        assert again.to_yaml() == experiment.to_yaml()
        assert again.pool.init == POOL.init[:4]


class Mine:
    """Tasks of a user's own."""

    n_in, n_out, steps, name = 5, 5, 6, "mine"

    def describe(self) -> dict[str, object]:
        return {"family": "mine"}

    def sample(self, generators: Any, dtype: torch.dtype = torch.float32) -> Any:
        return LinearTeacher(5, steps=6, queries=3).sample(generators, dtype)


def test_tasks_of_ones_own_resume_from_python(tmp_path: Path) -> None:
    net = rs.PlasticNetwork([5, 5], output="linear", activation="tanh")
    run = tmp_path / "run"
    arguments: dict[str, Any] = {
        "network": net, "tasks": Mine(), "episodes": 6, "seeds": 2, "controls": False,
        "checkpoint_every": 2,
    }  # fmt: skip
    whole = rs.search(POOL, out=tmp_path / "whole", **arguments)
    with pytest.raises(KeyboardInterrupt):
        rs.search(POOL, out=run, sinks=[interrupt_after(4)], **arguments)
    with pytest.raises(ConfigError, match="tasks were made in Python"):
        resume_search(run)
    result = rs.search(POOL, out=run, resume=True, **arguments)
    assert ends(result.path) == ends(whole.path)
    with pytest.raises(RunError, match="'episodes' is not what the run began with"):
        rs.search(POOL, out=run, resume=True, **{**arguments, "episodes": 7})


def test_settings_have_the_documented_defaults() -> None:
    settings = Settings()
    assert (settings.episodes, settings.seeds, settings.lams) == (600, 20, (10.0,))
    assert settings.ramp == (60, 120)
    assert settings_from(episodes=50).ramp == (5, 10)
