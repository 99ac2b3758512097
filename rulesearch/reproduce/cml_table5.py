"""CML, Table 5: what is meta-learnt of wheel bandits, judged by regret online."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rulesearch.analysis import Floats
from rulesearch.errors import ConfigError
from rulesearch.named import copied, detached
from rulesearch.outer.bandit import (
    Agent,
    GreedyAgent,
    Life,
    NeuralLinearAgent,
    TrainedLife,
    blocks,
)
from rulesearch.outer.best_on_validation import BestOnValidation
from rulesearch.outer.bilevel import Bilevel, BilevelTraining, MetaParameters, Named
from rulesearch.outer.outer_loop import OuterLoop
from rulesearch.outer.seeds import TASK, TEST, VALIDATION, generators, members
from rulesearch.report.bandit_figures import regret_curves
from rulesearch.reproduce.base import Job, Measured, Published, Reproduction, Row, Trained, Training
from rulesearch.reproduce.cml_tasks import Draws, learnt, on_tests
from rulesearch.reproduce.cml_wheel import CONDITIONS, METHODS, Method, Source, WheelSettings
from rulesearch.reproduce.figures import seed_means, write_figures
from rulesearch.tasks.wheel import ARMS, Experience, Wheel, WheelLogs, uniform_regret

__all__ = ["CML_TABLE5", "WheelSettings"]

DELTAS = tuple(map(float, CONDITIONS))
ONLINE = 3  # a stream of random numbers, next to those of outer.seeds
POINTS = 200  # of a figure's line, or fewer


def _moments(horizon: int) -> Floats:
    """Numbers of choices to tell regret after, from two rounds of all arms on, by logarithms."""
    return np.unique(np.geomspace(min(2 * ARMS, horizon), horizon, POINTS).round())


MetaTrained = OuterLoop[MetaParameters]


def _parts(logs: Experience, cut: int) -> tuple[Experience, Experience]:
    """What of logged choices is learnt, and what is judged."""
    return Experience(*(p[:, :cut] for p in logs)), Experience(*(p[:, cut:] for p in logs))


def _training(
    method: Method, settings: WheelSettings, known: Mapping[str, Tensor] | None
) -> MetaTrained:
    model = MetaParameters(method.theta(settings))
    if known is not None:
        model.load_state_dict(dict(known))
    seeds, tasks = settings.seeds, settings.tasks
    logs = WheelLogs(settings.learnt + settings.judged).sample(
        generators(settings.seed, 0, TASK, members(seeds, tasks))
    )
    logs = logs.to(settings.torch_device)
    episodes = settings.episodes * method.share

    def problems(update: int) -> Bilevel:
        draws = generators(settings.seed, 1, TASK, members(seeds), update)
        chosen = [
            row * tasks + torch.randint(tasks, (episodes,), generator=g)
            for row, g in enumerate(draws)
        ]
        rows = torch.cat(chosen).to(settings.torch_device)
        learn, judge = _parts(Experience(*(part[rows] for part in logs)), settings.learnt)
        return method.problem(settings, episodes, lambda step: learn, lambda step: judge)

    gradient = method.meta_gradient(settings.shorter, settings.tolerance)
    training = BilevelTraining(
        model, problems, gradient, method.rate, episodes, eps_root=settings.eps_root
    )
    if settings.validate_every is None:
        return training
    error = partial(_validation_error, method, settings)
    return BestOnValidation(training, error, settings.validate_every)


def _validation_error(method: Method, settings: WheelSettings, model: MetaParameters) -> Tensor:
    """Evaluation loss after learning wheels that meta-training does not have, ``(seeds,)``."""

    def judged(draws: Draws, theta: Named) -> Tensor:
        logs = WheelLogs(settings.learnt + settings.judged).sample(draws)
        learn, judge = _parts(logs.to(settings.torch_device), settings.learnt)
        copies = len(draws) // settings.seeds
        problem = method.problem(settings, copies, lambda step: learn, lambda step: judge)
        phi, settled = learnt(method.learner(settings), problem, theta)
        return torch.where(settled, problem.eval_loss(phi, theta), torch.nan)

    wheels = settings.validation
    return on_tests(settings, model, judged, wheels, wheels, VALIDATION).mean(1)


@dataclass(frozen=True, eq=False)
class _Online:
    """Whose life begins: a member of each seed's lifetimes for each of its random numbers."""

    settings: WheelSettings
    delta: float

    @property
    def members(self) -> list[tuple[int, int]]:
        """Seed and number of every lifetime, those of a seed together."""
        return members(self.settings.seeds, self.settings.lifetimes)

    @property
    def keys(self) -> list[tuple[int, ...]]:
        """What each lifetime's Thompson sampling draws from."""
        place = DELTAS.index(self.delta)
        return [(self.settings.seed, ONLINE, row, place, k) for row, k in self.members]

    def generators(self, stream: int) -> list[torch.Generator]:
        """Of a stream of random numbers: the agent's, or the wheel's."""
        place = DELTAS.index(self.delta)
        return generators(self.settings.seed, 0, stream, self.members, place)


def _greedy(method: Method, online: _Online, training: MetaTrained) -> Agent:
    settings = online.settings
    copies, network = settings.lifetimes, method.network(settings)
    theta = copied(detached(training.model.theta()), copies)

    def problem(source: Source) -> Bilevel:
        return method.problem(settings, copies, source, source)

    def never(step: int | None) -> Experience:
        raise AssertionError("nothing is learnt before life begins")

    slow = copied(method.born(settings)[1], copies)
    return GreedyAgent(
        lambda phi, x: network({**slow, **theta, **phi}, x),
        problem(never).start(theta),
        theta,
        problem,
        method.online,
        max(1, method.steps // settings.shorter),
        settings.batch,
        online.generators(ONLINE),
    )


def _neural_linear(method: Method, online: _Online, training: MetaTrained) -> Agent:
    """The features are the answers of a network whose head is the identity."""
    settings = online.settings
    fast, slow = method.born(settings)
    network, hidden, copies = method.network(settings), settings.hidden, settings.lifetimes
    device = settings.torch_device
    head = {
        "head.W": torch.eye(hidden, device=device),
        "head.bias": torch.zeros(hidden, device=device),
    }
    shown = {k: w.expand(settings.seeds * copies, *w.shape) for k, w in head.items()}
    return NeuralLinearAgent(
        network,
        lambda weights, x: network({**weights, **shown}, x),
        copied(fast, copies),
        copied(slow, copies),
        method.steps,
        settings.batch,
        online.generators(ONLINE),
        online.keys,
    )


Maker = Callable[[Method, _Online, MetaTrained], Agent]


@dataclass(frozen=True)
class _Row:
    """A row's jobs: meta-training if nothing has it yet, and a life on a wheel."""

    maker: Maker
    method: Method
    updates: int
    settings: WheelSettings

    def begin(self, delta: float, updates: int, first: str, trained: Trained) -> Training:
        """Meta-train, or take what the row's first job has trained, here or elsewhere; then live.

        That job itself, if it was trained elsewhere, begins with its life.
        """
        known = trained.get(first)
        return TrainedLife(
            _training(self.method, self.settings, known),
            updates,
            partial(self.life, delta),
            uniform_regret(delta) / 100,
            0 if known is None else updates,
        )

    def life(self, delta: float, training: MetaTrained) -> Life:
        """Lives side by side, those of a seed together."""
        if isinstance(training, BestOnValidation):
            training.choose()
        online = _Online(self.settings, delta)
        return Life(
            self.maker(self.method, online, training),
            Wheel(torch.full((len(online.members),), delta, device=self.settings.torch_device)),
            self.settings.horizon,
            self.method.every,
            online.generators(TEST),
        )

    @property
    def blocks(self) -> int:
        """Of a life."""
        return blocks(self.settings.horizon, self.method.every)

    def measure(self, delta: float, training: Training) -> Measured:
        """Regret in percent of what choosing at random costs over the whole life.

        ``error`` is of the life, ``(seeds, lifetimes)``, and ``regret`` of what was lived at each
        moment of it, ``(seeds, lifetimes, moments)``.
        """
        assert isinstance(training, TrainedLife)
        horizon = self.settings.horizon
        lost = training.life.regret().double().cumsum(1).cpu()
        so_far = lost[:, torch.from_numpy(_moments(horizon)).long() - 1]
        share = 100 * so_far / (horizon * uniform_regret(delta))
        regret = share.unflatten(0, (self.settings.seeds, -1))
        return {"error": regret[..., -1], "regret": regret}


def _draw(measured: Mapping[str, Measured], run: Path, settings: WheelSettings) -> None:
    """Write the figure and the numbers drawn, and what each lifetime lost."""
    titles = {row.key: row.title for row in CML_TABLE5.rows}
    curves, lives = dict[str, dict[str, Floats]](), dict[str, dict[str, Floats]]()
    for condition, title in CML_TABLE5.conditions.items():
        means = seed_means(measured, "regret", condition, titles)
        if means:
            curves[title] = {titles[row]: regret for row, regret in means.items()}
            lives[title] = {
                titles[row]: measured[f"{row}-{condition}"]["error"].numpy() for row in means
            }
    if not curves:  # a run from before jobs measured it
        return
    choices = _moments(settings.horizon)
    numbers = {"choices": choices, "regret": curves, "lives": lives}
    write_figures(run, {"regret": regret_curves(choices, curves)}, numbers)


def _updates(method: Method, settings: WheelSettings) -> int:
    return math.ceil(settings.updates / method.share)


def _jobs(settings: WheelSettings) -> Sequence[Job]:
    """A row's first job trains and lives; the others only live, on another wheel."""
    fewest = _updates(METHODS["maml"], settings)
    if settings.validate_every is not None and settings.validate_every > fewest:
        raise ConfigError(
            f"validate_every is {settings.validate_every} updates, but of updates="
            f"{settings.updates} MAML has {fewest}; look at least as often as that"
        )
    wanted = [condition for condition in CONDITIONS if condition in settings.conditions]

    def jobs(key: str, row: _Row) -> list[Job]:
        first = f"{key}-{wanted[0]}"
        trained = {condition: 0 if k else row.updates for k, condition in enumerate(wanted)}
        return [
            Job(
                key,
                condition,
                updates + row.blocks,
                partial(row.begin, float(condition), updates, first),
                partial(row.measure, float(condition)),
                needs=() if condition == wanted[0] else (first,),
                untrained=row.blocks,
                trains=key,
            )
            for condition, updates in trained.items()
        ]

    baseline = replace(METHODS["maml"], every=20, steps=50)
    found = jobs("neural-linear", _Row(_neural_linear, baseline, 0, settings))
    for key, method in METHODS.items():
        found += jobs(key, _Row(_greedy, method, _updates(method, settings), settings))
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
    conditions={condition: f"delta {condition}" for condition in CONDITIONS},
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
    draw=_draw,
    trained_by="cml-table5",
    notes=(
        "Regret over a life relative to what choosing at random costs on average. The paper's "
        "lives are of 80,000 choices: shorter ones pay more for finding out. The run's folder "
        "figures/ has the regret so far of every seed, and that of each life.",
        "The paper quotes NeuralLinear from others; ours is run here.",
        "Where the released code draws minibatches of all logged choices in meta-training, with "
        "replacement and as many as there are, ours takes all of them once.",
    ),
)
"""The reproduction of the paper's Table 5."""
