"""A search from Python, or a comparison of rules, in one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rulesearch.arguments import check_kind, check_path, naming, whole
from rulesearch.errors import ConfigError, RunError
from rulesearch.files import claimed, numbered
from rulesearch.grammar import TermPool
from rulesearch.networks import PlasticNetwork
from rulesearch.outer import Penalty
from rulesearch.report.result import Result
from rulesearch.rules import Rule
from rulesearch.search.conditions import BASE, Condition, conditions
from rulesearch.search.config import Experiment
from rulesearch.search.evaluation import fitted, side_by_side
from rulesearch.search.events import EventSink
from rulesearch.search.evidence import (
    Contender,
    Evidence,
    baseline_among,
    contender_named,
    evidence,
)
from rulesearch.search.run import resume_search, start_search
from rulesearch.search.settings import settings_from
from rulesearch.tasks import TaskFamily
from rulesearch.tasks.family import check_family, check_first

__all__ = ["RUNS", "evaluate", "load_run", "search"]

RUNS = Path("runs")  # where folders are that nobody named


def search(
    pool: TermPool,
    *,
    network: PlasticNetwork,
    tasks: TaskFamily,
    episodes: int = 600,
    seeds: int = 20,
    penalty: Penalty | None = None,
    lams: Sequence[float] | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    sinks: Sequence[EventSink] = (),
    name: str = "search",
    device: str | None = None,
    **settings: Any,
) -> Result:
    """Find the few terms of a pool that make a network learn.

    Parameters
    ----------
    pool : TermPool
    network : PlasticNetwork
    tasks : TaskFamily
    episodes : int
        Meta-updates.
    seeds : int
        Independent searches, run as one batch.
    penalty : Penalty, optional
        By default ``ProximalL1(10.0)``.
    lams : sequence of float or mapping, optional
        Several lambdas, run as one batch, or a path of them, as ``{"low": 1, "high": 40,
        "number": 8}`` (:class:`PathSpec`); replaces that of the penalty.
    out : str or Path, optional
        The run folder; by default the first free of ``runs/search``, ``runs/search-2``, ...
    resume : bool
        Continue ``out`` rather than begin it.
    sinks : sequence of EventSink
        Called with every event.
    device : str, optional
        Where lifetimes are lived: ``cpu``, the default, ``cuda``, or one of several as
        ``cuda:1``. A run that is resumed is by default where it was.
    **settings
        Further fields of :class:`Settings` and of its optimiser, as ``meta_batch=5``.

    Returns
    -------
    Result
        ``print(result)`` shows the table, ``result.rule`` is the rule.

    Raises
    ------
    ConfigError, RunError
        If the parts do not fit together, the device is not here, or the folder is not free.
    """
    if out is not None:
        check_path("out", out)
    check_kind("sinks", sinks, Sequence, "a list of functions, each called with every event")
    for i, sink in enumerate(sinks):
        if not callable(sink):
            raise ConfigError(f"sinks[{i}] should be a function that takes an event, not {sink!r}")
    chosen = settings_from(penalty, lams, episodes=episodes, seeds=seeds, **settings)
    experiment = Experiment(pool, network, tasks, chosen, name, device=device or "cpu")
    if resume and out is None:
        raise ConfigError("resume=True goes on with a run: name it, as out='runs/search'")
    if out is None:
        with claimed(numbered(name, RUNS)) as run:
            return start_search(experiment, run, sinks)
    run = Path(out)
    if resume:
        return resume_search(run, sinks, experiment, device=device)
    if (run / "manifest.json").is_file():
        raise RunError(f"{run} holds a run; choose another folder, or continue it with resume=True")
    return start_search(experiment, run, sinks)


def evaluate(
    rules: Mapping[str, Rule],
    *,
    network: PlasticNetwork,
    tasks: TaskFamily | Mapping[str, TaskFamily],
    named: Sequence[str] = (),
    vary: Sequence[str] = (),
    lifetimes: int = 200,
    seed: int = 0,
    baseline: str | None = None,
    device: str = "cpu",
) -> Evidence:
    """Let rules live the same tasks from the same initial weights.

    Parameters
    ----------
    rules : mapping of str to Rule
        What each is called in the table.
    network : PlasticNetwork
        Its inputs are fitted to the tasks, and its outputs where they are too few.
    tasks : TaskFamily or mapping of str to TaskFamily
        Of several, by name, each is a condition of its own.
    named : sequence of str
        Further rules, as after ``--rules`` of the command line: ``backprop``,
        ``feedback-alignment``, a name of the catalogue, ``0.01*pseudo_gradient-0.03*ehebb``.
    vary : sequence of str
        Further conditions, each with one thing of the network and the first tasks changed, as
        ``depth=2,4``.
    lifetimes : int
        Of each rule under each condition.
    seed : int
        Of tasks and networks.
    baseline : str, optional
        The rule that all others are tested against; by default feedback alignment, if it is there.
    device : str
        Where lifetimes are lived: ``cpu``, ``cuda``, or one of several as ``cuda:1``.

    Returns
    -------
    Evidence
        ``print(...)`` shows the table.

    Raises
    ------
    ConfigError, LearnerError
        If there is nothing to compare, a name is unknown, or the parts do not fit together.
    """
    check_kind("rules", rules, Mapping, "a mapping of names to rules")
    for name, rule in rules.items():
        check_kind(f"rules['{name}']", rule, Rule, "a Rule")
    check_kind("network", network, PlasticNetwork, "a PlasticNetwork")
    for argument, texts in {"named": named, "vary": vary}.items():
        check_kind(argument, texts, (list, tuple), "a list of texts")
        for text in texts:
            check_kind(f"each of {argument}", text, str, "a text")
    families = tasks if isinstance(tasks, Mapping) else {BASE: tasks}
    for name, family in families.items():
        where = "tasks" if family is tasks else f"tasks['{name}']"
        check_family(where, family, "a family of tasks", "generators")
        check_first(where, family, fitted(network, family))
    own = [Condition(name, fitted(network, family), family) for name, family in families.items()]
    if not own:
        raise ConfigError("tasks: there is none to evaluate rules on")
    lifetimes, seed = whole("lifetimes", lifetimes, 1), whole("seed", seed, 0)
    with naming("vary"):
        together = side_by_side(lifetimes, device)
        _, *varied = conditions(own[0].network, own[0].tasks, vary, together)
    found = [Contender(name, rule) for name, rule in rules.items()]
    with naming("named"):
        found += map(contender_named, named)
    if baseline is not None:
        check_kind("baseline", baseline, str, "the name of a rule")
    with naming("baseline"):
        baseline = baseline_among(found, baseline)
    return evidence(found, [*own, *varied], lifetimes, seed, baseline, device=device)


def load_run(path: str | Path) -> Result:
    """Read a finished run."""
    return Result.load(path)
