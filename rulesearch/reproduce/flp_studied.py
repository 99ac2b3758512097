"""Networks of FLP's Table 1 that are looked into further: FLP's own, and gradient descent's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from rulesearch.outer import FLPSettings
from rulesearch.outer.flp_presets import by_gradient
from rulesearch.outer.seeds import TEST, generators
from rulesearch.reproduce.base import portions
from rulesearch.reproduce.flp import AT_ONCE, FLPRunSettings
from rulesearch.reproduce.flp_table1 import SineSettings, sine_network

__all__ = ["DESCENT", "PLASTIC", "STUDIED", "measured_on_tests", "studied_networks"]

PLASTIC = {"feature-reuse-1": 1, "flp-2": 2, "flp-3": 3}
"""Rows of FLP, and how many layers of theirs are plastic."""
DESCENT = {"gradient-3": True, "gradient-3-first-order": False}
"""Rows of gradient descent, and whether their meta-gradient is exact."""
STUDIED = (*PLASTIC, *DESCENT)


def studied_networks(
    settings: SineSettings,
) -> dict[str, tuple[FLPSettings, tuple[str, FLPSettings] | None]]:
    """Each row's network, and whose forward weights it begins with, as ``flp_job`` wants them."""
    flp = {row: sine_network(settings, layers) for row, layers in PLASTIC.items()}
    deepest = flp["flp-3"]
    start, rate = settings.gradient_start, settings.gradient_rate
    return {
        **{row: (network, None) for row, network in flp.items()},
        **{
            row: (by_gradient(deepest, start, rate, exact=exact), ("flp-3", deepest))
            for row, exact in DESCENT.items()
        },
    }


def measured_on_tests(
    measure: Callable[[Sequence[torch.Generator]], Mapping[str, Tensor]], run: FLPRunSettings
) -> dict[str, Tensor]:
    """What `measure` finds on the lifetimes that the table's errors are from.

    Parameters
    ----------
    measure : callable
        From a generator for each of some lifetimes to tensors ``(seeds, lifetimes, ...)``.
    """
    each = max(1, AT_ONCE // run.seeds)
    parts = [
        measure(generators(run.seed, 0, TEST, some))
        for some in portions(run.seeds, run.lifetimes, each)
    ]
    return {name: torch.cat([part[name] for part in parts], 1).cpu() for name in parts[0]}
