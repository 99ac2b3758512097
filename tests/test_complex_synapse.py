"""Complex synapses around a plasticity rule: the grammar's Omega, and its meta-gradient."""

from __future__ import annotations

import pytest
import torch
from draws import generator, normal

from rulesearch.errors import LearnerError
from rulesearch.grammar import Term, TermPool
from rulesearch.learners.signals import connection_signals
from rulesearch.networks import PlasticNetwork
from rulesearch.outer.bilevel import (
    SGD,
    ComplexSynapse,
    Contrastive,
    Descent,
    LeastSquares,
    UnrolledDescent,
    always,
    exact_ridge_gradient,
    rule_problem,
)
from rulesearch.outer.bilevel.networks import Examples
from rulesearch.outer.bilevel.training import BilevelTraining, MetaParameters
from rulesearch.rules import Rule

pytestmark = pytest.mark.usefixtures("one_thread")


def rule(**terms: tuple[str, float]) -> Rule:
    pool = TermPool(Term.from_text(name, text) for name, (text, _) in terms.items())
    return Rule(pool, {name: coefficient for name, (_, coefficient) in terms.items()})


RATE, STRENGTH = 0.2, 0.05


def test_a_step_is_the_rule_with_omega() -> None:
    """Against the rule's own update, which reads Omega from the grammar."""
    network = PlasticNetwork([4, 3, 2], activation="tanh", feedback="random")
    born = network.init([generator(1), generator(2)], torch.float64)
    examples = Examples(normal(2, 5, 4), torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 1]]))
    whole = rule(
        gradient=("-e_post * y_pre.T", RATE),
        oja=("y_post * y_pre.T - y_post * y_post.T * W", 0.03),
        held=("Omega - W", STRENGTH),
    )
    problem = rule_problem(network, whole, born, always(examples), always(examples))
    omega = {f"omega.W{k}": w + 0.3 for k, w in enumerate(born.W)}
    phi = problem.inner.start({})
    found = problem.slope(phi, omega, 0.0, 0)
    wanted = {"y_pre", "y_post", "e_post", "W"}
    for k, signals in enumerate(connection_signals(network, born, *examples, wanted)):
        seen = {name: v for name, v in signals.items() if name in wanted - {"W"}}
        each = whole.delta(born.W[k][:, None], Omega=omega[f"omega.W{k}"][:, None], **seen)
        torch.testing.assert_close(found[f"W{k}"], -each.mean(1))
    at_birth = problem.slope(phi, {}, 0.0, 0)  # where Omega is not learnt it is W at birth
    for k, w in enumerate(born.W):
        pull = STRENGTH * (w - omega[f"omega.W{k}"])
        torch.testing.assert_close(found[f"W{k}"] - at_birth[f"W{k}"], pull)


def test_the_contrastive_meta_gradient_of_a_rule() -> None:
    """A rule that descends squares by a rate is ridge regression, exactly solved."""
    n, problems = 4, 2
    x, x_eval = normal(problems, 9, n, seed=1), normal(problems, 9, n, seed=2)
    y, y_eval = normal(problems, 9, seed=3), normal(problems, 9, seed=4)
    network = PlasticNetwork([n, 1], output="linear")
    born = network.init([generator(k) for k in range(problems)], torch.float64)
    problem = rule_problem(
        network,
        rule(gradient=("-e_post * y_pre.T", RATE)),
        born,
        always(Examples(x, y[..., None])),
        always(Examples(x_eval, y_eval[..., None])),
    )
    omega, strength = normal(problems, n, seed=5), 0.1 * normal(problems, n, seed=6).square() + 0.02
    theta = {"omega.W0": omega[:, None], "lambda.W0": strength[:, None]}
    learner = Descent(300, SGD(1.0))
    found = Contrastive(learner, learner, 1e-3, "symmetric")(problem, theta)
    unrolled = UnrolledDescent(learner, last=100)(problem, theta)
    # Losses are RATE times those of ridge, lambda is not.
    ridge = ComplexSynapse(LeastSquares(x, y, x_eval, y_eval))
    exact = exact_ridge_gradient(ridge, {"omega.W": omega, "lambda.W": strength / RATE})
    torch.testing.assert_close(found.loss, exact.loss)
    torch.testing.assert_close(found.phi["W0"][:, 0], exact.phi["W"])
    for part, scale in (("omega", RATE), ("lambda", 1.0)):
        true = scale * exact.gradient[f"{part}.W"]
        # Unrolling differentiates the loss itself, contrasting what the rule descends of it.
        for near in (found.gradient, {k: RATE * g for k, g in unrolled.gradient.items()}):
            torch.testing.assert_close(near[f"{part}.W0"][:, 0], true, rtol=1e-4, atol=1e-6)


def test_a_nudge_leaves_decay_as_strong_as_it_is() -> None:
    """The exact meta-gradient of ridge regression whose rule decays: Eval has no regulariser."""
    n, problems, decay, strength = 4, 2, 0.03, 0.05
    x, x_eval = normal(problems, 9, n, seed=1), normal(problems, 9, n, seed=2)
    y, y_eval = normal(problems, 9, seed=3), normal(problems, 9, seed=4)
    network = PlasticNetwork([n, 1], output="linear")
    born = network.init([generator(k) for k in range(problems)], torch.float64)
    problem = rule_problem(
        network,
        rule(gradient=("-e_post * y_pre.T", RATE), decay=("-W", decay)),
        born,
        always(Examples(x, y[..., None])),
        always(Examples(x_eval, y_eval[..., None])),
    )
    omega = normal(problems, n, seed=5)
    theta = {
        "omega.W0": omega[:, None],
        "lambda.W0": torch.full((problems, 1, n), strength).double(),
    }
    learner = Descent(400, SGD(1.0))
    found = Contrastive(learner, learner, 1e-3, "symmetric")(problem, theta)
    # RATE l + decay |W|^2 / 2 + strength |omega - W|^2 / 2 is least where its slope is zero.
    hessian = RATE * x.mT @ x / 9 + (decay + strength) * torch.eye(n, dtype=torch.float64)
    phi = torch.linalg.solve(hessian, RATE * (x.mT @ y[..., None])[..., 0] / 9 + strength * omega)
    g = (x_eval.mT @ (x_eval @ phi[..., None] - y_eval[..., None]))[..., 0] / 9
    v = torch.linalg.solve(hessian, RATE * g)
    torch.testing.assert_close(found.phi["W0"][:, 0], phi)
    exact = {"omega.W0": strength * v, "lambda.W0": (omega - phi) * v}
    for name, gradient in exact.items():
        torch.testing.assert_close(found.gradient[name][:, 0], gradient, rtol=1e-4, atol=1e-6)


def test_a_rule_that_sees_no_examples_is_refused() -> None:
    network = PlasticNetwork([2, 2])
    born = network.init([generator(0)])
    source = always(Examples(torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.int64)))
    with pytest.raises(LearnerError, match="no term of the rule depends on examples"):
        rule_problem(
            network, rule(decay=("-W", 0.1), held=("Omega - W", 0.1)), born, source, source
        )


def test_meta_learning_around_a_discovered_rule() -> None:
    """Oja's rule beside random feedback has no loss of its own, and consolidation still helps."""
    network = PlasticNetwork([4, 6, 2], activation="tanh", feedback="random")
    born = network.init([generator(3)], torch.float64)
    teacher = normal(4, seed=7)
    learn, judge = (
        Examples(x, (x @ teacher > 0).long())
        for x in (normal(1, 6, 4, seed=8), normal(1, 200, 4, seed=9))
    )
    discovered = rule(
        gradient=("-e_post * y_pre.T", RATE),
        oja=("y_post * y_pre.T - y_post * y_post.T * W", 0.01),
        held=("Omega - W", 0.02),
    )
    problem = rule_problem(network, discovered, born, always(learn), always(judge))
    free, nudged = Descent(40, SGD(1.0)), Descent(20, SGD(1.0))
    theta = {f"omega.W{k}": w for k, w in enumerate(born.W)}
    training = BilevelTraining(
        MetaParameters(theta), lambda update: problem, Contrastive(free, nudged, 0.1), 0.1
    )
    losses = torch.cat([training.update().loss for _ in range(8)])
    assert losses[-1] < 0.7 * losses[0]


def test_omega_is_read_in_one_way_only() -> None:
    network = PlasticNetwork([2, 2])
    born = network.init([generator(0)])
    source = always(Examples(torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.int64)))
    strange = rule(gradient=("-e_post * y_pre.T", 1.0), grown=("hadamard(Omega, W)", 0.1))
    with pytest.raises(LearnerError, match=r"term grown: Omega consolidates as 'Omega - W'"):
        rule_problem(network, strange, born, source, source)
    away = rule(gradient=("-e_post * y_pre.T", 1.0), held=("Omega - W", -0.1))
    problem = rule_problem(network, away, born, source, source)
    with pytest.raises(LearnerError, match="not below zero"):
        problem.start({})
