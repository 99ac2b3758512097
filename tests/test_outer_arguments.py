"""What outer loops are given of the wrong kind is refused in one line, before any work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from draws import generators
from refusals import assert_refused
from small_flp import IMAGE, SINE, sines, task_of
from torch import nn

import rulesearch as rs
from rulesearch.analysis.flp_longer import longer_errors, round_errors
from rulesearch.analysis.universality import UniversalNetwork
from rulesearch.networks.modulated import ModulatedNetwork
from rulesearch.outer import (
    FLPSettings,
    MetaModel,
    MetaRates,
    MetaTraining,
    Stage,
    flp_model,
)
from rulesearch.outer.bandit import GreedyAgent, NeuralLinearAgent, live
from rulesearch.outer.bilevel import (
    SGD,
    draw_ridge,
    fast_and_slow,
)
from rulesearch.outer.flp_presets import SINES, by_gradient, by_oml, with_plastic_layers
from rulesearch.outer.rule_shape import ShapeTraining
from rulesearch.search import Settings
from rulesearch.tasks import IncrementalSines, SpikingSines, Wheel

pytestmark = pytest.mark.usefixtures("one_thread")


GRAMMAR = rs.Grammar.from_yaml("ehebb")
POOL = GRAMMAR.enumerate()
NETWORK = rs.PlasticNetwork([3, 4, 2])
STATE = NETWORK.init(generators(0, 1))
LABEL = torch.zeros(2, 5, dtype=torch.int64)

MODEL, TASK = flp_model(SINE, 2), task_of(SINE, 2)  # of float32, and of float64
RIDGE = draw_ridge(2, 3, 8, torch.Generator().manual_seed(0))

MODULATED = ModulatedNetwork([3, 4, 2])
WEIGHTS = MODULATED.init(generators(0, 1))
FAST, SLOW = fast_and_slow(WEIGHTS, ("gain", "shift"))
WHEEL = Wheel(torch.tensor([0.5, 0.9]))
CELLS = UniversalNetwork(2, 2)


class Agent:
    def act(self, context: torch.Tensor) -> torch.Tensor:
        return WHEEL.means(context).argmax(-1)

    def learn(self, experience: object) -> None: ...

    alive = torch.ones(1, dtype=torch.bool)


def training(**changes: Any) -> MetaTraining:
    return MetaTraining(**{"model": MODEL, "tasks": sines(), **changes})


def greedy(**changes: Any) -> GreedyAgent:
    usual = {"network": MODULATED, "phi": FAST, "theta": SLOW, "problem": lambda source: RIDGE}
    counts = {"optimiser": SGD(0.1), "updates": 2, "batch": 2, "generators": generators(0, 1)}
    return GreedyAgent(**{**usual, **counts, **changes})


def lived(**changes: Any) -> torch.Tensor:
    usual = {"agent": Agent(), "wheel": WHEEL, "steps": 20, "every": 5}
    return live(**{**usual, "generators": generators(0, 1), **changes})


CONFIG, LEARN = rs.ConfigError, rs.LearnerError
SEARCH = [
    (lambda: Settings(episodes="x"), CONFIG, "episodes='x': input should be a valid integer"),
    (lambda: Settings(epsiodes=5), CONFIG,
     "a search has no setting 'epsiodes'; did you mean 'episodes'?"),
    (lambda: Settings(penalty=rs.L1(10.0)), CONFIG, "input should be a mapping"),
    (lambda: Settings(optimiser={"rate": "x"}), CONFIG, "rate='x': input should be a valid number"),
    (lambda: Settings(optimiser={"clipp": 1}), CONFIG,
     "a search has no setting 'clipp'; did you mean 'clip'?"),
]  # fmt: skip
FLP = [
    (lambda: FLPSettings(300, 1), CONFIG,
     "FLP: widths should be whole numbers, as (784, 100, 10), not of type int"),
    (lambda: FLPSettings((3, 4, 1), "x"), CONFIG, "FLP: plastic_layers is 'x'; give a whole num"),
    (lambda: FLPSettings((3, 4, 1), 1.5), CONFIG, "FLP: plastic_layers is 1.5; give a whole num"),
    (lambda: replace(SINE, rule=POOL), CONFIG,
     "FLP: rule should be a term of the catalogue, or a Rule, not of type TermPool"),
    (lambda: replace(SINE, feedback="error"), CONFIG, "FLP: feedback should be a LearntFeedback"),
    (lambda: replace(SINE, rates=MetaRates), CONFIG, "FLP: rates should be MetaRates, not of"),
    (lambda: replace(SINE, mixing="0.5"), CONFIG, "FLP: mixing is text, '0.5'; give finite"),
    (lambda: replace(SINE, rate="0.1"), CONFIG, "FLP: rate is text, '0.1'; give finite numbers"),
    (lambda: replace(SINE, rate=(0.1, "0", 0.1)), CONFIG,
     "FLP: rate is text, (0.1, '0', 0.1); give finite numbers"),
    (lambda: FLPSettings((3,), 1), CONFIG,
     "FLP: widths is (3,); give the units of two layers or more, as (784, 100, 10)"),
    (lambda: replace(SINE, rate=None), CONFIG, "FLP: rate is None; give finite numbers"),
    (lambda: replace(IMAGE, image=(84, 84)), CONFIG,
     "FLP: image is (84, 84); give channels, height and width"),
    (lambda: replace(IMAGE, channels=3), CONFIG, "FLP: channels should be whole numbers, as ("),
    (lambda: flp_model("sines-flp"), CONFIG,
     "settings should be FLPSettings, as SINES of the presets, not of type str"),
    (lambda: flp_model(SINE, "x"), CONFIG, "FLP: seeds is 'x'; give a whole number"),
    (lambda: flp_model(SINE, 2, -1), CONFIG, "FLP: seed must be at least 0, not -1"),
    (lambda: flp_model(SINE, 2, like=SINE), CONFIG, "like should be a MetaModel, not of type FLP"),
    (lambda: flp_model(SINE, 2, pool=GRAMMAR), CONFIG, "pool should be a TermPool, as grammar.en"),
    (lambda: flp_model(SINE, 2, pool=POOL, theta=5), CONFIG,
     "theta should be numbers, one a term, as [1.0, 0.0], not of type int"),
    (lambda: flp_model(SINE, 2, pool=POOL, theta=["x", 1]), LEARN, "give finite numbers"),
    (lambda: flp_model(SINE, 2, features=nn.Linear), CONFIG,
     "features should be a torch module, or a list of them, one a seed, not of type type"),
    (lambda: flp_model(SINE, 2, features=[5, 5]), CONFIG, "features[0] should be a torch module"),
    (lambda: flp_model(SINE, 2, device="gpu"), CONFIG, "device is cpu or cuda, or one of several"),
    (lambda: flp_model(SINE, 2, dtype="float32"), CONFIG, "dtype is 'float32'; give torch.float3"),
    (lambda: with_plastic_layers("sines", 1), CONFIG, "flp should be FLPSettings, as SINES or PRE"),
    (lambda: with_plastic_layers(SINES, "x"), CONFIG, "FLP: plastic_layers is 'x'; give a whole"),
    (lambda: by_gradient(SINES, 0.1, "x"), CONFIG, "meta-training: rate is 'x'; give numbers"),
    (lambda: by_gradient(SINES, 0.1, 0.1, exact="no"), CONFIG, "FLP: exact should be True or Fa"),
    (lambda: by_oml(None, 0.1), CONFIG, "flp should be FLPSettings, as SINES or PRESETS["),
    (lambda: MetaRates(None), CONFIG, "meta-training: forward is None; give numbers from 0 on"),
    (lambda: MetaRates(rate="abc"), CONFIG, "meta-training: rate is 'abc'; give numbers from 0"),
    (lambda: MetaRates((1e-3, 1e-4)), CONFIG, "meta-training: forward is (0.001, 0.0001); give"),
    (lambda: MetaRates(milestones=5), CONFIG, "meta-training: milestones should be updates, as"),
    (lambda: MetaRates(milestones=(1.5,)), CONFIG, "meta-training: a milestone is 1.5; give a wh"),
    (lambda: MetaRates(drop=None), CONFIG, "meta-training: drop is None; give numbers from 0 on"),
    (lambda: MetaRates(betas=0.9), CONFIG, "meta-training: betas should be two numbers, as (0.9"),
    (lambda: MetaRates(betas=("a", 0.9)), CONFIG, "meta-training: betas is ('a', 0.9); give numb"),
    *((lambda betas=betas: MetaRates(betas=betas), CONFIG, "give two numbers from 0 to below 1")
      for betas in ((0.9,), (0.9, 1.0), (0.9, 0.99, 0.999))),
    *((lambda tasks=tasks: Stage(5, tasks), CONFIG,
       "meta-training: tasks of a stage should be a family of tasks, as rulesearch.tasks.Incr")
      for tasks in (None, "sines", IncrementalSines, SpikingSines())),
    *((lambda model=model: training(model=model), CONFIG,
       "meta-training: model should be a MetaModel, as flp_model(settings), not of type")
      for model in (None, SINE, MetaModel)),
    *((lambda tasks=tasks: training(tasks=tasks), CONFIG,
       "meta-training: tasks should be a family of tasks, as rulesearch.tasks.IncrementalSines()")
      for tasks in (None, "sines", IncrementalSines, SpikingSines())),
    *((lambda rates=rates: training(rates=rates), CONFIG, "meta-training: rates should be MetaRat")
      for rates in (None, 1e-3, MetaRates, SINE)),
    *((lambda penalty=penalty: training(penalty=penalty), CONFIG,
       "meta-training: penalty should be a penalty, as rulesearch.ProximalL1(10.0), not of type")
      for penalty in (None, 10.0, rs.L1)),
    (lambda: training(seed="x"), CONFIG, "meta-training: seed is 'x'; give a whole number"),
    (lambda: training(episodes=1.5), CONFIG, "meta-training: episodes is 1.5; give a whole number"),
    (lambda: training(stages=Stage(5, sines())), CONFIG, "stages should be a list of Stages"),
    (lambda: training(stages=[(5, sines())]), CONFIG,
     "meta-training: stages[0] should be a Stage, as Stage(100, tasks), not of type tuple"),
    (lambda: MetaModel(NETWORK, STATE), CONFIG, "learner should be a PlasticityLearner, as Plas"),
    (lambda: MetaModel(MODEL.learner, None), LEARN, "state should be a NetworkState, as of init()"),
    (lambda: MetaModel(MODEL.learner, MODEL.born(), nn.Linear(3, 3)), CONFIG,
     "features should be a list of torch modules, one a seed, not of type Linear"),
    (lambda: MetaModel(MODEL.learner, MODEL.born(), theta=[1.0]), LEARN, "theta should be a torch"),
    (lambda: MetaModel(MODEL.learner, MODEL.born(), image=5), CONFIG, "image should be a shape, "),
    (lambda: MODEL(sines()), LEARN, "task should be a TaskBatch, as of tasks.sample(generators)"),
    (lambda: MODEL.judge(None, TASK), LEARN, "state should be a NetworkState, as of live()"),
    (lambda: MODEL(TASK), LEARN,
     "examples are torch.float64 on cpu, the model is torch.float32 on cpu"),
    (lambda: MODEL(task_of(SINE, 3)), LEARN, "a task of 3 lifetimes for 2 seeds; it should have"),
    (lambda: ShapeTraining(MODEL), CONFIG, "training should be a MetaTraining, not of type MetaMo"),
    (lambda: ShapeTraining(training(), [True]), CONFIG, "kept should be a torch tensor, True whe"),
    (lambda: ShapeTraining(training(), torch.ones(2, 7)), CONFIG,
     "kept has shape (2, 7); it should be (2, 1), a value for each seed and term"),
]  # fmt: skip
LIVES = [
    *((lambda agent=agent: lived(agent=agent), CONFIG,
       "agent should act, learn and say whether it is alive, unlike") for agent in (None, Agent)),
    *((lambda wheel=wheel: lived(wheel=wheel), CONFIG,
       "wheel should be a Wheel, as Wheel(torch.tensor([0.5])), not of type")
      for wheel in (None, 0.5, Wheel)),
    (lambda: lived(steps=0), CONFIG, "steps must be at least 1, not 0"),
    (lambda: lived(every=0), CONFIG, "every must be at least 1, not 0"),
    (lambda: lived(every=2.5), CONFIG, "every is 2.5; give a whole number"),
    (lambda: lived(pulls=-1), CONFIG, "pulls must be at least 0, not -1"),
    (lambda: lived(generators=[1, 2]), CONFIG, "generators[0] should be a torch.Generator, not"),
    (lambda: greedy(phi=None), LEARN, "weights should be tensors by name, as {'omega.W0'"),
    (lambda: greedy(optimiser=SGD), CONFIG, "optimiser should be an optimiser, as Adam(1e-3)"),
    (lambda: greedy(updates=-2), CONFIG, "updates must be at least 0, not -2"),
    (lambda: greedy(generators=5), CONFIG, "generators should be a list of torch.Generator, one"),
    (lambda: NeuralLinearAgent(MODULATED, MODULATED, WEIGHTS, {}, 2, 0, generators(0), [(0,)]),
     CONFIG, "batch must be at least 1, not 0"),
    *((lambda errors=errors: errors(SINE, sines(), generators(0, 1), [1]), CONFIG,
       "model should be a MetaModel, as flp_model(settings), not of type FLPSettings")
      for errors in (longer_errors, round_errors)),
    (lambda: longer_errors(MODEL, IncrementalSines, generators(0, 1), [1]), CONFIG, "tasks should"),
    (lambda: longer_errors(MODEL, sines(), 5, [1]), CONFIG, "generators should be a list of torc"),
    (lambda: longer_errors(MODEL, sines(), generators(0, 1, 2), [1]), LEARN, "task of 3 lifetimes"),
    (lambda: round_errors(MODEL, sines(), generators(0, 1), 2), CONFIG, "times should be how many"),
    (lambda: round_errors(MODEL, sines(), generators(0, 1), []), CONFIG, "times is empty: say how"),
    (lambda: UniversalNetwork(2.5, 2), CONFIG, "cells is 2.5; give a whole number"),
    (lambda: UniversalNetwork(2, 2, alpha="x"), CONFIG, "alpha is 'x'; it should be from 2.23e-"),
    (lambda: CELLS.init(0), CONFIG, "lifetimes must be at least 1, not 0"),
    (lambda: CELLS.live(CELLS.init(), [0], [0]), LEARN, "x should be a torch tensor, not of type"),
    (lambda: CELLS.activations(None, LABEL), LEARN, "W should be a torch tensor, as of init()"),
    (lambda: CELLS.decode(torch.zeros(3)), LEARN,
     "z has shape (3,); its last dimension should be 13"),
]  # fmt: skip
WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    *SEARCH, *FLP, *LIVES,
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_the_wrong_kind_is_refused(
    call: Callable[[], Any], error: type[Exception], message: str
) -> None:
    assert_refused(call, error, message)


def test_settings_in_lists_are_those_in_tuples() -> None:
    listed = replace(SINE, widths=np.array(SINE.widths), rate=[0.1, 0.2, 0.3])
    assert listed == replace(SINE, rate=(0.1, 0.2, 0.3))
    assert (listed.widths, listed.rate) == ((4, 6, 5, 4, 1), (0.1, 0.2, 0.3))
    assert {type(width) for width in listed.widths} == {int}


def test_a_statistic_is_a_mean_or_a_median() -> None:
    with pytest.raises(ValueError, match="statistic is mean or median, not 'mode'"):
        rs.analysis.bootstrap_interval([1.0, 2.0], statistic="mode")
