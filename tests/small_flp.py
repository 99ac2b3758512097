"""Small networks of FLP of every kind, and tasks for them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rulesearch.outer import (
    OMNIGLOT,
    SINES,
    FLPSettings,
    MetaModel,
    MetaRates,
    MetaTraining,
    flp_model,
)
from rulesearch.outer.seeds import TASK, generators
from rulesearch.tasks import ImageData, IncrementalSines, OnlineFewShot, TaskBatch

WIDE = torch.float64
RATES = MetaRates(1e-2, 1e-2, 1e-2, 1e-3)
SINE = replace(SINES, widths=(4, 6, 5, 4, 1), rate=0.02, rates=RATES)
IMAGE = replace(
    OMNIGLOT,
    widths=(2 * 4 * 4, 6, 4),
    image=(1, 8, 8),
    channels=(3, 2),
    strides=(1, 1),
    mixing=0.7,
    rate=0.05,
    rates=RATES,
)
SETTINGS = {
    "flp": SINE,
    "feature reuse": replace(SINE, plastic_layers=1),
    "all plastic": replace(SINE, plastic_layers=4),
    "gradient": replace(SINE, learning="gradient"),
    "clamped": IMAGE,
    "clamped gradient": replace(IMAGE, learning="gradient"),
}


def sines(**options: Any) -> IncrementalSines:
    return IncrementalSines(
        **{"functions": 3, "batches": 2, "examples": 3, "queries": 2, **options}
    )


def images() -> OnlineFewShot:
    """Five classes of eight random images, 8 x 8."""
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (40, 64), generator=draw, dtype=torch.uint8)
    labels = torch.arange(5).repeat(8)
    data = ImageData(pixels, labels, 5, tuple("abcde"), "noise", (8, 8))
    return OnlineFewShot(data, ways=3, shots=2, queries=2, outputs=4)


def tasks_of(settings: FLPSettings) -> IncrementalSines | OnlineFewShot:
    return sines() if settings.image is None else images()


def training_of(settings: FLPSettings, seeds: int = 2, **options: Any) -> MetaTraining:
    model = flp_model(settings, seeds, dtype=WIDE)
    return MetaTraining(model, tasks_of(settings), settings.rates, **options)


def task_of(settings: FLPSettings, seeds: int, episodes: int = 1, update: int = 0) -> TaskBatch:
    members = [(row, member) for row in range(seeds) for member in range(episodes)]
    return tasks_of(settings).sample(generators(0, 0, TASK, members, update), WIDE)


def gradients(model: MetaModel, task: TaskBatch, episodes: int = 1) -> dict[str, Tensor | None]:
    model.zero_grad()
    (model(task).loss.sum() / episodes).backward()
    found = {key: p.grad for key, p in model.named_parameters()}
    return {key: None if g is None else g.clone() for key, g in found.items()}


def values(model: MetaModel) -> dict[str, Tensor]:
    return {key: p.detach().clone() for key, p in model.named_parameters()}
