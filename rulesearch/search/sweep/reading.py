"""A sweep's file, read: every value that a trial may get is tried at its place in the file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from rulesearch.arguments import naming
from rulesearch.errors import ConfigError, GrammarError, RuleSearchError
from rulesearch.grammar.reader import Document
from rulesearch.grammar.validation import validate
from rulesearch.search.config import (
    WHAT,
    Config,
    Experiment,
    experiment_from,
    grammar_content,
    grammar_of,
    read_config,
    with_value,
)
from rulesearch.search.sweep.spec import (
    RangeSpec,
    Sweep,
    SweepConfig,
    SweepSpec,
    label,
    without_sweep,
)

__all__ = ["load_sweep", "sweep_said"]

SAME = {  # in all trials
    "stability": "stability is asked of the pick alone",
    "device": "each worker has its own, and it should not matter to what is found",
    "seed": "trials are compared on the same tasks, which follow from it; 'seeds' is how many "
    "searches each makes",
}


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> Sweep:
    """Read a configuration with a ``sweep:``.

    Parameters
    ----------
    path : str or Path
    overrides : sequence of str
        ``key=value``, as for :func:`load_config`.

    Raises
    ------
    ConfigError, GrammarError
        ``file:line:col: message``, for keys to sweep and their values too.
    """
    path = Path(path)
    return sweep_said(read_config(path, overrides, SweepConfig), path)


def sweep_said(whole: Document, path: Path) -> Sweep:
    """Return what a file says that is read already.

    Raises
    ------
    ConfigError, GrammarError
    """
    spec = validate(SweepConfig, whole, WHAT).sweep
    plain = Document(without_sweep(whole.data), whole.file, whole.values, whole.keys)
    base = experiment_from(plain, path.parent, path.stem)
    distributions = {key: _distribution(key, spec, whole, plain, path, base) for key in spec.over}
    named = [plain.data["grammar"]]
    named += (spec.values("grammar") or []) if "grammar" in spec.over else []
    grammars = {}
    for grammar in named:
        if isinstance(grammar, str) and (path.parent / grammar).is_file():
            found = grammar_of(grammar, path.parent, plain)
            grammars[grammar] = grammar_content(found.name, found.pool)
    name = plain.data.get("name") or path.stem
    return Sweep(name, json.loads(json.dumps(whole.data)), spec, distributions, grammars)


def _distribution(
    key: str, spec: SweepSpec, whole: Document, plain: Document, path: Path, base: Experiment
) -> BaseDistribution:
    """Try what a key may become, each at its place in the file, and say it in Optuna's terms."""
    steps, over = tuple(key.split(".")), spec.over[key]
    at = ("sweep", "over", key)
    if steps[0] in SAME:
        raise ConfigError(
            f"{whole.key_place(at)}: '{key}' is the same in all trials: {SAME[steps[0]]}"
        )
    if part := next((other for other in spec.over if other.startswith(f"{key}.")), None):
        raise ConfigError(
            f"{whole.key_place((*at[:2], part))}: '{part}' is a part of '{key}', which is swept "
            "too and would undo it; sweep one of them"
        )

    def placed(value: Any, *where: str | int) -> Document:
        place = whole.place((*at, *where))
        with naming(f"{whole.key_place(at)}:"):
            return with_value(plain, steps, value, place, whole.key_place(at))

    def check(value: Any, *where: str | int) -> None:
        document = placed(value, *where)
        try:
            found = experiment_from(document, path.parent, path.stem)
        except GrammarError:
            raise
        except RuleSearchError as error:
            raise ConfigError(f"{key}: {error.message}", document.place(steps)) from None
        if type(found.tasks) is not type(base.tasks):
            raise ConfigError(
                f"{document.place(steps)}: {key}: trials are judged on the configuration's own "
                "tasks, and these are of another family"
            )
        if _apart(document) != _apart(plain):
            raise ConfigError(
                f"{document.place(steps)}: {key}: which classes are held out is the same in all "
                "trials, for they are judged on the configuration's own; give 'hold_out' and "
                "'held_out' there, under 'tasks:'"
            )

    if not isinstance(over, RangeSpec):
        where = () if isinstance(over, list) else ("choices",)
        values = spec.values(key) or []
        for k, value in enumerate(values):
            check(value, *where, k)
        return CategoricalDistribution([label(value) for value in values])

    # Between the ends and not whole, whatever they are: is this a setting that counts?
    between = placed(over.low + (over.high - over.low) / math.pi, "low")
    ends = {"low": over.low, "high": over.high}
    if not _takes(between) and all(end.is_integer() for end in ends.values()):
        for name, end in ends.items():
            check(int(end), name)
        return IntDistribution(int(over.low), int(over.high), log=over.log)
    for name, end in ends.items():
        check(end, name)
    return FloatDistribution(over.low, over.high, log=over.log)


def _apart(document: Document) -> tuple[Any, Any]:
    """Which classes the tasks of a configuration hold out, and whether they are of those."""
    tasks = document.data.get("tasks", {})
    return tasks.get("hold_out", 0), tasks.get("held_out", False)


def _takes(document: Document) -> bool:
    """Whether a configuration is one, as far as its text goes."""
    try:
        config = validate(Config, document, WHAT)
        if not isinstance(config.grammar, str):
            grammar_of(config.grammar, Path(), document)
    except RuleSearchError:
        return False
    return True
