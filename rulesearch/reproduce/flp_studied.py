"""Networks of FLP's Table 1 that are looked into further: FLP's own, and gradient descent's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from rulesearch.outer.seeds import TEST, generators
from rulesearch.reproduce.base import portions
from rulesearch.reproduce.flp import AT_ONCE, FLPRunSettings
from rulesearch.reproduce.flp_table1 import Networks, SineSettings, sine_networks

__all__ = ["PLASTIC", "STUDIED", "measured_on_tests", "studied_networks"]

PLASTIC = {"feature-reuse-1": 1, "flp-2": 2, "flp-3": 3}
"""Rows of FLP, and how many layers of theirs are plastic."""
STUDIED = (*PLASTIC, "gradient-3", "gradient-3-first-order")


def studied_networks(settings: SineSettings) -> Networks:
    """Those of the table's networks that are looked into."""
    networks = sine_networks(settings)
    return {row: networks[row] for row in STUDIED}


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
