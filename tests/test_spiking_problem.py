"""Where spiking networks begin to learn, and what of that is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from draws import generators
from refusals import assert_refused
from torch import Tensor

from rulesearch.errors import ConfigError, LearnerError
from rulesearch.learners import BPTT, EProp
from rulesearch.networks import SpikingNetwork
from rulesearch.outer.bilevel import (
    SGD,
    ComplexSynapse,
    ConjugateGradient,
    Contrastive,
    Dense,
    Descent,
    Evolution,
    Implicit,
    InverseHessian,
    Neumann,
    UnrolledDescent,
)
from rulesearch.outer.spiking import LastWindow, SpikingProblem
from rulesearch.tasks import SpikingSines
from rulesearch.tasks.spiking_sines import SpikingExamples

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORK = SpikingNetwork(5, 3)
TASKS = SpikingSines(examples=3, queries=4, neurons=5, time=6, width=0.2).sample(generators(0, 1))
BORN = NETWORK.init(generators(2, 3))
LEARNER = Descent(2, SGD(1e-3))
WINDOW = LastWindow(LEARNER, LEARNER)
CONTRAST: Contrastive[Any] = Contrastive(LEARNER, LEARNER, 0.5)
LAMBDA = {f"lambda.{name}": torch.full_like(w, 1e-3) for name, w in BORN.items()}
OMEGA = {f"omega.{name}": w for name, w in BORN.items()}


def problem(**given: Any) -> SpikingProblem:
    return SpikingProblem(EProp(NETWORK), TASKS, **given)


def around(fixed: dict[str, Tensor], **given: Any) -> ComplexSynapse[SpikingProblem]:
    return ComplexSynapse(problem(**given), fixed)


def test_what_is_no_meta_parameter_begins_as_it_is_born() -> None:
    learnt = {"W_in": 2 * BORN["W_in"]}
    start = problem(born=BORN).start(learnt)
    assert torch.equal(start["W_in"], learnt["W_in"])
    assert all(torch.equal(start[name], BORN[name]) for name in ("W_rec", "W_out"))


def test_strengths_are_learnt_from_weights_at_birth() -> None:
    """Of synapses that are drawn to where they are born."""
    synapse = around(OMEGA, born=BORN)
    assert all(torch.equal(w, BORN[name]) for name, w in synapse.start(LAMBDA).items())
    gradient = CONTRAST(synapse, LAMBDA).gradient
    assert all(g.abs().max() > 0 for g in gradient.values())


def test_omega_of_some_weights_leaves_the_others_as_they_are_born() -> None:
    synapse = around({"lambda.W_in": torch.tensor(1e-3)}, born=BORN)
    start = synapse.start({"omega.W_in": 2 * BORN["W_in"]})
    expected = {**BORN, "W_in": 2 * BORN["W_in"]}
    assert all(torch.equal(w, expected[name]) for name, w in start.items())


@pytest.mark.parametrize("inverse", [Dense(), ConjugateGradient(20), Neumann(300, 0.05)])
@pytest.mark.parametrize("spikes", ["smooth", "hard"])
def test_the_implicit_gradient_of_bptt_is_that_of_unrolling_to_the_end(
    spikes: str, inverse: InverseHessian
) -> None:
    """With spikes that is the derivative of what BPTT descends, surrogates and all."""
    smooth = SpikingNetwork(5, 3, 1, 5.0, 5.0, threshold=1e-9, spike=torch.sigmoid)
    network = smooth if spikes == "smooth" else NETWORK
    sines = SpikingSines(examples=3, queries=4, neurons=5, time=6, width=0.2)
    tasks = sines.sample(generators(0, 1), torch.float64)
    born = {k: 5 * w for k, w in network.init(generators(2, 3), torch.float64).items()}
    strengths = {f"lambda.{name}": torch.tensor(5.0) for name in born}
    problem = ComplexSynapse(SpikingProblem(BPTT(network, 0.1, 0.2), tasks), strengths)
    theta, learner = {f"omega.{name}": w for name, w in born.items()}, Descent(300, SGD(0.05))
    expected = UnrolledDescent(learner)(problem, theta).gradient
    found = Implicit(learner, inverse)(problem, theta)
    assert found.accepted.all()
    for name, gradient in expected.items():
        torch.testing.assert_close(found.gradient[name], gradient)
        assert gradient.abs().max() > 0


def test_a_window_estimates_what_is_learnt_and_nothing_else() -> None:
    every, some = WINDOW(problem(), BORN), WINDOW(problem(born=BORN), {"W_in": BORN["W_in"]})
    assert list(some.gradient) == ["W_in"]
    assert torch.equal(some.gradient["W_in"], every.gradient["W_in"])


@pytest.mark.parametrize("part", ["learn", "evaluate"])
@pytest.mark.parametrize("shape", [(2, 4), (2, 1, 1), (2, 4, 3), (4, 1)])
def test_targets_are_never_spread(part: str, shape: tuple[int, ...]) -> None:
    """Over outputs, examples or lifetimes, which would have other losses and no error."""
    x = TASKS.evaluate.x
    tasks = TASKS._replace(**{part: SpikingExamples(x, torch.ones(shape))})
    message = f"tasks.{part}: target has shape {shape}; it should be (2, 4, 1), lifetimes, examples"
    assert_refused(lambda: SpikingProblem(BPTT(NETWORK), tasks), LearnerError, message)


NO_BIRTH = "is no meta-parameter: give born="
REFUSED: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: around(OMEGA).start(LAMBDA), LearnerError, f"W_in {NO_BIRTH}{{'W_in': weights at b"),
    (lambda: around({"lambda.W_in": torch.tensor(1e-3)}).start({"omega.W_in": BORN["W_in"]}),
     LearnerError, f"W_rec {NO_BIRTH}"),
    (lambda: UnrolledDescent(LEARNER)(problem(born=BORN), {"W_inn": BORN["W_in"]}), LearnerError,
     "theta: 'W_inn' is none of the weights W_in, W_rec, W_out; did you mean 'W_in'?"),
    (lambda: CONTRAST(around(OMEGA, born=BORN), {"lamda.W_in": LAMBDA["lambda.W_in"]}),
     LearnerError, "'lamda.W_in' is none of the weights W_in, W_rec, W_out; did you mean 'lambda."),
    (lambda: CONTRAST(problem(born=BORN), LAMBDA), LearnerError,
     "theta: 'lambda.W_in' is none of the weights W_in, W_rec, W_out but of a synapse; put a Comp"),
    (lambda: UnrolledDescent(LEARNER)(problem(born=BORN), LAMBDA), LearnerError,
     "theta: 'lambda.W_in' is none of the weights W_in, W_rec, W_out but of a synapse; put a Comp"),
    (lambda: Evolution(LEARNER, 1, 0.1, generators(0)[0])(problem(born=BORN), LAMBDA),
     LearnerError, "theta: 'lambda.W_in' is none of the weights W_in, W_rec, W_out but of a syn"),
    (lambda: CONTRAST(problem(), OMEGA), LearnerError,
     "theta: 'omega.W_in' is none of the weights W_in, W_rec, W_out but of a synapse; put a Comp"),
    (lambda: problem(born=BORN).start({"W_in": BORN["W_in"][:1]}), LearnerError,
     "W_in has shape (1, 3, 5); it should be (2, 3, 5): a lifetime a task"),
    (lambda: problem(born=BORN).start({"omega.W_in": BORN["W_rec"]}), LearnerError,
     "omega.W_in has shape (2, 3, 3), which does not broadcast to the parameter's, (2, 3, 5)"),
    (lambda: problem(born={"W_on": BORN["W_in"]}), LearnerError, "born: 'W_on' is none of the wei"),
    (lambda: problem(born={"W_in": BORN["W_in"][0]}), LearnerError, "born['W_in'] has shape (3"),
    (lambda: problem(born=BORN["W_in"]), LearnerError, "born should be tensors by name, as"),
    (lambda: Implicit(LEARNER, Dense())(around(LAMBDA), OMEGA), LearnerError,
     "e-prop descends no loss that could be differentiated; learn by BPTT, or use the contrast"),
    (lambda: problem(batch=4), ConfigError, "batch is 4, of 3 examples: give no more"),
    (lambda: LastWindow(3, LEARNER), ConfigError, "before should be a learner, as Descent(100)"),  # type: ignore[arg-type]
    (lambda: LastWindow(LEARNER, 4), ConfigError, "window should be a Descent, whose steps can"),  # type: ignore[arg-type]
    (lambda: WINDOW(TASKS, BORN), ConfigError, "problem should be a bilevel problem, as"),  # type: ignore[arg-type]
    (lambda: WINDOW(problem(), {"W_in": 3}), LearnerError, "theta['W_in'] should be a torch"),  # type: ignore[dict-item]
    (lambda: WINDOW(around(LAMBDA), OMEGA), LearnerError, "theta: 'omega.W_in' is none of the "
     "parameters W_in, W_rec, W_out; LastWindow is for meta-parameters that are where learning st"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_no_weight_begins_at_what_nobody_gave(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    assert_refused(call, error, message)
