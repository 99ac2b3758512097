"""Rules compared under several conditions, in one table: what the evidence supports."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress
from typing import Any

import numpy as np

from rulesearch.analysis import Floats, bootstrap_interval, holm, mann_whitney
from rulesearch.arguments import naming
from rulesearch.errors import ConfigError, did_you_mean
from rulesearch.grammar import Term, TermPool
from rulesearch.grammar.catalogue import catalogue
from rulesearch.networks import PlasticNetwork
from rulesearch.outer.fit import usable_device
from rulesearch.outer.seeds import TASK, generators
from rulesearch.report.grid import grid
from rulesearch.rules import Rule
from rulesearch.search.conditions import BASE, Condition
from rulesearch.search.evaluation import STREAM, Score, evaluate_rules
from rulesearch.tasks.family import check_batch, explodes

__all__ = [
    "Contender",
    "Evidence",
    "Row",
    "baseline_among",
    "check_names",
    "contender_named",
    "evidence",
]

LEVEL = 0.98
TUNING_STREAM, TUNING = 5, 50  # random stream, and lifetimes for each rate
RATES = tuple(float(10.0**power) for power in np.arange(-4.0, 0.0, 0.5))
ALIGNMENT = "feedback alignment"
NOTHING = "-"  # where there is no figure
BASELINES = ("backprop", ALIGNMENT)


@dataclass(frozen=True)
class Contender:
    """A rule, or a term whose rate is tuned in every condition anew.

    Attributes
    ----------
    name : str
    rule : Rule or None
    term : Term or None
        Instead of a rule: the rate of :data:`RATES` is taken that does best on tuning tasks.
    signs : tuple of float
        Of the rates to try.
    symmetric : bool
        Errors come back through the transpose of W, whatever the condition's feedback.
    """

    name: str
    rule: Rule | None = None
    term: Term | None = None
    signs: tuple[float, ...] = (1.0,)
    symmetric: bool = False

    def network(self, condition: Condition) -> PlasticNetwork:
        """The condition's network with the contender's own feedback."""
        network = condition.network
        return network.with_feedback("symmetric") if self.symmetric else network

    @property
    def symbols(self) -> frozenset[str]:
        """Names of the vocabulary that it speaks of."""
        what = self.term if self.rule is None else self.rule.pool
        assert what is not None
        return what.symbols

    def settled(self, condition: Condition, seed: int, device: str = "cpu") -> Rule:
        """The rule, its rate tuned on tasks that have nothing in common with those of the test."""
        if self.rule is not None:
            return self.rule
        assert self.term is not None
        network, pool = self.network(condition), TermPool([self.term])
        tried = {
            f"{rate:g}": (Rule(pool, {self.term.name: rate}), network)
            for sign in self.signs
            for rate in sign * np.array(RATES)
        }
        scores = evaluate_rules(tried, condition.tasks, TUNING, seed, TUNING_STREAM, device)
        return tried[min(scores, key=_badness).name][0]


def _badness(score: Score) -> float:
    """Errors per query or, where targets are no labels, the median loss; diverged is worst."""
    accuracy = np.where(np.isfinite(score.loss), score.accuracy, 0.0)
    if np.isfinite(accuracy).all() and accuracy.any():
        return -float(accuracy.mean())
    return float(np.median(np.where(np.isfinite(score.loss), score.loss, np.inf)))


def contender_named(text: str) -> Contender:
    """Return a contender that is named rather than found.

    ``backprop`` and ``feedback-alignment`` are the pseudo-gradient through the transpose of W and
    through the network's own feedback; a name of the catalogue is that term alone; in each the
    rate is tuned. ``0.01*pseudo_gradient-0.02*ehebb`` is a rule with coefficients of its own.

    Raises
    ------
    ConfigError, LearnerError
        If a name is unknown, or a coefficient no number.
    """
    pool = catalogue()
    name = text.strip().replace("-", " ") if "*" not in text else text.strip()
    if name in BASELINES:
        return Contender(name, term=pool["pseudo_gradient"], symmetric=name == "backprop")
    with naming(f"{text}:"):
        if "*" not in name:
            return Contender(text, term=_term(pool, text.strip()), signs=(1.0, -1.0))
        coefficients: dict[str, float] = {}
        for part in _summands(name):
            number, _, term = part.partition("*")
            try:
                coefficient = float(number.replace(" ", ""))
            except ValueError:
                raise ConfigError(f"'{number.strip()}' is no number") from None
            name_of = _term(pool, term.strip()).name
            coefficients[name_of] = coefficients.get(name_of, 0.0) + coefficient
        return Contender(name, Rule(pool, coefficients))


def _term(pool: TermPool, name: str) -> Term:
    if name not in pool.names:
        known = [*BASELINES, *pool.names]
        hint = did_you_mean(name, known) or f"; known are {', '.join(known)}"
        raise ConfigError(f"the catalogue has no '{name}'{hint}")
    return pool[name]


def _summands(text: str) -> list[str]:
    """Cut before each sign that is no exponent's: ``1e-3*a-2*b`` into ``1e-3*a`` and ``-2*b``."""
    parts = [""]
    for letter in text:
        if letter in "+-" and parts[-1].strip() and not _in_exponent(parts[-1]):
            parts.append("")
        parts[-1] += letter
    return parts


def _in_exponent(part: str) -> bool:
    return "*" not in part and part[-1:] in "eE" and part[:-1].strip(" +-")[:1].isdigit()


@dataclass(frozen=True)
class Row:
    """What one rule did under one condition.

    Attributes
    ----------
    condition, rule : str
    steps : int
        Training examples of a lifetime.
    sizes : list of int
        Of the network.
    coefficients : dict of str to float
        Those tuned among them.
    accuracy : list of float or None
        Mean over the lifetimes that did not diverge, and its bootstrap interval.
    loss : list of float or None
        Their median, and its interval.
    diverged, lifetimes : int
    p : float or None
        That the baseline does as well: one-sided Mann-Whitney, a lifetime that diverged ranked
        last, adjusted over the rows of the table by Holm's method. None of the baseline itself.
    """

    condition: str
    rule: str
    steps: int
    sizes: list[int]
    coefficients: dict[str, float]
    accuracy: list[float] | None
    loss: list[float] | None
    diverged: int
    lifetimes: int
    p: float | None = None


@dataclass(frozen=True)
class Evidence:
    """The table: rows of rules within conditions.

    Attributes
    ----------
    rows : list of Row
    baseline : str or None
    notes : tuple of str
        What speaks against trusting it.
    """

    rows: list[Row]
    baseline: str | None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        rows = [asdict(row) for row in self.rows]
        return {
            "schema": 1,
            "level": LEVEL,
            "baseline": self.baseline,
            "notes": list(self.notes),
            "rows": rows,
        }

    def __str__(self) -> str:
        return self.table()

    def table(self) -> str:
        """Lay it out as plain text, with its notes below.

        The condition is left out where there is one alone, and so is a column that holds nothing,
        as the accuracy where targets are no labels.
        """
        interval = f"{LEVEL:.0%} interval"
        heading = ["condition", "", "accuracy", interval, "median loss", interval, "diverged"]
        if self.baseline is not None:
            heading.append(f"p vs {self.baseline} (Holm)")
        cells, last = [heading], ""
        for row in self.rows:
            p = "" if row.p is None else f"{row.p:.2g}"
            shown = "" if row.condition == last else row.condition
            alone = row.lifetimes - row.diverged < 2
            figures = [*_figures(row.accuracy, alone), *_figures(row.loss, alone)]
            line = [shown, row.rule, *figures, f"{row.diverged}/{row.lifetimes}", p]
            cells.append(line[: len(heading)])
            last = row.condition
        if len({row.condition for row in self.rows}) == 1:
            cells = [row[1:] for row in cells]
        told = [
            any(cell not in ("", NOTHING) for cell in column[1:])
            for column in zip(*cells, strict=True)
        ]
        laid = grid([list(compress(row, told)) for row in cells])
        return "\n\n".join([laid, *(f"Note: {note}." for note in self.notes)])


def _figures(interval: list[float] | None, alone: bool) -> list[str]:
    """The figure and its interval; there is none of a single lifetime."""
    if interval is None:
        return [NOTHING, NOTHING]
    centre, low, high = interval
    return [f"{centre:.3f}", NOTHING if alone else f"{low:.3f} to {high:.3f}"]


def baseline_among(contenders: Sequence[Contender], baseline: str | None) -> str | None:
    """Return the name of the contender that all others are tested against, if there is one.

    By default that is feedback alignment, if it is there.

    Raises
    ------
    ConfigError
        If no contender has the name.
    """
    names = [contender.name for contender in contenders]
    if baseline == "feedback-alignment" or (baseline is None and ALIGNMENT in names):
        baseline = ALIGNMENT
    if baseline is not None and baseline not in names:
        raise ConfigError(f"{baseline}: no rule has this name{did_you_mean(baseline, names)}")
    return baseline


def check_names(contenders: Sequence[Contender]) -> None:
    """Raise ConfigError where there is no contender, or a table could tell one of a name alone."""
    names = [contender.name for contender in contenders]
    if not names:
        raise ConfigError("there is no rule to evaluate")
    if len(set(names)) < len(names):
        raise ConfigError(
            f"two rules are called '{max(names, key=names.count)}'; give each once, and rename a "
            "file or folder that has the name of a control or of another rule, or leave the name "
            "out of those that are named"
        )


def evidence(
    contenders: Sequence[Contender],
    where: Sequence[Condition],
    lifetimes: int = 200,
    seed: int = 0,
    baseline: str | None = None,
    track: Callable[[Sequence[Condition]], Iterable[Condition]] = iter,
    device: str = "cpu",
) -> Evidence:
    """Let every contender live the same lifetimes under every condition.

    Parameters
    ----------
    contenders : sequence of Contender
    where : sequence of Condition
    lifetimes : int
        Of each contender under each condition: the same tasks, and the same initial weights.
    seed : int
    baseline : str, optional
        The contender that all others are tested against, within each condition: see
        :func:`baseline_among`.
    track : callable
        Passes the conditions on, one after the other, to whoever shows how far it is.
    device : str
        Where lifetimes are lived: ``cpu``, ``cuda``, or one of several as ``cuda:1``.

    Raises
    ------
    ConfigError
        If there is no contender, two have one name, or the device is not here.
    """
    usable_device(device)
    check_names(contenders)
    symbols = frozenset[str]().union(*(contender.symbols for contender in contenders))
    notes = [note for condition in where if (note := _note(condition, symbols, seed))]
    rows: list[Row] = []
    for condition in track(where):
        rules = {
            c.name: (c.settled(condition, seed, device), c.network(condition)) for c in contenders
        }
        found = evaluate_rules(rules, condition.tasks, lifetimes, seed, device=device)
        scores = {score.name: score for score in found}
        for name, score in scores.items():
            p = None
            if baseline not in (None, name):
                p = _chance(score, scores[str(baseline)])
            rows.append(_row(condition, rules[name][0], score, p))
    adjusted = iter(holm([row.p for row in rows if row.p is not None]).tolist())
    return Evidence(
        [row if row.p is None else replace(row, p=next(adjusted)) for row in rows],
        baseline,
        tuple(dict.fromkeys(notes)),
    )


def _note(condition: Condition, symbols: frozenset[str], seed: int) -> str | None:
    """Say where rules cannot learn from the inputs, by the first lifetime."""
    if "e_pre" not in symbols:
        return None
    tasks = condition.tasks
    first = tasks.sample(generators(seed, STREAM, TASK, [(0, 0)]))
    x = check_batch("tasks", tasks, first, 1).x
    note = explodes(tasks, condition.network, symbols, x)
    return note if note is None or condition.name == BASE else f"{condition.name}: {note}"


def _chance(score: Score, baseline: Score) -> float:
    """One-sided p-value in accuracy or, where targets are no labels, in loss."""
    labelled = any(np.isfinite(s.accuracy).any() for s in (score, baseline))

    def good(s: Score) -> Floats:
        return np.where(np.isfinite(s.loss), s.accuracy if labelled else -s.loss, -np.inf)

    return mann_whitney(good(score), good(baseline)).p


def _row(condition: Condition, rule: Rule, score: Score, p: float | None) -> Row:
    return Row(
        condition.name,
        score.name,
        condition.tasks.steps,
        list(condition.network.sizes),
        rule.coefficients,
        _interval(score.accuracy, "mean"),
        _interval(score.loss, "median"),
        score.diverged,
        len(score.loss),
        p,
    )


def _interval(values: Floats, statistic: Any) -> list[float] | None:
    finite = values[np.isfinite(values)]
    if not finite.size:
        return None
    return [float(part) for part in bootstrap_interval(finite, LEVEL, statistic=statistic)]
