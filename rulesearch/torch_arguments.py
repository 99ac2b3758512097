"""What public calls are given of torch's own kinds: generators, types and devices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rulesearch.arguments import check_kind
from rulesearch.errors import ConfigError, LearnerError, RuleSearchError

__all__ = [
    "check_dense",
    "check_floating",
    "check_generators",
    "device_at_hand",
    "device_named",
    "no_device",
]


def check_generators(
    generators: Sequence[torch.Generator], each: str, whose: str | None = None
) -> None:
    """Refuse what are no generators; one for ``each``, and ``whose`` needs one at least."""
    wanted = f"a list of torch.Generator, one a {each}"
    check_kind("generators", generators, Sequence, wanted)
    for i, generator in enumerate(generators):
        check_kind(f"generators[{i}]", generator, torch.Generator, "a torch.Generator")
    if whose is not None and not generators:
        raise ConfigError(f"{whose}: at least one generator is needed")


def check_dense(name: str, tensor: object, error: type[RuleSearchError] = LearnerError) -> None:
    """Refuse what is no tensor, or one that does not hold each of its numbers."""
    check_kind(name, tensor, Tensor, "a torch tensor", error)
    assert isinstance(tensor, Tensor)
    if tensor.layout != torch.strided:
        raise error(f"{name} is sparse, {tensor.layout}; give {name}.to_dense()")


def check_floating(dtype: torch.dtype) -> None:
    """Refuse what is no type of real numbers; a type's name is none."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ConfigError(f"dtype is {dtype!r}; give torch.float32 or torch.float64")


def device_named(device: torch.device | str) -> torch.device:
    """Return the device of a name."""
    try:
        return torch.device(device)
    except (RuntimeError, TypeError):
        raise no_device(device) from None


def device_at_hand(device: torch.device | str) -> torch.device:
    """Return the device of a name, of which there has to be one in this machine."""
    device = device_named(device)
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= there:
        found = f"there are {there} GPUs" if there else "torch finds no GPU"
        raise ConfigError(f"device {device}: {found}; use device=cpu")
    return device


def no_device(device: object) -> ConfigError:
    """Return the error of what names no device that networks can be on."""
    return ConfigError(f"device is cpu or cuda, or one of several as cuda:1, not {device!r}")
