"""Online lives with bandits; regression, Bayesian heads, and a tiny run of CML's Table 5."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from draws import generators
from safetensors.torch import load_file
from tiny_reproduction import left
from tiny_search import interrupt_after
from torch import Tensor

from rulesearch.errors import ConfigError, LearnerError, RuleSearchError
from rulesearch.networks.modulated import ModulatedNetwork
from rulesearch.outer.bandit import (
    ChosenArm,
    GreedyAgent,
    Life,
    NeuralLinearAgent,
    Statistics,
    live,
)
from rulesearch.outer.bandit import neural_linear as neural_linear_module
from rulesearch.outer.bilevel import SGD, LossProblem, Named
from rulesearch.outer.seeds import TEST
from rulesearch.outer.seeds import generators as seeds_of
from rulesearch.reproduce import make_plan, reproduce
from rulesearch.tasks.wheel import ARMS, Experience, Wheel, uniform_regret

pytestmark = pytest.mark.usefixtures("one_thread")


class Watcher:
    """Knows the wheel, unless it plays at random, and keeps what it was told."""

    def __init__(self, wheel: Wheel, *, random: bool = False) -> None:
        self.wheel, self.random, self.told = wheel, random, list[Experience]()
        (self.generator,) = generators(0)
        self.alive = torch.ones(len(wheel.delta), dtype=torch.bool)

    def act(self, context: Tensor) -> Tensor:
        if self.random:
            return torch.randint(ARMS, context.shape[:2], generator=self.generator)
        return self.wheel.means(context).argmax(-1)

    def learn(self, experience: Experience) -> None:
        self.told.append(experience)

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def load(self, tensors: object) -> None:
        raise AssertionError("no test resumes it")


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


def test_what_an_agent_lacks_and_chooses_is_told() -> None:
    wheel = Wheel(torch.tensor([0.5, 0.8]))

    class Deaf:
        def act(self, context: Tensor) -> Tensor:
            return torch.zeros(context.shape[:2], dtype=torch.int64)

    with pytest.raises(ConfigError, match="which lacks learn, alive"):
        live(Deaf(), wheel, 20, 5, generators(1, 2))  # type: ignore[arg-type]
    agent = Watcher(wheel)
    for chosen, message in (
        (
            torch.zeros(3, dtype=torch.int64),
            r"shape \(3,\) .* whole numbers \(2, 1\), one a context",
        ),
        (torch.zeros(2, 1), "type torch.float32; it should be arms"),
        (torch.full((2, 1), 5), "runs from 5 to 5; arms are 0 to 4"),
    ):
        agent.act = lambda context, chosen=chosen: chosen  # type: ignore[method-assign,misc]
        with pytest.raises(LearnerError, match=message):
            live(agent, wheel, 11, 10, generators(1, 2))


def test_an_agent_without_a_memory_to_keep_lives_in_one_go() -> None:
    wheel = Wheel(torch.tensor([0.5]))

    class Zero:
        alive = torch.ones(1, dtype=torch.bool)

        def act(self, context: Tensor) -> Tensor:
            return torch.zeros(context.shape[:2], dtype=torch.int64)

        def learn(self, experience: Experience) -> None: ...

    life = Life(Zero(), wheel, 20, 10, generators(1))  # type: ignore[arg-type]
    life.go_on()
    with pytest.raises(ConfigError, match=r"needs an agent with tensors\(\) .*Zero lacks tensors"):
        life.tensors()
    assert live(Zero(), wheel, 20, 10, generators(1)).shape == (1, 20)  # type: ignore[arg-type]


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
    statistics = Statistics(2, 2)
    for part in (slice(0, 7), slice(7, 30)):  # whose sums are those of the whole
        statistics.add(seen.context[:, part], seen.action[:, part], seen.reward[:, part])
    heads, count = statistics.heads(), 40_000
    drawn = heads.draw(count, [np.random.default_rng(life) for life in range(2)])
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


HIDDEN = 30


def neural_linear(*lives: int) -> NeuralLinearAgent:
    """An agent for each life, whose random numbers are its own."""
    network = ModulatedNetwork((2, HIDDEN, ARMS))
    born = network.init(generators(*(10 * k for k in lives)))
    head = {
        "head.W": torch.eye(HIDDEN).expand(len(lives), HIDDEN, HIDDEN),
        "head.bias": torch.zeros(len(lives), HIDDEN),
    }
    return NeuralLinearAgent(
        network,
        lambda weights, x: network({**weights, **head}, x),
        {k: w for k, w in born.items() if not k.endswith("gain")},
        {k: w for k, w in born.items() if k.endswith("gain")},
        50,
        64,
        generators(*(10 * k + 1 for k in lives)),
        [(4, k) for k in lives],
    )


def seen_by(*lives: int) -> list[torch.Generator]:
    return generators(*(10 * k + 2 for k in lives))


def test_a_time_of_learning_is_rmsprop_with_clipped_slopes_and_a_rate_that_decays() -> None:
    """By hand, of two lifetimes; rewards of the second are so large that slopes are clipped."""
    seen = experience(2, 9)
    seen = seen._replace(reward=seen.reward * torch.tensor([[0.2], [40.0]]))
    W = torch.randn(2, ARMS, 2, generator=generators(7)[0], dtype=torch.float64)
    agent = NeuralLinearAgent(
        linear, lambda weights, x: x, {"W": W}, {}, 4, 3, generators(8, 9), [(0,), (1,)]
    )
    agent.learn(seen)
    norms: list[list[float]] = []
    for life, g in enumerate(generators(8, 9)):
        rows = torch.randint(9, (4, 3), generator=g)
        x, action, reward = (part[life].numpy() for part in seen)
        w, square = W[life].numpy().copy(), np.zeros((ARMS, 2))
        norms.append([])
        for step in range(4):
            slope = np.zeros((ARMS, 2))
            for k in rows[step].tolist():
                slope[action[k]] += 2 * (w[action[k]] @ x[k] - reward[k]) * x[k] / 3
            norms[-1].append(float(np.sqrt((slope**2).sum())))
            slope *= min(1.0, 5 / norms[-1][-1])
            square = 0.9 * square + 0.1 * slope**2
            w -= 0.01 / (1 + 0.5 * step) * slope / np.sqrt(square + 1e-8)
        np.testing.assert_allclose(agent.weights["W"][life], w, rtol=1e-9)
    assert max(norms[0]) < 5 < min(norms[1])


def test_neural_linear_learns_what_pays() -> None:
    """On a wheel that is all rim, where one arm of five pays fifty times the others."""
    regret = live(neural_linear(0, 1), Wheel(torch.zeros(2)), 800, 100, seen_by(0, 1))
    early, late = regret[:, 10:101].mean(1), regret[:, -300:].mean(1)
    assert (late < 0.3 * uniform_regret(0)).all()
    assert (late < early).all()


def test_a_lifetime_is_the_same_in_any_company() -> None:
    wheel = Wheel(torch.full((3,), 0.4))
    together = live(neural_linear(0, 1, 2), wheel, 150, 50, seen_by(0, 1, 2))
    alone = live(neural_linear(1), Wheel(wheel.delta[:1]), 150, 50, seen_by(1))
    torch.testing.assert_close(together[1:2], alone)
    assert not torch.equal(together[0], together[1])


def test_a_lifetime_that_diverges_leaves_the_others_alone() -> None:
    wheel = Wheel(torch.full((2,), 0.4))
    agent = neural_linear(0, 1)
    agent.weights = {k: w.clone() for k, w in agent.weights.items()}
    agent.weights["full0.W"][0] = torch.nan
    regret = live(agent, wheel, 150, 50, seen_by(0, 1))
    assert agent.alive.tolist() == [False, True]
    assert regret[0].isnan().all()
    torch.testing.assert_close(
        regret[1:], live(neural_linear(1), Wheel(wheel.delta[:1]), 150, 50, seen_by(1))
    )


def test_features_of_a_long_past_are_held_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never those of all its choices at once, and the posteriors are the same."""
    wheel, sizes = Wheel(torch.full((1,), 0.4)), list[int]()
    whole = live(neural_linear(0), wheel, 150, 50, seen_by(0))
    agent = neural_linear(0)
    features = agent.features

    def watched(weights: Named, x: Tensor) -> Tensor:
        sizes.append(x.shape[1])
        return features(weights, x)

    agent.features = watched
    monkeypatch.setattr(neural_linear_module, "AT_ONCE", 16)
    agent.updates = 50
    regret = live(agent, wheel, 150, 50, seen_by(0))
    torch.testing.assert_close(regret, whole)
    assert sizes.count(16) == 3 + 6  # of 1, 51 and 101 choices
    assert max(sizes) == 50  # when it chooses


TINY = (
    "updates=4", "seeds=2", "episodes=1", "hidden=8", "tasks=3", "learnt=20", "judged=6",
    "horizon=60", "batch=16", "shorter=50", "checkpoint_every=2",
)  # fmt: skip


def test_a_tiny_run_fills_the_table(tmp_path: Path) -> None:
    """Regret is what choosing from the meta-parameters of the first job costs, and no less."""
    run = tmp_path / "run"
    plan = make_plan("cml-table5", "small", TINY)
    reproduce(plan, run)
    content = json.loads((run / "result.json").read_text())
    assert [row["row"] for row in content["rows"]] == [
        "neural-linear",
        "maml",
        "cml-synaptic",
        "cml-modulatory",
    ]
    for row in content["rows"]:
        assert len(row["ours"]) == 5
        jobs = [load_file(run / "jobs" / f"{row['row']}-{c}.safetensors") for c in row["ours"]]
        for name, value in jobs[0].items():
            if name.startswith("model."):
                assert all(torch.equal(value, job[name]) for job in jobs[1:])
    # Two rounds of all arms cost what they cost, whoever lives: the rest is the agent's.
    for place, (delta, figure) in enumerate(content["rows"][2]["ours"].items()):
        draws = seeds_of(0, 0, TEST, [(row, 0) for row in range(2)], place)
        wheel = Wheel(torch.full((2,), float(delta)))
        regret = live(Watcher(wheel), wheel, 60, 50, draws).double().mean(1)
        least = 100 * regret / uniform_regret(float(delta))
        assert all(mine > low for mine, low in zip(figure["seeds"], least.tolist(), strict=True))


def test_lives_on_some_wheels_are_those_of_all(tmp_path: Path) -> None:
    """The first of those wanted is meta-trained for; numbers will do for what they are called."""
    found = []
    for name, wanted in (("all", ()), ("some", ("conditions=[0.9, '0.99']",))):
        reproduce(
            make_plan("cml-table5", "small", [*TINY, *wanted], ["cml-synaptic"]), tmp_path / name
        )
        found.append(json.loads((tmp_path / name / "result.json").read_text())["rows"][0]["ours"])
    assert list(found[1]) == ["0.9", "0.99"]
    for delta, figure in found[1].items():
        assert figure["seeds"] == found[0][delta]["seeds"]
    for wrong in ("[]", "[0.6]", "0.5"):
        with pytest.raises(RuleSearchError, match="'conditions': should"):
            make_plan("cml-table5", "small", [f"conditions={wrong}"])


@pytest.mark.parametrize("row", ["neural-linear", "cml-synaptic"])
def test_a_life_broken_off_ends_as_if_it_were_not(row: str, tmp_path: Path) -> None:
    """In the middle of meta-training, of the first life, of the second."""
    plan = make_plan("cml-table5", "small", [*TINY, "horizon=120"], [row])
    reproduce(plan, tmp_path / "whole")
    run = tmp_path / "broken"
    for moment in (4, 4, 5, 3):
        with pytest.raises(KeyboardInterrupt):
            reproduce(plan, run, [interrupt_after(moment)])
    reproduce(plan, run)
    assert left(run) == left(tmp_path / "whole")
