"""What a path of penalties shows: the coefficients it leaves, and what they lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rulesearch.analysis import Floats
from rulesearch.report.run_data import RunData
from rulesearch.report.style import GREY, LINES, PHASE_COLOURS, STYLE, label_ends, panels
from rulesearch.report.typeset import math_label

__all__ = ["has_path", "penalty_path"]

SHORTEST = 3  # penalties that make a path worth drawing
PICK = PHASE_COLOURS["search"]


def has_path(run: RunData) -> bool:
    """Whether enough penalties were judged on held-out tasks."""
    return len(_judged(run)) >= SHORTEST


@rc_context(STYLE)
def penalty_path(run: RunData) -> Figure:
    """Scaled coefficients of every penalty's rule, and what it loses on held-out tasks."""
    front = _judged(run)
    lams = np.array([entry["lam"] for entry in front])
    figure, (left, right) = panels(2, height=2.7)
    for ax in (left, right):
        ax.set_xscale("log" if lams[0] > 0 else "linear")
        ax.set_xlabel(r"penalty $\lambda$")
        ax.axvline(float(run.lam or 0.0), color=PICK, linewidth=5, alpha=0.15, zorder=0)
    _coefficients(left, lams, front, run)
    _losses(right, lams, front, run.lam)
    return figure


def _judged(run: RunData) -> list[Mapping[str, Any]]:
    """The front's entries with a held-out loss, smallest penalty first."""
    front = () if run.result is None else run.result["front"]
    judged = [entry for entry in front if entry.get("held_out_loss") is not None]
    return sorted(judged, key=lambda entry: float(entry["lam"]))


def _coefficients(ax: Axes, lams: Floats, front: Sequence[Mapping[str, Any]], run: RunData) -> None:
    scales = run.manifest.get("scales") or [1.0] * len(run.terms)
    colours = iter(LINES * len(run.terms))
    ends = []
    for term, scale in zip(run.terms, scales, strict=True):
        t = np.array([1e3 * entry["coefficients"].get(term.name, 0.0) / scale for entry in front])
        if not t.any():
            continue
        picked = term.name in run.kept
        colour = next(colours) if picked else GREY
        width, order = (1.3, 2.0) if picked else (0.8, 1.5)
        ax.plot(lams, t, color=colour, linewidth=width, zorder=order, marker="o", markersize=2.5)
        last = np.flatnonzero(t)[-1]
        if last == len(t) - 1:
            ends.append((float(t[-1]), math_label(term.name, term.latex), colour))
        else:  # named where it leaves the path
            ax.annotate(
                term.name, (lams[last], t[last]), (0, 3), textcoords="offset points",
                ha="center", fontsize=7, color=colour,
            )  # fmt: skip
    ax.axhline(0.0, color="black", linewidth=0.4, zorder=0)
    ax.set_title(r"coefficients, scaled ($10^{-3}$)")
    label_ends(ax, ends)


def _losses(ax: Axes, lams: Floats, front: Sequence[Mapping[str, Any]], lam: float | None) -> None:
    losses, errors = (
        np.array([entry[key] for entry in front]) for key in ("held_out_loss", "held_out_error")
    )
    best = int(losses.argmin())
    ax.axhline(losses[best] + errors[best], color="black", linewidth=0.6, linestyle=(0, (4, 4)))
    bar: dict[str, Any] = {"capsize": 2, "linewidth": 0.8, "markersize": 3.5}
    ax.errorbar(lams, losses, errors, color=GREY, fmt="o", **bar)
    for entry, loss, error in zip(front, losses, errors, strict=True):
        if entry["lam"] == lam:
            ax.errorbar([entry["lam"]], [loss], [error], color=PICK, fmt="o", **bar)
        terms = str(len(entry["coefficients"]))
        place = (entry["lam"], loss + error)
        ax.annotate(terms, place, (0, 3), textcoords="offset points", ha="center", fontsize=7)
    typical = float(np.median(losses))
    if losses.max() > 2 * typical:  # a penalty that leaves nothing must not flatten the rest
        ax.set_ylim(losses[best] - errors[best] - 0.1 * typical, 2 * typical)
    ax.set_title("held-out loss, and number of terms")
