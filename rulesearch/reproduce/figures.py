"""Figures of a run, and the numbers that they were drawn from."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from rulesearch.analysis import Floats
from rulesearch.files import make_folder, write_atomically
from rulesearch.report.style import figure_bytes
from rulesearch.reproduce.base import Measured

__all__ = ["import_all", "plain", "seed_means", "write_figures"]

FORMS = ("svg", "pdf")


def import_all() -> None:
    """Draw a first figure, for what libraries import then, before a run that ends in figures."""
    figure = Figure()
    figure.text(0, 0, "0")
    for form in FORMS:
        figure_bytes(figure, form)


def write_figures(run: Path, figures: Mapping[str, Figure], numbers: Mapping[str, Any]) -> None:
    """Write ``figures/`` into a run folder: each as SVG and PDF, and ``numbers.json``.

    Raises
    ------
    RunError
        If the folder cannot be made.
    """
    folder = make_folder(run / "figures")
    write_atomically(folder / "numbers.json", json.dumps(plain(numbers)) + "\n")
    for name, figure in figures.items():
        for form in FORMS:
            write_atomically(folder / f"{name}.{form}", figure_bytes(figure, form))


def seed_means(
    measured: Mapping[str, Measured], quantity: str, condition: str, rows: Iterable[str]
) -> dict[str, Floats]:
    """Over the lifetimes of each seed that did not diverge, of the rows that were run.

    Jobs of a run from before they measured the quantity are left out.
    """
    found = {}
    for row in rows:
        job = measured.get(f"{row}-{condition}")
        if job is not None and quantity in job:
            alive = [e.isfinite() for e in job["error"]]
            means = [v[a].nanmean(0) for v, a in zip(job[quantity], alive, strict=True)]
            found[row] = torch.stack(means).numpy()
    return found


def plain(value: Any) -> Any:
    """For JSON: arrays as lists of six digits, and None for what is not finite."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
