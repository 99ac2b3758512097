"""Draw docs/_static/engine.svg, the figure of docs/engine.md: ``python docs/engine_figure.py``."""

from __future__ import annotations

from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from rulesearch.report.style import GREY, LINES, STYLE

BLUE, ORANGE, GREEN = LINES[:3]


def matrix(axes: Axes) -> None:
    """M = diag(growth) M_0 + U V^T, as blocks."""

    def block(x: float, y: float, width: float, height: float, colour: str, label: str) -> None:
        axes.add_patch(
            Rectangle((x, y), width, height, facecolor=colour, alpha=0.25, edgecolor=colour)
        )
        axes.text(x + width / 2, y + height / 2, label, ha="center", va="center")

    block(0.0, 0.30, 0.42, 0.42, GREY, r"$\mathbf{M}_t$")
    axes.text(0.53, 0.51, "=", ha="center", va="center")
    axes.text(0.71, 0.51, r"diag$(\boldsymbol{\gamma})$", ha="center", va="center")
    block(0.88, 0.30, 0.42, 0.42, BLUE, r"$\mathbf{M}_0$")
    axes.text(1.40, 0.51, "+", ha="center", va="center")
    for k in range(6):
        axes.add_patch(
            Rectangle((1.50 + 0.035 * k, 0.30), 0.026, 0.42, color=ORANGE, alpha=0.25 + 0.1 * k)
        )
        axes.add_patch(
            Rectangle((1.76, 0.69 - 0.035 * k), 0.42, 0.026, color=ORANGE, alpha=0.25 + 0.1 * k)
        )
    axes.text(1.60, 0.21, r"$\mathbf{u}_k$", ha="center")
    axes.text(1.97, 0.41, r"$\mathbf{v}_k^T$", ha="center")
    axes.text(1.09, 0.21, "one pass a chunk", ha="center", color=BLUE, fontsize=8)
    axes.text(1.85, 0.79, "appended at every step", ha="center", color=ORANGE, fontsize=8)
    axes.set(xlim=(-0.02, 2.22), ylim=(0.1, 0.95))
    axes.axis("off")


def lifetime(axes: Axes) -> None:
    """Segments between checkpoints, chunks in segments, forward and back."""
    steps, segment, chunk = 24, 12, 4
    for t in range(steps):
        axes.add_patch(
            Rectangle((t, 0.5), 0.9, 0.2, color=GREEN, alpha=0.35 if t // chunk % 2 else 0.6)
        )
    for edge in range(0, steps + 1, segment):
        axes.plot([edge - 0.05] * 2, [0.42, 0.86], color="black", linewidth=1)
        label = "birth" if edge == 0 else "end of life" if edge == steps else "checkpoint"
        axes.text(edge, 0.9, label, ha="center", fontsize=8)

    def arrow(begin: float, end: float, y: float, colour: str) -> None:
        axes.add_patch(
            FancyArrowPatch(
                (begin, y), (end, y), arrowstyle="-|>", mutation_scale=8, color=colour, linewidth=1
            )
        )

    arrow(0, steps, 0.78, GREEN)
    for end in range(steps, 0, -segment):
        arrow(end - 0.2, end - segment + 0.2, 0.30, ORANGE)
    axes.text(steps / 4, 0.8, "forward", color=GREEN, ha="center", fontsize=8)
    axes.text(
        steps * 0.75, 0.19, r"backward: $\mathbf{W}$ rebuilt", color=ORANGE, ha="center", fontsize=8
    )
    axes.text(0.0, 0.19, r"drift of $\mathbf{W}$ measured", ha="left", fontsize=8, color=ORANGE)
    axes.text(chunk / 2 - 0.1, 0.47, "a chunk", ha="center", va="top", fontsize=8)
    axes.set(xlim=(-1.5, steps + 2.5), ylim=(0.1, 1.0))
    axes.axis("off")


def passes(axes: Axes) -> None:
    """Reads and writes of a matrix a step, of the first connection."""
    lengths = [1, 2, 3, 4, 6, 8, 12, 16]
    forward = [2 + 3 / c for c in lengths]  # each step W^T y, B^T e; a chunk W x and the update
    backward = [2 + 8 / c for c in lengths]  # W q, B e; a chunk G V, G^T U, updates of W, G and G_B
    for y, colour, label in ((forward, GREEN, "forward"), (backward, ORANGE, "backward")):
        axes.plot(lengths, y, "o-", color=colour, markersize=3, linewidth=1.2)
        axes.text(1.25, y[0] + 0.1, label, color=colour, fontsize=8)
    axes.axhline(2, color=GREY, linewidth=0.6, linestyle=":")
    axes.text(16, 1.7, "what cannot wait", ha="right", va="top", color=GREY, fontsize=8)
    axes.set_xscale("log", base=2)
    axes.set(xlabel="steps of a chunk", ylabel="passes a step", ylim=(0, 10.9), xlim=(0.9, 18))
    axes.set_xticks([1, 2, 4, 8, 16], labels=["1", "2", "4", "8", "16"])


def main() -> None:
    """Write the figure."""
    with rc_context(STYLE):
        figure = Figure(figsize=(7.1, 3.6), layout="constrained")
        grid = figure.add_gridspec(2, 2, width_ratios=(1.7, 1))
        panels = (
            (grid[0, 0], matrix, "a"), (grid[1, 0], lifetime, "b"), (grid[:, 1], passes, "c"),
        )  # fmt: skip
        for place, draw, letter in panels:
            axes = figure.add_subplot(place)
            draw(axes)
            axes.set_title(letter, fontweight="bold")
        target = Path(__file__).parent / "_static" / "engine.svg"
        figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main()
