"""FLP beyond its horizon: lifetimes longer than those that networks were meta-trained on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from rulesearch.analysis import Floats
from rulesearch.analysis.flp_longer import longer_errors, round_errors
from rulesearch.files import write_atomically
from rulesearch.outer import MetaModel
from rulesearch.report.flp_figures import longer_lives
from rulesearch.report.grid import markdown_grid
from rulesearch.reproduce.base import Job, Measured, Reproduction, Training
from rulesearch.reproduce.figures import write_figures
from rulesearch.reproduce.flp import chosen, flp_job
from rulesearch.reproduce.flp_studied import STUDIED, measured_on_tests, studied_networks
from rulesearch.reproduce.flp_table1 import FLP_TABLE1, SineSettings, sine_tasks
from rulesearch.search.settings import Count
from rulesearch.tasks import IncrementalSines

__all__ = ["FLP_LONGER", "LongerSettings"]

ROWS = tuple(row for row in FLP_TABLE1.rows if row.key in STUDIED)
LONGER = {"batches": "more batches of each sine", "rounds": "more rounds of all sines"}


class LongerSettings(SineSettings):
    """Settings of the regression tasks, and how much longer the test lifetimes are.

    Attributes
    ----------
    times : tuple of int
        Their lengths, as multiples of the length in meta-training.
    """

    times: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 2, 5, 10)


def _jobs(settings: LongerSettings) -> Sequence[Job]:
    networks, jobs = studied_networks(settings), []
    for condition, tasks in sine_tasks(settings).items():
        test = tasks.test
        assert isinstance(test, IncrementalSines)
        for row, (network, like) in networks.items():
            job = flp_job((row, condition), network, tasks, settings, like)
            jobs.append(replace(job, measure=partial(_measure, test, settings)))
    return jobs


def _measure(
    tasks: IncrementalSines, settings: LongerSettings, training: Training
) -> dict[str, Tensor]:
    """Errors of the usual length, which are the table's, and of longer lifetimes."""
    found = measured_on_tests(
        partial(_by_length, chosen(training), tasks, settings.times), settings
    )
    return {**found, "times": torch.tensor(settings.times)}


def _by_length(
    model: MetaModel,
    tasks: IncrementalSines,
    times: Sequence[int],
    draws: Sequence[torch.Generator],
) -> dict[str, Tensor]:
    found = {
        "error": longer_errors(model, tasks, draws, [1])[..., 0],
        "batches": longer_errors(model, tasks, draws, times),
    }
    if tasks.order == "continual":  # else it has no rounds
        found["rounds"] = round_errors(model, tasks, draws, times)
    return found


def _draw(measured: Mapping[str, Measured], run: Path, _: LongerSettings) -> None:
    """Write the figure, the numbers drawn, and a table of them."""
    lives: dict[str, dict[str, Floats]] = {}
    diverged: dict[str, dict[str, list[int]]] = {}
    times: list[int] = []
    for (condition, name), (kind, title) in product(FLP_TABLE1.conditions.items(), LONGER.items()):
        panel = f"{name}: {title}"
        for row in ROWS:
            job = measured.get(f"{row.key}-{condition}", {})
            if kind in job:
                times = job["times"].tolist()
                finite = job[kind].isfinite().numpy()
                typical = np.median(np.where(finite, job[kind].numpy(), np.inf), axis=1)
                lives.setdefault(panel, {})[row.title] = typical
                diverged.setdefault(panel, {})[row.title] = (~finite).sum((0, 1)).tolist()
    numbers = {"times": times, "error": lives, "diverged": diverged}
    write_figures(run, {"longer": longer_lives(times, lives)}, numbers)
    write_atomically(run / "longer.md", _markdown(times, lives))


def _markdown(times: Sequence[int], lives: Mapping[str, Mapping[str, Floats]]) -> str:
    """Median errors by length, the mean over seeds, a table for each way of living longer."""
    heading = ["", *(f"{n}x" for n in times)]
    tables = {
        panel: [[title, *map(_cell, rows.mean(0))] for title, rows in networks.items()]
        for panel, networks in lives.items()
    }
    return "\n".join(
        f"# {panel}\n\n{markdown_grid([heading, *rows])}\n" for panel, rows in tables.items()
    )


def _cell(error: float) -> str:
    return f"{error:.3g}" if math.isfinite(error) else "diverged"


FLP_LONGER = Reproduction(
    name="flp-longer",
    title="FLP beyond its horizon: longer lifetimes than in meta-training",
    source=f"{FLP_TABLE1.source}; longer lifetimes are not in the paper",
    unit=FLP_TABLE1.unit,
    rows=ROWS,
    conditions=FLP_TABLE1.conditions,
    settings=LongerSettings,
    scales=FLP_TABLE1.scales,
    jobs=_jobs,
    notes=(
        "The number of plastic layers is in parentheses.",
        "The table is of lifetimes as long as in meta-training. Those of longer ones, on the same "
        "sines and queries, are in longer.md and figures/: the mean over seeds of the median over "
        "lifetimes, of which one that diverged counts as the largest.",
    ),
    draw=_draw,
    trained_by=FLP_TABLE1.name,
)
"""Longer lifetimes than in meta-training."""
