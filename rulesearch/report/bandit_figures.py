"""Regret on wheel bandits, as lives go on."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib import rc_context
from matplotlib.figure import Figure

from rulesearch.analysis import Floats
from rulesearch.report.style import LINES, STYLE, WIDTH, label_ends, parts, seeds_and_mean

__all__ = ["regret_curves"]

COLOURS = {
    "NeuralLinear": LINES[3],
    "MAML": LINES[1],
    "CML (synaptic)": LINES[0],
    "CML (modulatory)": LINES[2],
}
HEIGHT = 2.15  # inches, of a row of two panels


@rc_context(STYLE)
def regret_curves(choices: Floats, data: Mapping[str, Mapping[str, Floats]]) -> Figure:
    """Draw the regret so far, a panel a wheel, and a line a network.

    Parameters
    ----------
    choices : array, (points,)
        After how many of them, ascending.
    data : mapping to mapping to array, (seeds, points)
        Regret so far in percent of a random agent's of the whole life, by the wheel's title and
        the network's.
    """
    columns = min(2, len(data))
    rows = -(-len(data) // columns)
    figure = Figure(figsize=(WIDTH, HEIGHT * rows), layout="constrained")
    for part, (title, networks) in zip(parts(figure, rows, columns), data.items(), strict=False):
        ax, ends = part.subplots(), []
        ax.set_xscale("log")
        for name, regret in networks.items():
            ends.append((seeds_and_mean(ax, choices, regret, COLOURS[name]), name, COLOURS[name]))
        ax.set(xlim=(choices[0], choices[-1]), xlabel="choices", ylabel="regret so far, %")
        ax.set_ylim(bottom=0)
        ax.set_title(title)
        label_ends(ax, ends)
    return figure
