"""The benchmark suite: every peer has the right gradient, the floor is counted right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import rulesearch as rs
from rulesearch import cli
from rulesearch.bench.episode import Episode, told
from rulesearch.bench.floor import Floor, floor
from rulesearch.bench.kinds import content_of, problem_of
from rulesearch.bench.machine import installed
from rulesearch.bench.parent import Limits, duration
from rulesearch.bench.peers import PEERS, find_peers
from rulesearch.bench.peers.base import Answer
from rulesearch.bench.pools import coefficients
from rulesearch.bench.problem import Problem
from rulesearch.bench.results import Results
from rulesearch.bench.suites import SUITES, find_suites, quick
from rulesearch.bench.tables import tables_in_markdown
from rulesearch.errors import ConfigError, RunError

pytestmark = pytest.mark.usefixtures("one_thread")

THETA = (0.05, -0.01, -0.04, 0.003, 0.005, 0.01, 0.02, -0.03, 0.01, 0.02)
JAX = [name for name, peer in PEERS.items() if peer.needs == "jax"]
PROBLEMS = [
    Problem((8, 6, 5, 4), pool, steps=7, lifetimes=3, examples=examples, queries=6)
    for pool in ("pool10", "generated-10")
    for examples in (1, 3)
]


def problem_name(problem: Problem) -> str:
    return f"{problem.pool}, {problem.examples} examples"


def oracle(problem: Problem) -> Answer:
    """By the learner's own plain autograd, from the examples themselves."""
    data = strong(problem)
    learner = rs.PlasticityLearner(problem.network, problem.terms, "autograd")
    theta = data.theta.clone().requires_grad_()
    final = learner.live(data.state, theta, data.table[data.index], data.label)
    loss = problem.network.loss(problem.network(final, data.x_query), data.label_query).sum()
    return Answer(loss.item(), torch.autograd.grad(loss, theta)[0].tolist())


def strong(problem: Problem) -> Any:
    """The problem's data with every term at work, in float64."""
    return replace(problem.make().to(torch.float64), theta=torch.tensor(THETA).double())


def assert_same(found: Answer, expected: Answer, tolerance: float = 1e-8) -> None:
    assert found.loss == pytest.approx(expected.loss, rel=tolerance)
    got, wanted = torch.tensor(found.gradient), torch.tensor(expected.gradient)
    assert float((got - wanted).norm() / wanted.norm()) < tolerance
    assert float(wanted.abs().min()) > 0


@pytest.mark.parametrize("problem", PROBLEMS, ids=problem_name)
@pytest.mark.parametrize(
    "name", [name for name, peer in PEERS.items() if Problem in peer.ways and name not in JAX]
)
def test_a_peer_has_the_gradient_of_plain_autograd(name: str, problem: Problem) -> None:
    assert_same(PEERS[name].prepare(problem, strong(problem)).run(), oracle(problem))


# Every kind of life once, and every formula; compilation takes most of the time.
JAX_CASES = [(name, 1) for name in JAX] + [("jax", 0), ("jax-factored", 0)]
JAX_CASES += [("jax", 3), ("jax-factored-map", 3)]
# In a process of its own: x64 is a setting of the whole process.
QUICKLY_BUILT = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
JAX_GRADIENTS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from test_benchmarks import JAX_CASES, PEERS, PROBLEMS, strong
print(json.dumps([PEERS[n].prepare(PROBLEMS[k], strong(PROBLEMS[k])).run() for n, k in JAX_CASES]))
"""


def test_jax_peers_have_the_gradient_of_plain_autograd() -> None:
    if installed("jax") is None:
        pytest.skip("jax is not installed: pip install 'rulesearch[jax]'")
    done = subprocess.run(
        [sys.executable, "-c", JAX_GRADIENTS, str(Path(__file__).parent)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICKLY_BUILT},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for found, (_, k) in zip(json.loads(done.stdout), JAX_CASES, strict=True):
        assert_same(Answer(*found), oracle(PROBLEMS[k]))


EPISODE = Episode((4, 6, 5, 7, 5, 1), 3, steps=7, lifetimes=2, examples=3, queries=4)


@pytest.mark.parametrize("name", [name for name, peer in PEERS.items() if Episode in peer.ways])
def test_a_peer_of_episodes_has_the_slope_of_every_meta_parameter(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rulesearch.bench.episode.RATE", 1e-3)
    gradients: list[Any] = []
    monkeypatch.setattr(
        "rulesearch.bench.peers.episodes.told", lambda _, g: gradients.append(g) or [0.0]
    )
    data = EPISODE.make().to(torch.float64)
    prepared = PEERS[name].prepare(EPISODE, data)
    loss = prepared.answer().loss
    with torch.no_grad():
        assert loss == pytest.approx(data.model(data.task).loss.sum().item(), rel=1e-12)
    assert len(data.learnt) == len(gradients[0]) == 4 + 6 * 3  # two fixed layers, three plastic
    generator = torch.Generator().manual_seed(1)
    for parameter, slope in zip(data.learnt, gradients[0], strict=True):
        shape = parameter.shape
        direction = torch.randn(shape, generator=generator, dtype=torch.float64)
        ends, step = [], 1e-6 if parameter.abs().max() > 1e-2 else 1e-8
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * step * direction
                ends.append(data.model(data.task).loss.sum().item())
                parameter -= sign * step * direction
        along = float((slope * direction).sum())
        assert along == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-4, abs=1e-5)
    assert sum(float(g.abs().sum()) > 0 for g in gradients[0]) >= 20


def test_a_short_episode_still_has_every_sine() -> None:
    data = EPISODE.make()
    assert data.task.x[:].shape == (7, 2, 3, 4)
    assert data.task.label.shape == (7, 2, 3, 1)
    # three sines of three batches each, of which the last two batches are cut off
    slots = data.task.x[:][..., :3].argmax(-1)
    assert slots[:, 0, 0].tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert data.task.x_query.shape == (2, 12, 4)


def test_a_gradient_told_in_sums_keeps_distances() -> None:
    g = torch.Generator().manual_seed(3)
    learnt = [torch.full((300, 100), 0.5), torch.zeros(4000)]  # the second in units of 1
    exact = [torch.randn(p.shape, generator=g) for p in learnt]
    other = [e + 0.01 * torch.randn(e.shape, generator=g) for e in exact]
    apart = sum(
        (u * (a - b)).square().sum() for u, a, b in zip((0.5, 1), exact, other, strict=True)
    )
    length = sum((u * a).square().sum() for u, a in zip((0.5, 1), exact, strict=True))
    a, b = (torch.tensor(told(learnt, gradient)) for gradient in (exact, other))
    found = (a - b).norm() / a.norm()
    assert float(found) == pytest.approx(float((apart / length).sqrt()), rel=0.1)


def test_a_life_longer_than_its_images_sees_each_as_often() -> None:
    data = Problem((4, 3), steps=300, lifetimes=2, examples=5, queries=2).make()
    assert data.table.shape == (500, 4)
    assert data.index.shape == data.label.shape == (300, 2, 5)
    for life in range(2):
        seen = data.index[:, life].flatten()
        assert torch.bincount(seen - 250 * life).tolist() == [6] * 250
    one_life = data.part(1, 2)
    assert torch.equal(one_life.table[one_life.index], data.table[data.index][:, 1:])


def test_floor_counted_by_hand() -> None:
    # 5-3-2 with the ten terms: 15 and 6 weights; three outer products, W^T y_post besides W y.
    # Forward z, e, q, update (2); backward W (2), W-bar v and u, z and q transposed, e, W-bar (2).
    passes = 15 * 13 + 6 * 14  # the input needs no adjoint
    fused = 15 * 8 + 6 * 8
    # operations of a weight: z e q, their transposes, W-bar twice; 12 for the low rank each way
    each = 2 * 12 + 2 * (3 + 3 + 2)
    operations = 15 * (each - 2) + 6 * each
    found = floor(Problem((5, 3, 2), steps=10, lifetimes=4))
    assert found == Floor(4 * 40 * passes, 4 * 40 * fused, 40 * operations, 4 * 21)
    with_examples = floor(Problem((5, 3, 2), steps=10, lifetimes=4, examples=7))
    assert with_examples.bytes == found.bytes
    assert with_examples.operations == 7 * found.operations


def test_the_floor_takes_the_fastest_copy_that_is_large_enough() -> None:
    copies = [
        {"bytes": 100, "gb_per_s": 9.0},
        {"bytes": 1000, "gb_per_s": 4.0},
        {"bytes": 10_000, "gb_per_s": 5.0},
    ]
    machine = {"copies": copies, "matrix_gflop_per_s": 2.0}
    assert Floor(10**10, 10**9, 0, 200).seconds(machine) == pytest.approx(2.0)
    assert Floor(10**10, 10**9, 0, 200).seconds(machine, fused=True) == pytest.approx(0.2)
    assert Floor(10**10, 10**9, 10**10, 20_000).seconds(machine) == pytest.approx(5.0)


def test_generated_pools_have_the_rank_of_their_smaller_side() -> None:
    for terms, rank in ((10, 2), (50, 5), (200, 10)):
        for dense in ("", "-dense"):
            problem = Problem(pool=f"generated-{terms}{dense}")
            learner = rs.PlasticityLearner(problem.network, problem.terms)
            assert (learner.n_terms, learner.program.rank) == (terms, rank)
            zeros = int((torch.tensor(coefficients(problem.pool)) == 0).sum())
            assert zeros == (0 if dense else terms - 2)


def test_what_exceeds_the_limits_is_skipped_and_says_what_it_would_take() -> None:
    limits = Limits(seconds=60, gigabytes=2)
    assert limits.exceeded(59, 1e9) == ""
    assert limits.exceeded(1, 72 * 2**30) == "would take about 72 GB"
    assert limits.exceeded(301, 1e9) == "would take about 5 min"
    assert duration(61.4) == "61 s"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no peer is called 'theano'; there are plain"):
        find_peers(["theano"])
    with pytest.raises(ConfigError, match="no suite is called 'widht'; did you mean 'width'"):
        find_suites(["widht"])
    with pytest.raises(ConfigError, match="pool10 or one of generated-10"):
        _ = Problem(pool="generated-11").terms


def test_problems_of_all_suites_survive_json() -> None:
    for suite in find_suites(["all"]):
        for problem in (case.problem for s in (suite, quick(suite)) for case in s.cases()):
            assert problem_of(json.loads(json.dumps(content_of(problem)))) == problem
        assert set(suite.peers or ()) <= set(PEERS)


def stored() -> Results:
    machine = {
        "processor": "Abacus", "cores": 2, "threads": 2, "memory_gb": 8.0, "system": "Linux x86_64",
        "device": "cpu", "copies": [{"bytes": 1 << 20, "gb_per_s": 100.0}],
        "matrix_gflop_per_s": 1e6, "versions": {"torch": "2.0"},
    }  # fmt: skip
    results = Results(machine, first_use={
        "first": {"seconds": 9.0, "process_seconds": 12.0},
        "second": {"seconds": 0.25, "process_seconds": 3.0},
    })  # fmt: skip
    for lifetimes in (1, 20):
        problem = content_of(Problem(lifetimes=lifetimes))
        common = {"suite": "main", "axis": "lifetimes", "value": lifetimes, "problem": problem}
        measured = {
            "status": "measured", "reason": "", "compile_seconds": None, "idle_bytes": 300_000_000,
            "peak_bytes": 450_000_000, "gradient_error": 2e-6, "remarks": {"rank": 3},
        }  # fmt: skip
        results.put({**common, **measured, "peer": "rulesearch", "seconds": [0.5, 0.4, 0.6]})
        results.put({**common, **measured, "peer": "jax", "seconds": [4.0], "compile_seconds": 7.5})
        reason = "would take about 72 GB"
        results.put({**common, "peer": "plain", "status": "skipped", "reason": reason})
    return results


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["rulesearch", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_tables_of_a_stored_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stored().save(tmp_path / "machine.json")
    options = ("--show", path, "--markdown", "--figures", tmp_path / "figures")
    assert run_main(monkeypatch, "bench", *options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "### The paper's network and ten terms, 250 steps" in lines
    assert "| rulesearch | 0.5 (0.4-0.6) | 40 | - | 150 | 450 | 2.0e-06 | - |" in lines
    assert "| jax | 4 (4-4) | 5 | 8 | 150 | 450 | 2.0e-06 | 7.5 |" in lines
    assert "| plain | skipped: would take about 72 GB | - | - | - | - | - | - |" in lines
    floors = "| floor (a pass for each product) | 0.474 | 42.2 | 0.947 | - | - | - | - |"
    assert floors in lines  # 13 passes over 133,280 weights, 14 over 45,390; 5000 steps; 100 GB/s
    assert "First gradient in a second process: 0.25 s (3.0 s the whole process)." in lines
    assert (tmp_path / "figures" / "bench-main.svg").read_text().startswith("<?xml")

    assert run_main(monkeypatch, "bench", "--show", path) == 0
    assert "skipped: would take about 72 GB" in capsys.readouterr().out


def test_a_file_in_the_place_of_the_figures_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stored().save(tmp_path / "machine.json")
    assert run_main(monkeypatch, "bench", "--show", path, "--figures", path) == 2
    assert capsys.readouterr().err == f"{path} cannot be made: File exists\n"


def test_tables_of_episodes_say_how_long_a_meta_training_is() -> None:
    results = Results(stored().machine)
    common = {"suite": "flp", "axis": "steps", "value": 400, "problem": content_of(Episode())}
    measured = {
        "status": "measured", "reason": "", "compile_seconds": None, "idle_bytes": 300_000_000,
        "peak_bytes": 500_000_000, "gradient_error": 2e-6, "remarks": {},
    }  # fmt: skip
    results.put({**common, **measured, "peer": "rulesearch", "seconds": [1.8]})
    results.put({**common, **measured, "peer": "plain", "seconds": [5.4]})
    lines = tables_in_markdown(results).splitlines()
    assert "**1 lifetime, 400 steps, 32 examples a step, 8 hidden layers, FLP(3)**" in lines
    assert "| plain | 5.4 (5.4-5.4) | 0.185 | 3 | 200 | 500 | 2.0e-06 | - |" in lines
    assert not any("floor" in line for line in lines)
    assert lines[-1] == (
        "Episodes an hour, and hours for 20,000: rulesearch 2,000 an hour, 10.0 h; "
        "plain 667 an hour, 30.0 h."
    )


def test_a_row_measured_again_takes_the_old_ones_place(tmp_path: Path) -> None:
    results = stored()
    results.put({**results.rows[0], "seconds": [1.0]})
    assert len(results.rows) == 6
    assert results.ours("main", 1) == 1.0
    assert Results.load(results.save(tmp_path / "x.json")) == results
    (tmp_path / "y.json").write_text("[]")
    with pytest.raises(RunError, match="is no file of 'rulesearch bench --out'"):
        Results.load(tmp_path / "y.json")


def test_bench_measures_in_processes_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = Problem((8, 6, 5, 4), steps=9, lifetimes=2, queries=3)
    monkeypatch.setitem(SUITES, "main", replace(SUITES["main"], problems=((2, tiny),)))
    monkeypatch.setattr("rulesearch.bench.peers.registry.PEERS", {
        **PEERS, "absent": replace(PEERS["plain"], name="absent", needs="no-such-package"),
    })  # fmt: skip
    out = tmp_path / "machine.json"
    options = ("--peers", "rulesearch", "--peers", "absent", "--repeats", 2, "--out", out)
    assert run_main(monkeypatch, "bench", *options) == 0
    found = Results.load(out)
    ours, absent = found.rows
    assert (absent["status"], ours["status"]) == ("not installed", "measured")
    assert absent["reason"] == "pip install 'rulesearch[no-such-package]'"
    assert len(ours["seconds"]) == 2
    assert ours["gradient_error"] < 1e-4
    assert ours["peak_bytes"] >= ours["idle_bytes"] > 0
    assert found.references[0]["oracle_error"] < 1e-9
    assert found.machine["copies"][0]["gb_per_s"] > 0
    shown = "".join(line.split("│")[2].strip() for line in capsys.readouterr().out.splitlines()
                    if line.count("│") > 3)  # fmt: skip
    assert "pip install'rulesearch[no-such-package]'" in shown
