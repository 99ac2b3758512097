"""Tables of what was measured, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rulesearch.bench.consolidation import Consolidation
from rulesearch.bench.episode import Episode
from rulesearch.bench.kinds import problem_of
from rulesearch.bench.peers.registry import OURS
from rulesearch.bench.results import Results, median
from rulesearch.bench.suites import SUITES
from rulesearch.report.grid import markdown_grid

__all__ = ["print_tables", "tables_in_markdown"]

Json = dict[str, Any]
NONE = "-"
META_TRAINING = 20_000  # episodes
COLUMNS = (
    "peer", "s, median (min-max)", "lifetimes/s", "times ours", "MB beyond idle", "MB in all",
    "error", "compile s",
)  # fmt: skip


class Section(NamedTuple):
    """One table: a problem, its peers' cells, and what follows from them."""

    suite: str
    title: str
    rows: list[tuple[str, ...]]
    note: str


def print_tables(results: Results, console: Console) -> None:
    """Print all tables, and what was measured besides."""
    console.print(_machine(results), highlight=False, soft_wrap=True)
    for section in _sections(results):
        table = Table(title=section.title, title_justify="left", title_style="bold")
        for k, column in enumerate(COLUMNS):
            table.add_column(column, justify="right" if k else "left", no_wrap=k == 0)
        for row in section.rows:
            style = "bold" if row[0] == OURS else "dim" if row[0].startswith("floor") else ""
            table.add_row(*map(Text, row), style=style)  # Text: brackets are no markup
        console.print(table)
        if section.note:
            console.print(section.note, highlight=False, soft_wrap=True)
    for line in _first_use(results):
        console.print(line, highlight=False, soft_wrap=True)


def tables_in_markdown(results: Results) -> str:
    """The same tables for the documentation's page."""
    parts, suite = [_machine(results)], ""
    for section in _sections(results):
        if section.suite != suite:
            suite = section.suite
            parts.append(f"### {SUITES[suite].title if suite in SUITES else suite}")
        parts.append(f"**{section.title}**\n\n{markdown_grid([COLUMNS, *section.rows])}")
        parts += [section.note] * bool(section.note)
    lines_of_first_use = list(_first_use(results))
    if lines_of_first_use:
        parts.append("### First use\n\n" + "\n".join(lines_of_first_use))
    return "\n\n".join(parts)


def _sections(results: Results) -> Iterable[Section]:
    for suite in results.suites():
        for value in results.points(suite):
            rows = results.at(suite, value)
            ours = results.ours(suite, value)
            cells = [_cells(row, ours) for row in rows]
            yield Section(suite, _title(results, rows), cells, _note(rows))


def _title(results: Results, rows: list[Json]) -> str:
    problem = rows[0]["problem"]
    sizes = problem["sizes"]
    shape = "-".join(map(str, sizes)) if len(sizes) < 8 else f"{len(sizes) - 2} hidden layers"
    ranks = {r["remarks"]["rank"] for r in rows if "rank" in r.get("remarks", ())}
    parts = [
        _count(problem["lifetimes"], "lifetime"), _count(problem["steps"], "step"),
        _count(problem["examples"], "example") + " a step", shape,
        problem_of(problem).about + "".join(f" (rank {rank})" for rank in sorted(ranks)),
    ]  # fmt: skip
    return ", ".join(parts)


def _note(rows: list[Json]) -> str:
    """What follows from a table, for problems of one kind."""
    problem = problem_of(rows[0]["problem"])
    if isinstance(problem, Episode):
        return _meta_training(rows)
    return _cost_a_step(rows) if isinstance(problem, Consolidation) else _drift(rows)


def _drift(rows: list[Json]) -> str:
    """How far rebuilt weights were from their checkpoints, and what was done about it."""
    told = [
        f"{row['peer']} {remarks['drift']:.1e}"
        + (
            f" ({_count(remarks['recomputed'], 'segment')} recomputed)"
            * bool(remarks["recomputed"])
        )
        for row in rows
        if (remarks := row.get("remarks", {})).get("drift") is not None
    ]
    return f"Largest drift of rebuilt weights: {'; '.join(told)}." if told else ""


def _cost_a_step(rows: list[Json]) -> str:
    """What a step of learning takes, with all that the meta-gradient needs."""
    taken = {
        row["peer"]: 1e3 * seconds / row["remarks"]["steps"]
        for row in rows
        if (seconds := median(row)) is not None
    }
    plain = taken.get("learning")
    told = (
        f"{name} {ms:.3g}" + (f" ({ms / plain:.2f} times)" if plain and ms != plain else "")
        for name, ms in taken.items()
    )
    return f"Milliseconds a step of learning: {'; '.join(told)}."


def _meta_training(rows: list[Json]) -> str:
    """How long a meta-training is that runs so many episodes of FLP."""
    rates = {
        row["peer"]: 3600 * row["problem"]["lifetimes"] / seconds
        for row in rows
        if (seconds := median(row)) is not None
    }
    told = (f"{name} {n:,.0f} an hour, {META_TRAINING / n:.1f} h" for name, n in rates.items())
    return f"Episodes an hour, and hours for {META_TRAINING:,}: {'; '.join(told)}."


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + "s" * (number != 1)


def _cells(row: Json, ours: float | None) -> tuple[str, ...]:
    middle, name = median(row), row["peer"]
    if middle is None:
        return name, f"{row['status']}: {row['reason']}", *[NONE] * (len(COLUMNS) - 2)
    times = NONE if ours is None or name == OURS else f"{middle / ours:.3g}"
    rate = f"{row['problem']['lifetimes'] / middle:.3g}"
    if row["status"] == "floor":
        return f"{name} ({row['reason']})", _seconds(middle), rate, times, *[NONE] * 4
    low, high = (_seconds(bound) for bound in (min(row["seconds"]), max(row["seconds"])))
    compiled = row["compile_seconds"]
    return (
        name,
        f"{_seconds(middle)} ({low}-{high})",
        rate,
        times,
        f"{(row['peak_bytes'] - row['idle_bytes']) / 1e6:,.0f}",
        f"{row['peak_bytes'] / 1e6:,.0f}",
        f"{row['gradient_error']:.1e}",
        NONE if compiled is None else f"{compiled:.1f}",
    )


def _seconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _machine(results: Results) -> str:
    m = results.machine
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items())
    copies = ", ".join(f"{r['bytes'] >> 20} MB {r['gb_per_s']:.0f}" for r in m["copies"])
    return (
        f"{m['processor']}, {m['cores']} cores, {m['memory_gb']} GB, {m['system']}, on "
        f"{m['device']}; {versions}. Copies in GB/s by size: {copies}; "
        f"float32 matrix product {m['matrix_gflop_per_s']:.0f} GFLOP/s."
    )


def _first_use(results: Results) -> Iterable[str]:
    told = {"first": "with an empty cache", "second": "in a second process"}
    for which, found in results.first_use.items():
        yield (
            f"First gradient {told[which]}: {found['seconds']:.2f} s "
            f"({found['process_seconds']:.1f} s the whole process)."
        )
