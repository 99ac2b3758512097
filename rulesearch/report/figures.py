"""The figures of a run: each function takes a :class:`RunData` and returns a Figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rulesearch.analysis import bootstrap_interval, running_mean
from rulesearch.report.run_data import Floats, RunData
from rulesearch.report.style import (
    GREY,
    LINES,
    PHASE_COLOURS,
    STYLE,
    End,
    label_ends,
    layer_colours,
    panels,
)
from rulesearch.report.table import PHASE_NAMES
from rulesearch.report.typeset import math_label

__all__ = [
    "PLATES",
    "Plate",
    "alignment",
    "coefficients",
    "kept_terms",
    "meta_learning",
    "orthonormality",
]

SHORT_NAMES = {**PHASE_NAMES, "search": "pool", "refit": "survivors"}


@rc_context(STYLE)
def meta_learning(run: RunData) -> Figure:
    """Meta-accuracy and meta-loss of the search, the refit and both controls."""
    figure, axes = panels(2, height=2.5)
    window = _window(run)
    for ax, quantity in zip(axes, ("accuracy", "loss"), strict=True):
        ends = []
        for phase, curves in run.curves.items():
            rows = running_mean(run.shown(getattr(curves, quantity)), window)
            colour = PHASE_COLOURS[phase]
            last = _band(ax, curves.updates, rows, colour)
            ends.append((last, SHORT_NAMES[phase], colour))
        ax.set_xlabel(f"update (running mean over {window})" if window > 1 else "update")
        ax.set_title(f"meta-{quantity}")
        ax.set_ylim(bottom=0.0)
        label_ends(ax, ends)
    return figure


@rc_context(STYLE)
def coefficients(run: RunData) -> Figure:
    """Coefficients of every candidate term over the search, those left out in grey."""
    figure, (ax,) = panels(1, height=max(3.4, 0.5 + 0.18 * len(run.terms)))
    curves = run.curves["search"]
    theta = 1e3 * run.shown(curves.theta)
    colours = iter(LINES * len(run.terms))
    ends = []
    for index, term in enumerate(run.terms):
        alive = term.name in run.kept
        colour = next(colours) if alive else GREY
        last = _band(ax, curves.updates, theta[:, :, index], colour, faint=not alive)
        ends.append((last, math_label(term.name, term.latex), colour))
    ax.axhline(0.0, color="black", linewidth=0.4, zorder=0)
    ax.set_xlabel("update")
    ax.set_ylabel(r"coefficient $\theta$ ($10^{-3}$)")
    label_ends(ax, ends)
    return figure


@rc_context(STYLE)
def alignment(run: RunData) -> Figure:
    """Angle between the error carried by the feedback and backprop's, per layer."""
    shown = [phase for phase in run.probes if phase != "backprop"]
    figure, axes = panels(len(shown), height=2.4, share_y=True)
    count = run.probes[shown[0]].angles.shape[2]
    ends = []
    for ax, phase in zip(axes, shown, strict=True):
        probes = run.probes[phase]
        ends.append(_layers(ax, probes.updates, run.shown(probes.angles), range(count)))
        ax.set_title(PHASE_NAMES[phase])
        ax.axhline(90.0, color="black", linewidth=0.4, linestyle=(0, (4, 4)), zorder=0)
    top = max(95.0, axes[0].get_ylim()[1])
    axes[0].set(ylim=(0.0, top), yticks=np.arange(0.0, top, 30.0))
    axes[0].set_ylabel("angle to backprop (°)")
    for ax, lines in zip(axes, ends, strict=True):
        label_ends(ax, lines)
    return figure


@rc_context(STYLE)
def orthonormality(run: RunData) -> Figure:
    """Orthonormality error (Eq. 10 of the rule-discovery paper) per layer but the last."""
    figure, axes = panels(len(run.probes), height=2.4, share_y=True)
    ends = []
    for ax, (phase, probes) in zip(axes, run.probes.items(), strict=True):
        ax.set_yscale("log")
        layers = range(1, max(probes.orthonormality.shape[2], 2))
        ends.append(_layers(ax, probes.updates, run.shown(probes.orthonormality), layers))
        ax.set_title(PHASE_NAMES[phase])
    for ax, lines in zip(axes, ends, strict=True):
        label_ends(ax, lines)
    axes[0].set_ylabel(r"orthonormality error $E_W$")
    return figure


@rc_context(STYLE)
def kept_terms(run: RunData) -> Figure:
    """Share of the seeds that kept each term; a panel for each penalty where known."""
    shares = _shares(run)
    height = 0.75 + 0.19 * len(run.terms)
    figure, axes = panels(len(shares), height=height, share_y=True, widest=3.2)
    places = np.arange(len(run.terms))
    for ax, (lam, share) in zip(axes, shares.items(), strict=True):
        picked = lam == run.lam
        values = np.array([share.get(term.name, 0.0) for term in run.terms])
        alive = [picked and term.name in run.kept for term in run.terms]
        colours = [PHASE_COLOURS["search"] if a else "#c9ccd1" for a in alive]
        ax.barh(places, values, height=0.62, color=colours)
        for place, value in zip(places, values, strict=True):
            text = f"{round(value * len(run.seeds))}" if value else "0"
            ax.annotate(
                text,
                (value, place),
                (3, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
                color="black" if value else GREY,
            )
        ax.set(xlim=(0.0, 1.12), xticks=[0.0, 0.5, 1.0], xticklabels=["0", "½", "1"])
        if len(shares) > 1:
            ax.set_title(_penalty(lam), color=PHASE_COLOURS["search"] if picked else "black")
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
    names = [math_label(term.name, term.latex) for term in run.terms]
    axes[0].set_yticks(places, names)
    axes[0].set_ylim(len(run.terms) - 0.4, -0.6)
    figure.supxlabel(f"share of {len(run.seeds)} seeds that kept the term", fontsize=8.5)
    return figure


@dataclass(frozen=True)
class Plate:
    """A figure of the report: file name, heading, caption, and whether a run has its data."""

    name: str
    title: str
    caption: str
    draw: Callable[[RunData], Figure]
    available: Callable[[RunData], bool]


PLATES = (
    Plate(
        "meta_learning",
        "Learning to learn",
        "Accuracy and cross-entropy on each lifetime's held-out queries, while the outer loop "
        "improves the coefficients. Lines are means over the seeds, bands 98% bootstrap intervals.",
        meta_learning,
        lambda run: bool(run.curves),
    ),
    Plate(
        "coefficients",
        "Coefficients",
        "Coefficient of every candidate term during the search, unscaled. "
        "Terms that did not make it into the rule are grey.",
        coefficients,
        lambda run: "search" in run.curves,
    ),
    Plate(
        "kept_terms",
        "What the seeds agree on",
        "How many of the independent searches kept each term; the rule and its penalty in blue.",
        kept_terms,
        lambda run: run.result is not None,
    ),
    Plate(
        "alignment",
        "Alignment of the errors",
        "Angle between the error that the feedback carries to a layer and the one that backprop "
        "would; errors are averaged over the queries first. Layer 0 is the input.",
        alignment,
        lambda run: bool(run.probes.keys() - {"backprop"}),
    ),
    Plate(
        "orthonormality",
        "Orthonormality of the weights",
        "Distance of each layer's weights from a fixed point of Oja's subspace rule, the last "
        "layer left out. Low values mean nearly orthonormal rows.",
        orthonormality,
        lambda run: bool(run.probes),
    ),
)


def _window(run: RunData) -> int:
    longest = max(curves.updates.size for curves in run.curves.values())
    return max(1, longest // 40)


def _penalty(lam: float | None) -> str:
    return "no penalty" if not lam else rf"$\lambda={lam:g}$"


def _shares(run: RunData) -> dict[float | None, dict[str, float]]:
    """Share of seeds that kept a term, by penalty; only the pick's if no other is recorded."""
    if run.result is None:
        return {}
    front = {e["lam"]: e["share"] for e in run.result["front"] if "share" in e}
    return front or {run.lam: {row["name"]: row["share"] for row in run.result["table"]}}


def _band(ax: Axes, x: Floats, rows: Floats, colour: str, *, faint: bool = False) -> float:
    """Draw mean and 98% band; return where the line ends."""
    mean, low, high = bootstrap_interval(rows)
    ax.fill_between(x, low, high, color=colour, alpha=0.12 if faint else 0.22, linewidth=0)
    ax.set_xlim(x[0], x[-1] + (x[-1] - x[-2] if x.size > 1 else 1.0))
    width, order = (0.8, 1.5) if faint else (1.3, 2.0)
    dot = "o" if x.size == 1 else ""  # one point makes no line
    ax.plot(x, mean, color=colour, linewidth=width, zorder=order, marker=dot, markersize=3)
    seen = mean[np.isfinite(mean)]
    return float(seen[-1]) if seen.size else float("nan")


def _layers(ax: Axes, x: Floats, values: Floats, layers: Sequence[int]) -> list[End]:
    """Draw a band for each layer; return what to write at their ends."""
    ends = []
    for index, (layer, colour) in enumerate(zip(layers, layer_colours(len(layers)), strict=True)):
        last = _band(ax, x, values[:, :, index], colour)
        ends.append((last, rf"$\ell={layer}$", colour))
    ax.set_xlabel("update")
    return ends
