"""What bilevel problems and their learners are given of the wrong kind is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from draws import generators
from refusals import assert_refused
from small_flp import WIDE

import rulesearch as rs
from rulesearch.analysis import alignment_angles
from rulesearch.learners.bptt import BPTT
from rulesearch.learners.eprop import EProp
from rulesearch.networks.convolutional import ConvNet
from rulesearch.networks.modulated import ModulatedNetwork
from rulesearch.networks.spiking import SpikingNetwork
from rulesearch.outer import (
    term_scales,
)
from rulesearch.outer.bilevel import (
    SGD,
    Adam,
    Batches,
    BilevelTraining,
    Chain,
    CoefficientProblem,
    ComplexSynapse,
    ConjugateGradient,
    Contrastive,
    ContrastiveChain,
    Dense,
    Descent,
    Evolution,
    Examples,
    Identity,
    Implicit,
    LeastSquares,
    LossProblem,
    MetaParameters,
    Named,
    Neumann,
    Newton,
    Source,
    UnrolledDescent,
    accuracy,
    always,
    best_beta,
    classifier_problem,
    draw_ridge,
    error_bound,
    exact_ridge_gradient,
    fast_and_slow,
    network_problem,
    rule_problem,
)
from rulesearch.outer.spiking import SpikingProblem
from rulesearch.tasks import SpikingSines, Wheel

pytestmark = pytest.mark.usefixtures("one_thread")


G = torch.Generator().manual_seed(0)
GRAMMAR = rs.Grammar.from_yaml("ehebb")
POOL = GRAMMAR.enumerate()
RULE = rs.Rule(POOL, {"F0": 1e-3, "F2": 1e-3})
NETWORK = rs.PlasticNetwork([3, 4, 2])
OTHER = rs.PlasticNetwork([4, 2]).init(generators(0, 1))
STATE = NETWORK.init(generators(0, 1))
X, LABEL = torch.rand(2, 5, 3), torch.zeros(2, 5, dtype=torch.int64)
LAYERS = NETWORK.activations(STATE, X)
EXAMPLES = Examples(X, LABEL)
SOURCE = always(EXAMPLES)

RIDGE, ZERO = draw_ridge(2, 3, 8, G), torch.zeros(2, 3, dtype=WIDE)
THETA = {"omega.W": ZERO, "lambda.W": ZERO + 0.3}
LEARNER = Descent(3, SGD(0.1))
CONTRAST = Contrastive(LEARNER, LEARNER, 0.1)
META = MetaParameters(THETA)

MODULATED = ModulatedNetwork([3, 4, 2])
WEIGHTS = MODULATED.init(generators(0, 1))
FAST, SLOW = fast_and_slow(WEIGHTS, ("gain", "shift"))
DESCENDING = rs.PlasticNetwork([3, 4, 2], feedback="symmetric")
GRADIENT = rs.TermPool([rs.Term.from_text("F0", "-e_post * y_pre.T")])
USES: list[Callable[[Source], object]] = [
    lambda source: learnt(network_problem(NETWORK, STATE, source(None), EXAMPLES)),
    lambda source: learnt(rule_problem(NETWORK, RULE, STATE, source, SOURCE)),
    lambda source: learnt(classifier_problem(MODULATED, FAST, source, SOURCE), SLOW),
    lambda source: accuracy(MODULATED, WEIGHTS, source),
    lambda source: learnt(
        CoefficientProblem(DESCENDING, GRADIENT, STATE, source, SOURCE),
        {"theta": torch.full((2, 1), 0.1)},
    ),
]
MODULATED_PROBLEM = classifier_problem(MODULATED, FAST, SOURCE, SOURCE)
HELD = {"lambda.full0.gain": torch.tensor(0.3)}
DOUBLE = {**SLOW, "omega.full0.gain": FAST["full0.gain"].double()}
DESCENDING_PROBLEM = CoefficientProblem(DESCENDING, GRADIENT, STATE, SOURCE, SOURCE)
HELD_ALONE = rs.Rule(rs.TermPool([rs.Term.from_text("held", "Omega - W")]), {"held": 0.1})
SPIKING = SpikingNetwork(4, 5, 1)
BORN = SPIKING.init(generators(0, 1))
SPIKES, TARGET = torch.zeros(2, 6, 3, 4), torch.zeros(2, 3, 1)


def bilevel(**changes: Any) -> BilevelTraining[Any]:
    usual = {"model": META, "problems": lambda update: RIDGE, "meta_gradient": CONTRAST}
    return BilevelTraining(**{**usual, "rate": 0.1, **changes})


def learnt(problem: Any, theta: Named | None = None) -> Named:
    theta = theta or {}
    return LEARNER(problem, theta, problem.start(theta))


def mean(phi: Named, theta: Named, step: int | None) -> torch.Tensor:
    return phi["W"].square().mean(1)


def zero(theta: Named) -> Named:
    return {"W": ZERO}


CONFIG, LEARN = rs.ConfigError, rs.LearnerError
BILEVEL = [
    (lambda: SGD("x"), CONFIG, "rate must be a positive number, not 'x'"),
    (lambda: SGD(0.1, None), CONFIG, "momentum is from 0 to below 1, not None"),
    (lambda: SGD(0.1, nesterov="x"), CONFIG, "nesterov should be True or False, not of type str"),
    (lambda: Adam(0.1, betas=0.9), CONFIG, "betas should be two numbers, as (0.9, 0.999), not of"),
    (lambda: Adam(0.1, betas=(0.9,)), CONFIG, "betas are from 0 to below 1, two of them, not (0."),
    (lambda: Adam(0.1, eps="x"), CONFIG, "eps must be a number not below zero, not 'x'"),
    (lambda: Descent(2.5), CONFIG, "steps is 2.5; give a whole number"),
    (lambda: Descent(-1), CONFIG, "steps must be at least 0, not -1"),
    (lambda: Descent(5, tracked="x"), CONFIG, "tracked is 'x'; give a whole number"),
    *((lambda optimiser=optimiser: Descent(5, optimiser), CONFIG,
       "optimiser should be an optimiser, as SGD(0.01), not of type")
      for optimiser in (0.1, SGD, torch.optim.SGD, "sgd", None)),
    (lambda: Newton(0), CONFIG, "steps must be at least 1, not 0"),
    *((lambda free=free: Contrastive(free, LEARNER, 0.1), CONFIG,
       "free should be a learner, as Descent(100), not of type")
      for free in (None, Descent, SGD(0.1), 5)),
    (lambda: Contrastive(LEARNER, None, 0.1), CONFIG, "nudged should be a learner, as Desc"),
    (lambda: Contrastive(LEARNER, LEARNER, "x"), CONFIG, "strength, must be positive, not 'x'"),
    (lambda: Contrastive(LEARNER, LEARNER, 0.1, 5), CONFIG, "scheme is one of forward, symmetric"),
    (lambda: Contrastive(LEARNER, LEARNER, 0.1, continued=1), CONFIG, "continued should be True o"),
    (lambda: Contrastive(LEARNER, LEARNER, 0.1, bound="x"), CONFIG, "must be positive, not 'x'"),
    (lambda: Contrastive(LEARNER, LEARNER, 0.1, tolerance="x"), CONFIG, "positive, not 'x'; leave"),
    (lambda: ContrastiveChain(LEARNER, Newton, 0.1), CONFIG, "nudged should be a learner, as Desc"),
    (lambda: Chain(RIDGE), CONFIG, "stages should be a list of complex synapses, one a stage"),
    (lambda: Chain([RIDGE.inner]), CONFIG, "stages[0] should be a ComplexSynapse, which goes aro"),
    (lambda: UnrolledDescent(Newton()), CONFIG, "learner should be a Descent, whose steps can be"),
    (lambda: UnrolledDescent(LEARNER, 1.5), CONFIG, "last is 1.5; give a whole number"),
    (lambda: Implicit(Descent, Dense()), CONFIG, "learner should be a learner, as Descent(100)"),
    *((lambda inverse=inverse: Implicit(LEARNER, inverse), CONFIG,
       "inverse should be a solver, as ConjugateGradient(10), not of type")
      for inverse in (None, Dense, "cg")),
    (lambda: ConjugateGradient("x"), CONFIG, "iterations is 'x'; give a whole number"),
    (lambda: Neumann(1.5, 0.1), CONFIG, "terms is 1.5; give a whole number"),
    (lambda: Neumann(5, "x"), CONFIG, "alpha must be a positive number, not 'x'"),
    (lambda: Identity("x"), CONFIG, "scale must be a positive number, not 'x'"),
    (lambda: Evolution(LEARNER, 1.5, 0.1, G), CONFIG, "pairs is 1.5; give a whole number"),
    (lambda: Evolution(LEARNER, 3, "x", G), CONFIG, "sigma must be a positive number, not 'x'"),
    (lambda: Evolution(LEARNER, 3, 0.1, 5), CONFIG, "generator should be a torch.Generator, not"),
    (lambda: Contrastive(LEARNER, LEARNER, True), CONFIG, "strength, must be positive, not True"),
    (lambda: bilevel(milestones=5), CONFIG, "milestones should be updates, as [100, 200], not of"),
    *((lambda gradient=gradient: gradient(RIDGE, {**THETA, "omega.W": ZERO.long()}), LEARN,
       "theta['omega.W'] is torch.int64; give floating point, as theta['omega.W'].float()")
      for gradient in (CONTRAST, UnrolledDescent(LEARNER), Implicit(LEARNER, Dense()),
                       Evolution(LEARNER, 1, 0.1, G))),
    (lambda: CONTRAST(ComplexSynapse(MODULATED_PROBLEM, HELD), DOUBLE), LEARN,
     "omega.full0.gain is torch.float64, the parameter torch.float32: give it as that, .to(torc"),
    *((lambda gradient=gradient: gradient(LossProblem(lambda phi, theta, step: 1.0, mean, zero),
                                          THETA), LEARN,
       "what learn returns should be a torch tensor, a loss, not of type float")
      for gradient in (CONTRAST, UnrolledDescent(LEARNER))),
    (lambda: CONTRAST(LossProblem(mean, lambda phi, theta, step: 1.0, zero), THETA), LEARN,
     "what evaluate returns should be a torch tensor, a loss, not of type float"),
    (lambda: CONTRAST(LossProblem(mean, mean, lambda theta: ZERO), THETA), LEARN,
     "what born returns should be tensors by name, not of type Tensor"),
    (lambda: rule_problem(NETWORK, HELD_ALONE, STATE, SOURCE, SOURCE), LEARN,
     "nothing would be learnt from them: 0.1 * (Omega - W)"),
    (lambda: CONTRAST(DESCENDING_PROBLEM, {"thetaa": torch.full((2, 1), 0.1)}), LEARN,
     "is not among the meta-parameters (thetaa); did you mean 'theta'?"),
    (lambda: fast_and_slow(WEIGHTS, ("gain", "shfit")), LEARN, "shfit; did you mean 'shift'?"),
    (lambda: fast_and_slow(WEIGHTS, ()), LEARN, "nothing learns: fast is empty; give one of W, b"),
    (lambda: best_beta("x"), CONFIG, "delta must not be negative: 'x'"),
    (lambda: error_bound(0.1, None), CONFIG, "beta must be positive and finite, and delta"),
    (lambda: error_bound(0.1, math.inf), CONFIG, "and delta not negative: inf, 0.1"),
    (lambda: exact_ridge_gradient(RIDGE, {}), LEARN,
     "lambda.W is missing: the formula is of a ridge that is anchored"),
    (lambda: ComplexSynapse(RIDGE, {"lambda_W": ZERO}), LEARN,
     "fixed: 'lambda_W' is no part of a synapse; those are called omega.W"),
    *((lambda inner=inner: ComplexSynapse(inner), CONFIG,
       "inner should be a bilevel problem, as rule_problem(...), not of type")
      for inner in (None, LeastSquares, NETWORK)),
    (lambda: ComplexSynapse(RIDGE.inner, {"lambda.W": 0.3}), LEARN,
     "fixed['lambda.W'] should be a torch tensor, not of type float"),
    (lambda: LossProblem(abs, abs, {"W": ZERO}), CONFIG, "born should be a function, not of type"),
    (lambda: LeastSquares([1], [2], [3], [4]), LEARN, "x should be a torch tensor, not of type"),
    (lambda: draw_ridge(0, 3, 8, G), CONFIG, "problems must be at least 1, not 0"),
    (lambda: draw_ridge(2, 3, 8, generators(0)), CONFIG, "generator should be a torch.Generator"),
    (lambda: draw_ridge(2, 3, 8, G, "x"), CONFIG, "noise is 'x'; give a finite number"),
    *((lambda gradient=gradient: gradient(RIDGE, None), LEARN,
       "theta should be tensors by name, as {'omega.W0': tensor}, not of type NoneType")
      for gradient in (CONTRAST, UnrolledDescent(LEARNER), Implicit(LEARNER, Dense()),
                       Evolution(LEARNER, 1, 0.1, G), exact_ridge_gradient)),
    *((lambda gradient=gradient: gradient(Chain([RIDGE]), THETA), CONFIG,
       "problem should be a bilevel problem, as rule_problem(...), not of type Chain")
      for gradient in (CONTRAST, UnrolledDescent(LEARNER), Implicit(LEARNER, Dense()),
                       Evolution(LEARNER, 1, 0.1, G), exact_ridge_gradient)),
    (lambda: CONTRAST(RIDGE, {"lambda.W": 0.3}), LEARN,
     "theta['lambda.W'] should be a torch tensor, not of type float"),
    (lambda: ContrastiveChain(LEARNER, LEARNER, 0.1)(RIDGE, THETA), CONFIG,
     "problem should be a Chain of complex synapses, not of type ComplexSynapse"),
    (lambda: MetaParameters([ZERO]), LEARN, "theta should be tensors by name, as {'omega.W0'"),
    (lambda: MetaParameters({"W": [1.0]}), LEARN, "theta['W'] should be a torch tensor, not of ty"),
    (lambda: MetaParameters({}), LEARN, "theta has shapes {}; give tensors of floating point"),
    (lambda: MetaParameters({"W": ZERO, "V": ZERO[:1]}), LEARN,
     "theta has shapes {'W': (2, 3), 'V': (1, 3)}; give tensors of floating point, all of which"),
    (lambda: MetaParameters({"W": torch.zeros(2, dtype=torch.int64)}), LEARN, "floating point"),
    *((lambda model=model: bilevel(model=model), CONFIG,
       "model should be MetaParameters, as MetaParameters(theta), not of type")
      for model in (None, THETA, MetaParameters)),
    *((lambda problems=problems: bilevel(problems=problems), CONFIG,
       "problems should be a function from an update's number to its problems, not of type")
      for problems in (None, RIDGE)),
    *((lambda given=given: bilevel(meta_gradient=given), CONFIG,
       "meta_gradient should be a meta-gradient, as Contrastive(free, nudged, 0.1), not of type")
      for given in (None, Contrastive, "contrastive")),
    (lambda: bilevel(meta_gradient=LEARNER), CONFIG,
     "meta_gradient should be a meta-gradient, as Contrastive(free, nudged, 0.1), not Descent("),
    (lambda: bilevel(meta_gradient=lambda problem, theta: theta).update(), LEARN,
     "what meta_gradient returns should be an Estimate, as Contrastive(...)(problem, theta), not"),
    (lambda: bilevel(rate="x"), CONFIG, "rate must be a positive number, not 'x'"),
    (lambda: bilevel(episodes=1.5), CONFIG, "episodes is 1.5; give a whole number"),
    (lambda: bilevel(problems=lambda update: None).update(), CONFIG, "problem should be a bileve"),
    (lambda: rule_problem(NETWORK, POOL, STATE, SOURCE, SOURCE), CONFIG,
     "rule should be a Rule, as Rule(pool, {'F0': 1e-3}), not of type TermPool"),
    (lambda: rule_problem([3, 2], RULE, STATE, SOURCE, SOURCE), CONFIG, "network should be a Pla"),
    (lambda: rule_problem(NETWORK, RULE, STATE.W, SOURCE, SOURCE), LEARN, "state should be a Net"),
    (lambda: rule_problem(NETWORK, RULE, OTHER, SOURCE, SOURCE), LEARN, "state.W has 1 matrices"),
    (lambda: rule_problem(NETWORK, RULE, STATE, EXAMPLES, SOURCE), CONFIG,
     "learn should be a function from a step to its examples, as always(examples), not of type"),
    (lambda: CoefficientProblem(NETWORK, RULE, STATE, SOURCE, SOURCE), CONFIG, "pool should be a"),
    (lambda: network_problem(None, STATE, EXAMPLES, EXAMPLES), CONFIG, "network should be a Plas"),
    (lambda: network_problem(NETWORK, None, EXAMPLES, EXAMPLES), LEARN, "born should be a Networ"),
    (lambda: network_problem(NETWORK, OTHER, EXAMPLES, EXAMPLES), LEARN,
     "born has weights [(2, 4)], the network needs [(4, 3), (2, 4)]"),
    *((lambda given=given: network_problem(NETWORK, STATE, given, EXAMPLES), LEARN,
       "examples should be two tensors, as Examples(x, label)")
      for given in (None, X, SOURCE, (X, None), Examples(X.numpy(), LABEL))),
    (lambda: classifier_problem("net", FAST, SOURCE, SOURCE), CONFIG,
     "network should be a function of weights and examples, as ModulatedNetwork([4, 6, 2])"),
    (lambda: classifier_problem(MODULATED, STATE, SOURCE, SOURCE), LEARN, "born should be tensors"),
    (lambda: classifier_problem(MODULATED, FAST, SOURCE, EXAMPLES), CONFIG, "evaluate should be a"),
    (lambda: fast_and_slow(WEIGHTS, "gain"), LEARN, "fast should be ends of names, as ('gain', "),
    (lambda: fast_and_slow(MODULATED, ("gain",)), LEARN, "weights should be tensors by name, as"),
    (lambda: accuracy(MODULATED, WEIGHTS, EXAMPLES), CONFIG, "source should be a function from a"),
    *((lambda use=use: use(always(Examples(X.transpose(0, 1), LABEL.T))), LEARN,
       "examples: x has shape (5, 2, 3) and label (5, 2); they should begin with (lifetimes, "
       "examples), of 2 lifetimes; of a batch of tasks, where steps come first, give")
      for use in USES),
    (lambda: Batches(None, LABEL, 2), CONFIG, "data should be ImageData, as rulesearch.tasks.lo"),
]  # fmt: skip
IMAGE = (1, 8, 8)
CONV = ConvNet(IMAGE, 3, (4,))
DRAWN = CONV.init(generators(0, 1))
LEARNERS = [
    (lambda: ConvNet(IMAGE, 3, (0,)), CONFIG, "channels[0] must be at least 1, not 0"),
    (lambda: ConvNet(IMAGE, 3, 3), CONFIG, "channels should be channels of every block, as (64, "),
    (lambda: ConvNet((8, 8), 3, (4,)), CONFIG,
     "image should be channels, height and width, as (1, 8, 8), not (8, 8)"),
    (lambda: ConvNet(IMAGE, 0, (4,)), CONFIG, "outputs must be at least 1, not 0"),
    (lambda: ConvNet(IMAGE, 3, (4,), padding=-1), CONFIG, "padding must be at least 0, not -1"),
    *((lambda shape=shape: CONV(DRAWN, torch.zeros(shape)), LEARN,
       f"x has shape {shape}; it should be (2, examples, 64), a row of examples a network")
      for shape in ((2, 5, 63), (3, 5, 64), (1, 5, 64), (5, 64))),
    *((lambda shape=shape: MODULATED(WEIGHTS, torch.zeros(shape)), LEARN,
       f"x has shape {shape}; it should be (2, examples, 3), a row of examples a network")
      for shape in ((2, 5, 4), (1, 5, 3))),
    *((lambda network=network: network({"head.bias": TARGET}, X), LEARN, f"weights have no {first}")
      for network, first in ((CONV, "conv0.W, conv0.bias"), (MODULATED, "full0.W, full0.gain"))),
    (lambda: Wheel(torch.tensor(0.5)), CONFIG, "wheel: delta has shape (); give one number a lif"),
    (lambda: EProp(NETWORK), CONFIG, "network should be a SpikingNetwork, not of type PlasticNet"),
    (lambda: EProp(SPIKING, 5), CONFIG, "pseudo should be a function, as triangle, not 5"),
    (lambda: EProp(SPIKING, rate_target=None), CONFIG, "rate_target is None; give a finite number"),
    (lambda: EProp(SPIKING, modulation={"W_inn": 0.5}), CONFIG,
     "modulation is of W_in, W_rec, W_out, not of 'W_inn'; did you mean 'W_in'?"),
    (lambda: BPTT(SPIKING, math.nan), CONFIG, "rate_strength is nan; give a finite number"),
    *((lambda learner=learner: learner(BORN, SPIKES, TARGET[..., 0]), LEARN,
       "target has shape (2, 3); it should be (2, 3, 1), lifetimes, examples and outputs")
      for learner in (EProp(SPIKING), BPTT(SPIKING))),
    *((lambda learner=learner: learner({}, SPIKES, TARGET), LEARN, "weights are W_in, W_rec, W_ou")
      for learner in (EProp(SPIKING), BPTT(SPIKING), lambda phi, x, _: SPIKING(phi, x))),
    (lambda: SPIKING(BORN, None), LEARN, "x should be a torch tensor, of spikes, not of type None"),
    (lambda: SPIKING(BORN, SPIKES.double()), LEARN, "spikes are torch.float64, the weights torch"),
    (lambda: SpikingNetwork(1.5), CONFIG, "spiking network: n_in is 1.5; give a whole number"),
    (lambda: SpikingNetwork(threshold="x"), CONFIG, "threshold must be positive, not 'x'"),
    (lambda: SPIKING.init(3), CONFIG, "generators should be a list of torch.Generator, one a net"),
    (lambda: ModulatedNetwork(5), CONFIG, "sizes should be units per layer, as [784, 100, 10]"),
    (lambda: ModulatedNetwork([3, 2.5]), CONFIG, "sizes[1] is 2.5; give a whole number"),
    (lambda: MODULATED.init([]), CONFIG, "modulated network: at least one generator is needed"),
    (lambda: MODULATED.init([5]), CONFIG, "generators[0] should be a torch.Generator, not of typ"),
    (lambda: SpikingProblem(SPIKING, None), CONFIG, "learner should be EProp or BPTT of a networ"),
    (lambda: SpikingProblem(EProp(SPIKING), SpikingSines()), CONFIG, "tasks should be SpikingTas"),
    (lambda: NETWORK.errors(None, LAYERS, LABEL), LEARN, "state should be a NetworkState, as of"),
    (lambda: NETWORK.errors(STATE, None, LABEL), LEARN, "activations should be a list of tensors"),
    (lambda: NETWORK.errors(STATE, LAYERS, LABEL, "x"), CONFIG, "feedback is one of random, symm"),
    (lambda: NETWORK.loss(LAYERS[-1], LABEL[:, :2]), LEARN,
     "label has shape (2, 2); it should be (2, 5)"),
    *((lambda label=label: NETWORK.errors(STATE, LAYERS, label), LEARN, f"label has shape {shape}")
      for label, shape in ((LABEL[0], "(5,); it should be (2, 5)"),
                           (LABEL[:, :1], "(2, 1); it should be (2, 5)"),
                           (torch.rand(2), "(2,); it should be (2, 5, 2)"))),
    *((lambda label=label: NETWORK.loss(LAYERS[-1], label), LEARN, "label holds targets that are n")
      for label in (torch.full((2, 5, 2), -0.5), torch.ones(2, 5, 2))),
    (lambda: alignment_angles(NETWORK, STATE, X, None), LEARN, "label should be a torch tensor, n"),
    (lambda: term_scales(GRAMMAR, NETWORK, STATE, X[None], LABEL[None]), CONFIG, "pool should be"),
]  # fmt: skip
WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    *BILEVEL, *LEARNERS,
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_the_wrong_kind_is_refused(
    call: Callable[[], Any], error: type[Exception], message: str
) -> None:
    assert_refused(call, error, message)
