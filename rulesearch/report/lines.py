"""Lines with bands: drawn, named at their ends, and limits that no outlier sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from rulesearch.analysis import Floats, Interval, bootstrap_interval
from rulesearch.report.style import label_ends, layer_colours

__all__ = ["Line", "draw_band", "draw_layers", "label_lines", "set_limits"]

REACH = 2.0  # how far beyond the lines their bands may push the limits, as a factor
DECADES = 100.0  # a ratio that only a logarithmic axis shows


@dataclass(frozen=True)
class Line:
    """A line that was drawn: where, its band, and what to write at its end."""

    x: Floats
    band: Interval
    text: str
    colour: str


def draw_band(
    ax: Axes,
    x: Floats,
    rows: Floats,
    text: str,
    colour: str,
    *,
    faint: bool = False,
    typical: bool = False,
) -> Line:
    """Draw the mean of the rows, or the typical row's median, and its 98% band."""
    band = bootstrap_interval(rows, statistic="median" if typical else "mean")
    ax.fill_between(
        x, band.low, band.high, color=colour, alpha=0.12 if faint else 0.22, linewidth=0
    )
    width, order = (0.8, 1.5) if faint else (1.3, 2.0)
    dot = "o" if x.size == 1 else ""  # one point makes no line
    ax.plot(x, band.centre, color=colour, linewidth=width, zorder=order, marker=dot, markersize=3)
    return Line(x, band, text, colour)


def draw_layers(
    ax: Axes, x: Floats, values: Floats, layers: Sequence[int], *, typical: bool = False
) -> list[Line]:
    """Draw a band for each layer."""
    ax.set_xlabel("update")
    return [
        draw_band(ax, x, values[:, :, index], rf"$\ell={layer}$", colour, typical=typical)
        for index, (layer, colour) in enumerate(
            zip(layers, layer_colours(len(layers)), strict=True)
        )
    ]


def label_lines(ax: Axes, lines: Sequence[Line]) -> None:
    """Name lines at the right margin; the vertical limits must be final."""
    edge = max((float(line.x[-1]) for line in lines), default=0.0) + 1.0
    ax.set_xlim(min((float(line.x[0]) for line in lines), default=0.0), edge)
    ends = []
    for line in lines:
        seen = line.band.centre[np.isfinite(line.band.centre)]
        last = float(seen[-1]) if seen.size else float("nan")
        ends.append((last, line.text, line.colour))
        if line.x[-1] < edge - 1.0:  # a shorter phase: lead the eye on to its name
            dots = (0, (1, 3))
            ax.plot([line.x[-1], edge], [last] * 2, color=line.colour, lw=0.6, linestyle=dots)
    label_ends(ax, ends)


def set_limits(ax: Axes, lines: Sequence[Line]) -> None:
    """Set limits by what most updates show: an outlier or its band must not flatten the rest.

    The axis is logarithmic where the lines span decades, and starts from zero where not.
    """
    if not lines:
        return
    bands = [np.concatenate(parts) for parts in zip(*(line.band for line in lines), strict=True)]
    centre, lows, highs = bands
    high = min(_quantile(highs, 0.98), REACH * _quantile(centre, 0.98))
    low = max(_quantile(lows, 0.02), _quantile(centre, 0.02) / REACH)
    if low > 0 and (ax.get_yscale() == "log" or high > DECADES * low):
        ax.set_yscale("log")
        ax.set_ylim(low / 1.5, high * 1.5)
    elif high > 0:
        ax.set_ylim(0.0, 1.08 * high)


def _quantile(values: Floats, share: float) -> float:
    known = values[np.isfinite(values)]
    return float(np.quantile(known, share)) if known.size else float("nan")
