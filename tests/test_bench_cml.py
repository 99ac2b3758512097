"""The suite of consolidation: peers have the right gradient, tables tell the cost of a step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rulesearch.bench.consolidation import Consolidation
from rulesearch.bench.kinds import content_of
from rulesearch.bench.peers import PEERS
from rulesearch.bench.results import Results
from rulesearch.bench.tables import tables_in_markdown

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = Consolidation((5, 4, 3), steps=6, lifetimes=2, examples=9, queries=7, window=3)


def lose(problem: Consolidation, strength: list[Tensor], steps: int) -> float:
    """Evaluation loss after descent by the formulas of backprop."""
    data = problem.make().to(torch.float64)
    (x, label), (xe, label_e) = data.learn, data.evaluate
    V, W = born = data.born
    velocity = [torch.zeros_like(w) for w in born]
    asked = torch.nn.functional.one_hot(label, 3)
    for _ in range(steps):
        h = torch.tanh(x @ V.mT)
        error = ((h @ W.mT).softmax(-1) - asked) / x.shape[1]
        back = (error @ W) * (1 - h**2)
        slopes = (
            back.mT @ x + strength[0] * (V - born[0]),
            error.mT @ h + strength[1] * (W - born[1]),
        )
        velocity = [0.9 * v + slope for v, slope in zip(velocity, slopes, strict=True)]
        V, W = V - problem.rate * velocity[0], W - problem.rate * velocity[1]
    right = (torch.tanh(xe @ V.mT) @ W.mT).log_softmax(-1).gather(-1, label_e[..., None])
    return float(-right.mean((1, 2)).sum())


def test_unrolled_peers_have_the_gradient_of_finite_differences() -> None:
    data = SMALL.make().to(torch.float64)
    generator = torch.Generator().manual_seed(2)
    way = [torch.randn(s.shape, generator=generator, dtype=torch.float64) for s in data.strength]
    ends = [
        lose(SMALL, [s + h * d for s, d in zip(data.strength, way, strict=True)], SMALL.steps)
        for h in (1e-6, -1e-6)
    ]
    direction = torch.cat([d.flatten() for d in way])
    for name in ("plain", "truncated", "learning"):
        found = PEERS[name].prepare(SMALL, data).run()
        assert found.loss == pytest.approx(lose(SMALL, data.strength, SMALL.steps), rel=1e-12)
        along = float(torch.tensor(found.gradient, dtype=torch.float64) @ direction)
        expected = 0.0 if name == "learning" else (ends[0] - ends[1]) / 2e-6
        if name == "truncated":  # three steps of six
            assert 0.3 < along / expected < 0.9
        else:
            assert along == pytest.approx(expected, rel=1e-6)


def test_the_library_comes_near_where_learning_converges() -> None:
    problem = Consolidation((5, 4, 3), steps=300, examples=9, queries=7, beta=1e-3)
    data = problem.make().to(torch.float64)
    ours, unrolled = (
        torch.tensor(PEERS[name].prepare(problem, data).run().gradient, dtype=torch.float64)
        for name in ("rulesearch", "plain")
    )
    assert float((ours - unrolled).norm() / unrolled.norm()) < 0.02


def test_tables_tell_what_a_step_takes() -> None:
    results = Results({
        "processor": "Abacus", "cores": 2, "threads": 2, "memory_gb": 8.0, "system": "Linux x86_64",
        "device": "cpu", "copies": [], "matrix_gflop_per_s": 1.0, "versions": {},
    })  # fmt: skip
    common = {
        "suite": "cml", "axis": "steps", "value": 400, "problem": content_of(Consolidation()),
        "status": "measured", "reason": "", "compile_seconds": None, "idle_bytes": 0,
        "peak_bytes": 10**6, "gradient_error": 0.1,
    }  # fmt: skip
    results.put({**common, "peer": "learning", "seconds": [0.2], "remarks": {"steps": 400}})
    results.put({**common, "peer": "rulesearch", "seconds": [0.6], "remarks": {"steps": 800}})
    lines = tables_in_markdown(results).splitlines()
    title = "1 lifetime, 400 steps, 200 examples a step, 64-128-10, a strength for each weight"
    assert f"**{title}**" in lines
    assert (
        lines[-1] == "Milliseconds a step of learning: learning 0.5; rulesearch 0.75 (1.50 times)."
    )
