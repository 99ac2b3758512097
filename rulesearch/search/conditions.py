"""The conditions that rules are compared under: one thing of tasks or network changed at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from rulesearch.arguments import naming
from rulesearch.errors import ConfigError, did_you_mean
from rulesearch.machine import check_memory
from rulesearch.networks import PlasticNetwork
from rulesearch.search.evaluation import fitted
from rulesearch.tasks import FewShot, LinearTeacher, TaskFamily

__all__ = ["FACTORS", "Condition", "conditions"]

BASE = "as given"
FLOAT = 4  # bytes
LAYER = 14_000  # bytes that a layer takes besides, however few its units, at the least
MOST = 1_000_000_000  # of anything that is counted
CHOICES = ("ways", "shots", "queries", "hold_out", "held_out", "replacement", "fixed_images")


@dataclass(frozen=True)
class Condition:
    """Where rules live.

    Attributes
    ----------
    name : str
        As ``depth=2``.
    network : PlasticNetwork
    tasks : TaskFamily
    """

    name: str
    network: PlasticNetwork
    tasks: TaskFamily


def conditions(
    network: PlasticNetwork, tasks: TaskFamily, vary: Sequence[str] = (), lifetimes: int = 1
) -> list[Condition]:
    """Return the network and tasks as they are, and with each single change.

    Factors are not crossed: each is varied by itself, all else as given. A value that changes
    nothing, or gives what another gave, gives no condition of its own.

    Parameters
    ----------
    vary : sequence of str
        ``factor=value,value``, see :data:`FACTORS`.
    lifetimes : int
        That are side by side in memory.

    Raises
    ------
    ConfigError, DataError, LearnerError
        For an unknown factor, or a value that makes no sense or more than the machine can hold.
    """
    found = [Condition(BASE, network, tasks)]
    for text in vary:
        factor, separator, values = text.partition("=")
        factor = factor.strip()
        if factor not in FACTORS:
            hint = did_you_mean(factor, FACTORS) or f"; known are {', '.join(FACTORS)}"
            raise ConfigError(f"{text}: unknown factor '{factor}'{hint}")
        chosen = [value.strip() for value in values.split(",") if value.strip()]
        if not separator or not chosen:
            raise ConfigError(f"{text}: write {factor}=value,value")
        for value in chosen:
            with naming(f"{factor}={value}:"):
                try:
                    changed = FACTORS[factor](found[0], value)
                except ValueError:
                    raise ConfigError(f"{value} is no number") from None
                _check_memory(changed, lifetimes)
            if not any(_same(changed, known) for known in found):
                found.append(replace(changed, name=f"{factor}={value}"))
    return found


def _same(one: Condition, other: Condition) -> bool:
    return one.network == other.network and (
        one.tasks is other.tasks or one.tasks.describe() == other.tasks.describe()
    )


def _check_memory(condition: Condition, lifetimes: int) -> None:
    """Refuse weights and examples that the machine cannot hold; others may take it all the same."""
    network, tasks = condition.network, condition.tasks
    numbers = sum(map(prod, (*network.connections, *network.feedback_shapes)))
    if isinstance(tasks, FewShot | LinearTeacher):  # those of one's own may share a table
        numbers += tasks.steps * tasks.n_in
    whose = "a lifetime" if lifetimes == 1 else f"{lifetimes} lifetimes at a time"
    layers = len(network.connections) * LAYER
    check_memory(f"W, B and examples of {whose}", layers + numbers * lifetimes * FLOAT)


def _whole(value: str) -> int:
    count = int(value)
    if abs(count) > MOST:
        raise ConfigError(f"no machine holds so many; choose at most {MOST}")
    return count


# -- the network --


def _with_hidden(base: Condition, hidden: Sequence[int]) -> Condition:
    first, *_, last = base.network.sizes
    return replace(base, network=replace(base.network, sizes=(first, *hidden, last)))


def _depth(base: Condition, value: str) -> Condition:
    """So many hidden layers; widths go geometrically from that of the first to that of the last."""
    hidden, count = base.network.sizes[1:-1], _whole(value)
    if count < 0 or (count and not hidden):
        raise ConfigError("no such number of hidden layers can be made")
    if count == len(hidden):
        return base
    if not count:
        return _with_hidden(base, ())
    check_memory("so many layers", count * LAYER)  # before they are written out
    widths = np.geomspace(hidden[0], hidden[-1], count)
    return _with_hidden(base, [round(float(width)) for width in widths])


def _width(base: Condition, value: str) -> Condition:
    """So many units in every hidden layer."""
    return _with_hidden(base, [_whole(value)] * len(base.network.sizes[1:-1]))


def _field(name: str, kind: Callable[[str], Any] = str) -> Callable[[Condition, str], Condition]:
    def changed(base: Condition, value: str) -> Condition:
        return replace(base, network=replace(base.network, **{name: kind(value)}))

    return changed


def _feedback(base: Condition, value: str) -> Condition:
    return replace(base, network=base.network.with_feedback(value))


# -- the tasks --


def _on(base: Condition, tasks: TaskFamily) -> Condition:
    """The network's ends fitted to other tasks."""
    return replace(base, network=fitted(base.network, tasks), tasks=tasks)


def _few_shot(base: Condition, **changes: Any) -> Condition:
    if not isinstance(base.tasks, FewShot):
        raise ConfigError("only few-shot tasks have it")
    described = base.tasks.describe()
    choices = {name: described[name] for name in CHOICES}
    data = changes.pop("data", base.tasks.data)
    if all(choices[name] == value for name, value in changes.items()) and data is base.tasks.data:
        return base
    return _on(base, FewShot(data, **{**choices, **changes}))


def _count(factor: str) -> Callable[[Condition, str], Condition]:
    return lambda base, value: _few_shot(base, **{factor: _whole(value)})


def _steps(base: Condition, value: str) -> Condition:
    """A lifetime of so many training examples, as many of each class."""
    steps = _whole(value)
    if isinstance(base.tasks, LinearTeacher):
        return _on(base, replace(base.tasks, steps=steps))
    ways = base.tasks.describe().get("ways")
    if isinstance(ways, int) and steps % ways:
        raise ConfigError(f"{steps} is no multiple of {ways} ways")
    return _few_shot(base, shots=steps // ways if isinstance(ways, int) else 0)


def _data(base: Condition, value: str) -> Condition:
    """Another data set, all of its classes; what was held out of the one given stays so."""
    if isinstance(base.tasks, FewShot) and base.tasks.data.name == value:
        return base
    return _few_shot(base, data=value, hold_out=0, held_out=False)


def _classes(base: Condition, value: str) -> Condition:
    """Those that the search drew from, or those that it held out."""
    if value not in ("searched", "held-out"):
        raise ConfigError("write searched or held-out")
    return _few_shot(base, held_out=value == "held-out")


FACTORS: Mapping[str, Callable[[Condition, str], Condition]] = {
    "depth": _depth,
    "width": _width,
    "activation": _field("activation"),
    "beta": _field("beta", float),
    "feedback": _feedback,
    "feedback_init": _field("feedback_init"),
    "weight_init": _field("weight_init"),
    "steps": _steps,
    "ways": _count("ways"),
    "shots": _count("shots"),
    "queries": _count("queries"),
    "data": _data,
    "classes": _classes,
}
