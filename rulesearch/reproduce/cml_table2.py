"""CML, Table 2: few-shot classification of photographs."""

from __future__ import annotations

from collections.abc import Sequence

from rulesearch.reproduce.base import Job, Published, Reproduction, Row
from rulesearch.reproduce.cml_few_shot import (
    NOTES,
    FewShotSettings,
    Images,
    PhaseSettings,
    control_row,
    few_shot_jobs,
)
from rulesearch.reproduce.cml_settings import Ways
from rulesearch.reproduce.photographs import UsualPhotographs, check_photographs
from rulesearch.search.settings import Count
from rulesearch.tasks import IMAGENET, load

__all__ = ["CML_TABLE2", "MiniImageNetSettings"]


class MiniImageNetSettings(FewShotSettings):
    """Settings of the photographs.

    Attributes
    ----------
    data : str
        Folder with ``train`` and ``test``, folders or zips of class folders, of other classes.
    one_shot : PhaseSettings
    """

    episodes: Count = 4
    lifetimes: Count = 300
    data: UsualPhotographs = "mini-imagenet"
    ways: Ways = 5
    size: Count = 84
    channels: tuple[Count, ...] = (32,) * 4
    one_shot: PhaseSettings = PhaseSettings(
        shots=1, steps=100, nudged_steps=75, beta=0.01, strength=0.5, meta_rate=1e-3
    )


def _jobs(settings: MiniImageNetSettings) -> Sequence[Job]:
    check_photographs("data", settings.data, few_shot=True)
    train, test = (
        load(
            "image_folder",
            root=settings.data,
            split=split,
            size=settings.size,
            colour=True,
            normalise=IMAGENET,
        )
        for split in ("train", "test")
    )
    return few_shot_jobs(settings, {"1-shot": settings.one_shot}, Images(train, test))


CML_TABLE2 = Reproduction(
    name="cml-table2",
    title="CML, Table 2: five classes of mini-ImageNet from one image each",
    source="Zucchet et al. 2022, Table 2 (24,800 updates of 4 tasks, 5 seeds)",
    unit="% accuracy",
    rows=(
        Row("synaptic", "CML (synaptic)", {"1-shot": Published(48.43, 0.19)}),
        control_row("synaptic"),
        Row("modulatory", "CML (modulatory)", {"1-shot": Published(49.80, 0.18)}),
        control_row("modulatory"),
        Row("maml", "MAML, as published", {"1-shot": Published(48.70)}),
        Row("fomaml", "FOMAML, as published", {"1-shot": Published(48.07)}),
    ),
    quoted=("maml", "fomaml"),
    conditions={"1-shot": "1-shot"},
    settings=MiniImageNetSettings,
    scales={
        "small": {
            "updates": 40,
            "seeds": 1,
            "lifetimes": 50,
            "average": 1,
            "queries": 5,
            "size": 32,
            "channels": [16] * 4,
            "rate": 0.03,
            "one_shot": {
                "shots": 1,
                "steps": 20,
                "nudged_steps": 15,
                "beta": 0.01,
                "strength": 0.5,
                "meta_rate": 1e-2,
            },
        },
        "full": {"updates": 24_800, "seeds": 5},
    },
    jobs=_jobs,
    notes=(
        *(note.format(picked="accuracy on validation tasks") for note in NOTES),
        "Every nudged phase has a fresh optimiser; the released code lets momentum live on here.",
    ),
)
"""The reproduction of the paper's Table 2."""
