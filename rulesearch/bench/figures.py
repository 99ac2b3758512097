"""Figures of what was measured: time, and memory, along each suite's axis."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from rulesearch.bench.peers.registry import OURS, PEERS
from rulesearch.bench.results import FLOORS, Results, median
from rulesearch.bench.suites import SUITES
from rulesearch.files import make_folder, write_atomically
from rulesearch.report.style import GREY, LINES, STYLE, figure_bytes, label_ends, panels

__all__ = ["draw_suite", "write_figures"]

BLACK = "#3c4048"


def write_figures(results: Results, folder: Path) -> list[Path]:
    """Write ``bench-SUITE.svg`` for each suite of two points or more."""
    make_folder(folder)
    return [
        write_atomically(
            folder / f"bench-{suite}.svg", figure_bytes(draw_suite(results, suite), "svg")
        )
        for suite in results.suites()
        if len(results.points(suite)) > 1
    ]


@rc_context(STYLE)
def draw_suite(results: Results, suite: str) -> Figure:
    """Seconds, and megabytes beyond the idle process, of each peer along the suite's axis."""
    figure, (time, memory) = panels(2, height=4.0)
    rows = [row for value in results.points(suite) for row in results.at(suite, value)]
    axis = rows[0]["axis"]
    drawn: dict[Axes, list[tuple[float, str, str]]] = {time: [], memory: []}
    for name, colour in _colours().items():
        own = [row for row in rows if row["peer"] == name and row.get("seconds")]
        width = 2.0 if name == OURS else 1.0
        line = "--" if name in FLOORS else "-"
        for ax in (time, memory):
            points = [
                (row["value"], median(row) if ax is time else _held(row))
                for row in own
                if ax is time or "peak_bytes" in row
            ]
            if not points:
                continue
            x, y = zip(*points, strict=True)
            ax.plot(x, y, line, color=colour, linewidth=width, marker="o", markersize=2.5)
            drawn[ax].append((float(y[-1]), name, colour))
    title = SUITES[suite].title if suite in SUITES else suite
    figure.suptitle(title + "\n", x=0.01, ha="left", fontsize=9.5)
    for ax, what in ((time, "seconds"), (memory, "MB beyond the idle process")):
        ax.set(xscale="log", yscale="log", xlabel=axis, ylabel=what)
        ax.set_xticks(results.points(suite))
        ax.xaxis.set_major_formatter(ScalarFormatter())
        ax.xaxis.set_minor_formatter(NullFormatter())
        figure.draw_without_rendering()
        label_ends(ax, drawn[ax])
    return figure


def _held(row: dict[str, int]) -> float:
    """Megabytes, at least one: the axis is logarithmic."""
    return max(1.0, (row["peak_bytes"] - row["idle_bytes"]) / 1e6)


def _colours() -> dict[str, str]:
    others = [name for name in PEERS if name != OURS]
    cycle = [*LINES[1:], "#7b5ea7", "#6b4c2a", "#a3b800", "#c23b6d", "#2f4b7c", "#777777"]
    named = dict(zip(others, cycle, strict=False))
    return {**named, OURS: LINES[0], "floor": BLACK, "floor, fused": GREY}
