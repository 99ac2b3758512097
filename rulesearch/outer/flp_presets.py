"""The papers' networks of FLP, and their baselines.

Lindsey & Litwin-Kumar 2020, section 5 and appendix B, and the authors' released code where the
paper is silent: updates are summed over a batch, feedback reaches the output in regression, the
layer before the output learns a hundred times as fast as the output in classification, and ten
thousand times in mini-ImageNet.
"""

from __future__ import annotations

from dataclasses import replace

from rulesearch.arguments import check_kind, whole
from rulesearch.networks import LearntFeedback
from rulesearch.outer.flp import FLPSettings
from rulesearch.outer.meta_training import MetaRates

__all__ = [
    "MINI_IMAGENET",
    "OMNIGLOT",
    "PRESETS",
    "SINES",
    "by_gradient",
    "by_oml",
    "with_plastic_layers",
]

SINES = FLPSettings((11, 300, 300, 300, 300, 300, 900, 300, 300, 1), 3)
"""Incremental sines (protocol of the paper's Table 1)."""

OMNIGLOT = FLPSettings(
    (1152, 128, 1000),
    2,
    output="softmax",
    feedback=LearntFeedback(source="target", clamp_output=True),
    mixing=1.0,
    rates=MetaRates(mixing=0.0, rate=(1e-3, 1e-5)),
    image=(1, 84, 84),
    channels=(128,) * 6,
    strides=(2, 1, 2, 1, 2, 2),
)
"""Omniglot, 5 ways and 5 shots (protocol of the paper's Table 2)."""

MINI_IMAGENET = replace(
    OMNIGLOT,
    widths=(2304, 1000, 1000),
    rates=replace(OMNIGLOT.rates, rate=(1e-4, 1e-8)),
    image=(3, 84, 84),
    channels=(256,) * 6,
)
"""mini-ImageNet, 5 ways and 5 shots (protocol of the paper's Table 2)."""


def with_plastic_layers(flp: FLPSettings, count: int) -> FLPSettings:
    """The same network with so many plastic layers, or fewer; with one it is feature reuse."""
    _check(flp)
    whole("FLP: plastic_layers", count, least=1)
    mixing, rate, step = flp.mixing, flp.rate, flp.rates.rate
    return replace(
        flp,
        plastic_layers=count,
        mixing=mixing[-count:] if isinstance(mixing, tuple) else mixing,
        rate=rate[-count:] if isinstance(rate, tuple) else rate,
        rates=replace(flp.rates, rate=step[-count:] if isinstance(step, tuple) else step),
    )


def by_gradient(flp: FLPSettings, start: float, rate: float, *, exact: bool = True) -> FLPSettings:
    """The baseline: gradient descent with a learnt rate for each weight and bias.

    Parameters
    ----------
    start, rate : float
        Of alpha: its first value, and the step of Adam that learns it. The paper tells neither.
    exact : bool
        Whether the meta-gradient is exact, as in the paper's text, or first-order, as in its
        released code.
    """
    _check(flp)
    check_kind("FLP: exact", exact, bool, "True or False")
    return replace(
        flp,
        learning="gradient",
        method="reversible" if exact else "first-order",
        reduction="mean",
        rate=start,
        rates=replace(flp.rates, feedback=0.0, mixing=0.0, rate=rate),
    )


def by_oml(flp: FLPSettings, rate: float) -> FLPSettings:
    """OML: gradient descent at one fixed rate, and a first-order meta-gradient."""
    _check(flp)
    return replace(
        flp,
        learning="oml",
        method="first-order",
        reduction="mean",
        rate=rate,
        rates=replace(flp.rates, feedback=0.0, mixing=0.0, rate=0.0),
    )


def _check(flp: FLPSettings) -> None:
    check_kind("flp", flp, FLPSettings, "FLPSettings, as SINES or PRESETS['omniglot-flp']")


def _rows(flp: FLPSettings, start: float, oml_rate: float) -> dict[str, FLPSettings]:
    """A table's rows. The released code learns alpha of gradient descent at 1e-4."""
    return {
        "flp": flp,
        "feature-reuse": with_plastic_layers(flp, 1),
        "gradient": by_gradient(flp, start, 1e-4),
        "gradient-first-order": by_gradient(flp, start, 1e-4, exact=False),
        "oml": by_oml(flp, oml_rate),
    }


PRESETS = {
    f"{task}-{row}": settings
    for task, rows in {
        # Half the squared error is descended, so rates are twice those of the released code.
        "sines": _rows(SINES, 2e-3, 6e-3),
        "omniglot": _rows(OMNIGLOT, 1e-2, 1e-2),
        "mini-imagenet": _rows(MINI_IMAGENET, 1e-2, 1e-2),
    }.items()
    for row, settings in rows.items()
}
"""Every network of the paper's tables at its size, as ``sines-flp`` or ``omniglot-gradient``."""
