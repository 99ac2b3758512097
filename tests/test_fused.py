"""Every way through the engine: chunks, segments, stored or made again, rebuilt or not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lives import MASKS, NETWORKS, OJA, assert_same_gradients, coefficients, lifetimes, terms
from plain_lives import ENGINES, POOL
from torch import Tensor

from rulesearch.grammar import Term, TermPool
from rulesearch.learners import Indexed, PlasticityLearner, memory
from rulesearch.networks import NetworkState, PlasticNetwork

NETWORK = PlasticNetwork((23, 18, 5))
PROGRAMS = {
    "ten terms": [str(term) for term in POOL],
    "no decay": ["-e_post * y_pre.T", "-e_post * e_pre.T"],
    "Oja, single neuron": ["y_post * y_pre.T - diag(y_post**2) * W", "-e_post * y_pre.T"],
    "two kinds of row decay": ["-diag(y_post**2) * W", "diag(e_post) * W", "-W"],
    "masks": ["-hadamard(y_post * y_pre.T, W)", "-e_post * y_pre.T", "-W"],
    "columns": ["-W * diag(y_pre**2)", "-e_post * y_pre.T"],
    "powers of weights": ["hadamard(y_post * y_pre.T, hadamard(W, W))", "-e_post * y_pre.T"],
    "feedback in a core": ["hadamard(e_post * y_pre.T, hadamard(B, W))", "-diag(y_post) * W"],
    "feedback alone": ["hadamard(e_post * y_pre.T, B)", "-diag(y_post) * W"],
    "high rank": [
        f"-({post}) * ({pre}).T"
        for post in ("e_post", "y_post", "ones_post", "e_post**2", "y_post**2", "e_post**3")
        for pre in ("y_pre", "e_pre", "ones_pre", "y_pre**2", "e_pre**2", "y_pre**3")
    ],
}


def program(name: str) -> tuple[TermPool, Tensor]:
    texts = PROGRAMS[name]
    theta = torch.linspace(0.02, 0.005, len(texts), dtype=torch.float64) / len(texts)
    return TermPool(Term.from_text(f"T{i}", text) for i, text in enumerate(texts)), theta


def adjoints(learner: PlasticityLearner, theta: Tensor, steps: int, examples: int) -> list[Tensor]:
    """Final weights of two lifetimes, then what a function of them leaves in theta, W and B."""
    g = torch.Generator().manual_seed(steps + examples)
    network = learner.network
    x = torch.rand(steps, 2, examples, network.sizes[0], generator=g, dtype=torch.float64)
    label = torch.randint(network.sizes[-1], (steps, 2, examples), generator=g)
    born = learner.init(2, g, torch.float64)
    theta = torch.stack([theta, -theta / 100]).requires_grad_()
    born = NetworkState([w.requires_grad_() for w in born.W], [b.requires_grad_() for b in born.B])
    final = learner.live(born, theta, x, label)
    flat = torch.cat([w.flatten(1) for w in final.W], 1)
    loss = (flat * torch.linspace(-1, 1, flat.shape[1], dtype=flat.dtype)).sin().sum()
    found = torch.autograd.grad(
        loss, (theta, *born.W, *born.B), allow_unused=True, materialize_grads=True
    )
    return [*final.detach().W, *found]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-9) -> None:
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert float((a - b).norm() / b.norm().clamp_min(1e-9)) < tolerance, number


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("examples", [1, 4, 17])
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("engine", ENGINES)
def test_programs_have_the_gradient_of_plain_autograd(
    engine: str, name: str, examples: int, store: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "MEMORY", 2**29 if store else 0)
    pool, theta = program(name)
    learner = PlasticityLearner(NETWORK, pool, engine=engine, checkpoint_every=11)
    found = adjoints(learner, theta, 25, examples)
    oracle = PlasticityLearner(NETWORK, pool, "autograd")
    assert_close(found, adjoints(oracle, theta, 25, examples))
    report: Any = learner.report
    assert report.path == engine
    invertible = name not in ("powers of weights", "feedback in a core")
    assert report.recomputed.tolist() == ([0, 0] if invertible else [3, 3])
    assert float(report.drift.max()) < 1e-12 if invertible else report.drift is None


@pytest.mark.parametrize("examples", [1, 3])
@pytest.mark.parametrize("others", [[], [0], [0, 13]])
@pytest.mark.parametrize("name", ["ten terms", "high rank", "two kinds of row decay"])
@pytest.mark.parametrize("engine", ENGINES)
def test_terms_at_zero_have_their_gradients_too(
    engine: str, name: str, others: list[int], examples: int
) -> None:
    pool, theta = program(name)
    sparse = torch.zeros_like(theta)
    sparse[[index % len(theta) for index in others]] = 0.02
    learner = PlasticityLearner(NETWORK, pool, engine=engine, checkpoint_every=11)
    oracle = PlasticityLearner(NETWORK, pool, "autograd")
    found, expected = (adjoints(each, sparse, 25, examples) for each in (learner, oracle))
    assert_close(found, expected)
    assert bool((found[2] != 0).any(0).all())  # of every term


@pytest.mark.parametrize(
    ("name", "examples", "steps"), [("ten terms", 1, 12), ("masks", 1, 12), ("masks", 19, 3)]
)
def test_networks_wider_than_a_block(name: str, examples: int, steps: int) -> None:
    """More columns, rows and numbers of a vector than are taken at a time, and their remainders."""
    pool, theta = program(name)
    network = PlasticNetwork((415, 201, 70, 5))
    learner = PlasticityLearner(network, pool, engine="fused", checkpoint_every=5)
    oracle = PlasticityLearner(network, pool, "autograd")
    found, expected = (adjoints(each, theta / 100, steps, examples) for each in (learner, oracle))
    assert_close(found, expected)


def test_inputs_that_change_before_the_gradient_is_taken_are_noticed() -> None:
    pool, theta = program("ten terms")
    learner = PlasticityLearner(NETWORK, pool, engine="fused")
    for changed in ("x", "label", "index"):
        table, index = torch.rand(4, 23, dtype=torch.float64), torch.zeros(3, 1, dtype=torch.int64)
        x, label = torch.rand(3, 1, 23, dtype=torch.float64), torch.zeros(3, 1, dtype=torch.int64)
        seen = Indexed(table, index) if changed == "index" else x
        born = learner.init(1, dtype=torch.float64)
        final = learner.live(born, theta.clone().requires_grad_(), seen, label)
        {"x": x, "label": label, "index": index}[changed].add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            final.W[0].sum().backward()


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=25, deadline=None)
@given(steps=st.integers(1, 45), every=st.integers(1, 50), examples=st.integers(1, 3))
def test_chunks_and_segments_of_any_length(
    engine: str, steps: int, every: int, examples: int
) -> None:
    pool, theta = program("ten terms")
    learner = PlasticityLearner(NETWORK, pool, engine=engine, checkpoint_every=every)
    oracle = PlasticityLearner(NETWORK, pool, "autograd")
    found, expected = (adjoints(each, theta, steps, examples) for each in (learner, oracle))
    assert_close(found, expected)


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("steps", [20, 33, 150])
def test_a_segment_that_drifts_is_taken_again_in_halves(
    steps: int, store: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No drift at all is tolerated, so that every weight is recomputed."""
    monkeypatch.setattr(memory, "MEMORY", 2**29 if store else 0)
    pool, theta = program("ten terms")
    learner = PlasticityLearner(
        NETWORK, pool, engine="fused", checkpoint_every=100, drift_tolerance=0.0
    )
    oracle = PlasticityLearner(NETWORK, pool, "autograd")
    assert_close(adjoints(learner, theta, steps, 1), adjoints(oracle, theta, steps, 1))
    report: Any = learner.report
    assert report.recomputed.tolist() == [-(-steps // 100)] * 2


@pytest.mark.parametrize("engine", ENGINES)
def test_only_the_lifetimes_that_drift_are_recomputed(engine: str) -> None:
    """A decay of nearly all of W at each step rebuilds little more than a step."""
    pool, _ = program("ten terms")
    theta = torch.zeros(10, dtype=torch.float64)
    theta[0], theta[3] = 0.01, 0.9
    learner = PlasticityLearner(NETWORK, pool, engine=engine, checkpoint_every=100)
    oracle = PlasticityLearner(NETWORK, pool, "autograd")
    assert_close(adjoints(learner, theta, 120, 1), adjoints(oracle, theta, 120, 1))
    report: Any = learner.report
    assert report.recomputed.tolist() == [2, 0]  # the second lifetime's weights hardly change
    assert report.drift[0] > 1e-9 > report.drift[1]


@pytest.mark.parametrize(("examples", "store"), [(1, False), (17, True)])
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_with_rates_and_biases(
    name: str, examples: int, store: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Biases learn where the terms have no B, of which biases have none."""
    monkeypatch.setattr(memory, "MEMORY", 2**29 if store else 0)
    pool, theta = program(name)
    network = PlasticNetwork((7, 5, 4), bias=True)
    life = lifetimes(network, 8, examples, plastic_bias="feedback" not in name)
    report, _ = assert_same_gradients("fused", network, pool, theta / 4, life, checkpoint_every=3)
    invertible = name not in ("powers of weights", "feedback in a core")
    assert report.recomputed.tolist() == ([0, 0] if invertible else [3, 3])


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("name", ["error", "target"])
def test_halves_of_a_segment_with_every_part(
    name: str, store: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adjoints of what stays as it is are put back, too, before a segment is taken again."""
    monkeypatch.setattr(memory, "MEMORY", 2**29 if store else 0)
    life, pool = lifetimes(NETWORKS[name], 75, 1), terms(*MASKS)
    report, _ = assert_same_gradients(
        "fused", NETWORKS[name], pool, coefficients(pool, size=0.01), life, 1e-8,
        checkpoint_every=70, drift_tolerance=0.0,
    )  # fmt: skip
    assert bool((report.recomputed >= 1).all())


def test_only_the_lifetime_whose_rates_are_strong_is_recomputed() -> None:
    """A decay of nearly all of W at each step rebuilds little more than a step."""
    network, pool = NETWORKS["error"], terms(*OJA, "-W")
    state, x, label = lifetimes(network, 50, 1)
    for rate in (*state.rate, *state.bias_rate):
        rate[0], rate[1] = 0.95, 0.001
    theta = torch.tensor([0.01, 1.0], dtype=torch.float64)
    report, _ = assert_same_gradients("fused", network, pool, theta, (state, x, label))
    assert report.recomputed.tolist() == [1, 0]
    assert report.drift[0] > 1e-9 > report.drift[1]


def test_checkpoints_are_far_apart_where_products_are_made_again() -> None:
    tape = fused_tape()
    short, long = (100, 1, 1), (10**7, 1, 1)
    assert memory.are_stored(tape, short, torch.float32)
    assert not memory.are_stored(tape, long, torch.float32)
    assert memory.checkpoint_every(tape, short, torch.float32) == 100
    every = memory.checkpoint_every(tape, long, torch.float32)
    checkpoints, segment = 10**7 / every * tape.plastic_size, every * tape.stored
    assert checkpoints == pytest.approx(segment, rel=0.01)  # where their sum is least


def fused_tape() -> Any:
    from rulesearch.learners.tape import build_tape

    return build_tape(NETWORK, PlasticityLearner(NETWORK, POOL).program)
