"""FLP, Table 2: few-shot classification, one image a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field

from rulesearch.errors import ConfigError
from rulesearch.outer import OMNIGLOT, FLPSettings, MetaRates
from rulesearch.outer.features import conv_features
from rulesearch.reproduce.base import Job, Published, Reproduction, Row
from rulesearch.reproduce.flp import FLPRunSettings, Tasks, by_gradient, by_oml, flp_job
from rulesearch.search.settings import Count, Size
from rulesearch.tasks import IMAGENET, ImageData, OnlineFewShot, load

__all__ = ["FLP_TABLE2", "ImageSettings", "image_network", "image_tasks"]

Channels = tuple[Count, ...]


class ImageSettings(FLPRunSettings):
    """Settings of the classification tasks.

    Attributes
    ----------
    ways, shots : int
        Classes of a lifetime, and images of each to train on; as many are asked about.
    size : int
        Height and width of an image.
    invert : bool
        Bright strokes on black in Omniglot; the paper's are dark on white.
    channels, strides : tuple of int
        Of the convolutions.
    hidden : int
        Units of the fully connected layer.
    outputs : int
        Of the network, of which those beyond ``ways`` are never right.
    rate : (float, float)
        Adam's step of FLP's rates: of the fully connected layer, and of the readout.
    start : (float, float)
        Their first values; zero in the paper.
    mini_imagenet : str or None
        Folder with ``train`` and ``test``, folders or zips of class folders.
    mini_channels, mini_hidden, mini_rate
        As above, for mini-ImageNet.
    """

    ways: Annotated[int, Field(strict=True, ge=2)] = 5
    shots: Count = 5
    size: Count = 84
    invert: bool = False
    channels: Channels = OMNIGLOT.channels
    strides: Channels = OMNIGLOT.strides
    hidden: Count = 128
    outputs: Count = 1000
    rate: tuple[Size, Size] = (1e-3, 1e-5)
    start: tuple[Size, Size] = (0.0, 0.0)
    gradient_start: Size = 1e-2
    oml_rate: Size = 1e-2
    mini_imagenet: str | None = None
    mini_channels: Channels = (256,) * 6
    mini_hidden: Count = 1000
    mini_rate: tuple[Size, Size] = (1e-4, 1e-8)


ROWS = (
    Row(
        "feature-reuse-1",
        "Feature reuse (1)",
        {
            "iid": Published(4.6, 0.1),
            "continual": Published(5.0, 0.1),
            "mini-imagenet": Published(48.2, 0.1),
        },
    ),
    Row(
        "flp-2",
        "FLP (2)",
        {
            "iid": Published(3.0, 0.1),
            "continual": Published(2.7, 0.1),
            "mini-imagenet": Published(42.5, 0.6),
        },
    ),
    Row(
        "gradient-2",
        "Gradient (2)",
        {
            "iid": Published(3.2, 0.1),
            "continual": Published(3.4, 0.1),
            "mini-imagenet": Published(42.5, 0.3),
        },
    ),
    Row("gradient-2-first-order", "Gradient (2), first order"),
    Row(
        "oml-2",
        "Original OML (2)",
        {"iid": Published(3.5), "continual": Published(7.0), "mini-imagenet": Published(52.0)},
    ),
)


def image_tasks(settings: ImageSettings) -> dict[str, Tasks]:
    """Tasks of each condition; images of one data set are loaded once."""
    ways, shots, size = settings.ways, settings.shots, settings.size

    def omniglot(split: str) -> ImageData:
        return load("omniglot", split=split, size=size, invert=settings.invert)

    def mini(split: str) -> ImageData:
        root = settings.mini_imagenet
        return load(
            "image_folder", root=root, split=split, size=size, colour=True, normalise=IMAGENET
        )

    def tasks(order: Literal["continual", "iid"], data: Sequence[ImageData]) -> Tasks:
        made = (
            OnlineFewShot(
                each,
                ways=ways,
                shots=shots,
                queries=shots,
                order=order,
                outputs=settings.outputs,
            )
            for each in data
        )
        return Tasks(*made)

    characters = omniglot("background"), omniglot("evaluation")
    found = {"iid": tasks("iid", characters), "continual": tasks("continual", characters)}
    if settings.mini_imagenet is not None:
        found["mini-imagenet"] = tasks("iid", (mini("train"), mini("test")))
    return found


def image_network(settings: ImageSettings, condition: str, plastic_layers: int) -> FLPSettings:
    """The network of FLP for the images of a condition."""
    mini = condition == "mini-imagenet"
    channels = settings.mini_channels if mini else settings.channels
    hidden = settings.mini_hidden if mini else settings.hidden
    rate = settings.mini_rate if mini else settings.rate
    if len(channels) != len(settings.strides):
        raise ConfigError(
            f"{len(channels)} convolutions ({'mini_' * mini}channels) need as many strides, "
            f"not {len(settings.strides)}"
        )
    image = (3 if mini else 1, settings.size, settings.size)
    convolutions = conv_features(image, channels, settings.strides, torch.Generator())
    flattened = convolutions(torch.zeros(1, image[0] * image[1] * image[2])).shape[1]
    return replace(
        OMNIGLOT,
        widths=(flattened, hidden, settings.outputs),
        plastic_layers=plastic_layers,
        rate=settings.start[-plastic_layers:],
        rates=MetaRates(
            settings.forward,
            settings.feedback,
            mixing=0.0,
            rate=rate[-plastic_layers:],
            clip=settings.clip,
        ),
        image=image,
        channels=channels,
        strides=settings.strides,
    )


def _jobs(settings: ImageSettings) -> Sequence[Job]:
    start, rate = settings.gradient_start, settings.gradient_rate

    def networks(condition: str) -> dict[str, FLPSettings]:
        flp = image_network(settings, condition, 2)
        return {
            "feature-reuse-1": image_network(settings, condition, 1),
            "flp-2": flp,
            "gradient-2": by_gradient(flp, start, rate, exact=True),
            "gradient-2-first-order": by_gradient(flp, start, rate, exact=False),
            "oml-2": by_oml(flp, settings.oml_rate),
        }

    return [
        flp_job((row, condition), network, tasks, settings)
        for condition, tasks in image_tasks(settings).items()
        for row, network in networks(condition).items()
    ]


FLP_TABLE2 = Reproduction(
    name="flp-table2",
    title="FLP, Table 2: five classes from five images each",
    source="Lindsey and Litwin-Kumar 2020, Table 2 (40,000 episodes, 5 seeds)",
    unit="% error",
    rows=ROWS,
    conditions={
        "iid": "Omniglot",
        "continual": "Omniglot (continual)",
        "mini-imagenet": "Mini-ImageNet",
    },
    settings=ImageSettings,
    scales={
        "small": {
            "updates": 3000,
            "seeds": 2,
            "lifetimes": 100,
            "size": 28,
            "invert": True,
            "channels": [32] * 3,
            "strides": [2] * 3,
            "hidden": 64,
            "outputs": 5,
            "forward": 1e-3,
            "feedback": 1e-3,
            "rate": [1e-4, 5e-3],
            "start": [0.03, 0.0],
            "clip": 2,
            "gradient_rate": 1e-3,
            "mini_channels": [32] * 3,
            "mini_hidden": 64,
            "mini_rate": [1e-4, 5e-3],
            "checkpoint_every": 100,
        },
        "full": {"updates": 40_000, "seeds": 5, "lifetimes": 500},
    },
    jobs=_jobs,
    notes=(
        "The number of plastic layers is in parentheses.",
        "The paper's Original OML is as published by others; ours is trained here, on the same "
        "tasks as the other rows.",
    ),
)
"""The reproduction of the paper's Table 2."""
