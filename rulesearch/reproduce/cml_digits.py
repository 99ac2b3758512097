"""Digits that small networks of CML learn, and others that judge them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rulesearch.errors import ConfigError
from rulesearch.outer.bilevel.networks import Examples
from rulesearch.tasks import load

__all__ = ["check_digits", "draw_digits"]


def check_digits(examples: int, judged: int) -> None:
    """Refuse to learn and judge more digits than there are.

    Raises
    ------
    ConfigError
        If these are more.
    """
    total, there = examples + judged, len(load("digits").labels)
    if total > there:
        raise ConfigError(f"examples and judged are {total} images, of {there} that there are")


def draw_digits(
    draws: Sequence[torch.Generator],
    examples: int,
    judged: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Examples, Examples]:
    """Draw, for each generator, so many digits to learn and so many others to judge by.

    They are drawn on the CPU, and moved.
    """
    data = load("digits")
    order = torch.stack([torch.randperm(len(data.labels), generator=g) for g in draws])
    parts = order[:, : examples + judged].split([examples, judged], 1)
    learn, judge = (
        Examples(data.examples(rows, dtype).to(device), data.labels[rows].to(device))
        for rows in parts
    )
    return learn, judge
