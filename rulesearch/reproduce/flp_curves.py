"""FLP, appendix C: learning within a lifetime of images."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from rulesearch.analysis.flp_life import query_curve
from rulesearch.outer import MetaModel
from rulesearch.report.flp_figures import image_curves
from rulesearch.reproduce.base import Measured, Reproduction
from rulesearch.reproduce.figures import seed_means, write_figures
from rulesearch.reproduce.flp import Lives
from rulesearch.reproduce.flp_table2 import FLP_TABLE2, ImageSettings, image_jobs

__all__ = ["FLP_CURVES"]

TITLES = {row.key: row.title for row in FLP_TABLE2.rows}


def _curves(model: MetaModel, lives: Lives) -> dict[str, Tensor]:
    """Errors on all queries, at birth and after each image; the last are the table's."""
    curve = torch.cat([query_curve(model, task, 1, born) for task, born in lives], 1).cpu()
    return {"error": curve[..., -1], "query": curve}


def _draw(measured: Mapping[str, Measured], run: Path, _: ImageSettings) -> None:
    """Write the figure and the numbers drawn."""
    curves = {}
    for condition, title in FLP_TABLE2.conditions.items():
        means = seed_means(measured, "query", condition, TITLES)
        if means:
            curves[title] = {TITLES[row]: values for row, values in means.items()}
    write_figures(run, {"curves": image_curves(curves)}, curves)


FLP_CURVES = Reproduction(
    name="flp-curves",
    title="FLP, appendix C: learning within a lifetime of images",
    source=f"{FLP_TABLE2.source}; its curves have no numbers",
    unit=FLP_TABLE2.unit,
    rows=FLP_TABLE2.rows,
    conditions=FLP_TABLE2.conditions,
    settings=ImageSettings,
    scales=FLP_TABLE2.scales,
    jobs=partial(image_jobs, measure=_curves),
    notes=(
        *FLP_TABLE2.notes,
        "The table is of the ends of lifetimes. Errors at birth and after each image, on the same "
        "queries of all classes, are in the run's folder figures/: means over the test lifetimes "
        "of a seed that did not diverge.",
    ),
    draw=_draw,
    trained_by=FLP_TABLE2.name,
)
"""Learning curves of the networks of the paper's Table 2."""
