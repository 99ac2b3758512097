"""FLP's Figure 2, the inner learning curves of its appendix C, and longer lifetimes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from rulesearch.analysis import Floats
from rulesearch.report.style import (
    GREY,
    LINES,
    STYLE,
    WIDTH,
    label_ends,
    layer_colours,
    parts,
    seeds_and_mean,
)

__all__ = ["Anatomy", "InnerCurves", "figure2", "image_curves", "learning_curves", "longer_lives"]

COLOURS = {
    "Feature reuse (1)": LINES[3],
    "FLP (2)": LINES[2],
    "FLP (3)": LINES[0],
    "Gradient (3)": LINES[1],
    "Gradient (3), first order": LINES[4],
}
IMAGE_LINES: Mapping[str, tuple[str, str]] = {
    "Feature reuse (1)": (LINES[3], "solid"),
    "FLP (2)": (LINES[0], "solid"),
    "Gradient (2)": (LINES[1], "solid"),
    "Gradient (2), first order": (LINES[4], "solid"),
    "Gradient (2), random": (LINES[1], "dashed"),
    "Gradient (2), random, first order": (LINES[4], "dashed"),
    "Original OML (2)": (LINES[2], "solid"),
}
ROW, TALL = 2.15, 2.8  # inches


@dataclass(frozen=True)
class Anatomy:
    """What Figure 2 is drawn from: means over lifetimes, a row a seed; what is empty is left out.

    Attributes
    ----------
    usual, frozen : mapping to array, (seeds,)
        By plastic layers: test error of networks that learn, and of a linear readout of the same
        networks at birth.
    interference : mapping to array, (seeds, functions - 1)
        By the network's title: change of the outputs for earlier sines.
    alignment : mapping to array, (seeds, steps, layers)
        By title: cosine of updates and the negative gradient.
    magnitude : mapping to array, (seeds, steps, layers)
        By title: norm of updates.
    layers : tuple of str
        Names of the plastic layers of the last two, first to last.
    """

    usual: Mapping[int, Floats]
    frozen: Mapping[int, Floats]
    interference: Mapping[str, Floats]
    alignment: Mapping[str, Floats]
    magnitude: Mapping[str, Floats]
    layers: tuple[str, ...]


@dataclass(frozen=True)
class InnerCurves:
    """Learning within a lifetime under one condition: means over lifetimes, a row a seed.

    Attributes
    ----------
    online : mapping to array, (seeds, steps)
        By the network's title: error for a step's examples before they are learnt.
    query : mapping to array, (seeds, points)
        Error on all queries, at equal distances from birth to the end of life.
    """

    online: Mapping[str, Floats]
    query: Mapping[str, Floats]


Draw = Callable[[Anatomy, Sequence[Axes]], None]


@rc_context(STYLE)
def figure2(data: Anatomy) -> Figure:
    """Draw the panels of FLP's Figure 2 that there is data for."""
    plates: list[list[tuple[Draw, int, Mapping[Any, Floats]]]] = [
        [(_readout, 1, data.usual), (_interference, 1, data.interference)],
        [(_alignment, 1, data.alignment)],
        [(_magnitude, len(data.layers), data.magnitude)],
    ]
    rows = [[(draw, count) for draw, count, known in row if known] for row in plates]
    rows = [row for row in rows if row]
    figure = Figure(figsize=(WIDTH, ROW * len(rows)), layout="constrained")
    for row, part in zip(rows, parts(figure, len(rows)), strict=True):
        for (draw, count), place in zip(row, parts(part, 1, len(row)), strict=True):
            draw(data, place.subplots(1, count, sharey=True, squeeze=False)[0])
    return figure


@rc_context(STYLE)
def learning_curves(data: Mapping[str, InnerCurves]) -> Figure:
    """Draw how errors fall within a lifetime, a row a condition."""
    figure = Figure(figsize=(WIDTH, ROW * len(data)), layout="constrained")
    for part, (condition, curves) in zip(parts(figure, len(data)), data.items(), strict=True):
        online, query = part.subplots(1, 2, sharey=True)
        steps = next(iter(curves.online.values())).shape[-1]
        for title, rows in curves.online.items():
            seeds_and_mean(online, np.arange(steps), rows, COLOURS[title], width=0.9)
        ends = []
        for title, rows in curves.query.items():
            x = np.linspace(0, steps, rows.shape[-1])
            ends.append((seeds_and_mean(query, x, rows, COLOURS[title]), title, COLOURS[title]))
        _logarithmic(online, [*curves.online.values(), *curves.query.values()])
        for ax in (online, query):
            ax.set_xlim(0, steps)
            ax.set_xlabel("step")
        online.set_ylabel("mean squared error")
        online.set_title(f"{condition}: each batch before it is learnt")
        query.set_title(f"{condition}: queries of all sines")
        label_ends(query, ends)
    return figure


@rc_context(STYLE)
def image_curves(data: Mapping[str, Mapping[str, Floats]]) -> Figure:
    """Draw how many queries are answered wrongly within a lifetime, a panel a condition.

    Parameters
    ----------
    data : mapping to mapping to array, (seeds, 1 + steps)
        Percentages by condition and the network's title, at birth first.
    """
    plates = [list(data.items())[i : i + 2] for i in range(0, len(data), 2)]
    figure = Figure(figsize=(WIDTH, TALL * len(plates)), layout="constrained")
    for plate, part in zip(plates, parts(figure, len(plates)), strict=True):
        axes = part.subplots(1, len(plate), sharey=True, squeeze=False)[0]
        for (title, networks), ax in zip(plate, axes, strict=True):
            ends = []
            for name, rows in networks.items():
                x, (colour, style) = np.arange(rows.shape[-1]), IMAGE_LINES[name]
                ends.append((seeds_and_mean(ax, x, rows, colour, style=style), name, colour))
            ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
            ax.set(xlim=(0, x[-1]), xlabel="images learnt")
            ax.set_title(title)
        axes[0].set_ylim(bottom=0)
        axes[0].set_ylabel("% error, queries of all classes")
        label_ends(ax, ends)  # only beside the last panel
    return figure


@rc_context(STYLE)
def longer_lives(times: Sequence[int], lives: Mapping[str, Mapping[str, Floats]]) -> Figure:
    """Draw errors after longer lifetimes, a panel for each way of living longer.

    Parameters
    ----------
    times : sequence of int
        Lengths, as multiples of the length in meta-training.
    lives : mapping to mapping to array, (seeds, lengths)
        Errors by the panel's title and the network's. Where an error of a seed is not finite,
        the line leaves the panel, dotted.
    """
    columns = min(2, len(lives))
    rows = -(-len(lives) // columns)
    figure = Figure(figsize=(WIDTH, ROW * rows), layout="constrained")
    drawn = [errors for networks in lives.values() for errors in networks.values()]
    for part, (title, networks) in zip(parts(figure, rows, columns), lives.items(), strict=False):
        ax = part.subplots()
        ax.set_xscale("log")
        _logarithmic(ax, drawn)
        ends, top = [], ax.get_ylim()[1]
        for name, errors in networks.items():
            known, colour = int(np.isfinite(errors).all(0).cumprod().sum()), COLOURS[name]
            if not known:
                continue
            end = seeds_and_mean(ax, times[:known], errors[:, :known], colour, marker="o")
            if known < len(times):
                away, end = [end, top], top / 4  # its label below the title
                ax.plot(times[known - 1 : known + 1], away, color=colour, lw=0.9, ls=(0, (1, 2)))
            ends.append((end, name, colour))
        ax.set_xticks(times, [f"{n}x" for n in times])
        ax.minorticks_off()
        ax.set(xlim=(times[0] / 1.1, times[-1] * 1.1), xlabel="lifetime")
        ax.set_ylabel("mean squared error")
        ax.set_title(title)
        label_ends(ax, ends)
    return figure


def _readout(data: Anatomy, axes: Sequence[Axes]) -> None:
    (ax,) = axes
    _letter(ax, "A", "error after learning, and of features at birth")
    ends = []
    for errors, colour, text in (
        (data.usual, LINES[1], "after learning"),
        (data.frozen, LINES[0], "best readout at birth"),
    ):
        x = np.array(sorted(errors))
        rows = np.stack([errors[layers] for layers in x], axis=1)
        ends.append((seeds_and_mean(ax, x, rows, colour, marker="o"), text, colour))
    _logarithmic(ax, [*data.usual.values(), *data.frozen.values()])
    ax.set(xlim=(x[0] - 0.2, x[-1] + 0.07), xticks=x, xlabel="plastic layers")
    ax.set_ylabel("mean squared error")
    label_ends(ax, ends)


def _interference(data: Anatomy, axes: Sequence[Axes]) -> None:
    (ax,) = axes
    _letter(ax, "B", "interference of a new sine with earlier ones")
    ends = []
    for title, rows in data.interference.items():
        x = np.arange(2, rows.shape[-1] + 2)
        ends.append((seeds_and_mean(ax, x, rows, COLOURS[title]), title, COLOURS[title]))
    _logarithmic(ax, list(data.interference.values()))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlim((x[0], x[-1]) if len(x) > 1 else (1, 3))
    ax.set(xlabel="sines met", ylabel="squared change of outputs")
    label_ends(ax, ends)


def _alignment(data: Anatomy, axes: Sequence[Axes]) -> None:
    (ax,) = axes
    (title, values), colours = next(iter(data.alignment.items())), layer_colours(len(data.layers))
    _letter(ax, "C", f"{title}, continual: cosine of updates and the negative gradient")
    steps = values.shape[1]
    ends = []
    for k, (layer, colour) in enumerate(zip(data.layers, colours, strict=True)):
        ends.append(
            (seeds_and_mean(ax, np.arange(steps), values[..., k], colour, width=0.9), layer, colour)
        )
    ax.axhline(0, color="black", linewidth=0.4, zorder=0)
    functions = data.interference[title].shape[-1] + 1
    for sine in range(1, functions):
        ax.axvline(sine * steps / functions, color=GREY, lw=0.4, ls=(0, (1, 3)), zorder=0)
    low, high = ax.get_ylim()
    ax.set(xlim=(0, steps - 1), ylim=(max(low, -1), min(high, 1)), xlabel="step", ylabel="cosine")
    label_ends(ax, ends)


def _magnitude(data: Anatomy, axes: Sequence[Axes]) -> None:
    for k, (ax, layer) in enumerate(zip(axes, data.layers, strict=True)):
        ends = []
        for title, values in data.magnitude.items():
            x, colour = np.arange(values.shape[1]), COLOURS[title]
            ends.append((seeds_and_mean(ax, x, values[..., k], colour, width=0.9), title, colour))
        ax.set_title(layer)
        ax.set(xlim=(0, x[-1]), xlabel="step")
    _letter(axes[0], "D", f"size of updates, iid: {data.layers[0]}")
    axes[0].set_ylabel(r"$\|\Delta W\|$")
    _logarithmic(ax, list(data.magnitude.values()))
    label_ends(ax, ends)  # only beside the last panel


def _letter(ax: Axes, letter: str, title: str) -> None:
    ax.set_title(rf"$\mathbf{{{letter}}}$  {title}")


def _logarithmic(ax: Axes, drawn: Sequence[Floats]) -> None:
    """Logarithmic limits that hold everything positive, if anything is, but no far outliers."""
    values = np.concatenate([rows.ravel() for rows in drawn])
    values = values[np.isfinite(values) & (values > 0)]
    if values.size:
        ax.set_yscale("log")
        low, high = np.quantile(values, [0.002, 0.998])
        ax.set_ylim(low / 1.5, high * 1.5)
