"""A test lifetime that diverged is no guess: accuracies and errors of it are NaN everywhere.

Of CML also where its weights are still finite, but beyond what meta-training accepts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_flp import IMAGE, images

from rulesearch.networks import ModulatedNetwork
from rulesearch.outer import flp_model
from rulesearch.outer.accuracy import share_right
from rulesearch.outer.bilevel import MetaParameters, accuracy, always
from rulesearch.outer.bilevel.networks import Examples
from rulesearch.reproduce.base import Job
from rulesearch.reproduce.cml_continual import CML_CONTINUAL, ContinualSettings
from rulesearch.reproduce.cml_few_shot import FewShotSettings, Images, PhaseSettings, few_shot_jobs
from rulesearch.reproduce.cml_rules import CML_RULES, RuleSettings
from rulesearch.reproduce.flp import lifetime_errors
from rulesearch.tasks import ImageData

pytestmark = pytest.mark.usefixtures("one_thread")

NAN, INF = float("nan"), float("inf")


def test_shares_are_counted_and_what_is_not_finite_has_none() -> None:
    logits = torch.tensor([[[2.0, 1], [0, 3]], [[2, 1], [NAN, NAN]], [[INF, 1], [0, 3]]] * 2)
    label = torch.tensor([[0, 1], [0, 0], [0, 1]] * 2)
    weights = torch.ones(6, 4)
    weights[3, 2] = -INF
    found = share_right(logits, label, weights)
    torch.testing.assert_close(found, torch.tensor([1.0, NAN, NAN, NAN, NAN, NAN]), equal_nan=True)
    assert share_right(logits[:1], torch.tensor([[0, 0]])).tolist() == [0.5]


@pytest.mark.parametrize("shown", [False, True])
def test_a_classifier_is_not_asked_where_its_weights_have_diverged(shown: bool) -> None:
    """Class 0 is right for the first three; of the last an infinite threshold hides the unit."""
    network = ModulatedNetwork([2, 2, 2])
    weights = {
        "full0.W": torch.eye(2).repeat(4, 1, 1),
        "full0.gain": torch.ones(4, 2),
        "full0.shift": torch.zeros(4, 2),
        "head.W": torch.eye(2).repeat(4, 1, 1),
        "head.bias": torch.zeros(4, 2),
    }
    weights["head.W"][1] = NAN
    weights["head.bias"][2, 0] = INF
    weights["full0.shift"][3, 1] = INF  # whose activity is zero
    x = torch.tensor([[[3.0, 1.0], [2.0, 1.0]]]).repeat(4, 1, 1)
    source = always(Examples(x, torch.zeros(4, 2, dtype=torch.int64)))
    assert network(weights, x)[3].isfinite().all()
    found = accuracy(network, weights, source, source if shown else None)
    torch.testing.assert_close(found, torch.tensor([1.0, NAN, NAN, NAN]), equal_nan=True)


def test_networks_of_flp_that_diverge_make_no_errors() -> None:
    """Of two seeds one has rates of 1e30."""
    model = flp_model(replace(IMAGE, rate=0.01), 2)
    with torch.no_grad():
        for rate in model.rate:
            rate[1] = 1e30
    errors = lifetime_errors(model, images(), 4, 0)
    assert errors.shape == (2, 4)
    assert errors[1].isnan().all()
    wrong = errors[0] / 100 * 6  # of three classes with two queries each
    torch.testing.assert_close(wrong, wrong.round(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [1e30, 1e5])
def test_rules_that_diverge_are_right_of_nothing(size: float) -> None:
    settings = RuleSettings(
        data="digits", held_out=3, unseen=20, ways=3, shots=2, queries=4, hidden=(6,), updates=1,
        seeds=2, lifetimes=3, steps=4, coefficients={"F0": size, "F2": 0.0, "F9": 0.0},
    )  # fmt: skip
    for job in CML_RULES.jobs(settings):
        if job.row == "alone":
            assert measured(job, settings).isnan().all()


def test_sines_descended_in_leaps_have_no_errors() -> None:
    settings = ContinualSettings(
        hidden=(5, 4), functions=2, batches=3, examples=4, updates=1, seeds=2, lifetimes=3, rate=3
    )
    for job in CML_CONTINUAL.jobs(settings):
        if job.row in ("descent", "readout-born"):  # which does not go by the rate
            error = job.measure(job.begin({}))["error"]
            assert error.isnan().all() if job.row == "descent" else error.isfinite().all()


def measured(job: Job, settings: Any) -> torch.Tensor:
    """After no training at all, of itself or of the job that it goes on from."""
    first = next(j for j in CML_RULES.jobs(settings) if j.name == "alone-met")
    training = job.begin({"alone-met": first.begin({}).model.state_dict()})
    return job.measure(training)["error"]


@pytest.mark.parametrize(("rate", "diverged"), [(0.01, False), (1e4, True), (1e30, True)])
def test_few_shots_that_diverge_are_right_of_nothing(rate: float, diverged: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (24, 64), generator=draw).to(torch.uint8)
    data = ImageData(pixels, torch.arange(24) // 8, 3, ("a", "b", "c"), "noise", (8, 8))
    settings = FewShotSettings(
        updates=1, seeds=2, lifetimes=3, ways=3, queries=2, size=8, channels=(3,), rate=rate
    )
    phase = PhaseSettings(shots=1, steps=5, nudged_steps=1, beta=0.1, strength=0.1, meta_rate=0.01)
    for job in few_shot_jobs(settings, {"1-shot": phase}, Images(data, data)):
        training = job.begin({})
        assert isinstance(training.model, MetaParameters)
        found = job.measure(training)["error"]
        assert found.isnan().all() if diverged else found.isfinite().all()
