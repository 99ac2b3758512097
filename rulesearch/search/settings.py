"""What a search may be told: the models of a configuration's parts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictInt,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from rulesearch.arguments import check_kind
from rulesearch.errors import ConfigError, did_you_mean
from rulesearch.networks import PlasticNetwork
from rulesearch.outer import Penalty
from rulesearch.tasks import FewShot, LinearTeacher, TaskFamily

__all__ = ["NetworkSpec", "Settings", "Tasks", "settings_from", "tasks_content"]

Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000_000)]
Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _device(name: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise PydanticCustomError("device", "should be cpu or cuda, or one of several as cuda:1")
    return name


Device = Annotated[str, AfterValidator(_device)]


def _in_order(ramp: list[int]) -> list[int]:
    if ramp[0] > ramp[1]:
        raise PydanticCustomError("ramp", "should be two updates, the earlier one first")
    return ramp


def _distinct(lams: list[float]) -> list[float]:
    if len(set(lams)) < len(lams):
        raise PydanticCustomError("lam", "should not name one lambda twice")
    return lams


class Spec(BaseModel):
    """A part of a configuration: no key but its own, and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PathSpec(Spec):
    """A path of lambdas, from the smallest to the largest, each starting where one before ended.

    Attributes
    ----------
    values : list of float, optional
        The lambdas; or else ``number`` of them from ``low`` to ``high``, in a geometric series.
    batch : int
        Neighbours that run as one batch: they start together, at the end of the batch before.
    episodes : int or None
        Meta-updates of every batch after the first; None is a third of the search's.
    """

    values: Annotated[list[Size], Field(min_length=2), AfterValidator(_distinct)] | None = None
    low: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    high: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    number: Annotated[int, Field(strict=True, ge=2)] | None = None
    batch: Count = 1
    episodes: Count | None = None

    @model_validator(mode="after")
    def _sound(self) -> PathSpec:
        ends = (self.low, self.high, self.number)
        if None in ends if self.values is None else ends != (None, None, None):
            raise PydanticCustomError("path", "needs 'low', 'high' and 'number', or 'values' alone")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise PydanticCustomError("path", "should have 'low' below 'high'")
        if len(set(self.lams)) < len(self.lams):
            raise PydanticCustomError("path", "needs ends further apart: two lambdas are equal")
        return self

    @property
    def lams(self) -> tuple[float, ...]:
        """The lambdas, in order; those of a series to four digits, as a table prints them."""
        if self.low is None or self.high is None or self.number is None:
            return tuple(sorted(self.values or ()))
        return tuple(float(f"{lam:.4g}") for lam in np.geomspace(self.low, self.high, self.number))


def _kind(lam: Any) -> str:
    """Which of the forms of lambda a value has."""
    if isinstance(lam, Mapping | PathSpec):
        return "path"
    return "several" if isinstance(lam, list) else "one"


# The kind is decided first: a plain union reports the mistakes of its first member.
Lambdas = Annotated[
    Annotated[Size, Tag("one")]
    | Annotated[list[Size], Field(min_length=1), AfterValidator(_distinct), Tag("several")]
    | Annotated[PathSpec, Tag("path")],
    Discriminator(_kind),
]


class PenaltySpec(Spec):
    """The penalty, and its lambda: one, a list of them run as one batch, or a path."""

    name: Literal["none", "l1", "l2", "proximal-l1"] = "proximal-l1"
    lam: Lambdas = 10.0


class OptimiserSpec(Spec):
    """Adam on scaled coefficients; see :class:`rulesearch.outer.MetaOptimiser`.

    ``ramp`` None lets the penalty come in from a tenth to a fifth of the episodes.
    """

    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5e-4
    decay: Annotated[float, Field(ge=0, le=1)] = 0.1
    clip: Annotated[float, Field(gt=0)] | None = 100.0
    meta_batch: Count = 1
    ramp: (
        Annotated[
            list[Annotated[int, Field(ge=0)]],
            Field(min_length=2, max_length=2),
            AfterValidator(_in_order),
        ]
        | None
    ) = None
    scaling: bool = True
    scale_cap: Annotated[float, Field(gt=0)] = 3.0
    reject: bool = True


class StabilitySpec(Spec):
    """Stability selection: searches at the picked penalty, on complementary halves of the tasks.

    ``threshold`` is the share of them from which on a term is called stable; it is raised until no
    more than ``false_terms`` useless ones are expected, where that is said. ``collinear`` is the
    correlation of their updates from which on two terms can stand for one another.
    """

    pairs: Count = 10
    threshold: Annotated[float, Field(gt=0.5, le=1)] = 0.75
    false_terms: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    collinear: Annotated[float, Field(gt=0, le=1)] = 0.9


class NetworkSpec(Spec):
    """The network; the widths of input and output come from the tasks.

    ``activation`` and ``output`` None are softplus and softmax; tanh and linear for regression.
    """

    hidden: list[Count] = [170, 130, 100, 70]
    outputs: Count | None = None
    activation: Literal["softplus", "tanh", "relu"] | None = None
    beta: Annotated[float, Field(allow_inf_nan=False)] = 10.0
    output: Literal["softmax", "linear"] | None = None
    feedback: Literal["random", "symmetric", "direct"] = "random"
    feedback_init: Literal["uniform", "normal", "kaiming"] = "uniform"
    weight_init: Literal["uniform", "normal", "kaiming"] = "uniform"
    detach_feedback: bool = False
    bias: bool = False

    def build(self, tasks: TaskFamily) -> PlasticNetwork:
        """The network that fits the tasks."""
        sizes = [tasks.n_in, *self.hidden, self.outputs or tasks.n_out]
        linear = isinstance(tasks, LinearTeacher)
        usual = {
            "output": "linear" if linear else "softmax",
            "activation": "tanh" if linear else "softplus",
        }
        chosen = self.model_dump(exclude={"hidden", "outputs"}, exclude_none=True)
        return PlasticNetwork(sizes, **{**usual, **chosen})


def _known(family: Any) -> Any:
    """Refuse a family that there is not; the first model, which judges it, knows its own alone."""
    if not isinstance(family, str) or family not in FAMILIES:
        names = " or ".join(f"'{name}'" for name in FAMILIES if name != "python")
        raise PydanticCustomError(
            "literal_error", "Input should be {expected}", {"expected": names}
        )
    return family


class FewShotSpec(Spec):
    """Tasks of :class:`rulesearch.tasks.FewShot`."""

    family: Annotated[Literal["few-shot"], BeforeValidator(_known)] = "few-shot"
    data: str = "digits"
    ways: Count = 5
    shots: Count = 50
    queries: Count = 10
    root: str | None = None
    split: str | None = None
    size: Count | None = None
    hold_out: StrictInt | list[StrictInt | str] = 0
    held_out: bool = False
    replacement: bool = False
    fixed_images: bool = False

    def build(self) -> TaskFamily:
        """Load the data."""
        return FewShot(**self.model_dump(exclude={"family"}))


class LinearTeacherSpec(Spec):
    """Tasks of :class:`rulesearch.tasks.LinearTeacher`."""

    family: Literal["linear-teacher"]
    inputs: Count = 6
    silent: Annotated[int, Field(ge=0)] = 0
    steps: Count = 100
    queries: Count = 20

    def build(self) -> TaskFamily:
        """Make the family."""
        return LinearTeacher(**self.model_dump(exclude={"family"}))


class PythonTasksSpec(Spec):
    """Tasks that only Python can make."""

    family: Literal["python"]

    def build(self) -> TaskFamily:
        """Say how to go on."""
        raise ConfigError(
            "the tasks were made in Python, which no file can do; there, rulesearch.search(..., "
            "out=RUN, resume=True) continues the run, rulesearch.evaluate(...) compares its rule "
            "with others on them"
        )


FAMILIES = {"few-shot": FewShotSpec, "linear-teacher": LinearTeacherSpec, "python": PythonTasksSpec}


def _family(value: Any) -> str:
    """Which model judges the tasks: the family's, so that only its mistakes are told."""
    family = value.get("family", "few-shot") if isinstance(value, Mapping) else "few-shot"
    return family if isinstance(family, str) and family in FAMILIES else "few-shot"


Tasks = Annotated[
    Annotated[FewShotSpec, Tag("few-shot")]
    | Annotated[LinearTeacherSpec, Tag("linear-teacher")]
    | Annotated[PythonTasksSpec, Tag("python")],
    Discriminator(_family),
]


def tasks_content(tasks: TaskFamily) -> dict[str, Any]:
    """Return the ``tasks:`` of a configuration that makes a family again."""
    arguments = tasks.arguments if isinstance(tasks, FewShot | LinearTeacher) else None
    if arguments is None:
        return {"family": "python"}
    return {"family": tasks.describe()["family"], **arguments}


class Settings(Spec):
    """How a search goes about it.

    Attributes
    ----------
    episodes : int
        Meta-updates of each row.
    seeds : int
        Independent searches for each lambda.
    seed : int
        Everything random follows from it.
    penalty, optimiser
        See their classes.
    refit_episodes : int or None
        Meta-updates of the survivors without penalty; None is half of ``episodes``.
    stability : StabilitySpec or None
        Also search on halves of the tasks.
    controls : bool
        Also learn the rate of backprop and of feedback alignment.
    keep : float
        A row keeps a term whose scaled coefficient, averaged over the last ``window`` updates,
        is more than this share of its largest.
    window : int
        Updates over which the end of a search is averaged.
    probe_every, checkpoint_every : int
        Updates between measurements of alignment, and between checkpoints.

    Raises
    ------
    ConfigError
        For an unknown name or a value that makes no sense.
    """

    episodes: Count = 600
    seeds: Annotated[Count, Field(le=100_000)] = 20
    seed: Annotated[int, Field(ge=0)] = 0
    penalty: PenaltySpec = PenaltySpec()
    optimiser: OptimiserSpec = OptimiserSpec()
    refit_episodes: Annotated[int, Field(ge=0)] | None = None
    stability: StabilitySpec | None = None
    controls: bool = True
    keep: Annotated[float, Field(ge=0, lt=1)] = 0.05
    window: Count = 50
    probe_every: Count = 10
    checkpoint_every: Count = 20

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as failed:
            raise _told(failed) from None

    @property
    def ramp(self) -> tuple[int, int]:
        """The updates between which the penalty comes in."""
        begin, end = self.optimiser.ramp or (self.episodes // 10, self.episodes // 5)
        return begin, end

    @property
    def lams(self) -> tuple[float, ...]:
        """The lambdas, in order."""
        lam = self.penalty.lam
        if isinstance(lam, PathSpec):
            return lam.lams
        return tuple(lam) if isinstance(lam, list) else (lam,)

    @property
    def batches(self) -> tuple[tuple[float, ...], ...]:
        """The lambdas that run side by side, batch after batch; all at once but on a path."""
        lam, lams = self.penalty.lam, self.lams
        size = lam.batch if isinstance(lam, PathSpec) else len(lams)
        return tuple(lams[k : k + size] for k in range(0, len(lams), size))

    @property
    def later_episodes(self) -> int:
        """Meta-updates of the batches of a path after its first."""
        lam = self.penalty.lam
        own = lam.episodes if isinstance(lam, PathSpec) else None
        return own or max(1, self.episodes // 3)


def settings_from(
    penalty: Penalty | None = None,
    lams: Sequence[float] | Mapping[str, Any] | None = None,
    **changes: Any,
) -> Settings:
    """Return settings from arguments: fields of :class:`Settings` and of its optimiser.

    Raises
    ------
    ConfigError
        For an unknown name or a value that makes no sense.
    """
    data: dict[str, Any] = {"penalty": {}, "optimiser": {}}
    if penalty is not None:
        check_kind("penalty", penalty, Penalty, "a penalty, as rulesearch.ProximalL1(10.0)")
        lam = penalty.lam if isinstance(penalty.lam, float) else list(map(float, penalty.lam))
        data["penalty"] = {"name": penalty.name, "lam": lam}
    if lams is not None:
        kinds = (Mapping,) if isinstance(lams, str | bytes) else (Sequence, Mapping)
        check_kind("lams", lams, kinds, "a list of lambdas, or a path of them")
        data["penalty"]["lam"] = dict(lams) if isinstance(lams, Mapping) else list(lams)
    known = {*OptimiserSpec.model_fields, *Settings.model_fields} - {"penalty", "optimiser"}
    for name, value in changes.items():
        if name == "optimiser":
            raise ConfigError("a search takes the fields of 'optimiser' themselves, as rate=1e-3")
        if name not in known:
            raise ConfigError(f"a search has no setting '{name}'{did_you_mean(name, known)}")
        here = data["optimiser"] if name in OptimiserSpec.model_fields else data
        here[name] = list(value) if isinstance(value, tuple) else value
    return Settings(**data)


def _told(failed: ValidationError) -> ConfigError:
    """The first of the mistakes, in one line."""
    error = failed.errors(include_url=False)[0]
    parts = (Settings, OptimiserSpec, PenaltySpec, PathSpec, StabilitySpec)
    known = [name for part in parts for name in part.model_fields]
    if error["type"] == "extra_forbidden":
        name = str(error["loc"][-1])
        return ConfigError(f"a search has no setting '{name}'{did_you_mean(name, known)}")
    where = next((step for step in reversed(error["loc"]) if step in known), error["loc"][0])
    mapping = error["type"] == "model_type"  # which pydantic says by the name of a class
    message = "input should be a mapping" if mapping else error["msg"].lower()
    return ConfigError(f"{where}={error['input']!r}: {message}")
