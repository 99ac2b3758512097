"""The engine in torch: it does what the compiled one does, on any device.

What holds for both is in test_fused.py.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lives import terms
from random_terms import pools
from test_fused import NETWORK, POOL, adjoints, assert_close, program
from torch import Tensor

from rulesearch.errors import LearnerError
from rulesearch.grammar import TermPool
from rulesearch.learners import Indexed, PlasticityLearner
from rulesearch.learners.eager import segments
from rulesearch.learners.eager.plan import merged, plan_of
from rulesearch.learners.tape import build_tape, not_fusible
from rulesearch.networks import NetworkState, PlasticNetwork

pytestmark = pytest.mark.usefixtures("one_thread")

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    ),
]


def engine(pool: TermPool, network: PlasticNetwork = NETWORK, **options: Any) -> PlasticityLearner:
    return PlasticityLearner(network, pool, engine="torch", **options)


def oracle(pool: TermPool, network: PlasticNetwork = NETWORK, **options: Any) -> PlasticityLearner:
    return PlasticityLearner(network, pool, "autograd", **options)


@pytest.mark.parametrize("examples", [1, 3])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "options",
    [
        {"feedback": "symmetric"},
        {"feedback": "symmetric", "detach_feedback": True},
        {"feedback": "direct"},
        {"activation": "tanh", "output": "linear"},
        {"beta": 2.0},
    ],
    ids=lambda options: ", ".join(map(str, options.values())),
)
def test_networks(options: dict[str, Any], reduction: str, examples: int) -> None:
    network = PlasticNetwork((9, 8, 1, 6, 5), **options)  # a layer of one unit too
    theta = torch.tensor([0.02, -0.01, -0.02, 0.003, 0.005, 0.01, 0.02, -0.03, 0.01, 0.02]).double()
    learner = engine(POOL, network, reduction=reduction, checkpoint_every=10)
    twin = oracle(POOL, network, reduction=reduction)
    theta = theta / (5 * examples)
    found, expected = (adjoints(each, theta, 22, examples) for each in (learner, twin))
    assert_close(found, expected)
    assert learner.report is not None
    assert not learner.report.recomputed.any()


@settings(max_examples=25, deadline=None)
@given(
    found=pools(4),
    feedback=st.sampled_from(("random", "symmetric")),
    examples=st.integers(1, 3),
    size=st.floats(1e-4, 3e-3),
)
def test_random_grammars_have_the_gradient_of_plain_autograd(
    found: tuple[TermPool, Any], feedback: str, examples: int, size: float
) -> None:
    pool, _ = found
    network = PlasticNetwork((5, 4, 3), activation="tanh", feedback=feedback)
    learner = engine(pool, network, checkpoint_every=9)
    assume(not not_fusible(learner.program))
    theta = torch.tensor([(-1.0) ** r * size for r in range(len(pool))], dtype=torch.float64)
    expected = adjoints(oracle(pool, network), theta, 20, examples)
    assume(all(bool(g.isfinite().all()) and float(g.abs().max()) < 1e6 for g in expected))
    assert_close(adjoints(learner, theta, 20, examples), expected, 1e-8)


@pytest.mark.parametrize("memory", [2**28, 0])
@pytest.mark.parametrize("steps", [20, 150])
def test_a_segment_that_drifts_is_taken_again_in_halves(
    steps: int, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No drift at all is tolerated; without memory each lifetime runs by itself."""
    monkeypatch.setattr(segments, "WORKING_MEMORY", memory)
    pool, theta = program("ten terms")
    learner = engine(pool, checkpoint_every=100, drift_tolerance=0.0)
    assert_close(adjoints(learner, theta, steps, 1), adjoints(oracle(pool), theta, steps, 1))
    assert learner.report is not None
    assert learner.report.recomputed.tolist() == [-(-steps // 100)] * 2


def lives(
    learner: PlasticityLearner, dtype: torch.dtype, device: str, name: str = "ten terms"
) -> tuple[NetworkState, Tensor, Indexed, Tensor]:
    """Three networks at birth, each with coefficients of its own, and twenty steps."""
    g = torch.Generator().manual_seed(3)
    born = learner.init(3, g, dtype)
    table = torch.rand(6, learner.network.sizes[0], generator=g, dtype=dtype)
    index, label = (torch.randint(n, (20, 3, 2), generator=g) for n in (6, 5))
    theta = program(name)[1].to(dtype) * torch.tensor([[1.0], [0.5], [-1.0]], dtype=dtype)
    state = NetworkState([w.to(device) for w in born.W], [b.to(device) for b in born.B])
    return state, theta.to(device), Indexed(table.to(device), index.to(device)), label.to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "name", ["ten terms", "two kinds of row decay", "masks", "feedback in a core"]
)
def test_devices_agree_with_plain_autograd_on_the_cpu(
    name: str, dtype: torch.dtype, device: str
) -> None:
    """Of indexed examples; theta a row a lifetime."""
    results, pool = [], program(name)[0]
    for learner, where in ((engine(pool), device), (oracle(pool), "cpu")):
        state, theta, x, label = lives(learner, dtype, where, name)
        theta.requires_grad_()
        final = learner.live(state, theta, x, label)
        loss = sum(((w * w.detach().cos()).sum() for w in final.W), torch.zeros((), device=where))
        results.append([*final.detach().W, torch.autograd.grad(loss, theta)[0]])
    here = [tensor.cpu() for tensor in results[0]]
    assert_close(here, results[1], 1e-9 if dtype == torch.float64 else 1e-3)


def test_memory_is_that_of_the_compiled_engine() -> None:
    """Products and checkpoints, O(T (n + m)), and no graph of steps."""
    learner = engine(POOL, checkpoint_every=10)
    state, theta, x, label = lives(learner, torch.float32, "cpu")
    node: Any = learner.live(state, theta.requires_grad_(), x, label).W[0].grad_fn
    tape = build_tape(NETWORK, learner.program)
    assert node.stored.numel() == 20 * 3 * 2 * tape.stored
    assert node.checkpoints.numel() == 3 * tape.plastic_size


def test_what_no_tape_can_hold_takes_the_general_way() -> None:
    learner = engine(terms("-e_post * y_pre.T", "tanh(W)"))
    adjoints(learner, torch.tensor([0.01, -0.001], dtype=torch.float64), 3, 1)
    assert learner.report is not None
    assert learner.report.path == "general"
    assert learner.report.reason == not_fusible(learner.program)
    assert learner.path() == ("general", learner.report.reason)
    with pytest.raises(LearnerError, match="fused engine cannot run"):
        adjoints(
            PlasticityLearner(NETWORK, learner.pool, engine="fused"), torch.zeros(2).double(), 3, 1
        )


def test_operations_that_are_alike_are_taken_together() -> None:
    """Unless one reads what another writes, though both lie side by side."""
    plan = plan_of(build_tape(NETWORK, engine(terms("tanh(tanh(tanh(e_post))) * y_pre.T")).program))
    for group in plan.groups:
        assert not {op.out for op in group} & {op.a for op in group if op.kind == "apply"}
    applied = [group[0] for group in plan.groups if group[0].kind == "apply"]
    assert sum(op.function == "tanh" for op in applied) == 3
    spans = merged([(5, (0, 100)), (3, (16, 116)), (3, (32, 200))])
    assert [tuple(span) for span in spans] == [(19, (0, 100), (5, 3)), (3, (32, 200), (3,))]
    numbers = merged([(5, (0, 100)), (3, (16, 101)), (2, (32, 103))], scalars=1)
    assert [tuple(span) for span in numbers] == [(19, (0, 100), (5, 3)), (2, (32, 103), (2,))]


def test_threads_share_out_lifetimes_and_leave_no_trace() -> None:
    pool, theta = program("ten terms")
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(adjoints(engine(pool), theta, 12, 1))
        assert torch.get_num_threads() == threads
        with ThreadPoolExecutor(1) as fresh:
            assert fresh.submit(torch.get_num_threads).result() == threads
    assert_close(*found, 1e-13)


def test_memory_of_frames_bounds_how_many_run_in_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lifetime by itself at least."""
    pool, theta = program("ten terms")
    together = adjoints(engine(pool), theta, 12, 2)
    monkeypatch.setattr(segments, "WORKING_MEMORY", 0)
    assert_close(adjoints(engine(pool), theta, 12, 2), together, 1e-13)
