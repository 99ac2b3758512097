"""CML, Table 4: a recurrent spiking network learns sines from few points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from rulesearch.errors import ConfigError
from rulesearch.learners.bptt import BPTT
from rulesearch.learners.eprop import EProp
from rulesearch.networks.spiking import SpikingNetwork
from rulesearch.outer.best_on_validation import BestOnValidation
from rulesearch.outer.bilevel import (
    SGD,
    Adam,
    BilevelGradient,
    ComplexSynapse,
    Contrastive,
    Descent,
    MetaParameters,
    Named,
    UnrolledDescent,
)
from rulesearch.outer.seeds import TEST, VALIDATION
from rulesearch.outer.spiking import LastWindow, SpikingProblem
from rulesearch.reproduce.base import (
    Job,
    Measured,
    Published,
    Reproduction,
    Row,
    RunSettings,
    Training,
)
from rulesearch.reproduce.cml_settings import Rate, Strength, Tolerance
from rulesearch.reproduce.cml_tasks import Draws, births, learnt, meta_training, on_tests
from rulesearch.search.settings import Count
from rulesearch.tasks.spiking_sines import SpikingSines, SpikingTasks

__all__ = ["CML_TABLE4", "SpikingSettings"]

AT_ONCE = 20  # test tasks side by side
STREAMS = {"own": TEST, "bptt": TEST, "validation": VALIDATION}  # of random numbers for tasks
BY_BPTT = ("bptl-eprop", "tbptl-eprop")  # rows that are tested by BPTT as well
OUT = 0.1  # factor of the readout's gradients in e-prop, its anchor's included


class SpikingSettings(RunSettings):
    """Settings of the spiking networks; the defaults are the released code's.

    Attributes
    ----------
    hidden : int
        Recurrent neurons.
    free_steps, nudged_steps : int
        Of CML, by Adam.
    free_rate, nudged_rate : float
        Of Adam in these.
    beta, strength, meta_rate : float
        Of CML: nudging, the anchor's lambda, and the step of Adam on omega.
    unrolled_steps : int
        That BPTL learns for.
    truncated_steps, window : int
        That TBPTL learns for, and how many of them at the end are differentiated.
    bptt_rate, eprop_rate : float
        Of the baselines' learning, by Nesterov's momentum.
    baseline_meta_rate : float
        Step of Adam on their first weights.
    tolerance : float, optional
        The largest residual of learning that CML accepts; by default any.
    validate_every : int
        Updates between two looks at the validation tasks. The weights that do best there are
        tested.
    validation : int
        Validation tasks of each seed.
    validate_as : {'own', 'bptt'}
        How the unrolled rows with e-prop learn them: as they are meta-trained, or by BPTT, as in
        the released code.
    """

    hidden: Count = 100
    free_steps: Count = 500
    nudged_steps: Count = 100
    free_rate: Rate = 1e-3
    nudged_rate: Rate = 3e-3
    beta: Rate = 3.0
    strength: Strength = 1e-3
    meta_rate: Rate = 3e-3
    unrolled_steps: Count = 10
    truncated_steps: Count = 500
    window: Count = 100
    bptt_rate: Rate = 3e-4
    eprop_rate: Rate = 1e-4
    baseline_meta_rate: Rate = 3e-4
    tolerance: Tolerance = None
    validate_every: Count = 20
    validation: Count = 10
    validate_as: Literal["own", "bptt"] = "own"


Problem = SpikingProblem | ComplexSynapse[SpikingProblem]


@dataclass(frozen=True)
class Method:
    """A row: how a problem is made of tasks, how it is learnt, and how that is learnt.

    Attributes
    ----------
    problem : callable
    learner : Descent
        Of the test.
    meta_gradient : BilevelGradient
    prefix : str
        Of the names of meta-parameters, before those of weights.
    rate : float
        Of Adam.
    """

    problem: Callable[[SpikingTasks], Problem]
    learner: Descent
    meta_gradient: BilevelGradient[Any]
    prefix: str
    rate: float


def _nesterov(steps: int, rate: float) -> Descent:
    return Descent(steps, SGD(rate, 0.9, nesterov=True))


def _eprop(settings: SpikingSettings, strength: float, target: float) -> EProp:
    network = SpikingNetwork(hidden=settings.hidden)
    return EProp(network, rate_strength=strength, rate_target=target, modulation={"W_out": OUT})


def _contrastive(settings: SpikingSettings, scheme: str) -> Method:
    """CML; the forward contrast is with a free phase that goes on, as the released code does."""
    free = Descent(settings.free_steps, Adam(settings.free_rate))
    nudged = Descent(settings.nudged_steps, Adam(settings.nudged_rate))
    strength = torch.tensor(settings.strength, device=settings.torch_device)
    anchors = {"lambda.W_in": strength, "lambda.W_rec": strength, "lambda.W_out": OUT * strength}
    learner = _eprop(settings, 1e-5, 0.2)

    def problem(tasks: SpikingTasks) -> Problem:
        return ComplexSynapse(SpikingProblem(learner, tasks), anchors)

    contrast: Contrastive[Any] = Contrastive(
        free,
        nudged,
        settings.beta,
        scheme,
        continued=scheme == "forward",
        tolerance=settings.tolerance,
    )
    return Method(problem, free, contrast, "omega.", settings.meta_rate)


def _unrolled(settings: SpikingSettings, row: str) -> Method:
    """The baselines, whose meta-parameters are the first weights."""
    batch = 1 if row == "bptl-eprop" else None
    learner: EProp | BPTT
    if row == "bptl-bptt":
        learner = BPTT(SpikingNetwork(hidden=settings.hidden), 1e-6, 0.1)
        rate = settings.bptt_rate
    else:
        learner, rate = _eprop(settings, 1e-2, 0.05), settings.eprop_rate
    descent = _nesterov(settings.unrolled_steps, rate)
    gradient: BilevelGradient[Any] = UnrolledDescent(descent)
    if row == "tbptl-eprop":
        descent = _nesterov(settings.truncated_steps, rate)
        before = settings.truncated_steps - settings.window
        gradient = LastWindow(_nesterov(before, rate), _nesterov(settings.window, rate))

    def problem(tasks: SpikingTasks) -> Problem:
        return SpikingProblem(learner, tasks, batch)

    return Method(problem, descent, gradient, "", settings.baseline_meta_rate)


def _by_bptt(settings: SpikingSettings, method: Method) -> Method:
    """The same, but that tests learn by BPTT, as the released code's do."""
    learner = BPTT(SpikingNetwork(hidden=settings.hidden))
    return replace(method, problem=partial(SpikingProblem, learner))


def _begin(method: Method, chooser: Method, settings: SpikingSettings, trained: object) -> Training:
    """Meta-train one method; by what the other learns, the best weights are chosen."""
    network = SpikingNetwork(hidden=settings.hidden)
    born = network.init(births(settings), device=settings.torch_device)
    theta = {method.prefix + name: w for name, w in born.items()}
    problem = partial(_problem, method, settings)
    training = meta_training(settings, theta, problem, method.meta_gradient, method.rate)
    judge = partial(_validation_error, chooser, settings)
    return BestOnValidation(training, judge, settings.validate_every)


def _problem(method: Method, settings: SpikingSettings, draws: Draws) -> Problem:
    return method.problem(SpikingSines().sample(draws).to(settings.torch_device))


def _validation_error(method: Method, settings: SpikingSettings, model: MetaParameters) -> Tensor:
    return _errors(method, settings, model, VALIDATION, settings.validation).mean(1)


def _errors(
    method: Method, settings: SpikingSettings, model: MetaParameters, stream: int, tasks: int
) -> Tensor:
    """Mean squared error of each of so many tasks a seed, ``(seeds, tasks)``; NaN of diverged."""

    def judge(draws: Draws, theta: Named) -> Tensor:
        problem = _problem(method, settings, draws)
        phi, settled = learnt(method.learner, problem, theta)
        return torch.where(settled, problem.eval_loss(phi, theta), torch.nan)

    each = max(1, AT_ONCE // settings.seeds)
    return on_tests(settings, model, judge, each, tasks, stream)


def _measure(
    method: Method, settings: SpikingSettings, condition: str, training: Training
) -> Measured:
    assert isinstance(training, BestOnValidation)
    training.choose()
    tasks = settings.validation if condition == "validation" else settings.lifetimes
    return {"error": _errors(method, settings, training.model, STREAMS[condition], tasks).cpu()}


def _jobs(settings: SpikingSettings) -> Sequence[Job]:
    if settings.window > settings.truncated_steps:
        raise ConfigError(
            f"window is {settings.window} steps, of truncated_steps={settings.truncated_steps}"
        )
    methods = {row: _unrolled(settings, row) for row in ("bptl-bptt", "bptl-eprop", "tbptl-eprop")}
    methods |= {
        "cml-eprop": _contrastive(settings, "forward"),
        "cml-eprop-symmetric": _contrastive(settings, "symmetric"),
    }

    tested = {row: _by_bptt(settings, methods[row]) for row in BY_BPTT}
    choosers = methods | (tested if settings.validate_as == "bptt" else {})

    def own(row: str, method: Method, chooser: Method, updates: int) -> Job:
        begin = partial(_begin, method, chooser, settings)
        return Job(row, "own", updates, begin, partial(_measure, method, settings, "own"))

    def again(row: str, condition: str, method: Method) -> Job:
        return trained[row].again(condition, partial(_measure, method, settings, condition))

    untrained = methods["cml-eprop"]
    trained = {
        row: own(row, method, choosers[row], settings.updates) for row, method in methods.items()
    }
    return [
        *trained.values(),
        *(again(row, "validation", chooser) for row, chooser in choosers.items()),
        *(again(row, "bptt", method) for row, method in tested.items()),
        own("untrained", untrained, untrained, 0),
    ]


def _row(
    key: str,
    title: str,
    validation: tuple[float, float],
    condition: str,
    test: tuple[float, float],
) -> Row:
    """The paper's figures: of validation tasks, and of test tasks under the condition there."""
    return Row(key, title, {"validation": Published(*validation), condition: Published(*test)})


CML_TABLE4 = Reproduction(
    name="cml-table4",
    title="CML, Table 4: sines learnt by a recurrent spiking network",
    source="Zucchet et al. 2022, Table 4 (10 seeds)",
    unit="mean squared error",
    rows=(
        _row("bptl-bptt", "BPTL + BPTT", (0.17, 0.01), "own", (0.41, 0.10)),
        _row("bptl-eprop", "BPTL + e-prop", (0.52, 0.05), "bptt", (0.72, 0.08)),
        _row("tbptl-eprop", "TBPTL + e-prop", (0.27, 0.07), "bptt", (0.50, 0.11)),
        _row("cml-eprop", "CML + e-prop", (0.23, 0.04), "own", (0.23, 0.04)),
        Row("cml-eprop-symmetric", "CML + e-prop, symmetric"),
        Row("untrained", "e-prop without meta-learning"),
    ),
    conditions={
        "validation": "validation",
        "own": "tested as trained",
        "bptt": "tested by BPTT",
    },
    settings=SpikingSettings,
    scales={
        "small": {
            "updates": 60,
            "seeds": 2,
            "lifetimes": 20,
            "free_steps": 100,
            "nudged_steps": 20,
            "truncated_steps": 100,
            "window": 20,
            "validate_every": 10,
        },
        "full": {"updates": 1000, "seeds": 10, "lifetimes": 100},
    },
    jobs=_jobs,
    notes=(
        "Each task is met by networks that learn from 10 points and are judged on 10 others. The "
        "weights tested are those that do best on a seed's validation tasks: chosen by them, "
        "errors there are too low. The paper looks at them after every update, ours every "
        "validate_every; it tests on 10 tasks a seed.",
        "CML + e-prop contrasts the nudged phase with a free phase that goes on as long, as the "
        "released code does in effect; symmetric is nudged both ways.",
        "Without meta-learning a network learns as CML's do, from random weights.",
        "The paper's e-prop baselines were meta-trained with e-prop, and validated and tested with "
        "BPTT; ours are validated as they learn, unless validate_as=bptt is set.",
    ),
)
"""The reproduction of the paper's Table 4."""
