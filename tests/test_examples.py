"""Several examples a step, and examples given as indices: the same weights and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lives import distance
from plain_lives import POOL
from random_terms import pools
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import rulesearch as rs
from rulesearch.grammar import Term, TermPool
from rulesearch.learners import Indexed, PlasticityLearner
from rulesearch.networks import NetworkState, PlasticNetwork
from rulesearch.outer.meta_gradient import Unrolled, evaluate
from rulesearch.outer.scaling import term_scales
from rulesearch.tasks import TaskBatch

pytestmark = pytest.mark.usefixtures("one_thread")

THETA = torch.tensor([0.05, -0.01, -0.04, 0.003, 0.005, 0.01, 0.02, -0.03, 0.01, 0.02]).double()
SIZES = (7, 6, 5, 4)
PATHS: dict[str, dict[str, Any]] = {
    "fused": {"engine": "fused"},
    "torch": {"engine": "torch"},
    "autograd": {"method": "autograd"},
}
ENGINES = ("fused", "torch")


def lives(
    network: PlasticNetwork, examples: int, steps: int = 12, count: int = 2
) -> tuple[NetworkState, Tensor, Tensor]:
    """Networks at birth, and what they see: (steps, count, examples, n_in), and labels."""
    g = torch.Generator().manual_seed(examples)
    generators = [torch.Generator().manual_seed(i) for i in range(count)]
    shape = (steps, count, examples)
    x = torch.rand(*shape, network.sizes[0], generator=g, dtype=torch.float64)
    label = torch.randint(network.sizes[-1], shape, generator=g)
    return network.init(generators, torch.float64), x, label


def loss(state: NetworkState) -> Tensor:
    """Some smooth function of the final weights, another one in every entry."""
    flat = torch.cat([w.flatten(1) for w in state.W], 1)
    return (flat * torch.linspace(-1, 1, flat.shape[1], dtype=flat.dtype)).sin().sum()


def adjoints(
    learner: PlasticityLearner,
    state: NetworkState,
    theta: Tensor,
    x: Tensor | Indexed,
    label: Tensor,
) -> list[Tensor]:
    """Final weights, then what loss leaves in theta, in W and in B."""
    theta = theta.clone().requires_grad_()
    born = NetworkState(
        [w.clone().requires_grad_() for w in state.W], [b.clone().requires_grad_() for b in state.B]
    )
    final = learner.live(born, theta, x, label)
    inputs = (theta, *born.W, *born.B)
    found = torch.autograd.grad(loss(final), inputs, allow_unused=True, materialize_grads=True)
    return [*final.detach().W, *found]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert distance(a, b) < tolerance, number


@pytest.mark.parametrize("path", PATHS)
def test_one_example_with_a_dimension_of_its_own_is_the_same(path: str) -> None:
    network = PlasticNetwork(SIZES)
    state, x, label = lives(network, 1)
    learner = PlasticityLearner(network, POOL, **PATHS[path])
    with_it = adjoints(learner, state, THETA, x, label)
    without = adjoints(learner, state, THETA, x[:, :, 0], label[:, :, 0])
    assert all(torch.equal(a, b) for a, b in zip(with_it, without, strict=True))


def by_hand(
    rule: rs.Rule, state: NetworkState, x: Tensor, label: Tensor, share: float
) -> list[list[np.ndarray[Any, Any]]]:
    """Lives in NumPy, an example at a time: softplus 10, softmax, random feedback."""
    finals = []
    for lifetime in range(state.lifetimes):
        W = [w[lifetime].numpy().copy() for w in state.W]
        B = [b[lifetime].numpy() for b in state.B]
        for x_t, label_t in zip(x[:, lifetime].numpy(), label[:, lifetime].numpy(), strict=True):
            change = [np.zeros_like(w) for w in W]
            for one, wanted in zip(x_t, label_t, strict=True):
                ys = [one]
                for w in W[:-1]:
                    ys.append(np.logaddexp(10 * w @ ys[-1], 0) / 10)
                z = W[-1] @ ys[-1]
                ys.append(np.exp(z - z.max()) / np.exp(z - z.max()).sum())
                es = [ys[-1] - np.eye(len(z))[wanted]]
                for y, b in zip(ys[-2::-1], B[::-1], strict=True):
                    es.insert(0, (b.T @ es[0]) * (1 - np.exp(-10 * y)))
                for k, w in enumerate(W):
                    signals = {"y_pre": ys[k], "y_post": ys[k + 1], "e_pre": es[k],
                               "e_post": es[k + 1]}  # fmt: skip
                    tensors = {name: torch.from_numpy(v) for name, v in signals.items()}
                    change[k] += share * rule.delta(torch.from_numpy(w), **tensors).numpy()
            W = [w + c for w, c in zip(W, change, strict=True)]
        finals.append(W)
    return finals


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("path", PATHS)
def test_the_step_is_the_mean_or_the_sum_of_the_examples_updates(path: str, reduction: str) -> None:
    network = PlasticNetwork(SIZES)
    state, x, label = lives(network, 3, steps=5)
    rule = rs.Rule(POOL, dict(zip(POOL.names, (THETA / 3).tolist(), strict=True)))
    learner = PlasticityLearner(network, rule, reduction=reduction, **PATHS[path])
    final = learner.live(state, None, x, label)
    expected = by_hand(rule, state, x, label, 1 / 3 if reduction == "mean" else 1.0)
    for lifetime, weights in enumerate(expected):
        for w, ours in zip(weights, final.W, strict=True):
            np.testing.assert_allclose(ours[lifetime].numpy(), w, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("path", PATHS)
def test_decay_is_as_strong_under_the_mean_and_e_times_under_the_sum(path: str) -> None:
    network = PlasticNetwork(SIZES)
    state, x, label = lives(network, 5, steps=4)
    rule = rs.Rule(TermPool([Term.from_text("decay", "-W")]), {"decay": 0.02})
    for reduction, left in (("mean", 0.98**4), ("sum", 0.9**4)):
        learner = PlasticityLearner(network, rule, reduction=reduction, **PATHS[path])
        final = learner.live(state, None, x, label)
        for w, after in zip(state.W, final.W, strict=True):
            torch.testing.assert_close(after, left * w)


@pytest.mark.parametrize("path", PATHS)
def test_copies_of_an_example_are_that_example(path: str) -> None:
    network = PlasticNetwork(SIZES)
    state, x, label = lives(network, 1)
    copies = x.expand(-1, -1, 4, -1), label.expand(-1, -1, 4)
    one = adjoints(PlasticityLearner(network, POOL, **PATHS[path]), state, THETA, x, label)
    mean = PlasticityLearner(network, POOL, **PATHS[path])
    assert_close(adjoints(mean, state, THETA, *copies), one, 1e-10)
    total = PlasticityLearner(network, POOL, reduction="sum", **PATHS[path])
    found = adjoints(total, state, THETA / 4, *copies)
    found[len(state.W)] /= 4  # the adjoint of theta
    assert_close(found, one, 1e-10)


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "random": {},
    "symmetric": {"feedback": "symmetric"},
    "symmetric, detached": {"feedback": "symmetric", "detach_feedback": True},
    "direct": {"feedback": "direct", "feedback_init": "normal"},
    "tanh, linear output": {"activation": "tanh", "output": "linear"},
}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("examples", [1, 3, 5])
@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("engine", ENGINES)
def test_ten_terms_have_the_gradient_of_plain_autograd(
    engine: str, name: str, examples: int, reduction: str
) -> None:
    network = PlasticNetwork(SIZES, **CONFIGURATIONS[name])
    life = lives(network, examples)
    theta = 0.2 * torch.stack([THETA, 0.5 * THETA])
    oracle = PlasticityLearner(network, POOL, "autograd", reduction=reduction)
    learner = PlasticityLearner(
        network, POOL, engine=engine, reduction=reduction, checkpoint_every=5
    )
    assert_close(
        adjoints(learner, life[0], theta, *life[1:]),
        adjoints(oracle, life[0], theta, *life[1:]),
        1e-9,
    )
    assert learner.report is not None
    assert learner.report.drift is not None
    assert learner.report.recomputed is not None
    assert learner.report.path == engine
    assert float(learner.report.drift.max()) < 1e-12
    assert not learner.report.recomputed.any()


@settings(max_examples=40, deadline=None)
@given(
    found=pools(3),
    network=st.sampled_from(
        [PlasticNetwork(sizes, activation="tanh", feedback=feedback)
         for sizes in ((4, 3, 3), (14, 13, 3)) for feedback in ("random", "symmetric")]
    ),
    examples=st.sampled_from((1, 3, 5)),
    reduction=st.sampled_from(("mean", "sum")),
    size=st.floats(1e-4, 3e-3),
)  # fmt: skip
def test_random_grammars_have_the_gradient_of_plain_autograd(
    found: tuple[TermPool, Any], network: PlasticNetwork, examples: int, reduction: str, size: float
) -> None:
    pool, _ = found
    theta = torch.tensor([(-1.0) ** r * size for r in range(len(pool))], dtype=torch.float64)
    state, x, label = lives(network, examples, steps=8)
    oracle = PlasticityLearner(network, pool, "autograd", reduction=reduction)
    expected = adjoints(oracle, state, theta, x, label)
    assume(all(bool((w.abs() < 10).all()) for w in expected[: len(state.W)]))
    for engine in ("auto", "torch"):
        learner = PlasticityLearner(
            network, pool, engine=engine, reduction=reduction, checkpoint_every=3
        )
        assert_close(adjoints(learner, state, theta, x, label), expected, 1e-9)


MASKED = ("-e_post * y_pre.T", "-diag(y_post**2) * W", "-hadamard(y_post * y_pre.T, W)",
          "hadamard(e_post * y_pre.T, tanh(B))", "ones_post * ones_pre.T")  # fmt: skip


def test_masks_and_factors_that_hold_no_example() -> None:
    """Ones stand for every example, also where nothing else in a term speaks of any."""
    pool = TermPool(Term.from_text(f"T{i}", text) for i, text in enumerate(MASKED))
    network = PlasticNetwork((19, 18, 5))
    theta = torch.tensor([0.05, 0.01, 0.02, 0.02, 0.001], dtype=torch.float64)
    life = lives(network, 3)
    for reduction in ("mean", "sum"):
        oracle = PlasticityLearner(network, pool, "autograd", reduction=reduction)
        learner = PlasticityLearner(network, pool, reduction=reduction, engine="torch")
        assert_close(
            adjoints(learner, life[0], theta, *life[1:]),
            adjoints(oracle, life[0], theta, *life[1:]),
            1e-9,
        )


@pytest.mark.parametrize("engine", ENGINES)
def test_gradient_is_that_of_finite_differences(engine: str) -> None:
    network = PlasticNetwork(SIZES)
    state, x, label = lives(network, 3)
    learner = PlasticityLearner(network, POOL, engine=engine)
    found = adjoints(learner, state, THETA, x, label)[len(state.W) :]
    inputs = [THETA, *state.W, *state.B]
    g = torch.Generator().manual_seed(5)
    n, h = len(state.W), 1e-6
    for k, value in enumerate(inputs):
        direction = torch.randn(value.shape, generator=g, dtype=torch.float64)
        values = []
        for step in (h, -h):
            moved = [*inputs]
            moved[k] = value + step * direction
            with torch.no_grad():
                born = NetworkState(moved[1 : 1 + n], moved[1 + n :])
                values.append(float(loss(learner.live(born, moved[0], x, label))))
        expected = (values[0] - values[1]) / (2 * h)
        assert float((found[k] * direction).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-7)


class Largest(TorchDispatchMode):
    """The most numbers in any tensor that is made."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.numbers = max(self.numbers, made.numel())
        return made


@pytest.mark.parametrize("terms", [[str(term) for term in POOL], list(MASKED)])
def test_no_example_has_a_matrix_of_its_own(terms: list[str]) -> None:
    network, examples = PlasticNetwork((60, 60, 60)), 20
    pool = TermPool(Term.from_text(f"T{i}", text) for i, text in enumerate(terms))
    state, x, label = lives(network, examples, steps=2, count=1)
    theta = torch.full((len(pool),), 1e-4, dtype=torch.float64)
    learner = PlasticityLearner(network, pool, engine="torch")
    with Largest() as largest:  # type: ignore[no-untyped-call]
        adjoints(learner, state, theta, x, label)
    assert 60 * 60 <= largest.numbers < 60 * 60 * examples / 2


def test_kept_vectors_never_outgrow_the_matrix() -> None:
    """Where a term keeps the engines away, which store products instead."""
    network = PlasticNetwork((30, 20, 10))
    pool = TermPool([*POOL, Term.from_text("Z", "hadamard(e_post * y_pre.T, tanh(B))")])
    theta = torch.cat([THETA, THETA[:1]]).requires_grad_()
    for examples in (1, 4, 64):
        state, x, label = lives(network, examples, steps=3, count=1)
        learner = PlasticityLearner(network, pool)
        node: Any = learner.live(state, theta, x, label).W[0].grad_fn
        for updates in node.history:
            for (post, pre), update in zip(network.connections, updates, strict=True):
                parts = (update.outer.u, update.outer.v)
                kept = sum(part.numel() for part in parts if part is not None)
                assert kept == min(3 * examples * (post + pre), post * pre)


def indexed(examples: int | None) -> tuple[PlasticNetwork, NetworkState, Indexed, Tensor]:
    network = PlasticNetwork(SIZES)
    state, _, label = lives(network, examples or 1)
    g = torch.Generator().manual_seed(9)
    index = torch.randint(5, label.shape, generator=g)
    if examples is None:
        index, label = index[:, :, 0], label[:, :, 0]
    table = torch.rand(5, SIZES[0], generator=g, dtype=torch.float64)
    return network, state, Indexed(table, index), label


@pytest.mark.parametrize("examples", [None, 1, 3])
@pytest.mark.parametrize("path", PATHS)
def test_indices_are_what_they_stand_for_to_the_bit(path: str, examples: int | None) -> None:
    network, state, x, label = indexed(examples)
    dense = x.table[x.index]
    assert (x.shape, x.ndim, x.dtype) == (dense.shape, dense.ndim, dense.dtype)
    assert torch.equal(x[3], dense[3])
    assert torch.equal(x[2:5], dense[2:5])
    learner = PlasticityLearner(network, POOL, **PATHS[path])
    found = adjoints(learner, state, THETA, x, label)
    expected = adjoints(learner, state, THETA, dense, label)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_task_may_hold_several_examples_a_step_or_indices() -> None:
    network, state, x, label = indexed(3)
    queries = torch.rand(2, 4, SIZES[0], dtype=torch.float64), torch.zeros(2, 4, dtype=torch.long)
    learner = PlasticityLearner(network, POOL, engine="torch")
    theta = THETA.expand(2, -1)
    dense = TaskBatch(x.table[x.index], label, *queries)
    for task in (dense, TaskBatch(x, label, *queries)):
        one = Unrolled()(learner, state, theta, task)
        assert torch.equal(one.gradient, Unrolled()(learner, state, theta, dense).gradient)
        assert torch.equal(one.loss, evaluate(learner, state, theta, dense).loss)


def test_scales_are_of_the_mean_update() -> None:
    network, state, x, label = indexed(None)
    scales = term_scales(POOL, network, state, x.table[x.index], label)
    copies = Indexed(x.table, x.index.unsqueeze(2).expand(-1, -1, 3))
    found = term_scales(POOL, network, state, copies, label.unsqueeze(2).expand(-1, -1, 3))
    torch.testing.assert_close(found, scales)


def test_memory_counts_the_examples() -> None:
    learner = PlasticityLearner(PlasticNetwork(SIZES), POOL)
    one, two, three = (learner.bytes_per_lifetime(100, examples=k) for k in (1, 2, 3))
    assert one == learner.bytes_per_lifetime(100)
    assert three - two == two - one > 0
