"""FLP, Table 2: few-shot classification, one image a step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from rulesearch.arguments import naming
from rulesearch.errors import ConfigError
from rulesearch.outer import MINI_IMAGENET, OMNIGLOT, FLPSettings, MetaRates
from rulesearch.outer.features import conv_size
from rulesearch.outer.flp_presets import by_gradient, by_oml, with_plastic_layers
from rulesearch.reproduce.base import Job, Published, Reproduction, Row
from rulesearch.reproduce.flp import (
    FLPRunSettings,
    Measure,
    Mixing,
    Tasks,
    final_errors,
    flp_job,
    last_layers,
)
from rulesearch.reproduce.given import term_or_rule
from rulesearch.reproduce.oml import oml_jobs
from rulesearch.reproduce.photographs import Photographs, check_photographs
from rulesearch.search.settings import Count, Size
from rulesearch.tasks import IMAGENET, ImageData, OMLTrajectories, OnlineFewShot, data_sets, load

__all__ = ["FLP_TABLE2", "ImageSettings", "image_jobs", "image_network", "image_tasks"]

Channels = tuple[Count, ...]
MINI = "mini-imagenet"
CHARACTERS, DRAWINGS = 659, 20  # of Omniglot's evaluation set, and of each


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
    mixing : float
        Adam's step of FLP's mixing; the paper's stays where it begins.
    mixing_start : float, or two
        First value of FLP's mixing: in both plastic layers, or in the fully connected layer, and
        in the readout.
    rate : (float, float)
        Adam's step of FLP's rates: of the fully connected layer, and of the readout.
    start : (float, float)
        Their first values; zero in the paper.
    oml_rate : float
        Fixed rate of OML in meta-training.
    oml_test_rate : (float, float)
        The same in tests: in random order, and class by class.
    oml_shots, oml_remember : int
        Images of a class that OML meta-trains on, and random ones among its queries.
    conditions : tuple of {'iid', 'continual', 'mini-imagenet'} or None
        Which to run. By default those whose images are there: mini-ImageNet's where its folder is
        named, and Omniglot's, without which there have to be the others.
    mini_imagenet : str or None
        Folder with ``train`` and ``test``, folders or zips of class folders, of other classes.
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
    source: Literal["error", "target"] = "target"
    clamp_output: bool = True
    mixing: Size = 0.0
    mixing_start: Mixing = OMNIGLOT.mixing
    rate: tuple[Size, Size] = (1e-3, 1e-5)
    start: tuple[Size, Size] = (0.0, 0.0)
    oml_shots: Count = 10
    oml_remember: Count = 64
    oml_test_rate: tuple[Size, Size] = (0.1, 0.03)
    gradient_start: Size = 1e-2
    oml_rate: Size = 1e-2
    conditions: (
        Annotated[tuple[Literal["iid", "continual", "mini-imagenet"], ...], Field(min_length=1)]
        | None
    ) = None
    mini_imagenet: Photographs | None = None
    mini_channels: Channels = MINI_IMAGENET.channels
    mini_hidden: Count = 1000
    mini_rate: tuple[Size, Size] = (1e-4, 1e-8)


GRADIENT = {
    "iid": Published(3.2, 0.1),
    "continual": Published(3.4, 0.1),
    MINI: Published(42.5, 0.3),
}
ROWS = (
    Row(
        "feature-reuse-1",
        "Feature reuse (1)",
        {"iid": Published(4.6, 0.1), "continual": Published(5.0, 0.1), MINI: Published(48.2, 0.1)},
    ),
    Row(
        "flp-2",
        "FLP (2)",
        {"iid": Published(3.0, 0.1), "continual": Published(2.7, 0.1), MINI: Published(42.5, 0.6)},
    ),
    Row("gradient-2", "Gradient (2)", GRADIENT),
    Row("gradient-2-first-order", "Gradient (2), first order", GRADIENT),
    Row("gradient-2-random", "Gradient (2), random"),
    Row("gradient-2-random-first-order", "Gradient (2), random, first order"),
    Row(
        "oml-2",
        "Original OML (2)",
        {"iid": Published(3.5), "continual": Published(7.0), MINI: Published(52.0)},
    ),
)


def image_tasks(settings: ImageSettings) -> dict[str, Tasks]:
    """Tasks of each condition; images of one data set are loaded once.

    Raises
    ------
    ConfigError
        If mini-ImageNet is asked for, and its folder is not named, or settings do not fit one
        another; before any image is loaded.
    DataError
        If images are not there, or photographs for tests are of classes of meta-training.
    """
    ways, shots, size = settings.ways, settings.shots, settings.size

    def omniglot(split: str) -> ImageData:
        return load("omniglot", split=split, size=size, invert=settings.invert)

    def mini(split: str) -> ImageData:
        root = settings.mini_imagenet
        return load(
            "image_folder", root=root, split=split, size=size, colour=True, normalise=IMAGENET
        )

    def tasks(order: Literal["continual", "iid"], data: Sequence[ImageData]) -> Tasks:
        train, test = (
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
        return Tasks(train, test)

    orders: dict[str, Literal["continual", "iid"]]
    wanted, orders = _conditions(settings), {"iid": "iid", "continual": "continual"}
    orders = {condition: order for condition, order in orders.items() if condition in wanted}
    found: dict[str, Tasks] = {}
    _check_sizes(settings, wanted)
    if MINI in wanted:
        check_photographs("mini_imagenet", str(settings.mini_imagenet), few_shot=True)
    if orders:
        characters = omniglot("background"), omniglot("evaluation")
        found = {condition: tasks(order, characters) for condition, order in orders.items()}
    if MINI in wanted:
        found[MINI] = tasks("iid", (mini("train"), mini("test")))
    return found


def _check_sizes(settings: ImageSettings, wanted: Sequence[str]) -> None:
    """Hold settings against one another, and against what is known of Omniglot."""
    ways = settings.ways
    if settings.outputs < ways:
        raise ConfigError(f"outputs={settings.outputs}: ways={ways} need {ways} outputs or more")
    for condition in wanted:
        key = "mini_channels" if condition == MINI else "channels"
        chosen = (key, "strides", "size")
        said = (f"{name}={json.dumps(getattr(settings, name))}" for name in chosen)
        with naming(f"{', '.join(said)}:"):
            image_network(settings, condition, 2)
    if set(wanted) == {MINI}:
        return
    if ways > CHARACTERS:
        raise ConfigError(f"ways={ways}: Omniglot has {CHARACTERS} characters to test on")
    for name, each in (("shots", 2 * settings.shots), ("oml_shots", settings.oml_shots)):
        if each > DRAWINGS:
            raise ConfigError(
                f"{name}={getattr(settings, name)}: that takes {each} images of each class, and "
                f"Omniglot has {DRAWINGS}"
            )


def _conditions(settings: ImageSettings) -> Sequence[str]:
    """Those asked for, or else those whose images are there."""
    named = settings.mini_imagenet is not None
    if settings.conditions is not None:
        if MINI in settings.conditions and not named:
            raise ConfigError(
                f"condition {MINI} needs its images: --set mini_imagenet=FOLDER, which holds "
                "train and test"
            )
        return settings.conditions
    if not named:
        return ("iid", "continual")
    there = any(each.name == "omniglot" and each.found for each in data_sets())
    return ("iid", "continual", MINI) if there else (MINI,)


def image_network(settings: ImageSettings, condition: str, plastic_layers: int) -> FLPSettings:
    """The network of FLP for the images of a condition."""
    mini = condition == MINI
    channels = settings.mini_channels if mini else settings.channels
    image = (3 if mini else 1, settings.size, settings.size)
    network = replace(
        MINI_IMAGENET if mini else OMNIGLOT,
        widths=(
            conv_size(image, channels, settings.strides),
            settings.mini_hidden if mini else settings.hidden,
            settings.outputs,
        ),
        rule=term_or_rule(settings.rule),
        mixing=last_layers(settings.mixing_start, 2, 2),
        reduction=settings.reduction,
        feedback=settings.learnt_feedback,
        rate=settings.start,
        rates=MetaRates(
            settings.forward,
            settings.feedback,
            mixing=settings.mixing,
            rate=settings.mini_rate if mini else settings.rate,
            feedback_rate=settings.feedback_rate,
            clip=settings.clip,
            betas=settings.betas,
        ),
        image=image,
        channels=channels,
        strides=settings.strides,
    )
    return with_plastic_layers(network, plastic_layers)


def image_jobs(settings: ImageSettings, measure: Measure = final_errors) -> Sequence[Job]:
    """The table's jobs, of which may be measured what one likes."""
    start, rate = settings.gradient_start, settings.gradient_rate

    def networks(
        condition: str,
    ) -> dict[str, tuple[FLPSettings, tuple[str, FLPSettings] | None]]:
        flp = image_network(settings, condition, 2)
        exact = by_gradient(flp, start, rate, exact=True)
        first_order = by_gradient(flp, start, rate, exact=False)
        trained = ("flp-2", flp)
        return {
            "feature-reuse-1": (image_network(settings, condition, 1), None),
            "flp-2": (flp, None),
            "gradient-2": (exact, trained),
            "gradient-2-first-order": (first_order, trained),
            "gradient-2-random": (exact, None),
            "gradient-2-random-first-order": (first_order, None),
        }

    found = image_tasks(settings)
    jobs = [
        flp_job((row, condition), network, tasks, settings, like, measure)
        for condition, tasks in found.items()
        for row, (network, like) in networks(condition).items()
    ]
    for mini in (False, True):
        same_images = {key: tasks for key, tasks in found.items() if (key == MINI) == mini}
        jobs += _oml_jobs(settings, same_images, measure) if same_images else []
    return jobs


def _oml_jobs(
    settings: ImageSettings, tasks: Mapping[str, Tasks], measure: Measure
) -> Sequence[Job]:
    """OML on the images of some conditions, with an output for each class of meta-training."""
    condition, first = next(iter(tasks.items()))
    assert isinstance(first.train, OnlineFewShot)
    train = OMLTrajectories(
        first.train.data, shots=settings.oml_shots, remember=settings.oml_remember
    )
    flp = image_network(settings, condition, 2)
    wide = replace(flp, widths=(*flp.widths[:-1], train.n_out))
    mixed, class_by_class = (by_oml(flp, rate) for rate in settings.oml_test_rate)
    tests = {
        condition: (class_by_class if condition == "continual" else mixed, each.test)
        for condition, each in tasks.items()
    }
    return oml_jobs("oml-2", by_oml(wide, settings.oml_rate), train, tests, settings, measure)


SMALL: Mapping[str, Any] = {
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
    "oml_rate": 0.03,
    "mini_channels": [32] * 3,
    "mini_hidden": 64,
    "mini_rate": [1e-4, 5e-3],
    "checkpoint_every": 100,
}
# Half the paper's channels on a third of its pixels a side, for as many updates and then those
# of which the mean is taken.
NARROW: Mapping[str, Any] = {
    **SMALL,
    "updates": 43_000,
    "average": 3000,
    "clip": None,
    "lifetimes": 300,
    "channels": [64] * 4,
    "strides": [1, 2, 1, 2],
    "hidden": 128,
    "mini_channels": [64] * 4,
    "mini_hidden": 128,
}

FLP_TABLE2 = Reproduction(
    name="flp-table2",
    title="FLP, Table 2: five classes from five images each",
    source="Lindsey and Litwin-Kumar 2020, Table 2 (40,000 episodes, 5 seeds)",
    unit="% error",
    rows=ROWS,
    conditions={
        "iid": "Omniglot",
        "continual": "Omniglot (continual)",
        MINI: "Mini-ImageNet",
    },
    settings=ImageSettings,
    scales={
        "small": SMALL,
        "narrow": NARROW,
        "full": {"updates": 40_000, "seeds": 5, "lifetimes": 500},
    },
    jobs=image_jobs,
    notes=(
        "The number of plastic layers is in parentheses.",
        "Gradient (2) starts from the forward weights of FLP (2), unless it says random. The "
        "paper's text differentiates exactly, its released code to first order.",
        "Original OML is meta-trained in its own way: a lifetime learns one class among all of "
        "meta-training, at one fixed rate in two layers, and is judged by it and random others; "
        "before, the readout's weights of that class are drawn anew. The meta-gradient is of "
        "first order. In tests the readout is drawn anew, and learns as the layer below it does.",
    ),
)
"""The reproduction of the paper's Table 2."""
