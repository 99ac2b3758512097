"""One look for all figures: type, palette, panels and labels at the ends of lines."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure, FigureBase, SubFigure

from rulesearch.analysis import Floats

__all__ = [
    "GREY",
    "LINES",
    "PHASE_COLOURS",
    "STYLE",
    "End",
    "figure_bytes",
    "label_ends",
    "layer_colours",
    "panels",
    "parts",
    "seeds_and_mean",
]

WIDTH = 7.1  # inches: two columns of a journal page
GREY = "#8a8f98"
# Okabe & Ito's palette, which keeps its contrasts for colour-blind readers; no yellow.
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
PHASE_COLOURS = {
    "search": "#0072b2",
    "refit": "#d55e00",
    "backprop": "#3c4048",
    "feedback_alignment": "#009e73",
}
STYLE: dict[Any, Any] = {
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 7,
    "axes.labelsize": 9,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "lines.solid_capstyle": "round",
    "savefig.transparent": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "rulesearch",
    "pdf.fonttype": 42,
}
LABEL_SIZE = 8.5
FAINT: dict[str, Any] = {"linewidth": 0.5, "alpha": 0.35, "zorder": 1.5}

End = tuple[float, str, str]


def panels(
    count: int, *, height: float, share_y: bool = False, widest: float = WIDTH
) -> tuple[Figure, list[Axes]]:
    """Return a figure of `count` panels side by side, `height` inches tall."""
    width = WIDTH if count > 1 else max(widest, 0.75 * WIDTH)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, count, sharey=share_y, squeeze=False)[0]
    return figure, list(axes)


def parts(figure: FigureBase, rows: int, columns: int = 1) -> list[SubFigure]:
    """Return parts whose panels are laid out each part by itself, row by row."""
    return list(np.ravel(figure.subfigures(rows, columns, squeeze=False)))


def seeds_and_mean(
    ax: Axes,
    x: Any,
    rows: Floats,
    colour: str,
    *,
    width: float = 1.3,
    marker: str = "",
    size: float = 4,
    style: str = "solid",
) -> float:
    """Draw the mean of the seeds, ``(seeds, x)``, over each of them, faint; return its last value.

    A faint line's markers are half as large; what is not finite is left out of the mean.
    """
    if len(x) == 1:
        marker = "o"  # one point makes no line
    if len(rows) > 1:
        ax.plot(x, rows.T, color=colour, marker=marker, markersize=size / 2, ls=style, **FAINT)
    mean = np.ma.masked_invalid(rows).mean(0).filled(np.nan)
    ax.plot(x, mean, color=colour, lw=width, ls=style, marker=marker, markersize=size, zorder=2)
    return float(mean[-1])


def layer_colours(count: int) -> list[str]:
    """Return `count` shades from shallow (light) to deep (dark), even in lightness."""
    return [to_hex(colour) for colour in colormaps["viridis"](np.linspace(0.78, 0.05, count))]


def label_ends(ax: Axes, ends: Sequence[End]) -> None:
    """Name lines at the right margin: (last value, text, colour) of each, never overlapping.

    The axes' limits must be final. A hair line ties each label to its line's end.
    """
    ends = sorted((end for end in ends if np.isfinite(end[0])), key=lambda end: end[0])
    to_axes = ax.transData + ax.transAxes.inverted()
    edge = ax.get_xlim()[1]
    wanted = np.array([to_axes.transform((edge, value))[1] for value, _, _ in ends]).clip(0, 1)
    inches = ax.figure.bbox.height / ax.figure.dpi - 0.7  # the axes' own, nearly
    for place, target, (_, text, colour) in zip(
        _apart(wanted, LABEL_SIZE * 1.3 / 72 / inches), wanted, ends, strict=True
    ):
        ax.plot(
            [1.005, 1.02, 1.03],
            [target, place, place],
            transform=ax.transAxes,
            color=colour,
            linewidth=0.5,
            clip_on=False,
        )
        ax.text(
            1.04,
            place,
            text,
            transform=ax.transAxes,
            color=colour,
            fontsize=LABEL_SIZE,
            va="center",
        )


def _apart(wanted: Floats, gap: float) -> Floats:
    """Move sorted places as little as possible (least squares) to be `gap` apart.

    With the gaps subtracted the places need only not decrease: pool adjacent violators.
    """
    shifted = wanted - gap * np.arange(len(wanted))
    blocks: list[tuple[float, int]] = []
    for value in shifted:
        mean, size = float(value), 1
        while blocks and blocks[-1][0] > mean:
            above, count = blocks.pop()
            mean, size = (above * count + mean * size) / (count + size), count + size
        blocks.append((mean, size))
    settled = np.concatenate([np.full(size, mean) for mean, size in blocks] or [shifted])
    return np.asarray(settled + gap * np.arange(len(wanted)))


def figure_bytes(figure: Figure, form: str) -> bytes:
    """Return the figure as a ``svg`` or ``pdf`` file, the same bytes for the same figure."""
    dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with rc_context(STYLE), io.BytesIO() as stream:
        figure.savefig(stream, format=form, metadata=dated[form])
        return stream.getvalue()
