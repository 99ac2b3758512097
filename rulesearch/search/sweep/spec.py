"""What is swept: the ``sweep:`` of a configuration, and the search that a trial of it makes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

from optuna.distributions import BaseDistribution, json_to_distribution
from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from rulesearch.errors import Place
from rulesearch.grammar.reader import Document
from rulesearch.grammar.validation import validate
from rulesearch.search.config import WHAT, Config, Experiment, experiment_from, with_value
from rulesearch.search.settings import Count, Spec

__all__ = [
    "LAM",
    "RangeSpec",
    "Sweep",
    "SweepConfig",
    "SweepSpec",
    "label",
    "sweep_from",
    "without_sweep",
]

LAM = "penalty.lam"  # what trials of a batch differ in

End = Annotated[float, Field(allow_inf_nan=False)]


class RangeSpec(Spec):
    """Any number between two; on a logarithmic scale if told so."""

    low: End
    high: End
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> RangeSpec:
        if not self.low < self.high:
            raise PydanticCustomError("range", "'low' should be below 'high'")
        if self.log and self.low <= 0:
            raise PydanticCustomError("range", "on a logarithmic scale 'low' should be above 0")
        return self


def _distinct(values: list[Any]) -> list[Any]:
    if len({label(value) for value in values}) < len(values):
        raise PydanticCustomError("choices", "should not hold one value twice")
    return values


Values = Annotated[list[Any], Field(min_length=1), AfterValidator(_distinct)]


class ChoicesSpec(Spec):
    """One of these values; a plain list says the same."""

    choices: Values


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "list"
    return "choices" if isinstance(value, Mapping) and "choices" in value else "range"


Over = Annotated[
    Annotated[Values, Tag("list")]
    | Annotated[ChoicesSpec, Tag("choices")]
    | Annotated[RangeSpec, Tag("range")],
    Discriminator(_kind),
]


class SweepSpec(Spec):
    """What a sweep varies, and how its trials are chosen and judged.

    Attributes
    ----------
    over : dict of str to range, choices or list
        By the dotted key of the configuration.
    trials : int
        How many; a grid has as many as there are combinations of values.
    sampler : str, optional
        By default 'grid' if there are only lists, else 'tpe'.
    objectives : tuple of str
        What is minimised: held-out loss, or it and the number of terms.
    pruner : str
        Which trials are given up before their end; for a single objective.
    seed : int
        The trials' values follow from it.
    lifetimes : int
        On held-out tasks, in which each trial's rule is judged.
    batch : int
        Trials that run as one search, side by side: they differ in ``penalty.lam`` alone.
    """

    over: Annotated[dict[str, Over], Field(min_length=1)]
    trials: Count | None = None
    sampler: Literal["tpe", "grid", "random"] | None = None
    objectives: tuple[Literal["loss", "terms"], ...] = ("loss",)
    pruner: Literal["none", "median", "hyperband"] = "none"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    lifetimes: Annotated[int, Field(strict=True, ge=20)] = 200
    batch: Count = 1

    @model_validator(mode="after")
    def _sound(self) -> SweepSpec:
        if self.objectives not in (("loss",), ("loss", "terms")):
            raise PydanticCustomError("sweep", "'objectives' should be [loss] or [loss, terms]")
        if len(self.objectives) > 1 and self.pruner != "none":
            raise PydanticCustomError(
                "sweep", "'pruner' judges by one objective; leave it out, or 'terms'"
            )
        if self.kind != "grid":
            if self.trials is None:
                raise PydanticCustomError("sweep", "missing key 'trials': how many")
        elif self.ranges:
            raise PydanticCustomError("sweep", "'sampler: grid' takes lists alone, no ranges")
        elif self.trials not in (None, len(self.grid())):
            raise PydanticCustomError(
                "sweep",
                "this grid has {size} trials; leave 'trials' out, or choose 'sampler: random'",
                {"size": len(self.grid())},
            )
        if self.batch > 1:
            self._batched()
        return self

    def _batched(self) -> None:
        """Refuse batches that cannot be."""
        if LAM not in self.over:
            raise PydanticCustomError(
                "sweep", "trials of a 'batch' differ in penalty.lam, which is not in 'over'"
            )
        lams = self.values(LAM)
        if lams is not None and not all(type(lam) in (int, float) for lam in lams):
            raise PydanticCustomError("sweep", "with 'batch' each penalty.lam is one number")
        count = len(lams or []) if self.kind == "grid" else self.trials or 0
        if count % self.batch:
            what = "values of penalty.lam" if self.kind == "grid" else "trials"
            raise PydanticCustomError(
                "sweep",
                "{count} {what} are no whole number of batches of {batch}",
                {"count": count, "what": what, "batch": self.batch},
            )

    @property
    def ranges(self) -> bool:
        """Whether anything varies between two ends."""
        return any(isinstance(over, RangeSpec) for over in self.over.values())

    @property
    def kind(self) -> str:
        """The sampler, chosen if none was named."""
        return self.sampler or ("tpe" if self.ranges else "grid")

    def values(self, key: str) -> list[Any] | None:
        """The values that a key may take; None for a range."""
        over = self.over[key]
        return over if isinstance(over, list) else getattr(over, "choices", None)

    def grid(self) -> list[dict[str, Any]]:
        """Every combination of values, as labels, the last key running fastest.

        In batches that is lambda, so that neighbours share everything else.
        """
        keys = sorted(self.over, key=lambda key: self.batch > 1 and key == LAM)
        lists = [[label(v) for v in self.values(key) or []] for key in keys]
        return [dict(zip(keys, point, strict=True)) for point in product(*lists)]


class SweepConfig(Config):
    """What a configuration with a ``sweep:`` may hold."""

    sweep: SweepSpec


@dataclass(frozen=True)
class Sweep:
    """A sweep, checked: a configuration, and what of it varies.

    Attributes
    ----------
    name : str
    config : dict
        The whole configuration as plain data, ``sweep:`` included.
    distributions : dict of str to BaseDistribution
        Optuna's, by dotted key.
    grammars : dict of str to dict
        What the grammars' files hold, so that no other file is needed.
    """

    name: str
    config: dict[str, Any]
    spec: SweepSpec
    distributions: dict[str, BaseDistribution]
    grammars: dict[str, dict[str, Any]]

    @property
    def trials(self) -> int:
        """How many trials there are."""
        return self.spec.trials or len(self.spec.grid())

    def values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a trial's parameters stand for: labels of lists are lists again."""
        return {key: self._value(key, param) for key, param in params.items()}

    def _value(self, key: str, param: Any) -> Any:
        values = self.spec.values(key)
        return param if values is None else values[[label(v) for v in values].index(param)]

    def batch(self, number: int) -> range:
        """Numbers of the trials that run together with a trial, its own among them."""
        size = self.spec.batch
        return range(number - number % size, number - number % size + size)

    def check_data(self) -> None:
        """Look for every data set that a trial may want: each was there when the sweep began.

        Raises
        ------
        DataError
            If this machine lacks one.
        """
        _ = self.base
        for key in self.spec.over:
            if key.split(".")[0] == "tasks":
                for value in self.spec.values(key) or []:
                    self.experiment({key: label(value)})

    @cached_property
    def base(self) -> Experiment:
        """The configuration's own search, with nothing varied."""
        return self.experiment()

    def experiment(self, *points: Mapping[str, Any]) -> Experiment:
        """Make the search of one trial, or of a batch of them.

        Parameters
        ----------
        *points : mapping of str to value
            Parameters of each; those of a batch differ in lambda.

        Raises
        ------
        ConfigError, GrammarError, LearnerError, DataError
            If these values make no search.
        """
        source = f"sweep {self.name}"
        document = Document(without_sweep(self.config), source, {}, {})
        values = self.values(points[0]) if points else {}
        if len(points) > 1:
            values[LAM] = list(dict.fromkeys(self.values(point)[LAM] for point in points))
        for key, value in values.items():
            document = with_value(document, tuple(key.split(".")), value, Place(source, 1, 1))
        grammar = document.data["grammar"]
        if isinstance(grammar, str):
            document.data["grammar"] = self.grammars.get(grammar, grammar)
        return experiment_from(document, Path(), self.name)


def sweep_from(name: str, content: Mapping[str, Any]) -> Sweep:
    """Return the sweep that a study's storage holds; see :meth:`Sweep` and ``Study``."""
    config = content["config"]
    spec = validate(SweepConfig, Document(config, f"study {name}", {}, {}), WHAT).sweep
    distributions = {k: json_to_distribution(v) for k, v in content["distributions"].items()}
    return Sweep(name, config, spec, distributions, content["grammars"])


def without_sweep(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration that trials begin from."""
    return {key: value for key, value in config.items() if key != "sweep"}


def label(value: Any) -> Any:
    """Return what stands for a value in the study: Optuna's choices are plain values, no lists."""
    return value if isinstance(value, str | int | float | None) else json.dumps(value)
