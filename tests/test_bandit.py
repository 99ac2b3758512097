"""Online lives with bandits; regression, Bayesian heads, and a tiny run of CML's Table 5."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rulesearch.networks.modulated import ModulatedNetwork
from rulesearch.outer.bandit import (
    ChosenArm,
    GreedyAgent,
    NeuralLinearAgent,
    fit_heads,
    live,
)
from rulesearch.outer.bilevel import SGD, LossProblem, Named
from rulesearch.reproduce import make_plan, reproduce
from rulesearch.tasks.wheel import ARMS, Experience, Wheel, uniform_regret


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


class Watcher:
    """Knows the wheel, unless it plays at random, and keeps what it was told."""

    def __init__(self, wheel: Wheel, *, random: bool = False) -> None:
        self.wheel, self.random, self.told = wheel, random, list[Experience]()
        (self.generator,) = generators(0)

    def act(self, context: Tensor) -> Tensor:
        if self.random:
            return torch.randint(ARMS, context.shape[:2], generator=self.generator)
        return self.wheel.means(context).argmax(-1)

    def learn(self, experience: Experience) -> None:
        self.told.append(experience)


def test_a_life_goes_round_the_arms_and_then_pays_nothing_if_one_knows() -> None:
    wheel = Wheel(torch.tensor([0.5, 0.8]))
    agent = Watcher(wheel)
    regret = live(agent, wheel, 47, 15, generators(1, 2))
    assert regret.shape == (2, 47)
    assert (regret[:, 10:] == 0).all()
    assert [t.reward.shape[1] for t in agent.told] == [1, 16, 31, 46]
    context, action, reward = agent.told[-1]
    assert action[:, :10].tolist() == 2 * [[0, 1, 2, 3, 4, 0, 1, 2, 3, 4]]
    got = wheel.means(context).gather(-1, action[..., None]).squeeze(-1)
    assert (reward - got).abs().max() < 0.3  # six deviations
    torch.testing.assert_close(regret[:, :46], wheel.regret(context, action))


@pytest.mark.parametrize("delta", [0.5, 0.95])
def test_a_random_life_costs_all(delta: float) -> None:
    wheel = Wheel(torch.full((20,), delta))
    regret = live(Watcher(wheel, random=True), wheel, 5000, 5000, generators(*range(20)))
    share = regret.mean(1) / uniform_regret(delta)
    assert float(share.mean()) == pytest.approx(1, abs=4 * float(share.std()) / 20**0.5)


def experience(lifetimes: int, steps: int, seed: int = 5) -> Experience:
    (g,) = generators(seed)
    return Experience(
        torch.randn(lifetimes, steps, 2, generator=g, dtype=torch.float64),
        torch.randint(ARMS, (lifetimes, steps), generator=g),
        torch.randn(lifetimes, steps, generator=g, dtype=torch.float64),
    )


def linear(weights: Named, x: Tensor) -> Tensor:
    return x @ weights["W"].mT


def test_the_loss_is_of_chosen_arms_alone() -> None:
    seen = experience(2, 4)
    W = torch.randn(2, ARMS, 2, generator=generators(6)[0], dtype=torch.float64)
    found = ChosenArm(linear, lambda step: seen)({"W": W}, {}, None)
    for life in range(2):
        total = 0.0
        for x, arm, reward in zip(*(part[life] for part in seen), strict=True):
            total += float(W[life, arm] @ x - reward) ** 2
        assert float(found[life]) == pytest.approx(total / 4)


def test_a_greedy_agent_never_forgets_where_it_was() -> None:
    """Against torch's optimiser, kept from one time of learning to the next."""
    W = torch.randn(2, ARMS, 2, generator=generators(7)[0], dtype=torch.float64)

    def problem(source: object) -> LossProblem:
        loss = ChosenArm(linear, source)  # type: ignore[arg-type]
        return LossProblem(loss, loss, lambda theta: {"W": W})

    agent = GreedyAgent(
        linear, {"W": W}, {}, problem, SGD(0.05, 0.9, nesterov=True), 3, 4, generators(8, 9)
    )
    weights = W.clone().requires_grad_()
    optimiser, draws = torch.optim.SGD([weights], 0.05, 0.9, nesterov=True), generators(8, 9)
    for steps in (6, 11):
        seen = experience(2, steps)
        agent.learn(seen)
        batches = [torch.randint(steps, (3, 4), generator=g) for g in draws]
        for k in range(3):
            optimiser.zero_grad()
            for life in range(2):
                x, arm, reward = (part[life, batches[life][k]] for part in seen)
                guess = (weights[life, arm] * x).sum(-1)
                (guess - reward).square().mean().backward()
            optimiser.step()
        torch.testing.assert_close(agent.phi["W"], weights.detach())
    x = seen.context
    assert torch.equal(agent.act(x), linear({"W": weights.detach()}, x).argmax(-1))


def test_heads_are_the_posteriors_of_each_arm() -> None:
    seen = experience(2, 30)
    x, action, reward = (part.numpy() for part in seen)
    heads = fit_heads(seen.context, seen.action, seen.reward)
    (rng, count) = np.random.default_rng(0), 40_000
    drawn = heads.draw(count, rng)
    for life in range(2):
        for arm in range(ARMS):
            mine = action[life] == arm
            X, y = x[life, mine], reward[life, mine]
            P = 23 * np.eye(2) + X.T @ X
            mean = np.linalg.inv(P) @ X.T @ y
            a, b = 12 + mine.sum() / 2, 30 + (y @ y - mean @ P @ mean) / 2
            np.testing.assert_allclose(heads.mean[life, arm], mean)
            np.testing.assert_allclose(heads.a[life, arm], a)
            np.testing.assert_allclose(heads.b[life, arm], b)
            sample = drawn[life, :, arm].numpy()
            covariance = b / (a - 1) * np.linalg.inv(P)  # of a Student distribution
            np.testing.assert_allclose(
                sample.mean(0), mean, atol=5 * np.sqrt(covariance[0, 0] / count)
            )
            np.testing.assert_allclose(np.cov(sample.T), covariance, atol=0.05 * covariance.max())


def test_neural_linear_learns_what_pays() -> None:
    """On a wheel that is all rim, where one arm of five pays fifty times the others."""
    network = ModulatedNetwork((2, 30, ARMS))
    born = network.init(generators(0, 1))
    head = {"head.W": torch.eye(30).expand(2, 30, 30), "head.bias": torch.zeros(2, 30)}
    agent = NeuralLinearAgent(
        network,
        lambda weights, x: network({**weights, **head}, x),
        {k: w for k, w in born.items() if not k.endswith("gain")},
        {k: w for k, w in born.items() if k.endswith("gain")},
        50,
        64,
        generators(2, 3),
        np.random.default_rng(4),
    )
    wheel = Wheel(torch.zeros(2))
    regret = live(agent, wheel, 800, 100, generators(5, 6))
    early, late = regret[:, 10:101].mean(1), regret[:, -300:].mean(1)
    assert (late < 0.3 * uniform_regret(0)).all()
    assert (late < early).all()


def test_a_tiny_run_fills_the_table(tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = (
        "updates=4 seeds=2 episodes=1 hidden=8 tasks=3 learnt=20 judged=6 horizon=60 "
        "batch=16 shorter=50 checkpoint_every=2"
    )
    reproduce(make_plan("cml-table5", "small", settings.split()), run)
    content = json.loads((run / "result.json").read_text())
    assert [row["row"] for row in content["rows"]] == [
        "neural-linear",
        "maml",
        "cml-synaptic",
        "cml-modulatory",
    ]
    for row in content["rows"]:
        assert len(row["ours"]) == 5
        for figure in row["ours"].values():
            assert 0 < figure["value"] < 300
            assert len(figure["seeds"]) == 2
        jobs = [load_file(run / "jobs" / f"{row['row']}-{c}.safetensors") for c in row["ours"]]
        for name, value in jobs[0].items():
            if name.startswith("model."):
                assert all(torch.equal(value, job[name]) for job in jobs[1:])
