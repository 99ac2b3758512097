"""How well rules do on tasks, in networks drawn anew: no learning of coefficients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rulesearch.analysis import Floats
from rulesearch.errors import ConfigError
from rulesearch.grammar import Term, TermPool
from rulesearch.learners import PlasticityLearner
from rulesearch.networks import PlasticNetwork
from rulesearch.outer import evaluate
from rulesearch.outer.seeds import NETWORK, TASK, generators
from rulesearch.report.result import Result
from rulesearch.report.run_data import RunData
from rulesearch.rules import Rule
from rulesearch.search.manifest import begun_with
from rulesearch.search.outcome import CONTROLS
from rulesearch.search.settings import NetworkSpec
from rulesearch.search.stability import CHOICES
from rulesearch.search.workers import batches, fitting
from rulesearch.tasks import FewShot, TaskFamily
from rulesearch.tasks.family import check_batch, check_finite

__all__ = [
    "Score",
    "contenders",
    "controls",
    "evaluate_rules",
    "fitted",
    "network_for",
    "side_by_side",
    "tasks_for",
    "unseen_classes",
]

STREAM = 3
BATCH = 25


@dataclass(frozen=True)
class Score:
    """What one rule achieved.

    Attributes
    ----------
    name : str
    accuracy, loss : array (lifetimes,)
        On the queries; NaN where a lifetime diverged.
    """

    name: str
    accuracy: Floats
    loss: Floats

    @property
    def diverged(self) -> int:
        """Lifetimes that did not stay finite."""
        return int((~np.isfinite(self.loss)).sum())


def tasks_for(
    run: RunData | None, data: str | None, held_out: bool | None, **few_shot: Any
) -> TaskFamily:
    """Return what a rule is evaluated on.

    Parameters
    ----------
    run : RunData or None
        Whose rule it is.
    data : str or None
        A data set's name; None takes the tasks of the run.
    held_out : bool or None
        Draw the classes that the run did not; None does if the run left any of this data.
    **few_shot
        Arguments of :class:`FewShot`, which say what is made of ``data``.

    Raises
    ------
    ConfigError, RunError
        If there is neither data nor run, arguments have no data that they speak of, there are no
        classes to hold out, or the run's configuration is not what it began with.
    """
    reserved: list[int] = []
    if run is not None and data in (None, run.manifest["tasks"].get("data")):
        reserved = unseen_classes(run.manifest["tasks"])
    family: TaskFamily
    if data is not None:
        unseen = bool(reserved) and held_out is not False
        family = FewShot(data, hold_out=reserved, held_out=unseen, **few_shot)
    elif run is not None:
        for name in few_shot:
            raise ConfigError(
                f"--{name} is for the data set of --tasks, and the run's own tasks stay as they "
                "are: name one, as --tasks digits, or see what --vary changes, as --vary ways=2,3"
            )
        family = begun_with(run.path, run.manifest).tasks
        if isinstance(family, FewShot) and family.describe()["held_out"]:
            told = family.describe()
            choices: dict[str, Any] = {name: told[name] for name in CHOICES}
            family = FewShot(family.data, hold_out=reserved, **choices)
    else:
        raise ConfigError("--tasks: name the data set that the rule should live on, as digits")
    if held_out is False or not (held_out or reserved):
        return family
    if not isinstance(family, FewShot) or not reserved:
        raise ConfigError("--held-out: the run held no classes of this data out")
    return family.with_held_out()


def unseen_classes(tasks: Mapping[str, Any]) -> list[int]:
    """The classes that a run of these tasks never drew, as its manifest tells them."""
    hold_out: list[int] = tasks.get("hold_out", [])
    if not tasks.get("held_out"):
        return hold_out
    return sorted(set(range(tasks["n_classes"])) - set(hold_out))  # it drew those held out


def network_for(run: RunData | None, tasks: TaskFamily) -> PlasticNetwork:
    """Return the run's network, its ends fitted to the tasks; without a run the default one."""
    if run is None:
        return NetworkSpec().build(tasks)
    return fitted(PlasticNetwork(**run.manifest["network"]), tasks)


def fitted(network: PlasticNetwork, tasks: TaskFamily) -> PlasticNetwork:
    """Return a network with its ends fitted to tasks that it was not made for."""
    _, *hidden, outputs = network.sizes
    return replace(network, sizes=(tasks.n_in, *hidden, max(outputs, tasks.n_out)))


def controls(network: PlasticNetwork) -> tuple[str, ...]:
    """Names of a search's controls; with symmetric feedback there is backprop alone."""
    return CONTROLS[:1] if network.feedback == "symmetric" else CONTROLS


def control(name: str, network: PlasticNetwork) -> tuple[TermPool, PlasticNetwork]:
    """The gradient alone, with W's transpose for backprop or else the network's own feedback."""
    gradient = Term.from_text("F0", "-e_post * y_pre.T", 1e-3, "pseudo-gradient")
    feedback = "symmetric" if name == "backprop" else network.feedback
    return TermPool([gradient]), network.with_feedback(feedback)


def contenders(
    result: Result | None, rule: Rule, network: PlasticNetwork
) -> dict[str, tuple[Rule, PlasticNetwork]]:
    """Return the rule and, where a run learnt their rates, backprop and feedback alignment."""
    found = {"rule": (rule, network)}
    for name in controls(network):
        curves = result.history.get(name) if result is not None else None
        if curves is None:
            continue
        rate = float(np.nanmean(curves.theta[:, -max(1, curves.theta.shape[1] // 10) :, 0]))
        pool, own = control(name, network)
        found[name.replace("_", " ")] = Rule(pool, dict.fromkeys(pool.names, rate)), own
    return found


def side_by_side(lifetimes: int, device: str) -> int:
    """How many of so many lifetimes are in this machine's memory together, at the least."""
    return min(lifetimes, BATCH) if device == "cpu" else 1


def evaluate_rules(
    rules: Mapping[str, tuple[Rule, PlasticNetwork]],
    tasks: TaskFamily,
    lifetimes: int = 200,
    seed: int = 0,
    stream: int = STREAM,
    device: torch.device | str = "cpu",
) -> list[Score]:
    """Let each rule live the same lifetimes.

    Parameters
    ----------
    rules : mapping of str to (Rule, PlasticNetwork)
    tasks : TaskFamily
        The same tasks and the same initial weights for every rule.
    lifetimes : int
    seed, stream : int
        Tasks and networks of one stream have nothing in common with those of another.
    device : torch.device or str
        Where they live; tasks and networks are the same on every one.
    """
    device = torch.device(device)
    if lifetimes < 1:
        raise ConfigError(f"lifetimes must be at least 1, not {lifetimes}")
    scores = []
    for name, (rule, network) in rules.items():
        learner = PlasticityLearner(network, rule)
        theta = torch.tensor(rule.theta, dtype=torch.float32).to(device)

        def live(
            some: slice, learner: PlasticityLearner = learner, theta: Tensor = theta
        ) -> tuple[Tensor, Tensor]:
            who = [(k, 0) for k in range(some.start, some.stop)]
            drawn = tasks.sample(generators(seed, stream, TASK, who))
            task = check_batch("tasks", tasks, drawn, len(who))
            check_finite("tasks", tasks, task)
            task = task.to(device)
            draws = generators(seed, stream, NETWORK, who)
            found = evaluate(learner, learner.init(generator=draws, device=device), theta, task)
            return found.loss, found.accuracy

        size = BATCH
        if device.type != "cpu":
            each = learner.bytes_per_lifetime(tasks.steps, device=device)
            size = fitting(device, lifetimes, each)
        loss, accuracy = (p.double().cpu().numpy() for p in batches(live, lifetimes, size))
        scores.append(Score(name, np.where(np.isfinite(loss), accuracy, np.nan), loss))
    return scores
