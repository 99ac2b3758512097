"""Settings of CML's reproductions that make no sense are refused before any job."""

from __future__ import annotations

from typing import Any

import pytest

from rulesearch.errors import ConfigError, GrammarError
from rulesearch.reproduce import make_plan
from rulesearch.reproduce.outcome import Outcome
from rulesearch.reproduce.tables import markdown

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


@pytest.mark.parametrize("name", ["cml-table2", "cml-table3", "cml-rules"])
def test_tasks_of_a_single_class(name: str) -> None:
    with pytest.raises(GrammarError, match=r"'ways': .*greater than or equal to 2"):
        make_plan(name, "small", ["ways=1"])


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


@pytest.mark.parametrize(
    ("name", "change", "by_default"),
    [
        ("cml-figure1", "hidden=8", "64-32-10"),
        ("cml-table1", "examples=40", "of 2000 images"),
        ("cml-table1", "examples=40", "half of the training images, on the other half"),
        ("cml-table2", "average=3", "of the last alone"),
        ("cml-table3", "ways=3", "is 5 classes"),
        ("cml-table3", "one_shot.milestones=[7]", "620 updates at full scale"),
        ("cml-table4", "validation=3", "10 a seed:"),
        ("cml-continual", "functions=2", "their small scale"),
    ],
)
def test_notes_below_a_table_are_true_of_other_settings(
    name: str, change: str, by_default: str
) -> None:
    table = markdown(Outcome(make_plan(name, "small", [change]), {}).content)
    assert by_default not in table


CONTRASTED: dict[str, tuple[list[str], str]] = {
    "cml-figure1": ([], "beta-1-digits-30"),
    "cml-rules": (["data=digits", "held_out=5"], "omega-met"),
    "cml-continual": (["hidden=[5]"], "omega-iid"),
    "cml-table4": ([], "cml-eprop-own"),
    "cml-table5": (["hidden=4", "tasks=1"], "cml-synaptic-0.5"),
    "cml-theta": ([], "beta-0.01-20"),
}


@pytest.mark.parametrize("name", CONTRASTED)
def test_how_far_learning_has_to_have_converged_is_a_setting(name: str) -> None:
    changes, wanted = CONTRASTED[name]
    for value, accepted in (("0.25", 0.25), ("null", None)):
        jobs = make_plan(name, "small", [*changes, f"tolerance={value}"]).jobs()
        training: Any = next(job for job in jobs if job.name == wanted).begin({})
        contrast = getattr(training, "training", training).meta_gradient
        assert contrast.tolerance == accepted
    with pytest.raises(GrammarError, match="'tolerance'"):
        make_plan(name, "small", ["tolerance=0"])


def test_readouts_have_it_too() -> None:
    jobs = make_plan("cml-continual", "small", ["hidden=[5]", "tolerance=0.25"]).jobs()
    training: Any = next(job for job in jobs if job.name == "readout-iid").begin({})
    assert training.meta_gradient.tolerance == 0.25


def test_coefficients_are_compared_where_learning_has_converged() -> None:
    """After 180 steps, and not after 20."""
    settings = ["seeds=1", "lifetimes=1"]
    for told, finite in (([], [True, True]), (["tolerance=1"], [False, True])):
        jobs = {job.name: job for job in make_plan("cml-theta", "small", settings + told).jobs()}
        short, long = (jobs[f"beta-0.01-{steps}"] for steps in (20, 180))
        errors = [job.measure(job.begin({}))["error"] for job in (short, long)]
        assert [bool(error.isfinite()) for error in errors] == finite


def test_a_setting_within_another_leaves_those_beside_it() -> None:
    small, full = (
        make_plan("cml-table2", scale, ["one_shot.steps=7", "one_shot.beta=0.2"]).settings
        for scale in ("small", "full")
    )
    assert small.model_dump()["one_shot"] == {
        "shots": 1, "steps": 7, "nudged_steps": 15, "beta": 0.2, "strength": 0.5, "meta_rate": 1e-2,
        "milestones": (),
    }  # fmt: skip
    assert full.model_dump()["one_shot"] == {
        "shots": 1, "steps": 7, "nudged_steps": 75, "beta": 0.2, "strength": 0.5, "meta_rate": 1e-3,
        "milestones": (),
    }  # fmt: skip
    again = make_plan("cml-table2", "small").settings.model_dump()  # the scale is as it was
    assert (again["one_shot"]["steps"], again["one_shot"]["beta"]) == (20, 0.01)
    panel = make_plan("cml-figure1", "small", ["cifar.examples=12"]).settings.model_dump()["cifar"]
    assert (panel["data"], panel["examples"], panel["judged"]) == ("cifar10", 12, 25_000)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("cml-table2", "one_shot.stesp=7", r"^--set one_shot.stesp:.* did you mean 'steps'\?"),
        ("cml-table3", "five_shot.beta=0", r"^--set five_shot.beta:.*'beta': .* greater than 0"),
        ("cml-table1", "cml.strength=.nan", r"^--set cml.strength:.*'strength': .* valid number"),
        ("cml-table1", "cmll.steps=7", r"^--set cmll.steps:.* did you mean 'cml'\?"),
        ("cml-table1", "seeds.steps=7", r"^--set seeds.steps: 'seeds' is a value"),
        ("cml-table1", "cml.=7", r"^--set cml\.=7: write key=value"),
    ],
)
def test_a_setting_within_another_that_makes_no_sense(name: str, change: str, message: str) -> None:
    with pytest.raises((ConfigError, GrammarError), match=message):
        make_plan(name, "small", [change])
