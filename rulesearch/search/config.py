"""What a search is made of, as a file says it and as Python passes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError
from ruamel.yaml import YAML

from rulesearch.errors import ConfigError, GrammarError
from rulesearch.grammar import Grammar, Term, TermPool
from rulesearch.grammar.reader import read_document
from rulesearch.grammar.validation import validate
from rulesearch.networks import PlasticNetwork
from rulesearch.outer import Penalty
from rulesearch.tasks import FewShot, LinearTeacher, TaskFamily

__all__ = ["Experiment", "Settings", "load_config"]

Count = Annotated[int, Field(strict=True, ge=1)]
Size = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PenaltySpec(_Spec):
    """The penalty, and one lambda or a list of them, run as one batch."""

    name: Literal["none", "l1", "l2", "proximal-l1"] = "proximal-l1"
    lam: Size | Annotated[list[Size], Field(min_length=1)] = 10.0


class OptimiserSpec(_Spec):
    """Adam on scaled coefficients; see :class:`rulesearch.outer.MetaOptimiser`."""

    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5e-4
    decay: Annotated[float, Field(ge=0, le=1)] = 0.1
    clip: Annotated[float, Field(gt=0)] | None = 100.0
    meta_batch: Count = 1
    ramp: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)] = [60, 120]
    scaling: bool = True
    scale_cap: Annotated[float, Field(gt=0)] = 3.0
    reject: bool = True


class NetworkSpec(_Spec):
    """The network; the widths of input and output come from the tasks."""

    hidden: list[Count] = [170, 130, 100, 70]
    outputs: Count | None = None
    activation: Literal["softplus", "tanh", "relu"] = "softplus"
    beta: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10.0
    output: Literal["softmax", "linear"] | None = None
    feedback: Literal["random", "symmetric", "direct"] = "random"
    feedback_init: Literal["uniform", "normal"] = "uniform"
    detach_feedback: bool = False

    def build(self, tasks: TaskFamily) -> PlasticNetwork:
        """The network that fits the tasks."""
        options = self.model_dump(exclude={"hidden", "outputs", "output"})
        outputs = self.outputs or tasks.n_out
        linear = isinstance(tasks, LinearTeacher)
        output = self.output or ("linear" if linear else "softmax")
        return PlasticNetwork([tasks.n_in, *self.hidden, outputs], output=output, **options)


class FewShotSpec(_Spec):
    """Tasks of :class:`rulesearch.tasks.FewShot`."""

    family: Literal["few-shot"] = "few-shot"
    data: str = "digits"
    ways: Count = 5
    shots: Count = 50
    queries: Count = 10
    root: str | None = None
    split: str | None = None
    size: Count | None = None
    hold_out: int | list[int | str] = 0
    held_out: bool = False
    replacement: bool = False
    fixed_images: bool = False

    def build(self) -> TaskFamily:
        """Load the data."""
        return FewShot(**self.model_dump(exclude={"family"}))


class LinearTeacherSpec(_Spec):
    """Tasks of :class:`rulesearch.tasks.LinearTeacher`."""

    family: Literal["linear-teacher"]
    inputs: Count = 8
    outputs: Count = 6
    silent: Annotated[int, Field(ge=0)] = 0
    steps: Count = 100
    queries: Count = 20

    def build(self) -> TaskFamily:
        """Make the family."""
        return LinearTeacher(**self.model_dump(exclude={"family"}))


def _family(value: Any) -> str:
    family = value.get("family", "few-shot") if isinstance(value, Mapping) else "few-shot"
    return family if family in ("few-shot", "linear-teacher") else "few-shot"


Tasks = Annotated[
    Annotated[FewShotSpec, Tag("few-shot")] | Annotated[LinearTeacherSpec, Tag("linear-teacher")],
    Discriminator(_family),
]


class Settings(_Spec):
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
    controls : bool
        Also learn the rate of backprop and of feedback alignment.
    keep : float
        A row keeps a term whose scaled coefficient, averaged over the last ``window`` updates,
        is more than this share of its largest.
    window : int
        Updates over which the end of a search is averaged.
    probe_every, checkpoint_every : int
        Updates between measurements of alignment, and between checkpoints.
    """

    episodes: Count = 600
    seeds: Count = 20
    seed: Annotated[int, Field(ge=0)] = 0
    penalty: PenaltySpec = PenaltySpec()
    optimiser: OptimiserSpec = OptimiserSpec()
    refit_episodes: Annotated[int, Field(ge=0)] | None = None
    controls: bool = True
    keep: Annotated[float, Field(ge=0, lt=1)] = 0.05
    window: Count = 50
    probe_every: Count = 10
    checkpoint_every: Count = 20

    @property
    def lams(self) -> tuple[float, ...]:
        """The lambdas, in order."""
        lam = self.penalty.lam
        return tuple(lam) if isinstance(lam, list) else (lam,)


class _InlineTerm(_Spec):
    expr: str
    init: float = 0.0
    about: str = ""


class _InlineGrammar(_Spec):
    name: str = "pool"
    terms: dict[str, _InlineTerm]


class _Config(Settings):
    name: str = ""
    grammar: str | _InlineGrammar
    network: NetworkSpec = NetworkSpec()
    tasks: Tasks = FewShotSpec()


@dataclass(frozen=True)
class Experiment:
    """A search, ready to run: what is searched, in which network, on which tasks, and how."""

    pool: TermPool
    network: PlasticNetwork
    tasks: TaskFamily
    settings: Settings = Settings()
    name: str = "search"
    grammar: str = "pool"

    def __post_init__(self) -> None:
        network, tasks = self.network, self.tasks
        if not self.pool:
            raise ConfigError("the pool has no terms")
        if network.sizes[0] != tasks.n_in:
            raise ConfigError(
                f"the network has {network.sizes[0]} inputs, an example {tasks.n_in} values"
            )
        if network.sizes[-1] < tasks.n_out:
            raise ConfigError(
                f"the network has {network.sizes[-1]} outputs, the tasks {tasks.n_out} labels"
            )
        if not any(self.pool.init) and not any(t.init for t in self.pool):
            raise ConfigError(
                "every term starts at zero, where nothing is learnt and no gradient points "
                "anywhere; give one an init, as F0: {expr: -e_post * y_pre.T, init: 1.0e-3}"
            )

    def to_yaml(self) -> str:
        """Everything that :func:`load_config` needs to make it again."""
        terms = {
            t.name: {"expr": str(t), "init": t.init, "about": t.about} for t in self.pool
        }
        net = self.network
        network: dict[str, Any] = net.describe()
        network["hidden"], network["outputs"] = list(net.sizes[1:-1]), net.sizes[-1]
        del network["sizes"]
        content = {
            "name": self.name,
            "grammar": {"name": self.grammar, "terms": terms},
            "network": network,
            "tasks": self._tasks(),
            **self.settings.model_dump(mode="json"),
        }
        text = StringIO()
        writer = YAML(typ="safe", pure=True)
        writer.default_flow_style = False
        writer.sort_base_mapping_type_on_output = False  # type: ignore[attr-defined]
        writer.width = 1_000_000
        writer.dump(content, text)
        return text.getvalue()

    def _tasks(self) -> dict[str, Any]:
        described = dict(self.tasks.describe())
        fields = {"few-shot": FewShotSpec, "linear-teacher": LinearTeacherSpec}.get(
            str(described.get("family"))
        )
        if fields is None:
            return described  # a family of the user's own: resumed from Python
        return {k: v for k, v in described.items() if k in fields.model_fields}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read a search configuration.

    Parameters
    ----------
    path : str or Path
        YAML; ``grammar:`` names a bundled grammar, a file beside it, or holds terms itself.
    overrides : sequence of str
        ``key=value``, dots for nesting, values in YAML: ``tasks.ways=3``.

    Raises
    ------
    ConfigError, GrammarError
        ``file:line:col: message`` for the first mistake.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    document = read_document(content, str(path))
    what = "a configuration is a mapping with 'grammar:', 'network:' and 'tasks:'"
    config = validate(_Config, document, what)
    for override in overrides:
        config = _overridden(config, override)
    try:
        if isinstance(config.grammar, str):
            beside = path.parent / config.grammar
            grammar = Grammar.from_yaml(beside if beside.is_file() else config.grammar)
            pool, grammar_name = grammar.enumerate(), grammar.name
        else:
            pool = TermPool(
                Term.from_text(
                    name, t.expr, t.init, t.about,
                    document.text_place(("grammar", "terms", name, "expr")),
                )
                for name, t in config.grammar.terms.items()
            )  # fmt: skip
            grammar_name = config.grammar.name
    except GrammarError as error:
        if isinstance(config.grammar, str) and error.place and error.place.line == 1:
            raise GrammarError(error.message, document.place(("grammar",))) from None
        raise
    tasks = config.tasks.build()
    settings = Settings(**{name: getattr(config, name) for name in Settings.model_fields})
    network = config.network.build(tasks)
    name = config.name or path.stem
    return Experiment(pool, network, tasks, settings, name, grammar_name)


def _overridden(config: _Config, override: str) -> _Config:
    key, separator, value = override.partition("=")
    if not separator:
        raise ConfigError(f"--set {override}: write key=value, as tasks.ways=3")
    file = f"--set {key}"
    data = config.model_dump()
    steps = key.strip().split(".")
    node = data
    for step in steps[:-1]:
        if not isinstance(node.get(step), dict):
            raise ConfigError(f"{file}: no '{step}' to set anything in")
        node = node[step]
    node[steps[-1]] = read_document(value, file).data
    text = StringIO()
    YAML(typ="safe", pure=True).dump(data, text)
    try:
        return validate(_Config, read_document(text.getvalue(), file), "")
    except GrammarError as error:
        raise ConfigError(f"{file}: {error.message}") from None


def settings_from(
    settings: Settings, penalty: Penalty | None, lams: Sequence[float] | None, **changes: Any
) -> Settings:
    """Return settings with a penalty object and changed fields, checked."""
    data = settings.model_dump()
    if penalty is not None:
        lam = penalty.lam if isinstance(penalty.lam, float) else list(map(float, penalty.lam))
        data["penalty"] = {"name": penalty.name, "lam": lam}
    if lams is not None:
        data["penalty"]["lam"] = list(lams)
    for name, value in changes.items():
        if name in OptimiserSpec.model_fields:
            data["optimiser"][name] = value
        else:
            data[name] = value
    try:
        return Settings.model_validate(data)
    except ValidationError as failed:
        error = failed.errors(include_url=False)[0]
        where = ".".join(map(str, error["loc"]))
        raise ConfigError(f"{where}: {error['msg']}") from None


