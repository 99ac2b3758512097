"""The paper's figures beside ours: for the terminal, in Markdown and in LaTeX."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from rulesearch.report.grid import markdown_grid
from rulesearch.report.table import escaped

__all__ = ["latex", "markdown", "print_outcome"]

Content = Mapping[str, Any]
NONE = "-"
ONE_SEED = "†"
TITLE = 16  # columns of a terminal that the titles of rows have at least
UNSOLVED = {"learning": "learning, in units of the nudge,", "solver": "the inverse Hessian"}


def print_outcome(content: Content, console: Console) -> None:
    """Print the table and what was run.

    In a narrow terminal titles and headings are broken, and figures never: a table that is wider
    all the same runs on.
    """
    table = Table(title=content["title"], title_justify="left", title_style="bold")
    rows = list(_rows(content))
    for k, heading in enumerate(_headings(content, "\n")):
        whole = [*heading.split(), *(row[k] for row in rows)]
        least = max(map(len, whole)) if k else TITLE
        table.add_column(heading, justify="right" if k else "left", min_width=least)
    for row in rows:
        table.add_row(*row)
    fits = max(console.width, console.measure(table).minimum)
    console.print(table, width=fits, crop=False)
    for line in _remarks(content):
        console.print(line, highlight=False, markup=False)


def markdown(content: Content) -> str:
    """The same as a Markdown page."""
    table = markdown_grid([_headings(content, ": "), *_rows(content)])
    remarks = "\n".join(f"- {line}" for line in _remarks(content))
    return f"# {content['title']}\n\n{table}\n\n{remarks}\n"


def latex(content: Content) -> str:
    """The same as a LaTeX ``tabular`` that needs only the booktabs package."""
    columns = _columns(content)
    spans = [
        (escaped(title), sum(c == condition for c, _ in columns))
        for condition, title in content["conditions"].items()
    ]
    unit = escaped(content["unit"])
    lines = [
        r"% needs \usepackage{booktabs}",
        *(f"% {line}" for line in _remarks(content)),
        rf"\begin{{tabular}}{{l{'r' * len(columns)}r}}",
        r"\toprule",
        "".join(rf" & \multicolumn{{{n}}}{{c}}{{{title}}}" for title, n in spans) + r" & \\",
        " & ".join([unit, *(whose for _, whose in columns), r"minutes \\"]),
        r"\midrule",
        *(" & ".join(map(_cell, row)) + r" \\" for row in _rows(content)),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """For LaTeX, whose hyphen is not a minus."""
    return re.sub(r"^-(?=\d)", "$-$", escaped(text))


def _headings(content: Content, between: str) -> list[str]:
    titles = content["conditions"]
    pairs = [f"{titles[condition]}{between}{whose}" for condition, whose in _columns(content)]
    return [content["unit"], *pairs, "minutes"]


def _columns(content: Content) -> list[tuple[str, str]]:
    """Condition and whose figures; only where there are any."""
    both = [(c, whose) for c in content["conditions"] for whose in ("paper", "ours")]
    return [(c, whose) for c, whose in both if any(row[whose][c] for row in content["rows"])]


def _rows(content: Content) -> Iterable[list[str]]:
    for row in content["rows"]:
        cells = [row["title"], *(_figure(row[whose][c]) for c, whose in _columns(content))]
        minutes = [ours["minutes"] for ours in row["ours"].values() if ours is not None]
        yield [*cells, f"{sum(minutes):.1f}" if minutes else NONE]


def _figure(figure: Mapping[str, Any] | None) -> str:
    """``0.0016 (6e-5)``: a value and its standard error, of one seed that over its lifetimes."""
    if figure is None or figure["value"] is None:
        return NONE
    sem = figure.get("sem_lifetimes") if _of_one_seed(figure) else figure["sem"]
    error = f" ({_short(sem, 1)})" if sem is not None else ""
    mark = ONE_SEED if error and _of_one_seed(figure) else ""
    return _short(figure["value"], 3) + error + mark + ("*" if figure.get("diverged") else "")


def _of_one_seed(figure: Mapping[str, Any]) -> bool:
    """Whether it is ours, and there is no other seed to tell an error by."""
    return len(figure.get("seeds", ())) == 1


def _short(value: float, digits: int) -> str:
    """So many significant digits; ``6e-5`` rather than ``6e-05``, and ``10``, not ``1e1``."""
    text = f"{value:.{digits}g}"
    if 1 <= abs(value) < 1e5:
        text = f"{float(text):g}"
    mantissa, _, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def _remarks(content: Content) -> Iterable[str]:
    """What was run, and what a reader should know."""
    settings = content["settings"]
    yield f"Paper: {content['source']}."
    episodes = settings["updates"] * settings["episodes"]
    yield (
        f"Ours: {content['scale']} scale, {episodes:,} episodes (updates={settings['updates']}, "
        f"episodes={settings['episodes']}), seeds={settings['seeds']}, "
        f"{settings['lifetimes']} test lifetime{'s' * (settings['lifetimes'] > 1)} a seed; in "
        "parentheses the standard error over seeds."
    )
    if settings.get("average", 1) > max(settings["updates"], 1):
        yield (
            f"average={settings['average']} is more than updates={settings['updates']}: the mean "
            "is of the meta-parameters of all updates."
        )
    if content["changed"]:
        yield f"With {', '.join(_settings(content['changed']))}."
    shown = [ours for row in content["rows"] for ours in row["ours"].values() if ours]
    if any(_of_one_seed(ours) and ours.get("sem_lifetimes") is not None for ours in shown):
        yield (
            f"{ONE_SEED} One seed: the standard error is over its test lifetimes, and does not "
            "tell how far other seeds lie from it."
        )
    yield from content["notes"]
    yield from _residuals(content)
    for row in content["rows"]:
        for condition, ours in row["ours"].items():
            if ours is not None and ours["networks"] < settings["seeds"]:
                place = f"{row['title']}, {content['conditions'][condition]}"
                yield f"{place}: seeds={ours['networks']}."
            if ours is not None and ours["diverged"]:
                lived = ours["lifetimes"] * ours["networks"]
                yield (
                    f"* {row['title']}, {content['conditions'][condition]}: {ours['diverged']} of "
                    f"{lived} test lifetimes diverged and are left out of the mean."
                )
            if ours is not None and ours["untaught"]:
                seeds = ", ".join(map(str, ours["untaught"]))
                yield (
                    f"{row['title']}, {content['conditions'][condition]}: every update of seed "
                    f"{seeds} was rejected, as not finite or not solved, and it learnt nothing."
                )
            if ours is not None and ours["rejected"]:
                yield (
                    f"{row['title']}, {content['conditions'][condition]}: {ours['rejected']} "
                    "lifetimes of meta-training were rejected and taught nothing."
                )


def _settings(changed: Mapping[str, Any], within: str = "") -> Iterable[str]:
    """As ``--set`` takes them: ``hidden=[8, 8]``, ``one_shot.steps=50``."""
    for key, value in changed.items():
        if isinstance(value, Mapping) and value:
            yield from _settings(value, f"{within}{key}.")
        else:
            yield f"{within}{key}={json.dumps(value, ensure_ascii=False)}"


def _residuals(content: Content) -> Iterable[str]:
    """What was left unsolved at the last update: of each row the condition with most."""
    worst: dict[str, dict[str, float]] = {}
    for row in content["rows"]:
        for ours in row["ours"].values():
            for kind, left in ((ours or {}).get("residual") or {}).items():
                known = worst.setdefault(kind, {})
                values = [math.inf if value is None else value for value in left]
                known[row["title"]] = max(known.get(row["title"], 0.0), *values)
    for kind, rows in worst.items():
        told = ", ".join(f"{title} {_short(left, 2)}" for title, left in rows.items())
        yield f"Residual of {UNSOLVED[kind]} at the last update, largest of a row's: {told}."
