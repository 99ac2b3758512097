"""A search, ready to run, and the file that says it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from rulesearch.arguments import check_kind, naming
from rulesearch.errors import ConfigError, DataError, GrammarError, Place
from rulesearch.grammar import Grammar, TermPool
from rulesearch.grammar.parser import TextPlace
from rulesearch.grammar.reader import MAX_BYTES, Document, read_document
from rulesearch.grammar.validation import validate
from rulesearch.grammar.writer import yaml_text
from rulesearch.learners import PlasticityLearner
from rulesearch.networks import PlasticNetwork
from rulesearch.search.settings import (
    Device,
    FewShotSpec,
    NetworkSpec,
    Settings,
    Spec,
    Tasks,
    tasks_content,
)
from rulesearch.search.stability import halves
from rulesearch.tasks import TaskFamily
from rulesearch.tasks.family import check_described, check_family, check_first

__all__ = [
    "Config",
    "Experiment",
    "experiment_from",
    "grammar_content",
    "grammar_of",
    "load_config",
    "parsed_override",
    "placed",
    "read_config",
    "with_value",
]

_NAME = re.compile(r"[\w. -]*")
NAMES = "should hold letters, digits, spaces, . _ and - alone"
WHAT = "a configuration is a mapping with 'grammar:', 'network:' and 'tasks:'"


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise PydanticCustomError("name", NAMES)
    return name


class Config(Settings):
    """What a configuration may hold."""

    __init__ = Spec.__init__  # for mistakes in a file are told with their place, by its reader

    name: Annotated[str, AfterValidator(_name)] = ""
    grammar: str | dict[str, Any]
    network: NetworkSpec = NetworkSpec()
    tasks: Tasks = FewShotSpec()
    device: Device = "cpu"


@dataclass(frozen=True)
class Experiment:
    """A search, ready to run: what is searched, in which network, on which tasks, and how.

    ``device`` is where it begins to run: no part of what is found, for it may go on on another.

    Raises
    ------
    ConfigError, LearnerError
        If the parts do not fit together.
    """

    pool: TermPool
    network: PlasticNetwork
    tasks: TaskFamily
    settings: Settings
    name: str = "search"
    grammar: str = "pool"
    device: str = "cpu"

    def __post_init__(self) -> None:
        network, tasks = self.network, self.tasks
        check_kind("pool", self.pool, TermPool, "a TermPool, as grammar.enumerate()")
        check_kind("network", network, PlasticNetwork, "a PlasticNetwork")
        wanted = "a family of tasks, as rulesearch.tasks.FewShot()"
        check_family("tasks", tasks, wanted, "generators")
        check_described("tasks", tasks)
        check_kind("name", self.name, str, "a text")
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"name {NAMES}, unlike '{self.name}'").about("name")
        check_kind("device", self.device, str, "cpu or cuda, or one of several as cuda:1")
        if network.sizes[0] != tasks.n_in:
            raise ConfigError(
                f"the network has {network.sizes[0]} inputs, an example {tasks.n_in} values"
            )
        if network.sizes[-1] < tasks.n_out:
            raise ConfigError(
                f"the network has {network.sizes[-1]} outputs, the tasks {tasks.n_out} labels"
            ).about("network", "outputs")
        if network.learns_feedback:
            raise ConfigError(
                "a search leaves feedback as it is drawn, and feedback 'flp' has to be learnt with "
                "the rule: use MetaTraining(flp_model(FLPSettings(...), pool=pool), ...), as "
                "`rulesearch reproduce flp-rules` does, or feedback 'random'"
            ).about("network", "feedback")
        if not network.sigma.twice_differentiable:
            raise ConfigError(
                f"{network.activation} cannot be differentiated twice, and the meta-gradient goes "
                "through errors that hold its derivative already; use softplus"
            ).about("network", "activation")
        if not self.pool:
            raise ConfigError("the pool is empty: there is no term to search for")
        if not any(self.pool.init):
            raise ConfigError(
                "every term starts at zero, where nothing is learnt and no gradient points "
                "anywhere; give one an init, as F0: {expr: -e_post * y_pre.T, init: 1.0e-3}"
            )
        check_first("tasks", tasks, network)
        PlasticityLearner(network, self.pool)  # refuses terms whose signals the network lacks
        if self.settings.stability is not None:
            halves(tasks, 1, 0)  # refuses to halve too few classes

    def to_yaml(self) -> str:
        """Everything that :func:`load_config` needs to make it again."""
        network: dict[str, Any] = self.network.describe()
        _, *network["hidden"], network["outputs"] = network.pop("sizes")
        content = {
            "name": self.name,
            "grammar": grammar_content(self.grammar, self.pool),
            "network": network,
            "tasks": tasks_content(self.tasks),
            "device": self.device,
            **self.settings.model_dump(mode="json"),
        }
        text = yaml_text(content, width=1_000_000)
        if len(text.encode()) > MAX_BYTES:
            raise ConfigError(f"a pool of {len(self.pool)} terms is too large to search; narrow it")
        return text


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
    return experiment_from(read_config(path, overrides), path.parent, path.stem)


def read_config(
    path: Path, overrides: Sequence[str] = (), model: type[Config] = Config
) -> Document:
    """Read a configuration's file, checked against its model, with some values changed."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    document = read_document(content, str(path))
    if model is Config and isinstance(document.data, dict) and "sweep" in document.data:
        place = document.key_place(("sweep",))
        raise ConfigError(f"{place}: this is a sweep; run it with 'rulesearch sweep {path}'")
    if model is not Config and isinstance(document.data, dict) and "sweep" not in document.data:
        raise ConfigError(
            f"{path}:1:1: this is a search, for it has no 'sweep'; run it with 'rulesearch search "
            f"{path}', or say under 'sweep:' what varies"
        )
    for override in overrides if isinstance(document.data, dict) else ():
        document = _overridden(document, override)
    validate(model, document, WHAT)
    return document


def experiment_from(document: Document, folder: Path, name: str) -> Experiment:
    """Make what a configuration says.

    Parameters
    ----------
    document : Document
    folder : Path
        Where a grammar's file is looked for.
    name : str
        Of the experiment, should the document give it none.
    """
    config = validate(Config, document, WHAT)
    grammar = grammar_of(config.grammar, folder, document)
    with placed(document, "tasks"):
        tasks = config.tasks.build()
    settings = Settings(**{name: getattr(config, name) for name in Settings.model_fields})
    with placed(document, "network"):
        network = config.network.build(tasks)
    name, pool = config.name or name, grammar.enumerate()
    with placed(document):
        return Experiment(pool, network, tasks, settings, name, grammar.name, config.device)


@contextmanager
def placed(document: Document, *part: str) -> Iterator[None]:
    """Show errors where the argument at fault stands, or all of a part, if there is a file."""
    try:
        yield
    except (ConfigError, DataError) as error:
        path = (*part, *error.keys)
        if path and () in document.values:  # read from a file
            raise error.at(document.place(path)) from None
        raise


def grammar_of(grammar: str | dict[str, Any], folder: Path, document: Document) -> Grammar:
    """Return the grammar that a configuration names, or holds."""
    if not isinstance(grammar, str):
        return Grammar.from_document(document.part("grammar"), "pool")
    beside = folder / grammar
    try:
        return Grammar.from_yaml(beside if beside.is_file() else grammar)
    except GrammarError as error:
        if error.place is not None and error.place.file == grammar and not Path(grammar).is_file():
            raise GrammarError(error.message, document.place(("grammar",))) from None
        raise


def grammar_content(name: str, pool: TermPool) -> dict[str, Any]:
    """Return the ``grammar:`` of a configuration that holds the terms of a pool itself."""
    terms = {t.name: {"expr": str(t), "init": t.init, "about": t.about} for t in pool}
    return {"name": name, "terms": terms}


def with_value(
    document: Document, steps: tuple[str, ...], value: Any, place: Place, key: Place | None = None
) -> Document:
    """Return the document with one value changed, which then stands in another place.

    Parameters
    ----------
    steps : tuple of str
        The keys that lead to it; those that are missing are made.
    place, key : Place
        Where mistakes in the value, and in the keys, are told to be.
    """
    data = deepcopy(document.data)
    inside = len(steps)
    places = {path: at for path, at in document.values.items() if path[:inside] != steps}
    keys = {path: at for path, at in document.keys.items() if path[:inside] != steps}
    node = data
    for depth, step in enumerate(steps[:-1], 1):
        if step not in node:
            keys[steps[:depth]] = key or place
        node = node.setdefault(step, {})
        places.setdefault(steps[:depth], TextPlace(place, exact=False))
        if not isinstance(node, dict):
            raise ConfigError(f"'{step}' is a value, there is nothing in it to set")
    node[steps[-1]] = value
    places[steps] = TextPlace(place, exact=False)
    keys[steps] = key or place
    return replace(document, data=data, values=places, keys=keys)


def parsed_override(override: str, example: str) -> tuple[tuple[str, ...], Any, str]:
    """Return the keys and the value of ``--set key=value``, and what the option is called."""
    key, separator, value = override.partition("=")
    steps = tuple(key.strip().split("."))
    if not separator or not all(steps):
        raise ConfigError(f"--set {override}: write key=value, as {example}")
    here = f"--set {key.strip()}"
    return steps, read_document(value, here).data, here


def _overridden(document: Document, override: str) -> Document:
    """Return the document with one value changed, whose place is then ``--set key``."""
    steps, value, here = parsed_override(override, "tasks.ways=3")
    if "sweep" in document.data and steps[:2] == ("sweep", "over") and len(steps) > 3:
        raise ConfigError(
            f"{here}: keys in 'sweep.over' have dots of their own, as 'penalty.lam', and cannot be "
            "set one by one; give all of it, as --set 'sweep.over={penalty.lam: [1, 2]}', or "
            "change the file"
        )
    with naming(f"{here}:"):
        return with_value(document, steps, value, Place(here, 1, 1))
