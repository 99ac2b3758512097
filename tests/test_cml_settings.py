"""Settings of CML's reproductions that make no sense are refused before any job."""

from __future__ import annotations

import pytest

from rulesearch.errors import ConfigError, GrammarError
from rulesearch.reproduce import make_plan

RATES = {
    "cml-figure1": ("rate", "meta_rate"),
    "cml-table4": (
        "free_rate", "nudged_rate", "beta", "meta_rate", "bptt_rate", "eprop_rate",
        "baseline_meta_rate",
    ),
    "cml-rules": ("beta", "meta_rate"),
    "cml-continual": ("rate", "beta", "meta_rate"),
}  # fmt: skip


@pytest.mark.parametrize("value", ["0", "-0.1", ".nan", ".inf"])
def test_steps_of_learning_and_nudges_that_are_none(value: str) -> None:
    for name, settings in RATES.items():
        for setting in settings:
            with pytest.raises(GrammarError, match=rf"'{setting}'"):
                make_plan(name, "small", [f"{setting}={value}"])


@pytest.mark.parametrize("value", ["1", "1.5", "-0.1", ".nan"])
@pytest.mark.parametrize("name", ["cml-figure1", "cml-theta", "cml-continual", "cml-table1"])
def test_momentum_that_is_none(name: str, value: str) -> None:
    with pytest.raises(GrammarError, match="'momentum'"):
        make_plan(name, "small", [f"momentum={value}"])


@pytest.mark.parametrize("name", ["cml-theta", "cml-figure1"])
def test_more_digits_than_there_are(name: str) -> None:
    """There are 1797."""
    plan = make_plan(name, "small", ["examples=1600", "judged=198"])
    with pytest.raises(ConfigError, match="examples and judged are 1798 images, of 1797 that"):
        plan.jobs()
    assert make_plan(name, "small", ["examples=1600", "judged=197"]).jobs()
