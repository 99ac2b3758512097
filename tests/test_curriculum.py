"""A curriculum: meta-training in stages is one training after another, with larger steps."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from small_flp import RATES, SINE, WIDE, sines, values

from rulesearch.errors import ConfigError, GrammarError
from rulesearch.outer import MetaRates, MetaTraining, Stage, flp_model
from rulesearch.outer.curriculum import stage_at
from rulesearch.reproduce.flp_table1 import SineSettings, sine_tasks
from rulesearch.reproduce.plan import make_plan

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT, LONGER = sines(functions=1, slots=3), sines(functions=2, slots=3)
STAGES = (Stage(2, SHORT, 3.0), Stage(1, LONGER, 2.0))


def faster(rates: MetaRates, pace: float) -> MetaRates:
    steps = ("forward", "feedback", "mixing", "rate", "theta")
    return replace(rates, **{name: pace * getattr(rates, name) for name in steps})


def training(**options: Any) -> MetaTraining:
    options = {"tasks": sines(), "rates": RATES, **options}
    return MetaTraining(flp_model(SINE, 2, dtype=WIDE), **options)


def test_stages_are_one_training_after_another() -> None:
    through = training(stages=STAGES)
    losses = [through.update().loss for _ in range(5)]
    apart, done = training(), 0
    for tasks, pace, updates in ((SHORT, 3.0, 2), (LONGER, 2.0, 1), (sines(), 1.0, 2)):
        before, apart = apart, training(tasks=tasks, rates=faster(RATES, pace))
        apart.load(before.tensors(), done)
        for _ in range(updates):
            torch.testing.assert_close(apart.update().loss, losses[done], rtol=1e-12, atol=0)
            done += 1
    for key, value in values(through.model).items():
        torch.testing.assert_close(value, values(apart.model)[key], rtol=1e-12, atol=1e-15)


def test_a_training_is_resumed_in_the_middle_of_a_stage() -> None:
    through = training(stages=STAGES)
    through.update()
    kept = {key: value.clone() for key, value in through.tensors().items()}
    resumed = training(stages=STAGES)
    resumed.load(kept, 1)
    for _ in range(3):
        assert torch.equal(through.update().loss, resumed.update().loss)
    assert all(v.equal(values(resumed.model)[k]) for k, v in values(through.model).items())


def test_milestones_and_pace_multiply() -> None:
    """After a milestone at half the rate, three times as fast: as from a rate of three halves."""
    dropped = replace(RATES, milestones=(1,), drop=0.5)
    staged = training(rates=dropped, stages=STAGES)
    staged.update()
    kept = {key: value.clone() for key, value in staged.tensors().items()}
    staged.update()
    slower = replace(faster(RATES, 3.0), forward=1.5 * RATES.forward)
    twin = training(tasks=SHORT, rates=slower)
    twin.load(kept, 1)
    twin.update()
    for key, value in values(staged.model).items():
        torch.testing.assert_close(value, values(twin.model)[key], rtol=1e-12, atol=1e-15)


def test_the_stage_of_an_update() -> None:
    found = [stage_at(update, STAGES) for update in range(5)]
    assert found == [STAGES[0], STAGES[0], STAGES[1], None, None]
    assert stage_at(0, ()) is None


def test_spare_slots_change_nothing_but_the_code() -> None:
    def draws() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in (3, 5)]

    narrow, wide = sines(functions=2), sines(functions=2, slots=5)
    assert (narrow.n_in, wide.n_in) == (3, 6)
    few, many = narrow.sample(draws()), wide.sample(draws())
    assert torch.equal(few.label, many.label)
    assert torch.equal(few.label_query, many.label_query)
    for a, b in ((few.x[:], many.x[:]), (few.x_query, many.x_query)):
        assert torch.equal(b[..., :2], a[..., :2])
        assert b[..., 2:5].eq(0).all()
        assert torch.equal(b[..., -1], a[..., -1])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Stage(0, SHORT), "updates of a stage must be at least 1"),
        (lambda: Stage(1, SHORT, 0.0), "pace of a stage must be above 0"),
        (lambda: Stage(1, SHORT, math.nan), "pace of a stage is nan"),
        (lambda: sines(slots=2), "slots must be at least 3"),
        (lambda: training(stages=[Stage(1, sines(functions=2))]), "examples of 'sines-2"),
    ],
)
def test_what_makes_no_sense(made: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made()


def test_table_1_is_trained_in_the_stages_it_is_told_and_tested_on_whole_lifetimes() -> None:
    first = "{updates: 30, functions: 2, batches: 3, pace: 4}"
    then = "{updates: 20, functions: 3, batches: 5}"
    settings = make_plan("flp-table1", overrides=[f"stages=[{first}, {then}]"]).settings
    assert isinstance(settings, SineSettings)
    for tasks in sine_tasks(settings).values():
        found = [(stage.updates, stage.tasks.steps, stage.pace) for stage in tasks.stages]
        assert found == [(30, 6, 4.0), (20, 15, 1.0)]
        assert tasks.train.steps == tasks.test.steps == 24
        assert {t.n_in for t in (tasks.train, tasks.test, *(s.tasks for s in tasks.stages))} == {5}


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("updates: 30, functions: 5, batches: 3", "has lifetimes of 5 sines, where whole .* 4"),
        ("updates: 3000, functions: 2, batches: 3", "has 3000 updates, of 2000 in all"),
        ("updates: 30, functions: 2, batches: 3, pace: 0", "greater than 0"),
        ("updates: 30, functions: 2", "missing key 'batches'"),
    ],
)
def test_stages_that_do_not_fit_are_refused_at_their_place(stage: str, message: str) -> None:
    with pytest.raises(GrammarError, match=f"--set stages.*{message}"):
        make_plan("flp-table1", overrides=[f"stages=[{{{stage}}}]"])


def test_every_step_has_a_pace() -> None:
    """A step of Adam's that is added to MetaRates is one that the twin above has to know."""
    others = {"feedback_rate", "clip", "milestones", "drop", "betas"}
    assert {f.name for f in fields(MetaRates)} - others == {
        "forward", "feedback", "mixing", "rate", "theta"
    }  # fmt: skip
