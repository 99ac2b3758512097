"""CML's Figure 1: errors of the contrastive meta-gradient against the nudging strength."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rulesearch.analysis import Floats
from rulesearch.outer.bilevel import error_bound
from rulesearch.report.style import STYLE, label_ends, layer_colours, panels, seeds_and_mean

__all__ = ["Nudging", "figure1"]

HEIGHT = 2.7  # inches
DASHED = (0, (4, 2))


@dataclass(frozen=True)
class Nudging:
    """What Figure 1 is drawn from; panels that there is no data for are left out.

    Attributes
    ----------
    betas : array, (betas,)
        Nudging strengths, ascending.
    error : mapping to array, (seeds, betas)
        By steps of learning: relative error of the meta-gradient of ridge regression.
    delta : mapping to float
        By steps: distance of the free solution from the true one.
    loss : mapping to array, (seeds, betas)
        By steps of the first phase: validation loss of a network after meta-learning.
    without : mapping to float
        By steps: the loss with the strengths of before.
    images : str
        What the network sees.
    """

    betas: Floats
    error: Mapping[int, Floats]
    delta: Mapping[int, float]
    loss: Mapping[int, Floats]
    without: Mapping[int, float] = field(default_factory=dict)
    images: str = ""

    @property
    def constant(self) -> float:
        """The least constant of Theorem 1 with which the bound holds for all mean errors."""
        ratios = [
            error / error_bound(self.delta[steps], float(beta))
            for steps, rows in self.error.items()
            for beta, error in zip(self.betas, rows.mean(0), strict=True)
        ]
        return max((r for r in ratios if np.isfinite(r)), default=float("nan"))


@rc_context(STYLE)
def figure1(data: Nudging) -> Figure:
    """Draw both panels."""
    drawn = [draw for draw, rows in ((_error, data.error), (_loss, data.loss)) if rows]
    figure, axes = panels(max(len(drawn), 1), height=HEIGHT)
    figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr, call-arg]
    for draw, ax in zip(drawn, axes, strict=False):
        ax.set_xscale("log")
        ax.set_xlabel(r"nudging strength $\beta$")
        draw(data, ax)
    return figure


def _error(data: Nudging, ax: Axes) -> None:
    ax.set_title(r"$\mathbf{A}$  ridge regression: error, and its bound")
    ax.set_ylabel("relative error of the meta-gradient")
    ax.set_yscale("log")
    fine, ends = np.geomspace(data.betas[0], data.betas[-1], 100), []
    for (steps, rows), colour in zip(data.error.items(), _colours(data.error), strict=True):
        delta = data.delta[steps]
        bound = [data.constant * error_bound(delta, float(beta)) for beta in fine]
        ax.plot(fine, bound, color=colour, linewidth=0.8, linestyle=DASHED, zorder=1)
        text = rf"$\delta = {_power(delta)}$"
        ends.append(
            (seeds_and_mean(ax, data.betas, rows, colour, marker="o", size=2.8), text, colour)
        )
    _strengths(data.betas, ax)
    label_ends(ax, ends)


def _loss(data: Nudging, ax: Axes) -> None:
    images = f"{data.images}: " if data.images else ""
    ax.set_title(rf"$\mathbf{{B}}$  {images}loss after meta-learning, and before")
    ax.set_ylabel("validation loss")
    ends = []
    for (steps, rows), colour in zip(data.loss.items(), _colours(data.loss), strict=True):
        ends.append(
            (
                seeds_and_mean(ax, data.betas, rows, colour, marker="o", size=2.8),
                f"{steps} steps",
                colour,
            )
        )
        if steps in data.without:
            ax.axhline(data.without[steps], color=colour, linewidth=0.8, linestyle=DASHED, zorder=1)
    _strengths(data.betas, ax)
    low, high = ax.get_ylim()
    ax.set_ylim(bottom=0 if low < high / 2 else low)
    label_ends(ax, ends)


def _strengths(betas: Floats, ax: Axes) -> None:
    """From the weakest to the strongest, where there are several."""
    if len(betas) > 1:
        ax.set_xlim(betas[0], betas[-1])


def _colours(steps: Mapping[int, Floats]) -> list[str]:
    """From light, few steps, to dark."""
    return layer_colours(len(steps))


def _power(value: float) -> str:
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return rf"{mantissa} \cdot 10^{{{int(exponent)}}}"
