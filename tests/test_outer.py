"""The outer loop: penalties, the meta-optimiser, the common scale of terms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_lives import POOL
from sklearn.linear_model import Lasso
from torch import Tensor

from rulesearch.errors import ConfigError
from rulesearch.grammar import Term, TermPool
from rulesearch.learners import PlasticityLearner
from rulesearch.learners.signals import connection_signals
from rulesearch.networks import NetworkState, PlasticNetwork
from rulesearch.outer import (
    L1,
    L2,
    Evaluation,
    MetaOptimiser,
    NoPenalty,
    OptimiserState,
    ProximalL1,
    Unrolled,
    evaluate,
    term_scales,
)
from rulesearch.outer.penalty import penalty_named
from rulesearch.tasks import TaskBatch

NAN = float("nan")


def doubles(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def outcome(gradient: Tensor, loss: Tensor | None = None) -> Evaluation:
    """Lifetimes with these gradients; everything else is fine."""
    loss = torch.zeros(len(gradient), dtype=gradient.dtype) if loss is None else loss
    return Evaluation(loss, loss, gradient, NetworkState([], []))


T = doubles([3.0, 0.0, -4.0], [0.0, 0.0, 0.0])
LAM = doubles([2.0], [5.0])
STEP = doubles([1.0, 1.0, 0.1], [1.0, 1.0, 1.0])
PENALTIES: list[tuple[NoPenalty, Any, Any, Any]] = [
    (NoPenalty(), [0, 0], [[0, 0, 0], [0, 0, 0]], T.tolist()),
    (L1(LAM), [14, 0], [[2, 0, -2], [0, 0, 0]], T.tolist()),
    (L1(2.0), [14, 0], [[2, 0, -2], [0, 0, 0]], T.tolist()),
    (L2(LAM), [10, 0], [[2 * 0.6, 0, -2 * 0.8], [0, 0, 0]], T.tolist()),
    (ProximalL1(LAM), [14, 0], [[0, 0, 0], [0, 0, 0]], [[1, 0, -3.8], [0, 0, 0]]),
    (ProximalL1(4.0), [28, 0], [[0, 0, 0], [0, 0, 0]], [[0, 0, -3.6], [0, 0, 0]]),
]


@pytest.mark.parametrize(("penalty", "value", "gradient", "moved"), PENALTIES)
def test_penalties_by_hand(penalty: NoPenalty, value: Any, gradient: Any, moved: Any) -> None:
    torch.testing.assert_close(penalty.value(T), doubles(*value))
    torch.testing.assert_close(penalty.gradient(T), doubles(*gradient))
    torch.testing.assert_close(penalty.proximal(T, STEP), doubles(*moved))


@pytest.mark.parametrize("kind", [L1, L2])
def test_gradients_are_those_of_the_values(kind: type[NoPenalty]) -> None:
    t = doubles([0.3, -0.2, 1.5], [-1.0, 2.0, 0.7]).requires_grad_()
    penalty = kind(LAM)
    (slope,) = torch.autograd.grad(penalty.value(t).sum(), t)
    torch.testing.assert_close(penalty.gradient(t.detach()), slope)


@settings(max_examples=30, deadline=None)
@given(t=st.floats(-3, 3), step=st.floats(0.01, 2), lam=st.floats(0, 3), other=st.floats(-4, 4))
def test_proximal_map_is_a_minimum(t: float, step: float, lam: float, other: float) -> None:
    """Of |z - t|^2 / (2 step) + lam |z|, for every other z."""
    found = float(ProximalL1(lam).proximal(doubles([t]), doubles([step])))

    def objective(z: float) -> float:
        return (z - t) ** 2 / (2 * step) + lam * abs(z)

    assert objective(found) <= objective(other) + 1e-12


def test_penalties_that_are_none() -> None:
    with pytest.raises(ConfigError, match="lambda is a number that is not negative, not -1"):
        L1(-1.0)
    for lam in (NAN, float("inf")):
        with pytest.raises(ConfigError, match=r"lambda is (nan|inf); give a finite number"):
            L1(lam)
    with pytest.raises(ConfigError, match="did you mean 'proximal-l1'"):
        penalty_named("proximal-l2", 1.0)
    assert [penalty_named(n, 1.0).name for n in ("none", "l1", "l2", "proximal-l1")] == [
        "none", "l1", "l2", "proximal-l1",
    ]  # fmt: skip


def test_steps_are_those_of_torchs_adam() -> None:
    g = torch.Generator().manual_seed(0)
    rows, n = 3, 5
    t = torch.randn(rows, n, generator=g, dtype=torch.float64)
    scales = torch.rand(n, generator=g, dtype=torch.float64) + 0.5
    optimiser = MetaOptimiser(rate=1e-2, updates=50)
    state = OptimiserState.start(t)
    mine = t.clone().requires_grad_()
    theirs = torch.optim.Adam([mine], lr=1e-2)
    for update in range(50):
        gradients = torch.randn(rows * 4, n, generator=g, dtype=torch.float64)  # a batch of four
        mine.grad = (gradients * scales).reshape(rows, 4, n).mean(1)
        theirs.step()
        state, rejected = optimiser.update(state, outcome(gradients), scales, update)
        torch.testing.assert_close(state.t, mine.detach(), rtol=1e-12, atol=1e-14)
    assert rejected.tolist() == [0, 0, 0]
    assert torch.equal(t, torch.randn(rows, n, generator=torch.Generator().manual_seed(0),
                                      dtype=torch.float64))  # fmt: skip


def test_subgradient_of_the_penalty_passes_through_adam() -> None:
    t = doubles([0.5, -0.5, 0.0])
    gradient = doubles([1.0, 1.0, 1.0])
    ones = torch.ones(3, dtype=torch.float64)
    taxed = MetaOptimiser(1e-2, 10, penalty="l1", lam=doubles([3.0]))
    plain = MetaOptimiser(1e-2, 10)
    a, _ = taxed.update(OptimiserState.start(t), outcome(gradient), ones, 0)
    b, _ = plain.update(OptimiserState.start(t), outcome(gradient + 3.0 * t.sign()), ones, 0)
    torch.testing.assert_close(a.t, b.t)


@pytest.mark.parametrize("design", ["diagonal", "orthogonal"])
def test_proximal_fixed_point_is_the_lasso(design: str) -> None:
    """On a quadratic meta-loss |X t - y|^2 / 2n, with as many lambdas as rows."""
    rng = np.random.default_rng(3)
    n = 6
    X = np.diag(rng.uniform(0.5, 3, n))
    if design == "orthogonal":
        X = np.linalg.qr(rng.normal(size=(20, n)))[0] * 3
    true = np.array([2.0, 0, -1.0, 0, 0.05, 0])
    y = X @ true + 0.1 * rng.normal(size=len(X))
    lams = [0.01, 0.1, 0.3]
    XX, Xy = torch.from_numpy(X.T @ X / len(X)), torch.from_numpy(X.T @ y / len(X))
    optimiser = MetaOptimiser(
        0.02, 4000, decay=1e-3, penalty="proximal-l1", lam=doubles(*lams)[:, None]
    )
    state = OptimiserState.start(torch.full((3, n), 0.1, dtype=torch.float64))
    ones = torch.ones(n, dtype=torch.float64)
    for update in range(4000):
        state, _ = optimiser.update(state, outcome(state.t @ XX - Xy), ones, update)
    for row, lam in zip(state.t, lams, strict=True):
        lasso = Lasso(alpha=lam, fit_intercept=False, tol=1e-12).fit(X, y)
        np.testing.assert_allclose(row.numpy(), lasso.coef_, atol=2e-4)
        assert ((row.numpy() == 0) == (lasso.coef_ == 0)).all()


def test_rows_end_as_they_would_alone() -> None:
    g = torch.Generator().manual_seed(1)
    t, lam = torch.randn(3, 4, generator=g), torch.tensor([[0.0], [1.0], [3.0]])
    gradients = [torch.randn(3, 2, 4, generator=g) for _ in range(20)]
    gradients[7][1] = NAN
    ones = torch.ones(4)

    def run(rows: slice) -> OptimiserState:
        optimiser = MetaOptimiser(1e-2, 20, penalty="proximal-l1", lam=lam[rows], clip=1.0)
        state = OptimiserState.start(t[rows])
        for update, gradient in enumerate(gradients):
            evaluation = outcome(gradient[rows].reshape(-1, 4))
            state, _ = optimiser.update(state, evaluation, ones, update)
        return state

    whole = run(slice(None))
    for i in range(3):
        alone = run(slice(i, i + 1))
        for name, value in alone.tensors().items():
            assert torch.equal(value[0], whole.tensors()[name][i]), name


def test_a_lifetime_that_diverged_is_left_out_of_the_mean() -> None:
    t = doubles([0.1, 0.2])
    ones = torch.ones(2, dtype=torch.float64)
    optimiser = MetaOptimiser(1e-2, 10)
    good = doubles([1.0, 2.0], [3.0, -1.0])
    expected, _ = optimiser.update(OptimiserState.start(t), outcome(good), ones, 0)
    with_nan = torch.cat([good, doubles([NAN, 1.0])])
    with_inf_loss = (torch.cat([good, doubles([9.0, 9.0])]), doubles(0.0, 0.0, float("inf")))
    for evaluation in (outcome(with_nan), outcome(*with_inf_loss)):
        state, rejected = optimiser.update(OptimiserState.start(t), evaluation, ones, 0)
        assert rejected.tolist() == [1]
        assert torch.equal(state.t, expected.t)
        assert torch.equal(state.good, t)


@pytest.mark.parametrize("diverged", [2, 3, 4])  # half of the batch is too many
def test_most_lifetimes_diverged_goes_half_way_back(diverged: int) -> None:
    ones = torch.ones(2, dtype=torch.float64)
    optimiser = MetaOptimiser(1e-1, 10)
    born = OptimiserState.start(doubles([1.0, -1.0]))
    first, _ = optimiser.update(born, outcome(doubles([1.0, 1.0])), ones, 0)
    gradients = torch.ones(4, 2, dtype=torch.float64)
    gradients[:diverged] = NAN
    state, rejected = optimiser.update(first, outcome(gradients), ones, 1)
    assert rejected.tolist() == [diverged]
    torch.testing.assert_close(state.t, (first.t + born.t) / 2)
    torch.testing.assert_close(state.good, 0.9 * born.t)
    for moment in (state.mean, state.square, state.count):
        assert not moment.any()
    assert torch.equal(first.good, born.t)
    for update in range(2, 200):  # whatever comes, it ends near zero, and does not loop for ever
        state, _ = optimiser.update(state, outcome(gradients), ones, update)
    assert state.t.abs().max() < 1e-6


def test_penalty_is_ramped_in() -> None:
    optimiser = MetaOptimiser(1e-2, 100, penalty="l1", lam=8.0, ramp=(10, 30))
    t = doubles([1.0])
    lams = [float(optimiser.penalty_at(u).value(t)) for u in (0, 10, 15, 20, 30, 99)]
    assert lams == [0, 0, 2, 4, 8, 8]
    at_once = MetaOptimiser(1e-2, 100, penalty="l1", lam=8.0)
    assert float(at_once.penalty_at(0).value(t)) == 8


def test_rate_falls_along_half_a_cosine() -> None:
    optimiser = MetaOptimiser(1e-2, 101, decay=0.1)
    assert optimiser.rate_at(0) == pytest.approx(1e-2)
    assert optimiser.rate_at(50) == pytest.approx(1e-2 * 0.55)
    assert optimiser.rate_at(100) == pytest.approx(1e-3)
    assert MetaOptimiser(1e-2, 1, decay=0.1).rate_at(0) == pytest.approx(1e-2)
    assert {MetaOptimiser(1e-2, 9).rate_at(u) for u in range(9)} == {1e-2}


def test_long_gradients_are_clipped_one_by_one() -> None:
    t = torch.zeros(1, 2, dtype=torch.float64)
    ones = torch.ones(2, dtype=torch.float64)
    gradients = doubles([30.0, 40.0], [0.3, 0.4])
    clipped, _ = MetaOptimiser(1e-2, 9, clip=1.0).update(
        OptimiserState.start(t), outcome(gradients), ones, 0
    )
    torch.testing.assert_close(clipped.mean, 0.1 * doubles([0.45, 0.6]))
    scaled, _ = MetaOptimiser(1e-2, 9, clip=1.0).update(  # measured in t, not in theta
        OptimiserState.start(t), outcome(gradients / 10), 10 * ones, 0
    )
    torch.testing.assert_close(scaled.mean, clipped.mean)


def test_terms_left_out_stay_zero() -> None:
    alive = doubles([1.0, 0.0, 1.0])
    optimiser = MetaOptimiser(1e-2, 9)
    state = OptimiserState.start(doubles([1.0, 5.0, 0.0]), alive)
    ones = torch.ones(3, dtype=torch.float64)
    for update in range(5):
        state, _ = optimiser.update(state, outcome(doubles([1.0, 1.0, 1.0])), ones, update)
        assert state.t[0, 1] == 0
    assert (state.t[0, [0, 2]] != doubles(1.0, 0.0)).all()


def test_small_terms_are_dropped_once_and_for_good() -> None:
    optimiser = MetaOptimiser(1e-3, 9, drop_at=2, keep=0.1)
    state = OptimiserState.start(doubles([1.0, 0.05, -0.5], [0.01, -0.002, 0.0005]))
    ones = torch.ones(3, dtype=torch.float64)
    for update in range(4):
        gradients = doubles([0.0, 1.0, 0.0], [0.0, 0.0, 0.0])
        state, _ = optimiser.update(state, outcome(gradients), ones, update)
        dropped = [[1, 0, 1], [1, 1, 0]] if update >= 2 else [[1, 1, 1], [1, 1, 1]]
        assert state.alive.tolist() == dropped  # a row's own largest counts
        assert ((state.t != 0) == state.alive.bool()).all()


# What every term is made of, at birth: its Frobenius norm by hand for vectors and weights.
def norms(y: Any, x: Any, e: Any, d: Any, W: Any) -> dict[str, float]:
    n = np.linalg.norm
    return {
        "F0": n(e) * n(x),
        "F2": n(e) * n(d),
        "F3": n(W),
        "F4": np.sqrt(len(y)) * n(d),
        "F5": n(e) * abs(y.sum()) * n(x),
        "F9": n(np.outer(y, x - W.T @ y)),
    }


def small_example() -> tuple[PlasticNetwork, NetworkState, Tensor, Tensor]:
    network = PlasticNetwork((5, 4, 3))
    state = network.init([torch.Generator().manual_seed(i) for i in range(2)], torch.float64)
    g = torch.Generator().manual_seed(9)
    x = torch.rand(3, 2, 5, generator=g, dtype=torch.float64)
    return network, state, x, torch.randint(3, (3, 2), generator=g)


def test_scales_give_every_term_the_reference_terms_reach() -> None:
    network, state, x, label = small_example()
    total = np.zeros((2, 10))
    names = list(POOL.names)
    for t in range(3):
        for i in range(2):
            W1, W2 = (w[i].numpy() for w in state.W)
            B1, B2 = (b[i].numpy() for b in state.B)
            y0 = x[t, i].numpy()
            y1 = np.log1p(np.exp(10 * W1 @ y0)) / 10
            z = W2 @ y1
            y2 = np.exp(z) / np.exp(z).sum()
            e2 = y2 - np.eye(3)[int(label[t, i])]
            e1 = (B2.T @ e2) * (1 - np.exp(-10 * y1))
            e0 = (B1.T @ e1) * (1 - np.exp(-10 * y0))
            for k, sample in enumerate(((y1, y0, e1, e0, W1), (y2, y1, e2, e1, W2))):
                for name, norm in norms(*sample).items():
                    total[k, names.index(name)] += norm**2
    scales = term_scales(POOL, network, state, x, label, cap=3.0)
    for name in ("F0", "F2", "F3", "F4", "F5", "F9"):
        r = names.index(name)
        ratios = np.sqrt(total[:, 0] / total[:, r])
        assert float(scales[r]) == pytest.approx(min(3.0, np.sqrt(ratios.prod())), rel=1e-10)
    assert float(scales[0]) == 1
    assert float(scales.max()) <= 3
    uncapped = term_scales(POOL, network, state, x, label, cap=float("inf"))
    torch.testing.assert_close(uncapped.clamp_max(3.0), scales)


def test_a_term_that_is_zero_at_birth_has_scale_one() -> None:
    network, state, x, label = small_example()
    terms = [POOL["F0"], Term.from_text("gate", "diag(y_post - y_post + sign(abs(y_post)) - ones_post) * W")]  # fmt: skip  # noqa: E501
    scales = term_scales(TermPool(terms), network, state, x, label)
    torch.testing.assert_close(scales, doubles(1.0, 1.0))


def test_a_connection_where_a_term_does_nothing_is_left_out() -> None:
    """As the first is where a term needs what is fed back to the layer below, under FLP."""
    network = PlasticNetwork([5, 4, 3], activation="relu", output="linear", feedback="flp")
    draws = torch.Generator().manual_seed(0)
    state = network.init([draws, draws], torch.float64)
    x = torch.rand(3, 2, 1, 5, generator=draws, dtype=torch.float64)
    label = torch.rand(3, 2, 1, 3, generator=draws, dtype=torch.float64)
    terms = [
        Term.from_text("hebb", "y_post * y_pre.T", init=1.0),
        Term.from_text("fed_pre", "y_post * e_pre.T"),
    ]
    total = torch.zeros(2, dtype=torch.float64)
    for t in range(3):
        *_, last = connection_signals(network, state, x[t], label[t], {"y_post", "y_pre", "e_pre"})
        for r, pre in enumerate(("y_pre", "e_pre")):
            change = last["y_post"][..., :, None] * last[pre][..., None, :]
            total[r] += change.square().sum()
    scales = term_scales(TermPool(terms), network, state, x, label, cap=float("inf"))
    torch.testing.assert_close(
        scales, torch.stack([total[0] / total[0], total[0] / total[1]]).sqrt()
    )


def test_meta_gradient_of_queries() -> None:
    network, state, x, label = small_example()
    g = torch.Generator().manual_seed(5)
    x_query = torch.rand(2, 6, 5, generator=g, dtype=torch.float64)
    label_query = torch.randint(3, (2, 6), generator=g)
    task = TaskBatch(x, label, x_query, label_query)
    theta = torch.full((2, 10), 0.01, dtype=torch.float64)
    learner = PlasticityLearner(network, POOL)
    found = Unrolled()(learner, state, theta, task)
    plain = evaluate(learner, state, theta, task)
    torch.testing.assert_close(found.loss, plain.loss)
    assert torch.equal(found.accuracy, plain.accuracy)
    assert plain.gradient.shape == (2, 0)
    assert plain.finite.tolist() == found.finite.tolist() == [True, True]
    assert not any(w.requires_grad for w in found.state.W)
    final = learner.live(state, theta, x, label)
    for i in range(2):
        y = torch.logaddexp(10 * x_query[i] @ final.W[0][i].T, torch.zeros(6, 4)) / 10
        logits = y @ final.W[1][i].T
        torch.testing.assert_close(
            found.loss[i], torch.nn.functional.cross_entropy(logits, label_query[i])
        )
        hits = (logits.argmax(-1) == label_query[i]).double().mean()
        assert float(found.accuracy[i]) == float(hits)
    h = 1e-6
    step = torch.zeros_like(theta)
    step[:, 2] = h
    above = evaluate(learner, state, theta + step, task).loss
    below = evaluate(learner, state, theta - step, task).loss
    torch.testing.assert_close(found.gradient[:, 2], (above - below) / (2 * h), rtol=1e-5, atol=0)


def test_regression_has_no_accuracy() -> None:
    network = PlasticNetwork((4, 2), output="linear")
    state = network.init([torch.Generator().manual_seed(0)], torch.float64)
    x, target = torch.ones(3, 1, 4).double(), torch.ones(3, 1, 2).double()
    task = TaskBatch(x, target, x.transpose(0, 1), target.transpose(0, 1))
    theta = torch.zeros(1, 10, dtype=torch.float64)
    found = evaluate(PlasticityLearner(network, POOL), state, theta, task)
    assert found.accuracy.isnan().all()
    by_hand = 0.5 * ((state.W[0][0] @ torch.ones(4).double() - 1) ** 2).sum()
    torch.testing.assert_close(found.loss[0], by_hand)
