"""The figures of a run: each function takes a :class:`RunData` and returns a Figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from rulesearch.analysis import running_mean, running_median
from rulesearch.report.lines import draw_band, draw_layers, label_lines, set_limits
from rulesearch.report.path_figure import has_path, penalty_path
from rulesearch.report.run_data import PHASE_NAMES, RunData
from rulesearch.report.style import GREY, LINES, PHASE_COLOURS, STYLE, panels
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
    quantities = ("accuracy", "loss") if run.measure == "accuracy" else ("loss",)
    figure, axes = panels(len(quantities), height=2.5)
    window = _window(run)
    for ax, quantity in zip(axes, quantities, strict=True):
        typical = quantity == "loss"  # one lifetime on the edge of stability can lose millions
        smooth = running_median if typical else running_mean
        lines = []
        for phase, curves in run.curves.items():
            rows = run.shown(phase, getattr(curves, quantity))
            if rows.size:
                rows, name = smooth(rows, window), SHORT_NAMES[phase]
                colour = PHASE_COLOURS[phase]
                lines.append(draw_band(ax, curves.updates, rows, name, colour, typical=typical))
        smoothing = f" (running {'median' if typical else 'mean'} over {window})"
        ax.set_xlabel("update" + smoothing * (window > 1))
        ax.set_title(f"meta-{quantity}")
        set_limits(ax, lines)
        label_lines(ax, lines)
    return figure


@rc_context(STYLE)
def coefficients(run: RunData) -> Figure:
    """Coefficients of every candidate term over the search, those left out in grey."""
    figure, (ax,) = panels(1, height=max(3.4, 0.5 + 0.18 * len(run.terms)))
    curves = run.curves["search"]
    theta = 1e3 * run.shown("search", curves.theta)
    colours = iter(LINES * len(run.terms))
    lines = []
    for index, term in enumerate(run.terms):
        alive = term.name in run.kept
        colour = next(colours) if alive else GREY
        text = math_label(term.name, term.latex)
        lines.append(
            draw_band(ax, curves.updates, theta[:, :, index], text, colour, faint=not alive)
        )
    ax.axhline(0.0, color="black", linewidth=0.4, zorder=0)
    ax.set_xlabel("update")
    ax.set_ylabel(r"coefficient $\theta$ ($10^{-3}$)")
    label_lines(ax, lines)
    return figure


@rc_context(STYLE)
def alignment(run: RunData) -> Figure:
    """Angle between the error carried by the feedback and backprop's, per layer."""
    shown = [phase for phase in _probed(run) if phase != "backprop"]
    figure, axes = panels(len(shown), height=2.4, share_y=True)
    lines = []
    for ax, phase in zip(axes, shown, strict=True):
        probes = run.probes[phase]
        angles = run.shown(phase, probes.angles)
        lines.append(draw_layers(ax, probes.updates, angles, range(angles.shape[2])))
        ax.set_title(PHASE_NAMES[phase])
        ax.axhline(90.0, color="black", linewidth=0.4, linestyle=(0, (4, 4)), zorder=0)
    top = max(95.0, axes[0].get_ylim()[1])
    axes[0].set(ylim=(0.0, top), yticks=np.arange(0.0, top, 30.0))
    axes[0].set_ylabel("angle to backprop (°)")
    for ax, drawn in zip(axes, lines, strict=True):
        label_lines(ax, drawn)
    return figure


@rc_context(STYLE)
def orthonormality(run: RunData) -> Figure:
    """Orthonormality error (Eq. 10 of the rule-discovery paper) per layer but the last."""
    shown = _probed(run)
    figure, axes = panels(len(shown), height=2.4, share_y=True)
    lines = []
    for ax, phase in zip(axes, shown, strict=True):
        probes = run.probes[phase]
        errors = run.shown(phase, probes.orthonormality)
        layers = range(1, max(errors.shape[2], 2))
        lines.append(draw_layers(ax, probes.updates, errors, layers, typical=True))
        ax.set_title(PHASE_NAMES[phase])
    axes[0].set_yscale("log")
    set_limits(axes[0], [line for drawn in lines for line in drawn])
    for ax, drawn in zip(axes, lines, strict=True):
        label_lines(ax, drawn)
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
    caption: Callable[[RunData], str]
    draw: Callable[[RunData], Figure]
    available: Callable[[RunData], bool]


def _meta_learning_caption(run: RunData) -> str:
    what = "Accuracy and cross-entropy" if run.measure == "accuracy" else "Loss"
    lines = "means over the seeds (of losses medians)" if run.measure == "accuracy" else "medians"
    return (
        f"{what} on each lifetime's held-out queries, while the outer loop improves the "
        f"coefficients. Lines are {lines}, bands 98% bootstrap intervals; the survivors start "
        "where the search ended and learn without penalty, on tasks of their own."
    )


PLATES = (
    Plate(
        "meta_learning",
        "Learning to learn",
        _meta_learning_caption,
        meta_learning,
        lambda run: bool(run.curves),
    ),
    Plate(
        "coefficients",
        "Coefficients",
        lambda _: (
            "Coefficient of every candidate term during the search, under the penalty and "
            "unscaled. Terms that did not make it into the rule are grey."
        ),
        coefficients,
        lambda run: "search" in run.curves,
    ),
    Plate(
        "kept_terms",
        "What the seeds agree on",
        lambda _: (
            "How many of the independent searches kept each term; the rule and its penalty in blue."
        ),
        kept_terms,
        lambda run: run.result is not None,
    ),
    Plate(
        "penalty_path",
        "From penalty to penalty",
        lambda _: (
            "Left: the coefficients of each penalty's rule, refitted without it, on the scale that "
            "the penalty acts on; those of the pick in colour, and its penalty shaded. Right: what "
            "each rule loses on held-out tasks, with its standard error, and how many terms it "
            "has; the pick has the fewest below the dashed line, one standard error above the best."
        ),
        penalty_path,
        has_path,
    ),
    Plate(
        "alignment",
        "Alignment of the errors",
        lambda _: (
            "Angle between the error that the feedback carries to a layer and the one that "
            "backprop would; errors are averaged over the queries first. Layer 0 is the input."
        ),
        alignment,
        lambda run: bool(set(_probed(run)) - {"backprop"}),
    ),
    Plate(
        "orthonormality",
        "Orthonormality of the weights",
        lambda _: (
            "Distance of each layer's weights from a fixed point of Oja's subspace rule, the last "
            "layer left out; medians over the seeds. Low values mean nearly orthonormal rows."
        ),
        orthonormality,
        lambda run: bool(_probed(run)),
    ),
)


def _probed(run: RunData) -> list[str]:
    """Phases with probes of the rows shown, of networks that stayed finite."""
    found = run.probes.items()
    return [k for k, of in found if np.isfinite(run.shown(k, of.orthonormality)).any()]


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
