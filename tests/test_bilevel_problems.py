"""Problems and learners: networks, complex synapses, problems without a loss, memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from draws import generator, normal
from torch import Tensor

from rulesearch.errors import LearnerError
from rulesearch.networks import PlasticNetwork
from rulesearch.outer.bilevel import (
    SGD,
    Adam,
    BilevelGradient,
    ComplexSynapse,
    ConjugateGradient,
    Contrastive,
    Dense,
    Descent,
    Evolution,
    Implicit,
    LossProblem,
    Neumann,
    Optimiser,
    RidgeSolution,
    UnrolledDescent,
    draw_ridge,
    exact_ridge_gradient,
)
from rulesearch.outer.bilevel.networks import Examples, named_weights, network_problem

pytestmark = pytest.mark.usefixtures("one_thread")

Named = Mapping[str, Tensor]


# -- learners --


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SGD(0.01), lambda p: torch.optim.SGD(p, lr=0.01)),
        (SGD(0.01, 0.9), lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9)),
        (SGD(0.01, 0.9, True), lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True)),
        (Adam(0.05), lambda p: torch.optim.Adam(p, lr=0.05)),
    ],
    ids=["sgd", "momentum", "nesterov", "adam"],
)
def test_optimisers_are_those_of_torch(ours: Optimiser, theirs: Any) -> None:
    def loss(phi: Named, theta: Named, step: int | None) -> Tensor:
        return (theta["target"] - phi["a"]).pow(4).sum(-1) + phi["a"].prod(-1) * phi["b"]

    problem = LossProblem(loss, loss, lambda theta: {"a": normal(2, 3), "b": normal(2, seed=1)})
    theta = {"target": normal(2, 3, seed=2)}
    found = Descent(20, ours)(problem, theta, problem.start(theta))
    parameters = {k: v.clone().requires_grad_() for k, v in problem.start(theta).items()}
    optimiser = theirs(list(parameters.values()))
    for _ in range(20):
        optimiser.zero_grad()
        loss(parameters, theta, None).sum().backward()
        optimiser.step()
    for name, value in parameters.items():
        torch.testing.assert_close(found[name], value.detach())


def test_steps_are_numbered_through_both_phases() -> None:
    seen: list[tuple[float, int]] = []

    class Counting:
        def start(self, theta: Named) -> Named:
            return {"a": torch.zeros(1)}

        def slope(self, phi: Named, theta: Named, beta: float, step: int) -> Named:
            seen.append((beta, step))
            return phi

        def partial(self, phi: Named, theta: Named, beta: float) -> Named:
            return theta

        def eval_loss(self, phi: Named, theta: Named) -> Tensor:
            return phi["a"]

    gradient = Contrastive[Counting](Descent(3), Descent(2), 0.5, "symmetric")
    gradient(Counting(), {"t": torch.ones(1)})
    free, asked = [(0.0, 0), (0.0, 1), (0.0, 2)], [(0.5, 3), (0.0, 3)]
    down, up = ([(beta, step) for step in (3, 4, 5)] for beta in (-0.5, 0.5))
    assert seen == free + asked + down + up  # the last of each is what is left of the slope


# -- a network around which synapses are complex --

NETWORK = PlasticNetwork([4, 3, 2], activation="tanh", bias=True)
TANH_SEEDS = 2


def synapses(seeds: int = TANH_SEEDS) -> ComplexSynapse[LossProblem]:
    born = NETWORK.init([generator(10 + i) for i in range(seeds)], torch.float64)
    learn, evaluate = (
        Examples(normal(seeds, 12, 4, seed=s), (normal(seeds, 12, seed=s + 1) > 0).long())
        for s in (1, 3)
    )
    task = network_problem(NETWORK, born, learn, evaluate)
    fixed = {
        f"lambda.{name}": torch.tensor(0.8, dtype=torch.float64) for name in ("bias0", "bias1")
    }
    return ComplexSynapse(task, fixed)


def anchors(problem: ComplexSynapse[LossProblem]) -> dict[str, Tensor]:
    """Strengths of W0 and W1, and an anchor for W0 alone."""
    phi = problem.inner.start({})
    return {
        "lambda.W0": normal(*phi["W0"].shape, seed=5).abs() + 0.6,
        "log_lambda.W1": normal(*phi["W1"].shape, seed=6) / 4,
        "omega.W0": normal(*phi["W0"].shape, seed=7),
    }


def augmented(phi: Named, theta: Named, beta: float) -> Tensor:
    """Eq. 6 with the nudge, written out."""
    x, label = (normal(2, 12, 4, seed=1), (normal(2, 12, seed=2) > 0).long())
    xe, label_e = (normal(2, 12, 4, seed=3), (normal(2, 12, seed=4) > 0).long())

    def task(x: Tensor, label: Tensor) -> Tensor:
        hidden = torch.tanh(torch.einsum("shi,sei->seh", phi["W0"], x) + phi["bias0"][:, None])
        z = torch.einsum("soh,seh->seo", phi["W1"], hidden) + phi["bias1"][:, None]
        each = torch.nn.functional.cross_entropy(z.mT, label, reduction="none")
        return each.mean(-1)

    energy = (
        (theta["lambda.W0"] * (theta["omega.W0"] - phi["W0"]) ** 2).sum((1, 2)) / 2
        + (theta["log_lambda.W1"].exp() * phi["W1"] ** 2).sum((1, 2)) / 2
        + 0.4 * (phi["bias0"] ** 2).sum(1)
        + 0.4 * (phi["bias1"] ** 2).sum(1)
    )
    return task(x, label) + energy + beta * task(xe, label_e)


def test_a_synapse_follows_the_augmented_loss() -> None:
    problem = synapses()
    theta = anchors(problem)
    start = problem.start(theta)
    assert torch.equal(start["W0"], theta["omega.W0"])
    assert torch.equal(start["W1"], problem.inner.start({})["W1"])
    phi = {k: (v + 0.1).requires_grad_() for k, v in start.items()}
    at = {k: v.requires_grad_() for k, v in theta.items()}
    for beta in (0.0, 0.7):
        loss = augmented(phi, at, beta).sum()
        slopes = torch.autograd.grad(loss, [*phi.values(), *at.values()])
        found = {**problem.slope(phi, theta, beta, 0), **problem.partial(phi, theta, beta)}
        for name, slope in zip((*phi, *at), slopes, strict=True):
            torch.testing.assert_close(found[name], slope, msg=name)
    torch.testing.assert_close(problem.learn_loss(phi, at), augmented(phi, at, 0.0))


@pytest.mark.parametrize("fixed", ["lambda.W1", "log_lambda.W1"])
@pytest.mark.parametrize("learnt", ["lambda.W1", "log_lambda.W1"])
def test_a_strength_that_is_learnt_replaces_a_fixed_one(fixed: str, learnt: str) -> None:
    problem = synapses()
    anchored = replace(problem, fixed={**problem.fixed, fixed: normal(2, 1, seed=8).abs()})
    phi = problem.start({})
    theta = {learnt: normal(*phi["W1"].shape, seed=6).abs()}
    for kind in ("slope", "partial"):
        given = (phi, theta, 0.3, 0) if kind == "slope" else (phi, theta, 0.3)
        same, found = (getattr(each, kind)(*given) for each in (problem, anchored))
        torch.testing.assert_close(found, same, rtol=0, atol=0)


def test_one_strength_for_a_whole_matrix() -> None:
    """Its derivative is the sum of all synapses'."""
    problem = synapses()
    phi = problem.start({})
    shared = {"lambda.W1": torch.full((2, 1, 1), 0.4, dtype=torch.float64)}
    torch.testing.assert_close(
        problem.partial(phi, shared, 0.0)["lambda.W1"],
        (phi["W1"] ** 2 / 2).sum((1, 2), keepdim=True),
    )


def test_all_meta_gradients_of_a_network_agree() -> None:
    problem = synapses()
    theta = anchors(problem)
    learner = Descent(160, SGD(0.3, momentum=0.5))
    size = 3 * 4 + 2 * 3 + 5
    exact = Implicit(learner, Dense())(problem, theta)
    others: dict[str, tuple[BilevelGradient[Any], float]] = {
        "contrastive": (Contrastive(learner, learner, 1e-3, "symmetric"), 1e-5),
        "three-point": (Contrastive(learner, learner, 1e-3, "three-point"), 1e-5),
        "conjugate gradient": (Implicit(learner, ConjugateGradient(2 * size)), 1e-8),
        "Neumann": (Implicit(learner, Neumann(100, 0.4)), 1e-8),
        "unrolled": (UnrolledDescent(learner), 1e-8),
        "truncated": (UnrolledDescent(learner, 80), 1e-8),
    }
    for kind, (gradient, tolerance) in others.items():
        found = gradient(problem, theta)
        assert found.accepted.all()
        for name, value in exact.gradient.items():
            torch.testing.assert_close(
                found.gradient[name], value, rtol=tolerance, atol=tolerance, msg=f"{kind}: {name}"
            )


def test_a_meta_objective_that_depends_on_theta_itself() -> None:
    """Theta scales a gain's effect in both losses; the solution and its loss are known.

    learn = (theta phi - 1)^2 / 2 + phi^2 / 2, so phi = theta / (theta^2 + 1), and
    eval = (theta phi - 2)^2 / 2 = (u - 2)^2 / 2 with u = theta^2 / (theta^2 + 1).
    """

    def learn(phi: Named, theta: Named, step: int | None) -> Tensor:
        return ((theta["t"] * phi["g"] - 1) ** 2 + phi["g"] ** 2) / 2

    def evaluate(phi: Named, theta: Named, step: int | None) -> Tensor:
        return (theta["t"] * phi["g"] - 2) ** 2 / 2

    problem = LossProblem(learn, evaluate, lambda theta: {"g": torch.zeros_like(theta["t"])})
    t = torch.tensor([0.5, 1.5], dtype=torch.float64)
    exact = (t**2 / (t**2 + 1) - 2) * 2 * t / (t**2 + 1) ** 2
    learner = Descent(200, SGD(0.4))
    gradients: list[BilevelGradient[Any]] = [
        Implicit(learner, Dense()),
        UnrolledDescent(learner),
        Contrastive(learner, learner, 1e-4, "symmetric"),
    ]
    for gradient in gradients:
        torch.testing.assert_close(
            gradient(problem, {"t": t}).gradient["t"], exact, rtol=1e-6, atol=0
        )


def test_parameters_of_a_module_need_no_leading_dimension() -> None:
    module = torch.nn.Linear(3, 1, bias=False, dtype=torch.float64)
    x, y, xe, ye = normal(8, 3), normal(8, seed=1), normal(5, 3, seed=2), normal(5, seed=3)

    def squares(x: Tensor, y: Tensor) -> Any:
        def loss(phi: Named, theta: Named, step: int | None) -> Tensor:
            output = torch.func.functional_call(module, dict(phi), x)
            return ((output.squeeze(-1) - y) ** 2).mean() / 2

        return loss

    task = LossProblem(squares(x, y), squares(xe, ye), lambda _: dict(module.named_parameters()))
    problem, omega = ComplexSynapse(task), normal(1, 3, seed=4)
    theta = {"omega.weight": omega, "lambda.weight": torch.full_like(omega, 0.5)}
    learner = Descent(200, SGD(0.4))
    found = Contrastive(learner, learner, 1e-4, "symmetric")(problem, theta)
    ridge = draw_ridge(1, 3, 8, generator())
    ridge = ComplexSynapse(type(ridge.inner)(x[None], y[None], xe[None], ye[None]))
    exact = exact_ridge_gradient(
        ridge, {k.replace("weight", "W"): v for k, v in theta.items()}
    ).gradient
    for name, value in found.gradient.items():
        torch.testing.assert_close(value, exact[name.replace("weight", "W")], rtol=1e-5, atol=1e-8)
    assert found.accepted.shape == ()
    es = Evolution(learner, 2, 1e-3, generator())(problem, theta)
    assert es.gradient["omega.weight"].shape == (1, 3)


class DeltaRule:
    """Learns by a local rule alone: no loss is ever differentiated, nor could be."""

    def __init__(self, x: Tensor, y: Tensor, x_eval: Tensor, y_eval: Tensor) -> None:
        self.sets = (x, y), (x_eval, y_eval)

    def start(self, theta: Named) -> Named:
        return {"W": torch.zeros(1, 3, dtype=torch.float64)}

    def slope(self, phi: Named, theta: Named, beta: float, step: int) -> Named:
        def wanted(x: Tensor, y: Tensor) -> Tensor:
            return ((y - x @ phi["W"][0])[:, None] * x).mean(0, keepdim=True).detach()

        learn, judged = (wanted(x, y) for x, y in self.sets)
        return {"W": -learn - beta * judged}

    def partial(self, phi: Named, theta: Named, beta: float) -> Named:
        return {}

    def eval_loss(self, phi: Named, theta: Named) -> Tensor:
        x, y = self.sets[1]
        return ((y - x @ phi["W"][0]) ** 2).mean().reshape(1) / 2


def test_contrasting_and_evolution_need_no_gradient_of_learning() -> None:
    """The delta rule minimises squares, so that ridge's exact gradient is its own."""
    x, y, xe, ye = normal(8, 3), normal(8, seed=1), normal(5, 3, seed=2), normal(5, seed=3)
    problem = ComplexSynapse(DeltaRule(x, y, xe, ye))
    theta = {"omega.W": normal(1, 3, seed=4), "lambda.W": normal(1, 3, seed=5).abs() + 0.2}
    learner = Descent(200, SGD(0.4))
    found = Contrastive(learner, learner, 1e-3, "symmetric")(problem, theta)
    ridge = draw_ridge(1, 3, 8, generator())
    ridge = ComplexSynapse(type(ridge.inner)(x[None], y[None], xe[None], ye[None]))
    exact = exact_ridge_gradient(ridge, theta).gradient
    for name, value in found.gradient.items():
        torch.testing.assert_close(value, exact[name], rtol=1e-4, atol=1e-6)
    es = Evolution(RidgeSolution(), 5, 1e-3, generator())(ridge, theta)
    without = Evolution(learner, 5, 1e-3, generator())(problem, theta)
    torch.testing.assert_close(without.gradient, es.gradient, rtol=1e-6, atol=1e-8)
    for whole in (problem, problem.inner):
        with pytest.raises(LearnerError, match=r"DeltaRule learns without a loss.*contrastive"):
            Implicit(learner, Dense())(whole, theta)


# -- memory --


def most_held(gradient: BilevelGradient[Any]) -> int:
    """Bytes that autograd keeps for backward passes, at most at any time."""
    now = most = 0

    class Held:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal now, most
            self.tensor = tensor
            now += tensor.nbytes
            most = max(most, now)

        def __del__(self) -> None:
            nonlocal now
            now -= self.tensor.nbytes

    problem = synapses()
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        gradient(problem, anchors(problem))
    return most


def test_contrasting_holds_as_much_for_a_long_life_as_for_a_short_one() -> None:
    def descent(steps: int) -> Descent:
        return Descent(steps, SGD(0.1, momentum=0.9))

    short, long = (most_held(Contrastive(descent(n), descent(n), 0.1)) for n in (5, 40))
    assert 0 < short == long
    short, long = (most_held(UnrolledDescent(descent(n))) for n in (5, 40))
    assert 6 * short < long < 9 * short
    short, long = (most_held(UnrolledDescent(descent(n), 5)) for n in (10, 40))
    assert short == long
    short, long = (most_held(Implicit(descent(n), Neumann(4, 0.1))) for n in (5, 40))
    assert short == long


@pytest.mark.parametrize(
    ("theta", "message"),
    [
        ({"lambda.V": torch.ones(2, 1, 1)}, r"lambda\.V: there is no parameter 'V'"),
        ({"omega.W0": torch.ones(2, 3, 4)}, r"omega\.W0 has no strength"),
        (
            {"lambda.W0": torch.ones(2, 3, 4), "log_lambda.W0": torch.ones(2, 3, 4)},
            "two strengths",
        ),
        (
            {"omega.W0": torch.ones(2, 3, 5), "lambda.W0": torch.ones(2, 1, 1)},
            r"omega\.W0 has shape \(2, 3, 5\), which does not broadcast",
        ),
        ({"log_lambda.W0": torch.full((2, 1, 1), torch.nan)}, "logarithms of strengths"),
    ],
)
def test_anchors_of_nothing_are_refused(theta: Named, message: str) -> None:
    with pytest.raises(LearnerError, match=message):
        synapses().start(theta)


def test_one_state_for_a_whole_matrix() -> None:
    """Omega of a size that broadcasts: the same as if it were written out."""
    problem, learner = synapses(), Descent(30, SGD(0.1))
    narrow = {"omega.W0": normal(2, 1, 4, seed=7), "lambda.W0": normal(2, 1, 1, seed=5).abs() + 0.6}
    wide = {name: t.expand(2, 3, 4) for name, t in narrow.items()}
    assert problem.start(narrow)["W0"].shape == (2, 3, 4)
    for gradient in (Contrastive(learner, learner, 0.1), UnrolledDescent(learner)):
        found, expected = (gradient(problem, theta) for theta in (narrow, wide))
        torch.testing.assert_close(found.phi["W0"], expected.phi["W0"])
        for name, t in narrow.items():
            torch.testing.assert_close(
                found.gradient[name], expected.gradient[name].sum_to_size(t.shape)
            )


def test_weights_have_names() -> None:
    born = NETWORK.init([generator()])
    assert list(named_weights(born)) == ["W0", "W1", "bias0", "bias1"]
