"""Searches from Python: the contract, settings, parts of one's own."""

from __future__ import annotations

import errno
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from tiny_search import POOL, ends, interrupt_after, tiny_search

import rulesearch as rs
from rulesearch.compile import native
from rulesearch.errors import ConfigError, LearnerError, RunError
from rulesearch.search.config import Experiment, load_config
from rulesearch.search.folder import RunFolder
from rulesearch.search.run import resume_search
from rulesearch.search.settings import Settings, settings_from
from rulesearch.tasks import FewShot, LinearTeacher

ROOT = Path(__file__).parent.parent


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


def test_searches_begun_at_the_same_moment_take_a_folder_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = Barrier(2)

    def begun(experiment: object, run: Path, sinks: object) -> Path:
        chosen.wait(60)  # both know their folder, and neither has written to it
        with RunFolder.create(run, "", {}):
            return run

    monkeypatch.setattr("rulesearch.search.api.start_search", begun)
    with ThreadPoolExecutor(2) as threads:
        runs = list(threads.map(tiny_search, [None, None]))
    assert sorted(map(str, runs)) == ["runs/search", "runs/search-2"]


def test_a_search_that_does_not_begin_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="device cuda:99"):
        tiny_search(None, device="cuda:99")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="name it, as out='runs/search'"):
        tiny_search(None, resume=True)  # type: ignore[arg-type]
    assert not list(Path("runs").glob("*"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"episodes": 0}, "episodes=0: input should be greater than or equal to 1"),
        ({"episodes": "many"}, "episodes='many': input should be a valid integer"),
        (
            {"optimiser": {"rate": 1e-3}},
            "a search takes the fields of 'optimiser' themselves, as rate=1e-3",
        ),
        ({"meta_bach": 2}, "a search has no setting 'meta_bach'; did you mean 'meta_batch'"),
        ({"lams": [1.0, 1.0]}, "should not name one lambda twice"),
        ({"lams": []}, "at least 1 item"),
        ({"lams": "10"}, "lams should be a list of lambdas, or a path of them, not of type str"),
        ({"lams": {"low": 1, "high": 1.0002, "number": 4}}, "needs ends further apart: two lam"),
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
        (
            {"network": rs.PlasticNetwork([64, 8, 10], activation="relu", feedback="flp")},
            ConfigError,
            "feedback 'flp' has to be learnt with the rule",
        ),
        ({"pool": POOL[1:]}, ConfigError, "every term starts at zero"),
        ({"pool": rs.TermPool()}, ConfigError, "the pool is empty"),
        (
            {
                "pool": POOL + rs.TermPool([rs.Term.from_text("b", "B - W")]),
                "network": rs.PlasticNetwork([64, 8, 10], feedback="direct"),
            },
            LearnerError,
            "a term needs B",
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
        output = "linear" if isinstance(tasks, LinearTeacher) else "softmax"
        net = rs.PlasticNetwork(
            [tasks.n_in, 7, tasks.n_out], "tanh", 3.0, output=output, feedback="direct"
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


def test_tasks_of_ones_own_resume_from_python(
    tmp_path: Path, run_main: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = rs.PlasticNetwork([5, 5], output="linear", activation="tanh")
    run = tmp_path / "run"
    arguments: dict[str, Any] = {
        "network": net, "tasks": Mine(), "episodes": 6, "seeds": 2, "controls": False,
        "checkpoint_every": 2,
    }  # fmt: skip
    whole = rs.search(POOL, out=tmp_path / "whole", **arguments)
    with pytest.raises(KeyboardInterrupt):
        rs.search(POOL, out=run, sinks=[interrupt_after(4)], **arguments)
    with pytest.raises(ConfigError, match=r"made in Python, .* out=RUN, resume=True\) continues"):
        resume_search(run)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    call = f'rulesearch.search(..., out="{run}", resume=True)'
    with pytest.raises(RunError) as unfinished:
        rs.load_run(run)
    assert str(unfinished.value) == f"{run} has no result yet; continue it with '{call}'"
    told = f"continue with: {call}\n"
    monkeypatch.setattr("rulesearch.report.follow.QUIET", 0.0)
    code, out, progress = run_main("show", run, "--follow")
    assert (code, out) == (3, "")
    assert progress.endswith(f"\nno process runs it; {told}")
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(RunError) as disk, RunFolder.open(run) as folder, folder.writing():
        raise full
    assert str(disk.value) == (
        f"{run} cannot be written: No space left on device; mend that, then '{call}'"
    )
    with pytest.raises(RunError) as raised:
        rs.search(POOL, out=run, **arguments)
    assert str(raised.value) == (
        f"{run} holds a run; choose another folder, or continue it with resume=True"
    )
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    result = rs.search(POOL, out=run, resume=True, **arguments)
    assert ends(result.path) == ends(whole.path)
    with pytest.raises(RunError, match="'episodes' is not what the run began with"):
        rs.search(POOL, out=run, resume=True, **{**arguments, "episodes": 7})


def test_settings_have_the_documented_defaults() -> None:
    settings = Settings()
    assert (settings.episodes, settings.seeds, settings.lams) == (600, 20, (10.0,))
    assert settings.ramp == (60, 120)
    assert settings_from(episodes=50).ramp == (5, 10)


def test_a_result_says_where_lifetimes_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = tiny_search(tmp_path / "compiled")
    if compiled.content["engine"]["path"] == "fused":
        assert compiled.notes == ()
    monkeypatch.setattr(native, "engine_unavailable", lambda dtype: "no compiler was found")
    alone = tiny_search(tmp_path / "alone")
    assert alone.content["engine"] == {"path": "torch", "reason": "no compiler was found"}
    line = "Note: lifetimes ran without the compiled engine: no compiler was found."
    assert line in str(alone).splitlines()
