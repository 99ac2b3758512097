"""Lifetimes: the same gradient by every path, and nothing moved that should not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_terms import pools
from torch import Tensor

from rulesearch.errors import ConfigError, LearnerError
from rulesearch.grammar import Grammar, Term, TermPool
from rulesearch.learners import PlasticityLearner
from rulesearch.networks import NetworkState, PlasticNetwork
from rulesearch.rules import Rule

POOL = Grammar.from_yaml(Path(__file__).parent.parent / "grammars" / "pool10.yaml").enumerate()
SIZES = (7, 6, 5, 4)
STEPS, LIFETIMES = 60, 2
THETA = (0.05, -0.01, -0.04, 0.003, 0.005, 0.01, 0.02, -0.03, 0.01, 0.02)
ENGINES = ("fused", "torch")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: threads would only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lifetimes(
    network: PlasticNetwork,
    steps: int = STEPS,
    count: int = LIFETIMES,
    dtype: torch.dtype = torch.float64,
) -> tuple[NetworkState, Tensor, Tensor]:
    """Networks at birth, and what they see."""
    g = torch.Generator().manual_seed(1)
    state = network.init([torch.Generator().manual_seed(i) for i in range(count)], dtype)
    x = torch.rand(steps, count, network.sizes[0], generator=g, dtype=dtype)
    label = torch.randint(network.sizes[-1], (steps, count), generator=g)
    return state, x, label


def loss(state: NetworkState) -> Tensor:
    """Some smooth function of the final weights, another one in every entry."""
    return torch.stack(
        [
            (w * torch.linspace(-1, 1, w[0].numel(), dtype=w.dtype).view_as(w[0])).sin().sum((1, 2))
            for w in state.W
        ]
    ).sum(0)


def gradient(
    learner: PlasticityLearner,
    state: NetworkState,
    theta: Tensor,
    x: Tensor,
    label: Tensor,
) -> tuple[NetworkState, list[Tensor]]:
    """Final state, and the adjoints of theta, of W and of B."""
    theta = theta.clone().requires_grad_()
    born = NetworkState(
        [w.clone().requires_grad_() for w in state.W], [b.clone().requires_grad_() for b in state.B]
    )
    final = learner.live(born, theta, x, label)
    inputs = (theta, *born.W, *born.B)
    grads = torch.autograd.grad(
        loss(final).sum(), inputs, allow_unused=True, materialize_grads=True
    )
    return final.detach(), list(grads)


def distance(a: Tensor, b: Tensor) -> float:
    """Relative, whole tensors."""
    return float((a - b).norm() / b.norm().clamp_min(1e-12))


def assert_same_gradient(
    network: PlasticNetwork,
    pool: TermPool,
    theta: Tensor,
    steps: int = STEPS,
    tolerance: float = 1e-7,
    engines: tuple[str, ...] = ENGINES,
    **options: Any,
) -> list[PlasticityLearner]:
    example = lifetimes(network, steps)
    twin = PlasticityLearner(network, pool, "autograd")
    oracle_state, oracle = gradient(twin, example[0], theta, *example[1:])
    assume_finite = all(g.isfinite().all() for g in oracle)
    assert assume_finite
    learners = []
    for engine in engines:
        learner = PlasticityLearner(network, pool, engine=engine, **options)
        state, found = gradient(learner, example[0], theta, *example[1:])
        for w, expected in zip(state.W, oracle_state.W, strict=True):
            assert distance(w, expected) < 1e-10
        for number, (g, expected) in enumerate(zip(found, oracle, strict=True)):
            assert distance(g, expected) < tolerance, (engine, number)
        learners.append(learner)
    return learners


CONFIGURATIONS = {
    "random": {},
    "symmetric": {"feedback": "symmetric"},
    "symmetric, detached": {"feedback": "symmetric", "detach_feedback": True},
    "direct": {"feedback": "direct", "feedback_init": "normal"},
    "tanh": {"activation": "tanh"},
    "linear output": {"output": "linear", "feedback": "symmetric"},
    "tanh, linear, direct": {"activation": "tanh", "output": "linear", "feedback": "direct"},
    "soft": {"beta": 2.0},
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_ten_terms_at_once_have_the_gradient_of_plain_autograd(name: str) -> None:
    network = PlasticNetwork(SIZES, **CONFIGURATIONS[name])
    theta = torch.tensor(THETA, dtype=torch.float64)
    if network.output == "linear":
        theta = 0.2 * theta
    fused, in_torch = assert_same_gradient(network, POOL, theta, checkpoint_every=25)
    assert (fused.report.path, in_torch.report.path) == ("fused", "torch")
    for learner in (fused, in_torch):
        assert float(learner.report.drift.max()) < 1e-9
        assert not learner.report.recomputed.any()


@pytest.mark.parametrize("name", ["random", "symmetric", "direct", "linear output"])
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    network = PlasticNetwork(SIZES, **CONFIGURATIONS[name])
    state, x, label = lifetimes(network, 80)
    theta = torch.tensor(THETA, dtype=torch.float64) * (0.2 if network.output == "linear" else 1)
    learner = PlasticityLearner(network, POOL, engine="fused")
    _, (found, *_) = gradient(learner, state, theta, x, label)
    h = 1e-6
    with torch.no_grad():
        above, below = (
            [
                loss(learner.live(state, theta + step * unit, x, label)).sum()
                for unit in torch.eye(len(POOL), dtype=torch.float64)
            ]
            for step in (h, -h)
        )
    assert distance(found, (torch.stack(above) - torch.stack(below)) / (2 * h)) < 1e-5


@settings(max_examples=10, deadline=None)
@given(
    found=pools(3),
    feedback=st.sampled_from(("random", "symmetric")),
    size=st.floats(1e-4, 3e-3),
)
def test_random_grammars_have_the_gradient_of_plain_autograd(
    found: tuple[TermPool, Any], feedback: str, size: float
) -> None:
    pool, _ = found
    network = PlasticNetwork((4, 3, 3), activation="tanh", feedback=feedback)
    theta = torch.tensor([(-1.0) ** r * size for r in range(len(pool))], dtype=torch.float64)
    state, x, label = lifetimes(network)
    with torch.no_grad():
        final = PlasticityLearner(network, pool, engine="torch").live(state, theta, x, label)
    assume(all(bool((w.abs() < 10).all()) for w in final.W))
    (learner,) = assert_same_gradient(network, pool, theta, engines=("auto",), checkpoint_every=20)
    if learner.report.path == "fused":
        assert_same_gradient(network, pool, theta, engines=("torch",), checkpoint_every=20)


def terms(*expressions: str) -> TermPool:
    return TermPool(Term.from_text(f"T{i}", e) for i, e in enumerate(expressions))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("decay", [0.5, 0.9, 1.0])
def test_strong_decay_is_recomputed_and_right(engine: str, decay: float) -> None:
    """Dividing by 1 - decay at every step amplifies rounding beyond use."""
    network = PlasticNetwork(SIZES)
    pool = POOL.subset(("F0", "F3", "F9"))
    theta = torch.tensor([0.05, decay, 0.02], dtype=torch.float64)
    (learner,) = assert_same_gradient(
        network, pool, theta, engines=(engine,), checkpoint_every=30, steps=90
    )
    assert (learner.report.recomputed >= 2).all()  # of three segments
    assert not (learner.report.drift < 1e-9).any()


@pytest.mark.parametrize("engine", ENGINES)
def test_an_update_that_cannot_be_inverted_is_recomputed(engine: str) -> None:
    pool = terms("-e_post * y_pre.T", "-hadamard(W, W)", "-hadamard(y_post * y_pre.T, W, W)")
    theta = torch.tensor([0.05, 0.01, 0.02], dtype=torch.float64)
    (learner,) = assert_same_gradient(
        PlasticNetwork(SIZES), pool, theta, engines=(engine,), checkpoint_every=25
    )
    assert learner.report.recomputed.tolist() == [3, 3]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("feedback", ["random", "symmetric"])
def test_feedback_weights_in_a_term(engine: str, feedback: str) -> None:
    """Where feedback is symmetric B is W, and adding it cannot be undone by subtraction."""
    pool = terms("-e_post * y_pre.T", "B - W", "hadamard(e_post * y_pre.T, B, B)")
    theta = torch.tensor([0.05, 0.01, 0.02], dtype=torch.float64)
    network = PlasticNetwork(SIZES, feedback=feedback)
    (learner,) = assert_same_gradient(network, pool, theta, engines=(engine,))
    assert bool(learner.report.recomputed.any()) == (feedback == "symmetric")


MASKS = ("-e_post * y_pre.T", "-diag(y_post**2) * W", "-W * diag(tanh(y_pre))",
         "-hadamard(y_post * y_pre.T, W)", "-sum(y_post) * W")  # fmt: skip


def test_masks_and_wide_updates() -> None:
    theta = torch.tensor([0.05, 0.01, 0.02, 0.01, 0.002], dtype=torch.float64)
    assert_same_gradient(PlasticNetwork((19, 18, 17, 5)), terms(*MASKS), theta, steps=30)
    outers = [f"{a} * {b}.T" for a in ("y_post", "e_post", "ones_post", "z_post", "tanh(z_post)")
              for b in ("y_pre", "e_pre", "ones_pre", "(y_pre**2)", "exp(-y_pre)")]  # fmt: skip
    theta = torch.linspace(-2e-3, 2e-3, 25, dtype=torch.float64)
    pool = terms(*outers)
    assert PlasticityLearner(PlasticNetwork(SIZES), pool).program.rank == 5
    assert_same_gradient(PlasticNetwork((19, 18, 5)), pool, theta, steps=20)


def test_what_the_engine_cannot_run_runs_in_torch_and_says_why() -> None:
    network = PlasticNetwork(SIZES)
    for text in ("tanh(W)", "hadamard(W, W) * y_pre * y_pre.T"):
        learner = PlasticityLearner(network, terms("-e_post * y_pre.T", text))
        theta = torch.tensor([0.05, -0.01], dtype=torch.float64)
        assert_same_gradient(network, learner.pool, theta, engines=("auto",), steps=20)
        state, x, label = lifetimes(network, 3)
        learner.live(state, theta, x, label)
        assert learner.report.path == "general"
        assert "function" in learner.report.reason
        assert learner.bytes_per_lifetime(100) > 100
        with pytest.raises(LearnerError, match="fused engine cannot run"):
            PlasticityLearner(network, learner.pool, engine="fused").live(state, theta, x, label)


def test_checkpoints_do_not_change_the_gradient() -> None:
    network = PlasticNetwork(SIZES)
    example = lifetimes(network)
    theta = torch.tensor(THETA, dtype=torch.float64)
    learners = [PlasticityLearner(network, POOL, checkpoint_every=k) for k in (1, 7, 60, 500)]
    first, *rest = (gradient(learner, example[0], theta, *example[1:])[1] for learner in learners)
    for other in rest:
        for a, b in zip(first, other, strict=True):
            assert distance(a, b) < 1e-10


def test_backward_twice_gives_the_same() -> None:
    network = PlasticNetwork(SIZES)
    state, x, label = lifetimes(network)
    for engine in ENGINES:
        theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
        value = loss(PlasticityLearner(network, POOL, engine=engine).live(state, theta, x, label))
        first = torch.autograd.grad(value.sum(), theta, retain_graph=True)[0]
        assert torch.equal(torch.autograd.grad(value.sum(), theta)[0], first)


def test_lifetimes_held_at_once_keep_apart() -> None:
    """Memory of steps is used again, but only once nobody can ask for its gradient any more."""
    network = PlasticNetwork(SIZES)
    examples = [lifetimes(network, steps) for steps in (60, 40, 50)]
    learner = PlasticityLearner(network, POOL, engine="fused")
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    alone = [gradient(learner, e[0], theta.detach(), *e[1:])[1][0] for e in examples]
    values = [loss(learner.live(state, theta, x, label)).sum() for state, x, label in examples]
    for value, expected in zip(values, alone, strict=True):
        assert torch.equal(torch.autograd.grad(value, theta)[0], expected)


def rows_of_theta(count: int) -> Tensor:
    return torch.tensor(THETA, dtype=torch.float64) * torch.linspace(0.5, 1.5, count)[:, None]


def one(state: NetworkState, i: int) -> NetworkState:
    return NetworkState([w[i : i + 1] for w in state.W], [b[i : i + 1] for b in state.B])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lifetimes_in_a_batch_are_those_alone_to_the_bit(dtype: torch.dtype) -> None:
    network = PlasticNetwork(SIZES)
    state, x, label = lifetimes(network, count=4, dtype=dtype)
    theta = rows_of_theta(4).to(dtype)
    learner = PlasticityLearner(network, POOL, engine="fused")
    together, grads = gradient(learner, state, theta, x, label)
    for i in range(4):
        mine = slice(i, i + 1)
        alone, found = gradient(learner, one(state, i), theta[mine], x[:, mine], label[:, mine])
        assert all(torch.equal(a, b[mine]) for a, b in zip(alone.W, together.W, strict=True))
        assert all(torch.equal(a, b[mine]) for a, b in zip(found, grads, strict=True))


def test_each_lifetime_has_its_own_coefficients_in_torch_too() -> None:
    assert_same_gradient(PlasticNetwork(SIZES), POOL, rows_of_theta(LIFETIMES))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_lifetime_that_diverges_leaves_the_others_alone(engine: str) -> None:
    network = PlasticNetwork(SIZES)
    state, x, label = lifetimes(network, count=3)
    theta = rows_of_theta(3)
    learner = PlasticityLearner(network, POOL, engine=engine)
    fine, fine_grads = gradient(learner, state, theta, x, label)
    theta[1] = 1e3
    spoilt, spoilt_grads = gradient(learner, state, theta, x, label)
    assert not any(bool(w[1].isfinite().all()) for w in spoilt.W)
    for i in (0, 2):
        for a, b in zip(spoilt.W, fine.W, strict=True):
            assert torch.equal(a[i], b[i])
        for a, b in zip(spoilt_grads, fine_grads, strict=True):
            assert distance(a[i], b[i]) < (1e-9 if engine == "torch" else 1e-300)


def test_results_do_not_depend_on_threads() -> None:
    network = PlasticNetwork(SIZES)
    state, x, label = lifetimes(network, count=5, dtype=torch.float32)
    theta = rows_of_theta(5).float()
    learner = PlasticityLearner(network, POOL, engine="fused")
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        final, grads = gradient(learner, state, theta, x, label)
        results.append([*final.W, *grads])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("engine", ENGINES)
def test_single_precision_is_close_to_double(engine: str) -> None:
    network = PlasticNetwork(SIZES)
    state, x, label = lifetimes(network)
    learner = PlasticityLearner(network, POOL, engine=engine)
    theta = torch.tensor(THETA, dtype=torch.float64)
    final, grads = gradient(learner, state, theta, x, label)
    narrow = NetworkState([w.float() for w in state.W], [b.float() for b in state.B])
    final32, grads32 = gradient(learner, narrow, theta.float(), x.float(), label)
    for a, b in zip([*final32.W, *grads32], [*final.W, *grads], strict=True):
        assert a.dtype == torch.float32
        assert distance(a.double(), b) < 1e-3


def test_gradient_is_not_the_first_order_one() -> None:
    network = PlasticNetwork(SIZES)
    state, x, label = lifetimes(network)
    theta = torch.tensor(THETA, dtype=torch.float64)
    learner = PlasticityLearner(network, POOL)
    _, (whole, *_) = gradient(learner, state, theta, x, label)
    theta.requires_grad_()
    totals = [torch.zeros_like(w) for w in state.W]
    now = state
    for t in range(STEPS):  # every step's change as if the weights before it were given
        then = learner.live(now.detach(), theta, x[t : t + 1], label[t : t + 1])
        totals = [s + a - b for s, a, b in zip(totals, then.W, now.detach().W, strict=True)]
        now = then
    final = NetworkState([w + s for w, s in zip(state.W, totals, strict=True)], state.B)
    first_order = torch.autograd.grad(loss(final).sum(), theta)[0]
    assert distance(first_order, whole) > 0.05


@pytest.mark.parametrize("method", ["fused", "torch", "autograd"])
def test_only_what_is_plastic_moves(method: str) -> None:
    network = PlasticNetwork(SIZES)
    state, x, label = lifetimes(network)
    copies = [t.clone() for t in (*state.W, *state.B, x, label)]
    options = {"method": "autograd"} if method == "autograd" else {"engine": method}
    learner = PlasticityLearner(network, POOL, **options)
    theta = torch.tensor(THETA, dtype=torch.float64, requires_grad=True)
    final = learner.live(state, theta, x, label)
    loss(final).sum().backward()
    for before, after in zip(copies, (*state.W, *state.B, x, label), strict=True):
        assert torch.equal(before, after)
    assert torch.equal(theta.detach(), torch.tensor(THETA, dtype=torch.float64))
    assert all(a is b for a, b in zip(final.B, state.B, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(final.W, state.W, strict=True))


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of a nested structure."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors(part)
    elif is_dataclass(value):
        yield from tensors([getattr(value, f.name) for f in fields(value)])


def held(value: Any) -> int:
    """Numbers in memory; a tensor that is held twice is there once."""
    return sum({t.data_ptr(): t.numel() for t in tensors(value)}.values())


@pytest.mark.parametrize(
    ("engine", "expressions"),
    [
        ("fused", [str(term) for term in POOL]),
        ("torch", [str(term) for term in POOL]),
        ("torch", ["-e_post * y_pre.T", "hadamard(e_post * y_pre.T, tanh(B))"]),
    ],
)
def test_memory_is_that_of_vectors(engine: str, expressions: list[str]) -> None:
    """O(T (n + m)) and a checkpoint here and there, not O(T n m)."""
    network = PlasticNetwork((60, 60, 60))
    weights, steps = 2 * 60 * 60, 200
    pool = terms(*expressions)
    learner = PlasticityLearner(network, pool, engine=engine, checkpoint_every=50)
    state, x, label = lifetimes(network, steps, 1)
    theta = torch.full((len(pool),), 1e-4, dtype=torch.float64, requires_grad=True)
    node: Any = learner.live(state, theta, x, label).W[0].grad_fn
    kept = held(getattr(node, "stored", None)) + held(getattr(node, "history", None))
    assert 0 < kept < 60 * (steps * (60 + 60))
    assert kept < 0.5 * steps * weights
    assert held(node.checkpoints) <= 4 * weights
    assert learner.bytes_per_lifetime(steps, torch.float64) >= 8 * kept / 2


@pytest.mark.parametrize("method", ["reversible", "autograd"])
def test_relu_lives_but_has_no_meta_gradient(method: str) -> None:
    network = PlasticNetwork(SIZES, activation="relu")
    learner = PlasticityLearner(network, Rule(POOL, {"F0": 0.05, "F2": -0.01}), method)
    state, x, label = lifetimes(network)
    theta = torch.tensor([0.05, -0.01], dtype=torch.float64, requires_grad=True)
    with pytest.raises(LearnerError, match=r"relu cannot be differentiated twice.*use softplus"):
        learner.live(state, theta, x, label)
    with torch.no_grad():
        final = learner.live(state, theta, x, label)
    torch.testing.assert_close(final.W, learner.live(state, None, x, label).W)
    assert not torch.equal(final.W[0], state.W[0])


def test_rule_brings_its_coefficients_and_the_paths_agree_on_steps() -> None:
    """By hand: one step of the pseudo-gradient with symmetric feedback is a step of SGD."""
    network = PlasticNetwork((5, 4, 3), feedback="symmetric")
    state, x, label = lifetimes(network, 1)
    weights = [w.clone().requires_grad_() for w in state.W]
    output = network(NetworkState(weights, state.B), x.transpose(0, 1))
    picked = torch.nn.functional.cross_entropy(output[:, 0], label[0], reduction="sum")
    slopes = torch.autograd.grad(picked, weights)
    for options in ({"engine": "fused"}, {"engine": "torch"}, {"method": "autograd"}):
        learner = PlasticityLearner(network, Rule(POOL, {"F0": 0.1}), **options)
        final = learner.live(state, None, x, label)
        for w, slope, after in zip(state.W, slopes, final.W, strict=True):
            torch.testing.assert_close(after, w - 0.1 * slope)


def test_network_is_drawn_by_its_own_generator() -> None:
    network = PlasticNetwork((30, 40, 10), feedback_init="normal")
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    state = network.init(generators)
    alone = network.init([torch.Generator().manual_seed(2)])
    for a, b in zip((*state.W, *state.B), (*alone.W, *alone.B), strict=True):
        assert torch.equal(a[2:], b)
    bound = np.sqrt(6 / 70)
    assert float(state.W[0].abs().max()) <= bound
    assert float(state.W[0].std()) == pytest.approx(bound / np.sqrt(3), rel=0.05)
    assert float(state.B[0].std()) == pytest.approx(np.sqrt(2 / 70), rel=0.05)
    assert float(state.B[0].abs().max()) > bound


GOOD = PlasticNetwork(SIZES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"theta": torch.zeros(9, dtype=torch.float64)}, "theta has shape"),
        ({"theta": torch.zeros(3, 10, dtype=torch.float64)}, "theta has shape"),
        ({"theta": torch.zeros(10)}, "theta is torch.float32"),
        ({"theta": None}, "a pool has no coefficients"),
        ({"x": torch.zeros(5, 2, 6, dtype=torch.float64)}, r"should be \(steps, 2, 7\)"),
        ({"x": torch.zeros(0, 2, 7, dtype=torch.float64)}, "x has shape"),
        ({"x": torch.zeros(5, 2, 7)}, "x is torch.float32"),
        ({"label": torch.zeros(5, 3, dtype=torch.int64)}, "label has shape"),
        ({"label": torch.full((5, 2), 4)}, "the output has 4 units"),
        ({"label": torch.full((5, 2), -1)}, "labels run from -1"),
        ({"label": torch.zeros(5, 2, dtype=torch.float64)}, "as targets it should be"),
    ],
)
def test_arguments_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    state, x, label = lifetimes(GOOD, 5)
    arguments = {"theta": torch.zeros(10, dtype=torch.float64), "x": x, "label": label, **change}
    with pytest.raises(LearnerError, match=message):
        PlasticityLearner(GOOD, POOL).live(state, **arguments)


def test_states_that_do_not_fit() -> None:
    state, x, label = lifetimes(GOOD, 5)
    theta = torch.zeros(10, dtype=torch.float64)
    cases = [
        (replace(state, W=state.W[:2]), "2 matrices, the network 3"),
        (replace(state, B=[b.mT for b in state.B]), r"state.B\[0\] has shape"),
        (replace(state, B=[b.float() for b in state.B]), r"state.B\[0\] is torch.float32"),
        (replace(state, W=[state.W[0], *(w.float() for w in state.W[1:])]), r"state.W\[1\] is"),
    ]
    for broken, message in cases:
        with pytest.raises(LearnerError, match=message):
            PlasticityLearner(GOOD, POOL).live(broken, theta, x, label)


def test_choices_that_do_not_exist() -> None:
    with pytest.raises(ConfigError, match="method is one of"):
        PlasticityLearner(GOOD, POOL, "magic")
    with pytest.raises(ConfigError, match="engine is one of"):
        PlasticityLearner(GOOD, POOL, engine="magic")
    with pytest.raises(ConfigError, match="checkpoint_every"):
        PlasticityLearner(GOOD, POOL, checkpoint_every=0)
    with pytest.raises(ConfigError, match="did you mean 'softplus'"):
        PlasticNetwork(SIZES, activation="softpluss")
    with pytest.raises(ConfigError, match="two layers or more"):
        PlasticNetwork([5])
    with pytest.raises(ConfigError, match="beta"):
        PlasticNetwork(SIZES, beta=float("nan"))
    with pytest.raises(LearnerError, match="Omega"):
        PlasticityLearner(GOOD, terms("Omega - W"))
    with pytest.raises(LearnerError, match="direct feedback does not have"):
        PlasticityLearner(PlasticNetwork(SIZES, feedback="direct"), terms("B - W"))
