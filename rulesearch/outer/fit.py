"""Whether a meta-model and its tasks fit together, and where they can be: told before training."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from rulesearch.errors import ConfigError
from rulesearch.outer.features import OwnFeatures, class_of, width_taken
from rulesearch.outer.meta_model import MetaModel
from rulesearch.tasks import ImageData, TaskFamily
from rulesearch.tasks.family import check_first
from rulesearch.torch_arguments import device_at_hand, no_device

__all__ = ["check_finite_model", "check_fit", "usable_device"]


def check_fit(model: MetaModel, tasks: TaskFamily) -> None:
    """Compare what tasks give with what a model takes, and its features with its network.

    Raises
    ------
    ConfigError
        If they differ, or targets are none that a softmax output can have; one lifetime is drawn
        to see them.
    """
    network, n_in = model.learner.network, tasks.n_in
    if tasks.n_out > network.sizes[-1] or (
        network.output == "linear" and tasks.n_out != network.sizes[-1]
    ):
        raise ConfigError(
            f"meta-training: tasks '{tasks.name}' need {tasks.n_out} outputs, "
            f"the network has {network.sizes[-1]}"
        )
    check_first("tasks", tasks, network, model.dtype)
    if not model.features:
        _check_inputs(tasks, network.sizes[0], f"widths begin with {n_in}")
        return
    if model.image is not None:
        data = getattr(tasks, "data", None)
        shape = data.shape if isinstance(data, ImageData) else None
        if shape is not None and (1, *shape)[-3:] != model.image:
            raise ConfigError(
                f"meta-training: images of '{tasks.name}' have shape {(1, *shape)[-3:]}, features "
                f"see {model.image}"
            )
        _check_inputs(tasks, math.prod(model.image), f"its image hold {n_in} values")
    else:
        below = model.features[0]
        what = "its features take" if isinstance(below, OwnFeatures) else "widths begin with"
        _check_inputs(tasks, width_taken(below), f"{what} {n_in}")
    given = _width_given(model, tasks)
    if given != network.sizes[0]:
        raise ConfigError(
            f"meta-training: features give {given} values of an example, the plastic layers take "
            f"{network.sizes[0]}"
        )


def check_finite_model(parameters: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse meta-parameters of which every lifetime would be rejected.

    Raises
    ------
    ConfigError
        If a number of one of them is not finite.
    """
    for name, parameter in parameters:
        if not parameter.isfinite().all():
            raise ConfigError(
                f"meta-training: {name} of the model is not finite; give finite numbers"
            )


def _check_inputs(tasks: TaskFamily, wanted: int | None, remedy: str) -> None:
    if wanted not in (None, tasks.n_in):
        raise ConfigError(
            f"meta-training: examples of '{tasks.name}' have {tasks.n_in} values, the model takes "
            f"{wanted}; make {remedy}, or take other tasks"
        )


def _width_given(model: MetaModel, tasks: TaskFamily) -> int:
    """Values of an example that the plastic layers get from the features."""
    # Of several examples, for what is lost of them is not seen of one.
    example = torch.zeros(1, model.seeds, 2, tasks.n_in, dtype=model.dtype, device=model.device)
    try:
        with torch.no_grad():
            return model.see(example, model.seeds).shape[-1]
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError) as error:
        raise ConfigError(
            f"meta-training: features cannot take an example of '{tasks.name}', "
            f"{model.image or (tasks.n_in,)}: {class_of(model.features[0])} says "
            f"{' '.join(str(error).split())}"
        ) from error


def usable_device(name: str) -> torch.device:
    """Return the device of a name: ``cpu``, ``cuda``, or ``cuda:1`` for one of several.

    Raises
    ------
    ConfigError
        If there is no such device here.
    """
    device = device_at_hand(name)
    if device.type not in ("cpu", "cuda"):
        raise no_device(name)
    return device
