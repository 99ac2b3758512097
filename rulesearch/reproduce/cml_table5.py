"""CML, Table 5: what is meta-learnt of wheel bandits, judged by regret online."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rulesearch.networks.modulated import ModulatedNetwork
from rulesearch.outer.bandit import Agent, ChosenArm, GreedyAgent, NeuralLinearAgent, live
from rulesearch.outer.bilevel import (
    SGD,
    Adam,
    Bilevel,
    BilevelGradient,
    BilevelTraining,
    ComplexSynapse,
    Contrastive,
    Descent,
    LossProblem,
    MetaParameters,
    Named,
    Optimiser,
    UnrolledDescent,
    fast_and_slow,
)
from rulesearch.outer.seeds import NETWORK, TASK, TEST, generators
from rulesearch.reproduce.base import (
    Job,
    Measured,
    Published,
    Reproduction,
    Row,
    RunSettings,
    Training,
)
from rulesearch.search.settings import Count
from rulesearch.tasks.wheel import ARMS, Experience, Wheel, WheelLogs, uniform_regret

__all__ = ["CML_TABLE5", "WheelSettings"]

DELTAS = (0.5, 0.7, 0.9, 0.95, 0.99)
EPS_ROOT = float(np.finfo(np.float32).eps)
PENALTY = 1000.0  # on the mean of squared distances from the anchor
ONLINE = 3  # a stream of random numbers, next to those of outer.seeds


class WheelSettings(RunSettings):
    """Settings of the bandits; the defaults are the released code's.

    Attributes
    ----------
    updates, episodes : int
        Of CML (synaptic), and tasks of a seed in an update. CML (modulatory) has twice as many
        tasks and MAML four times, and so many updates fewer.
    lifetimes : int
        Online lives of a seed for each delta.
    hidden : int
        Units of both hidden layers.
    tasks : int
        Wheels that a seed's meta-training draws from, with replacement.
    learnt, judged : int
        Logged choices of each, of the learning and of the evaluation loss.
    horizon : int
        Choices of an online life.
    batch : int
        Choices of a step when learning online.
    shorter : int
        Divides all numbers of learning steps but MAML's ten and NeuralLinear's.
    """

    updates: Count = 800
    episodes: Count = 8
    lifetimes: Count = 1
    hidden: Count = 100
    tasks: Count = 64
    learnt: Count = 512
    judged: Count = 50
    horizon: Count = 80_000
    batch: Count = 512
    shorter: Count = 1


Source = Callable[[int | None], Experience]


@dataclass(frozen=True)
class Method:
    """A row: what learns, what is meta-learnt, and how it learns online.

    Attributes
    ----------
    fast, anchored : tuple of str, bool
        The weights that learn, by the ends of their names; and whether they are complex synapses.
    tanh : bool
        Units are modulated hyperbolic tangents rather than rectified ones.
    share : int
        Times as many tasks in an update, and so many updates fewer, as the first row.
    rate : float
        Of Adam on the meta-parameters.
    meta_gradient : callable
        Of the divisor of steps.
    online : Optimiser
    every, steps : int
        Choices between two times of learning, and steps of each.
    """

    fast: tuple[str, ...]
    anchored: bool
    tanh: bool
    share: int
    rate: float
    meta_gradient: Callable[[int], BilevelGradient[Any]]
    online: Optimiser
    every: int
    steps: int

    def network(self, settings: WheelSettings) -> ModulatedNetwork:
        """A network of rewards. Rectified units of gain 1 are the usual ones."""
        sizes = (2, settings.hidden, settings.hidden, ARMS)
        return ModulatedNetwork(sizes, "tanh" if self.tanh else "linear-threshold")

    def born(self, settings: WheelSettings) -> tuple[Named, Named]:
        """Draw weights of all seeds: those that learn, and those that do not."""
        draws = [(row, 0) for row in range(settings.seeds)]
        drawn = self.network(settings).init(generators(settings.seed, 0, NETWORK, draws))
        return fast_and_slow(drawn, self.fast)

    def theta(self, settings: WheelSettings) -> Named:
        """Meta-parameters at first: anchors, slow weights, or where learning starts."""
        fast, slow = self.born(settings)
        if self.anchored:
            return {f"omega.{name}": w for name, w in fast.items()}
        return slow if self.tanh else fast

    def problem(
        self, settings: WheelSettings, copies: int, learn: Source, judge: Source
    ) -> Bilevel:
        """Regressions, so many of each seed."""
        fast, slow = (
            {k: _copied(w, copies) for k, w in part.items()} for part in self.born(settings)
        )
        constant = {} if self.tanh else slow
        network = self.network(settings)

        def start(theta: Named) -> Named:
            return {name: theta.get(name, w) for name, w in fast.items()}

        inner = LossProblem(
            ChosenArm(network, learn, constant), ChosenArm(network, judge, constant), start
        )
        if not self.anchored:
            return inner
        count = sum(w[0].numel() for w in fast.values())
        strength = torch.tensor(2 * PENALTY / count)
        return ComplexSynapse(inner, {f"lambda.{name}": strength for name in fast})


def _copied(w: Tensor, copies: int) -> Tensor:
    return w.repeat_interleave(copies, 0)


def _contrast(
    free: tuple[int, Optimiser], nudged: tuple[int, Optimiser], beta: float, shorter: int
) -> BilevelGradient[Any]:
    first, second = (Descent(max(1, n // shorter), opt) for n, opt in (free, nudged))
    contrast: Contrastive[Any] = Contrastive(first, second, beta)
    return contrast


def _adam(rate: float) -> Adam:
    return Adam(rate, eps_root=EPS_ROOT)


PLAIN = ("W", "shift", "bias")
METHODS = {
    "cml-synaptic": Method(
        PLAIN,
        True,
        False,
        1,
        0.03,
        partial(_contrast, (250, _adam(1e-4)), (100, _adam(3e-2)), 0.3),
        _adam(1e-4),
        50,
        250,
    ),
    "cml-modulatory": Method(
        ("gain", "shift", "head"),
        False,
        True,
        2,
        0.03,
        partial(_contrast, (1000, SGD(3e-4)), (100, SGD(1e-4)), 10.0),
        SGD(1e-4, 0.9, nesterov=True),
        100,
        500,
    ),
    "maml": Method(
        PLAIN,
        False,
        False,
        4,
        0.1,
        lambda shorter: UnrolledDescent(Descent(10, SGD(1e-2))),
        SGD(1e-3),
        100,
        100,
    ),
}


def _begin(
    method: Method,
    settings: WheelSettings,
    source: str | None,
    trained: Mapping[str, Mapping[str, Tensor]],
) -> Training:
    model = MetaParameters(method.theta(settings))
    if source is not None:
        model.load_state_dict(dict(trained[source]))
    rows, tasks = range(settings.seeds), settings.tasks
    members = [(row, k) for row in rows for k in range(tasks)]
    logs = WheelLogs(settings.learnt + settings.judged).sample(
        generators(settings.seed, 0, TASK, members)
    )
    episodes = settings.episodes * method.share

    def problems(update: int) -> Bilevel:
        draws = generators(settings.seed, 1, TASK, [(row, 0) for row in rows], update)
        chosen = [
            row * tasks + torch.randint(tasks, (episodes,), generator=g)
            for row, g in zip(rows, draws, strict=True)
        ]
        log = [part[torch.cat(chosen)] for part in logs]
        learn = Experience(*(part[:, : settings.learnt] for part in log))
        judge = Experience(*(part[:, settings.learnt :] for part in log))
        return method.problem(settings, episodes, lambda step: learn, lambda step: judge)

    gradient = method.meta_gradient(settings.shorter)
    return BilevelTraining(model, problems, gradient, method.rate, episodes)


def _greedy(
    method: Method, settings: WheelSettings, training: Training, draws: Sequence[torch.Generator]
) -> Agent:
    assert isinstance(training, BilevelTraining)
    copies, network = settings.lifetimes, method.network(settings)
    theta = {k: _copied(w.detach(), copies) for k, w in training.model.theta().items()}

    def problem(source: Source) -> Bilevel:
        return method.problem(settings, copies, source, source)

    def never(step: int | None) -> Experience:
        raise AssertionError("nothing is learnt before life begins")

    slow = {k: _copied(w, copies) for k, w in method.born(settings)[1].items()}
    return GreedyAgent(
        lambda phi, x: network({**slow, **theta, **phi}, x),
        problem(never).start(theta),
        theta,
        problem,
        method.online,
        max(1, method.steps // settings.shorter),
        settings.batch,
        draws,
    )


def _neural_linear(
    method: Method, settings: WheelSettings, training: Training, draws: Sequence[torch.Generator]
) -> Agent:
    """The features are the answers of a network whose head is the identity."""
    fast, slow = method.born(settings)
    network, hidden, copies = method.network(settings), settings.hidden, settings.lifetimes
    head = {"head.W": torch.eye(hidden), "head.bias": torch.zeros(hidden)}
    shown = {k: w.expand(settings.seeds * copies, *w.shape) for k, w in head.items()}
    return NeuralLinearAgent(
        network,
        lambda weights, x: network({**weights, **shown}, x),
        {k: _copied(w, copies) for k, w in fast.items()},
        {k: _copied(w, copies) for k, w in slow.items()},
        method.steps,
        settings.batch,
        draws,
        np.random.default_rng([settings.seed, ONLINE]),
    )


Maker = Callable[[Method, WheelSettings, Training, Sequence[torch.Generator]], Agent]


def _measure(
    maker: Maker, method: Method, delta: float, settings: WheelSettings, training: Training
) -> Measured:
    rows = range(settings.seeds)
    members = [(row, k) for row in rows for k in range(settings.lifetimes)]
    place = DELTAS.index(delta)
    agent = maker(method, settings, training, generators(settings.seed, 0, ONLINE, members, place))
    wheel = Wheel(torch.full((len(members),), delta))
    draws = generators(settings.seed, 0, TEST, members, place)
    regret = live(agent, wheel, settings.horizon, method.every, draws).double().mean(1)
    share = 100 * regret / uniform_regret(delta)
    return {"error": share.reshape(settings.seeds, -1)}


def _condition(delta: float) -> str:
    return f"{delta:g}"


def _jobs(settings: WheelSettings) -> Sequence[Job]:
    """A row's first job trains; the others only live on another wheel."""

    def jobs(row: str, method: Method, updates: int, maker: Maker) -> list[Job]:
        first = f"{row}-{_condition(DELTAS[0])}"
        return [
            Job(
                row,
                _condition(delta),
                0 if k else updates,
                partial(_begin, method, settings, first if k else None),
                partial(_measure, maker, method, delta, settings),
                needs=(first,) if k else (),
            )
            for k, delta in enumerate(DELTAS)
        ]

    baseline = replace(METHODS["maml"], every=20, steps=50)
    found = jobs("neural-linear", baseline, 0, _neural_linear)
    for row, method in METHODS.items():
        found += jobs(row, method, math.ceil(settings.updates / method.share), _greedy)
    return found


def _published(*figures: float) -> dict[str, Published]:
    """Value and standard error of 0.5, 0.9 and 0.99."""
    pairs = zip(figures[::2], figures[1::2], strict=True)
    return {key: Published(*pair) for key, pair in zip(("0.5", "0.9", "0.99"), pairs, strict=True)}


CML_TABLE5 = Reproduction(
    name="cml-table5",
    title="CML, Table 5: regret on the wheel bandit",
    source="Zucchet et al. 2022, Table 5 (50 seeds)",
    unit="% of a random agent's regret",
    rows=(
        Row("neural-linear", "NeuralLinear", _published(0.95, 0.02, 4.65, 0.18, 49.63, 2.41)),
        Row("maml", "MAML", _published(0.45, 0.01, 1.02, 0.76, 15.21, 1.69)),
        Row("cml-synaptic", "CML (synaptic)", _published(0.40, 0.02, 0.82, 0.02, 12.27, 1.02)),
        Row("cml-modulatory", "CML (modulatory)", _published(0.42, 0.01, 1.83, 0.11, 16.46, 1.80)),
    ),
    conditions={_condition(delta): f"delta {delta:g}" for delta in DELTAS},
    settings=WheelSettings,
    scales={
        "small": {
            "updates": 60,
            "seeds": 2,
            "episodes": 2,
            "learnt": 128,
            "horizon": 2000,
            "batch": 128,
            "shorter": 5,
        },
        "full": {"updates": 800, "seeds": 50},
    },
    jobs=_jobs,
    notes=(
        "Regret over a life relative to what choosing at random costs on average. The paper's "
        "lives are of 80,000 choices: shorter ones pay more for finding out.",
        "The paper quotes NeuralLinear from others; ours is run here.",
        "Where the released code draws minibatches of all logged choices in meta-training, with "
        "replacement and as many as there are, ours takes all of them once.",
    ),
)
"""The reproduction of the paper's Table 5."""
