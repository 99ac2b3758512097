"""Coefficients that are meta-trained under a penalty: what it takes, and when."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_flp import RATES, SINE, WIDE, gradients, sines, task_of, training_of

from rulesearch.errors import ConfigError
from rulesearch.grammar import Grammar, Term, TermPool
from rulesearch.outer import (
    L1,
    L2,
    MetaModel,
    MetaRates,
    MetaTraining,
    NoPenalty,
    ProximalL1,
    flp_model,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def test_theta_is_learnt_and_shrunk() -> None:
    rates = MetaRates(0.0, 0.0, 0.0, 0.0, theta=1e-2)
    free = training_of(replace(SINE, rates=rates))
    taxed = training_of(replace(SINE, rates=rates), penalty=ProximalL1(1e6))
    for training in (free, taxed):
        training.update()
    assert free.model.theta.ne(1).all()
    assert taxed.model.theta.eq(0).all()


def test_a_penalty_takes_no_rule_of_which_nothing_is_known_yet() -> None:
    """Where rates begin at zero the first gradient of theta is zero, exactly."""
    pool = TermPool([Term.from_text("hebb", "y_post * y_pre.T"), Term.from_text("decay", "-W")])
    settings = replace(SINE, rate=0.0, rates=replace(RATES, theta=1e-2))
    model = flp_model(settings, 2, pool=pool, theta=(1.0, 0.5), dtype=WIDE)
    training = MetaTraining(model, sines(), settings.rates, penalty=ProximalL1(1e-5))
    training.update()
    assert training.model.theta.tolist() == [[1.0, 0.5]] * 2
    training.update()  # rates have moved by now
    assert training.model.theta.ne(0).all()


def test_a_penalty_takes_a_term_that_does_nothing_at_once() -> None:
    """As what is fed back to the layer below does where one layer is plastic."""
    pool = TermPool([Term.from_text("hebb", "y_post * y_pre.T"),
                     Term.from_text("fed_pre", "y_post * e_pre.T")])  # fmt: skip
    settings = replace(SINE, plastic_layers=1, rates=replace(RATES, theta=1e-2))
    model = flp_model(settings, 2, pool=pool, theta=(1.0, 0.5), dtype=WIDE)
    training = MetaTraining(model, sines(), settings.rates, penalty=ProximalL1(1e-5))
    training.update()
    assert training.model.theta[:, 1].eq(0).all()
    assert training.model.theta[:, 0].ne(0).all()


@pytest.mark.parametrize("penalty", [L1(0.3), L2(0.3), ProximalL1(0.3)], ids=lambda p: p.name)
def test_a_penalty_of_rules_is_taken_as_its_formula_says(penalty: NoPenalty) -> None:
    """Two of Adam's steps by hand; the proximal map is in the metric of each of them."""
    rate, (b1, b2) = 1e-2, (0.5, 0.8)
    rates = MetaRates(0.0, 0.0, 0.0, 0.0, theta=rate, betas=(b1, b2))
    pool = TermPool([Term.from_text("oja", "y_post * y_pre.T - diag(y_post**2) * W"),
                     Term.from_text("decay", "-W")])  # fmt: skip

    def born() -> MetaModel:
        return flp_model(SINE, 2, pool=pool, theta=(1.0, -0.5), dtype=WIDE)

    training = MetaTraining(born(), sines(), rates, penalty=penalty)
    t, first, second, twin = training.model.theta.detach().clone(), 0.0, 0.0, born()
    for count in (1, 2):
        with torch.no_grad():
            twin.theta.copy_(t)
        g = gradients(twin, task_of(SINE, 2, update=count - 1))["theta"]
        assert g is not None
        if penalty.name == "l1":
            g = g + 0.3 * t.sign()
        elif penalty.name == "l2":
            g = g + 0.3 * t / (t**2).sum(1, keepdim=True).sqrt()
        first, second = b1 * first + (1 - b1) * g, b2 * second + (1 - b2) * g**2
        step = rate / ((second / (1 - b2**count)).sqrt() + 1e-8)
        t = t - step * first / (1 - b1**count)
        if penalty.name == "proximal-l1":
            t = t.sign() * (t.abs() - 0.3 * step).clamp(min=0)
        training.update()
        torch.testing.assert_close(training.model.theta.detach(), t)


def test_a_penalty_on_what_is_not_learnt() -> None:
    """It would shrink nothing, without a word."""
    pool = Grammar.from_yaml("flp10").enumerate()
    model = flp_model(SINE, 2, pool=pool, theta=pool.init)
    with pytest.raises(ConfigError, match=r"'proximal-l1' is on theta.*; give MetaRates\(theta="):
        MetaTraining(model, sines(), RATES, penalty=ProximalL1(10.0))
    MetaTraining(model, sines(), replace(RATES, theta=1e-3), penalty=ProximalL1(10.0))
