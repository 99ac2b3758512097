"""The result as a table: for the terminal and, with booktabs, for a paper."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill
from typing import Any

from rulesearch.report.achievements import achievement_note, achievements, measure
from rulesearch.report.grid import broken, grid

__all__ = [
    "coefficient_text",
    "escaped",
    "exponent",
    "front_columns",
    "front_figure",
    "front_note",
    "front_terms",
    "interval_text",
    "latex_coefficient",
    "latex_table",
    "number",
    "share_text",
    "shares",
    "stability_note",
    "stability_rows",
    "text_table",
]

Result = Mapping[str, Any]

NONE = "-"
FEWER = "†"  # a figure is not over all seeds
WORD = re.compile(r"\S+ ?")
# LaTeX may be broken before a command or a sign, never inside a command's argument.
LATEX_PIECE = re.compile(r"[-+(]*\s*\\?(?:[^-+\\{}]|\{[^{}]*\})+|.")
WIDE = 92

# Key of an entry of the front, and the heading above it.
FRONT_COLUMNS = (
    ("accuracy", "accuracy"),
    ("refit_accuracy", "refitted"),
    ("loss", "loss"),
    ("refit_loss", "refitted"),
    ("held_out_loss", "held-out loss"),
)


def front_columns(result: Result) -> list[tuple[str, str]]:
    """Key and heading of what is known of each penalty: figures with it, and refitted without."""
    front: Sequence[Mapping[str, Any]] = result["front"]
    return [
        (key, heading)
        for key, heading in FRONT_COLUMNS
        if any(entry.get(key) is not None for entry in front)
    ]


def front_figure(entry: Mapping[str, Any], key: str) -> str:
    """A figure of the front; the one that the pick follows from has its standard error.

    The others are over the seeds that did not diverge, marked where some did.
    """
    value = number(entry.get(key))
    if key == "held_out_loss":
        error = entry.get("held_out_error")
        return value if error is None else f"{value} ± {error:.2g}"
    diverged = entry.get("refit_diverged" if key.startswith("refit_") else "diverged")
    return value + (FEWER if diverged and entry.get(key) is not None else "")


def front_note(result: Result) -> str:
    """What the mark means, where a figure of the front has it."""
    columns = front_columns(result)
    figures = [front_figure(entry, key) for entry in result["front"] for key, _ in columns]
    marked = any(figure.endswith(FEWER) for figure in figures)
    return f"{FEWER} over the seeds that did not diverge; others did" if marked else ""


def front_terms(entry: Mapping[str, Any]) -> list[Sequence[str]]:
    """The terms that a penalty left and, where the refit dropped some, those that stayed."""
    left, stayed = entry["terms"], entry.get("refit_terms", entry["terms"])
    return [left] if left == stayed else [left, stayed]


def shares(result: Result) -> list[tuple[str, str]]:
    """Key and heading of the shares of seeds that the table's rows tell."""
    refitted = any(row.get("refit_share") is not None for row in result["table"])
    return [("share", "kept"), *([("refit_share", "refit")] if refitted else [])]


def share_text(share: float | None, seeds: int) -> str:
    """``6/6`` seeds, or a percentage where their number is not known; a dash if there is none."""
    if share is None:
        return NONE
    return f"{round(share * seeds)}/{seeds}" if seeds else f"{share:.0%}"


def exponent(*values: float | None) -> int:
    """Decimal exponent of the largest of some numbers; 0 if all are zero or absent."""
    largest = max((abs(v) for v in values if v is not None), default=0.0)
    # Rounded to the three digits that are printed first: 9.999e-4 is 1.00e-3.
    return int(f"{largest:.2e}".partition("e")[2]) if largest and math.isfinite(largest) else 0


def coefficient_text(mean: float | None, spread: float | None) -> str:
    """Mean and spread with one exponent: ``( 8.41 ± 0.62)e-3``; a dash where no seed kept it."""
    if mean is None:
        return NONE
    power = exponent(mean, spread)
    unit = 10.0**power
    tail = f"e{power:+d}" if power else ""
    around = "" if spread is None else f" ± {spread / unit:.2f}"
    return f"({mean / unit:5.2f}{around}){tail}"


def latex_coefficient(mean: float | None, spread: float | None) -> str:
    r"""Mean and spread in LaTeX: ``(8.41 \pm 0.62)\times 10^{-3}``."""
    if mean is None:
        return "-"
    power = exponent(mean, spread)
    unit = 10.0**power
    around = "" if spread is None else rf" \pm {spread / unit:.2f}"
    value = f"{mean / unit:.2f}{around}"
    return rf"({value})\times 10^{{{power}}}" if power else value


def text_table(result: Result, width: int = 96) -> str:
    """Lay the result out as plain text, at most `width` columns wide where LaTeX can be broken.

    The penalties searched come first, the pick marked ``>``; then every term that some seed
    kept, those of the pick marked ``*``; then, if it was asked for, which terms searches on halves
    of the tasks kept; then what the rule achieves beside the controls.
    """
    blocks = [
        _front(result, width),
        _terms(result, width),
        _stability(result, min(width, 96)),
        _achievements(result, min(width, 96)),
    ]
    return "\n\n".join(block for block in blocks if block)


def _front(result: Result, width: int) -> str:
    front: Sequence[Mapping[str, Any]] = result["front"]
    if len(front) < 2:
        return ""
    columns = front_columns(result)
    if width < WIDE and len(columns) == len(FRONT_COLUMNS):  # what decided nothing gives way
        columns = [(key, heading) for key, heading in columns if key != "loss"]
    rows = [["", "lambda", *(heading for _, heading in columns), "terms kept by most seeds"]]
    for entry in front:
        mark = ">" if entry["lam"] == result["pick"].get("lam") else ""
        figures = [front_figure(entry, key) for key, _ in columns]
        terms = " -> ".join(" ".join(names) or "none" for names in front_terms(entry))
        rows.append([mark, number(entry["lam"], "g"), *figures, terms])
    table = grid(rows, "<" + ">" * (len(columns) + 1) + "<", width, WORD)
    note = front_note(result)
    return f"{table}\n{note}" if note else table


def _terms(result: Result, width: int) -> str:
    seeds = len(result["accuracy"].get("search") or [])
    told = shares(result)
    headings = [heading for _, heading in told]
    rows = [["", "term", "coefficient", *headings, "locality", "LaTeX"]]
    for row in result["table"]:
        if not (row["kept"] or row["share"]):
            continue
        value = coefficient_text(row["coefficient"], row["spread"])
        mark = "*" if row["kept"] else ""
        cells = [share_text(row[key], seeds) for key, _ in told]
        rows.append([mark, row["name"], value, *cells, row["locality"], row["latex"]])
    align = "<<<" + ">" * len(told) + "<"
    if width >= WIDE:
        return grid(rows, align + "<", width, LATEX_PIECE) + _dropped(result, width)
    # A narrow terminal gets the formula under its row instead of in a slim column.
    head, line, *body = grid([row[:-1] for row in rows], align, width).split("\n")
    for row, (_, *_, latex) in zip(body, rows[1:], strict=True):
        line += "\n" + ("\n" + " " * 9).join([row, *broken(latex, width - 9, LATEX_PIECE)])
    return f"{head}\n{line}{_dropped(result, width)}"


def _dropped(result: Result, width: int) -> str:
    """Name the terms that no seed kept: there is nothing to say of them but that."""
    names = [row["name"] for row in result["table"] if not (row["kept"] or row["share"])]
    title = "   kept by no seed:  "
    lines = broken(" ".join(names), max(width - len(title), 20), WORD)
    return f"\n{title}" + ("\n" + " " * len(title)).join(lines) if names else ""


def stability_rows(result: Result) -> list[list[str]]:
    """Mark, term, share of the searches on halves, the same of its group, group, and interval.

    The mark is ``*`` for what is called stable, ``+`` for collinear terms of which none is, but
    one or another nearly always kept; the interval is that of the refitted coefficient
    over the seeds, where it is in the rule.
    """
    intervals = {row["name"]: row["interval"] for row in result["table"] if row["kept"]}
    searched = result["stability"]["searches"] > 0
    rows = []
    for row in result["stability"]["terms"]:
        if not (row["share"] or row["name"] in intervals):
            continue
        ends = intervals.get(row["name"])
        rows.append(
            [
                "*" if row["stable"] else "+" if row["group_stable"] else "",
                row["name"],
                f"{row['share']:.0%}" if searched else NONE,
                f"{row['group_share']:.0%}" if searched and row["with"] else NONE,
                " ".join(row["with"]) or NONE,
                interval_text(*ends) if ends else NONE,
            ]
        )
    return rows


def stability_note(result: Result) -> str:
    """How many of the terms called stable may be there by chance."""
    found = result["stability"]
    left_out = found.get("left_out", 0)
    if not found["searches"]:
        return (
            f"no term is called stable: all {left_out} searches on halves of the tasks diverged "
            "too often to take an update; lower optimiser.rate or optimiser.scale_cap"
        )
    if found["threshold"] is None:
        return (
            f"no term is called stable: searches on halves of the tasks keep "
            f"{found['selected']:.1f} terms on average, too many for the bound on useless ones; "
            "a larger lambda keeps fewer"
        )
    groups = any(row["group_stable"] for row in found["terms"])
    return (
        f"* in {found['threshold']:.0%} or more of {found['searches']} searches on halves of the "
        f"tasks, which kept {found['selected']:.1f} terms on average; at most "
        f"{found['expected_false']:.2g} useless ones expected among them"
        + ("; + collinear terms, of which that many searches kept one or another" if groups else "")
        + (f"; left out are {left_out} that diverged too often to learn" if left_out else "")
    )


def _stability(result: Result, width: int) -> str:
    if "stability" not in result:
        return ""
    heading = ["", "term", "halves", "group", "collinear with", "98% interval of coefficient"]
    table = grid([heading, *stability_rows(result)], "<<>><<", width)
    return table + "\n" + fill(stability_note(result), width, subsequent_indent="  ")


def _achievements(result: Result, width: int) -> str:
    name = measure(result)
    rows = [["", name, "mean" if name == "accuracy" else "median", "98% interval"]]
    found = achievements(result)
    note, align = achievement_note(found), "<<><"
    for row in found:
        rows.append(["", row.name, number(row.centre), interval_text(row.low, row.high)])
    if note:
        align += ">"
        _add(rows, "seeds", (f"{row.finite}/{row.seeds}" for row in found))
    if any(row.p is not None for row in found):
        align += "<"
        chances = ("" if row.p is None else f"{row.p:.2g}" for row in found)
        _add(rows, "p vs feedback alignment", chances)
    table = grid(rows, align, width) if found else ""
    return f"{table}\n{fill(f'seeds: {note}', width)}" if note else table


def _add(rows: Sequence[list[str]], heading: str, cells: Iterable[str]) -> None:
    """Add a column."""
    for row, cell in zip(rows, [heading, *cells], strict=True):
        row.append(cell)


def number(value: float | None, form: str = "") -> str:
    """Format a number, three decimals or, if it is small or large, three digits; or a dash."""
    if value is None or math.isnan(value):
        return NONE
    if form:
        return format(value, form)
    size = abs(value)
    plain = ".3f" if size >= 0.1 or size == 0 else "#.3g"
    return format(value, plain if size == 0 or 1e-4 <= size < 1e4 else ".2e")


def interval_text(low: float | None, high: float | None) -> str:
    """``0.676 to 0.688``, or a dash where there is no interval."""
    return NONE if low is None or high is None else f"{number(low)} to {number(high)}"


def latex_table(result: Result) -> str:
    """Write the terms as a LaTeX ``tabular`` that needs only the booktabs package.

    The picked terms stand first, above a rule; below it what the search dropped.
    """
    seeds = len(result["accuracy"].get("search") or [])
    kept = [row for row in result["table"] if row["kept"]]
    dropped = [row for row in result["table"] if not row["kept"]]
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{tabular}{llrrl}",
        r"\toprule",
        rf"Term & $\Delta\mathbf{{W}}_{{\ell-1,\ell}}$ & Coefficient & "
        rf"Kept{f' (of {seeds})' if seeds else ''} & Locality \\",
        r"\midrule",
        *_latex_rows(kept, seeds),
        *([r"\midrule"] if kept and dropped else []),
        *_latex_rows(dropped, seeds),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _latex_rows(rows: Iterable[Mapping[str, Any]], seeds: int) -> list[str]:
    written = []
    for row in rows:
        value = latex_coefficient(row["coefficient"], row["spread"])
        share = str(round(row["share"] * seeds)) if seeds else rf"{100 * row['share']:.0f}\%"
        cells = [
            escaped(row["name"]),
            f"${row['latex']}$",
            f"${value}$",
            share,
            escaped(row["locality"]),
        ]
        written.append(" & ".join(cells) + r" \\")
    return written


def escaped(text: str) -> str:
    """Escape the characters that mean something to LaTeX."""
    special = {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "†": r"\textdagger{}",
    }
    return "".join(special.get(c, rf"\{c}" if c in "&%$#_{}" else c) for c in text)
