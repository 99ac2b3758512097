"""Wheel bandits: rewards, regrets and their averages, against counting and Monte Carlo."""

from __future__ import annotations

import math

import pytest
import torch
from draws import generators

from rulesearch.errors import ConfigError
from rulesearch.tasks.wheel import ARMS, Experience, Wheel, WheelLogs, uniform_regret


def test_the_rim_favours_the_arm_of_the_quadrant() -> None:
    wheel = Wheel(torch.tensor([0.5]))
    inside, edge = [0.3, 0.3], [0.3, 0.4]  # of radius 0.42 and 0.5
    places = [inside, edge, [0.6, -0.6], [-0.6, 0.6], [-0.6, -0.6], [0.9, 0.0], [0.0, 0.9]]
    best = [None, 0, 1, 2, 3, 1, 2]
    means = wheel.means(torch.tensor([places]))[0].tolist()
    for row, arm in zip(means, best, strict=True):
        expected = [1.0, 1.0, 1.0, 1.0, 1.2]
        if arm is not None:
            expected[arm] = 50.0
        assert row == pytest.approx(expected)


def test_contexts_are_uniform_in_the_disc() -> None:
    radius = Wheel(torch.tensor([0.5])).contexts(generators(0), 20_000)
    assert radius.norm(dim=-1).max() <= 1 + 1e-6
    for r in (0.3, 0.7, 0.95):
        inside = (radius.norm(dim=-1) < r).float().mean()
        assert float(inside) == pytest.approx(r**2, abs=0.015)
    assert float((radius > 0).all(-1).float().mean()) == pytest.approx(0.25, abs=0.015)


def test_rewards_scatter_about_their_means() -> None:
    wheel, g = Wheel(torch.tensor([0.0, 1.0])), generators(1, 2)
    context = wheel.contexts(g, 20_000)
    away = wheel.rewards(context, g) - wheel.means(context)
    golden = wheel.means(context) == 50
    assert not golden[1].any()
    assert golden[0].sum(-1).unique().tolist() == [1]
    for chosen, deviation in ((golden, 0.01), (~golden, 0.05)):
        assert float(away[chosen].std()) == pytest.approx(deviation, rel=0.03)
        assert abs(float(away[chosen].mean())) < deviation / 50


@pytest.mark.parametrize("delta", [0.5, 0.9, 0.99])
def test_a_random_agent_pays_all_and_one_who_knows_pays_nothing(delta: float) -> None:
    wheel, (g,) = Wheel(torch.tensor([delta])), generators(3)
    context = wheel.contexts([g], 200_000)
    action = torch.randint(ARMS, context.shape[:2], generator=g)
    regret = wheel.regret(context, action)
    scatter = float(regret.std()) / math.sqrt(200_000)
    assert float(regret.mean()) == pytest.approx(uniform_regret(delta), abs=5 * scatter)
    assert wheel.regret(context, wheel.means(context).argmax(-1)).abs().max() == 0


def test_published_normalisers() -> None:
    expected = {0.5: 29.41, 0.7: 20.05, 0.9: 7.57, 0.95: 3.963, 0.99: 0.936}
    for delta, value in expected.items():
        assert uniform_regret(delta) == pytest.approx(value, rel=1e-3)


def test_logs_are_of_chance_on_many_wheels() -> None:
    log = WheelLogs(500).sample(generators(*range(200)))
    counts = torch.bincount(log.action.flatten(), minlength=ARMS) / log.action.numel()
    assert torch.allclose(counts, torch.full((ARMS,), 0.2), atol=0.005)
    rich = log.reward > 40
    # The rim on average: P(|x| >= delta) = 1 - E delta^2 = 2/3; 1 arm of 5.
    assert float(rich.float().mean()) == pytest.approx(2 / 3 / 5, abs=0.02)
    x, y = log.context.unbind(-1)
    quadrant = torch.where(x > 0, 0, 2) + torch.where(y > 0, 0, 1)
    assert torch.equal(log.action[rich], quadrant[rich])
    poor = log.reward[~rich]
    assert float(poor[log.action[~rich] == 4].mean()) == pytest.approx(1.2, abs=0.002)
    assert float(poor[log.action[~rich] < 4].mean()) == pytest.approx(1.0, abs=0.002)
    # On each wheel riches lie farther out than all poor choices of the quadrant's arm.
    for k in range(200):
        radius, mine = log.context[k].norm(dim=-1), log.action[k] == quadrant[k]
        golden, dull = radius[mine & rich[k]], radius[mine & ~rich[k]]
        assert len(golden) == 0 or len(dull) == 0 or golden.min() >= dull.max()
    alone = WheelLogs(500).sample(generators(7))
    assert all(torch.equal(a[7], b[0]) for a, b in zip(log, alone, strict=True))


def test_experience_at_steps_is_of_each_lifetime() -> None:
    log = WheelLogs(6).sample(generators(0, 1))
    steps = torch.tensor([[5, 0, 0], [1, 2, 5]])
    found: Experience = log.at(steps)
    for life in range(2):
        for k, step in enumerate(steps[life].tolist()):
            assert torch.equal(found.context[life, k], log.context[life, step])
            assert found.action[life, k] == log.action[life, step]
            assert found.reward[life, k] == log.reward[life, step]


def test_actions_that_wheels_share_are_judged_on_each() -> None:
    wheel = Wheel(torch.tensor([0.1, 0.9]))
    context = wheel.contexts(generators(0, 1), 50)
    action = torch.randint(ARMS, (1, 50), generator=generators(2)[0])
    for shared in (action, action[:, :1].expand(2, 1)):
        each = wheel.regret(context, shared.expand(2, 50))
        assert torch.equal(wheel.regret(context, shared), each)
    with pytest.raises(ConfigError, match=r"action has shape \(2, 49\); give one for each context"):
        wheel.regret(context, action[:, :49].expand(2, 49))


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (torch.zeros(2, 50), r"action is torch.float32; give arms, whole numbers, as .long\(\)"),
        (torch.zeros(2, 50, dtype=torch.bool), "action is torch.bool; give arms"),
        (torch.full((2, 50), 5), "action runs from 5 to 5; arms are 0 to 4"),
        (torch.full((2, 50), -1), "action runs from -1 to -1; arms are 0 to 4"),
        ([[0] * 50] * 2, "action should be a torch tensor, an arm for each context"),
    ],
)
def test_actions_are_arms(action: object, said: str) -> None:
    wheel = Wheel(torch.tensor([0.1, 0.9]))
    with pytest.raises(ConfigError, match=said):
        wheel.regret(wheel.contexts(generators(0, 1), 50), action)  # type: ignore[arg-type]


def test_actions_of_any_whole_type_are_the_same() -> None:
    wheel = Wheel(torch.tensor([0.1, 0.9]))
    context = wheel.contexts(generators(0, 1), 50)
    action = torch.randint(ARMS, (2, 50), generator=generators(2)[0])
    for kind in (torch.uint8, torch.int32):  # lives keep them as bytes
        assert torch.equal(wheel.regret(context, action.to(kind)), wheel.regret(context, action))


def test_contexts_and_generators_are_of_the_wheels() -> None:
    wheel, one = Wheel(torch.tensor([0.1, 0.9])), Wheel(torch.tensor([0.5]))
    context = wheel.contexts(generators(0, 1), 50)
    for count in (0, 3):
        with pytest.raises(ConfigError, match=f"2 lifetimes need as many generators.*not {count}"):
            wheel.rewards(context, generators(*range(count)))
    three = torch.cat([context, context[:1]])
    for wrong in (three, torch.cat([context, context[..., :1]], -1)):
        with pytest.raises(ConfigError, match=r"context has shape .*it should be \(2, steps, 2\)"):
            wheel.means(wrong)
    alone = torch.cat([one.means(life[None]) for life in three])
    assert torch.equal(one.means(three), alone)
    assert one.rewards(three, generators(0, 1, 2)).shape == (3, 50, ARMS)


def test_regret_at_random_is_of_wheels_alone() -> None:
    for delta in (-0.1, 1.1, math.nan, math.inf, "0.5", None, torch.tensor([0.5, 2.0])):
        with pytest.raises(ConfigError, match="uniform_regret: delta is from 0 to 1, not"):
            uniform_regret(delta)  # type: ignore[arg-type]
    assert (uniform_regret(0), uniform_regret(1)) == pytest.approx((39.16, 0.16))
    each: object = uniform_regret(torch.tensor([0.0, 1.0]))  # type: ignore[arg-type]
    assert isinstance(each, torch.Tensor)
    assert each.tolist() == pytest.approx([39.16, 0.16])


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match="delta is from 0 to 1"):
        Wheel(torch.tensor([0.5, 1.5]))
    with pytest.raises(ConfigError, match="2 wheels need as many generators, not 1"):
        Wheel(torch.tensor([0.5, 0.6])).contexts(generators(0), 3)
    with pytest.raises(ConfigError, match="at least one generator"):
        WheelLogs().sample([])
    with pytest.raises(ConfigError, match="steps must be at least 1"):
        WheelLogs(0)
