"""Lives of bandits share nothing and go on as their own, or are refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from draws import generators
from refusals import assert_refused
from torch import Tensor

from rulesearch.errors import ConfigError, LearnerError
from rulesearch.outer.bandit import Agent, ChosenArm, GreedyAgent, Life, NeuralLinearAgent
from rulesearch.outer.bilevel import SGD, Adam, LossProblem, Named, Optimiser
from rulesearch.tasks.wheel import ARMS, Experience, Wheel

pytestmark = pytest.mark.usefixtures("one_thread")


def linear(weights: Named, x: Tensor) -> Tensor:
    return x @ weights["W"].mT


def problem(source: Callable[[int | None], Experience]) -> LossProblem:
    loss = ChosenArm(linear, source)
    return LossProblem(loss, loss, lambda theta: {})


def greedy(
    lives: int = 2, given: int = 2, arms: int = ARMS, optimiser: Optimiser | None = None
) -> GreedyAgent:
    """An agent with weights of so many lives, and generators as given."""
    phi = {"W": torch.ones(lives, arms, 2)}
    draws = generators(*range(given))
    return GreedyAgent(linear, phi, {}, problem, optimiser or SGD(0.05, 0.9), 2, 4, draws)


def neural(
    lives: int = 2, given: int = 2, arms: int = ARMS, keys: Any = ((0, 1), (0, 2))
) -> NeuralLinearAgent:
    weights, draws = {"W": torch.ones(lives, arms, 2)}, generators(*range(given))
    return NeuralLinearAgent(linear, lambda w, x: x, weights, {}, 2, 4, draws, keys)


def experience(lives: int, steps: int = 3) -> Experience:
    action = torch.full((lives, steps), ARMS - 1)
    return Experience(torch.ones(lives, steps, 2), action, torch.ones(lives, steps))


def life(agent: Agent, wheels: int = 2, steps: int = 40, every: int = 10) -> Life:
    wheel = Wheel(torch.full((wheels,), 0.5))
    return Life(agent, wheel, steps, every, generators(*range(10, 10 + wheels)), pulls=0)


def lived(agent: Agent, blocks: int = 3, **given: int) -> dict[str, Tensor]:
    """What a life has to go on with."""
    broken = life(agent, **given)
    for _ in range(blocks):
        broken.go_on()
    return broken.tensors()


class Still:
    """An agent that says something else of who is alive."""

    def __init__(self, alive: object) -> None:
        self.alive: Any = alive

    def act(self, context: Tensor) -> Tensor:
        return torch.zeros(context.shape[:2], dtype=torch.int64)

    def learn(self, experience: Experience) -> None: ...

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def load(self, tensors: object) -> None: ...


SHARED: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: greedy(given=1), LearnerError,
     "agent: weight 'W' has shape (2, 5, 2), with 1 generators: give as many lifetimes of each"),
    (lambda: greedy(lives=1), LearnerError, "weight 'W' has shape (1, 5, 2), with 2 generators"),
    (lambda: greedy(given=0), ConfigError, "agent: at least one generator is needed"),
    (lambda: neural(given=1), LearnerError, "weight 'W' has shape (2, 5, 2), with 1 generators"),
    (lambda: NeuralLinearAgent(linear, linear, {}, {}, 2, 4, generators(0), [(0,)]), LearnerError,
     "agent: there are no weights"),
    (lambda: greedy(1, 1).learn(experience(2)), LearnerError,
     "experience.context has shape (2, 3, 2); it should begin with 1, the agent's lifetimes: give"),
    (lambda: greedy().learn(experience(2)._replace(reward=torch.ones(1, 3))), LearnerError,
     "experience.reward has shape (1, 3); it should begin with 2"),
    (lambda: greedy(1, 1).act(torch.ones(2, 3, 2)), LearnerError, "context has shape (2, 3, 2)"),
    (lambda: neural(1, 1, keys=[(0,)]).learn(experience(2)), LearnerError, "experience.context"),
    (lambda: neural().act(torch.ones(1, 3, 2)), LearnerError, "context has shape (1, 3, 2)"),
    (lambda: greedy(arms=4).learn(experience(2)), LearnerError,
     "the network's answers have shape (2, 4, 4); they should be (2, 4, 5): a network answers for"),
    (lambda: greedy(arms=6).act(torch.ones(2, 3, 2)), LearnerError, "answers have shape (2, 3, 6)"),
    (lambda: neural(arms=4).learn(experience(2)), LearnerError, "answers for 5 arms"),
    (lambda: neural(keys=[(0, 1)]), ConfigError, "2 generators need as many keys, not 1"),
    (lambda: neural(keys=[0, 1]), ConfigError,
     "keys[0] should be a tuple of whole numbers, one such tuple a lifetime, as [(0, 1), (0, 2)]"),
    (lambda: neural(keys=3), ConfigError, "keys should be tuples of whole numbers, one such tuple"),
    (lambda: neural(keys=[(0, 1), (0, 0.5)]), ConfigError, "keys[1] is 0.5; give a whole number"),
    (lambda: neural(keys=[(0, 1), (0, -1)]), ConfigError, "keys[1] must be at least 0, not -1"),
    (lambda: life(greedy(), wheels=3), LearnerError,
     "agent.alive has shape (2,) and type torch.bool; it should be a torch tensor of bool, one a"),
    (lambda: life(Still(True)), LearnerError, "agent.alive should be a property that is a torch"),
    (lambda: life(Still(lambda: True)), LearnerError, "one a lifetime, not of type function"),
    (lambda: life(Still(torch.tensor(True))), LearnerError, "agent.alive has shape () and type"),
    (lambda: life(Still(torch.ones(1) > 0)), LearnerError, "agent.alive has shape (1,) and type"),
    (lambda: life(Still(torch.ones(2))), LearnerError, "has shape (2,) and type torch.float32"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), SHARED)
def test_no_life_is_anothers(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    assert_refused(call, error, message)


def changed(agent: Agent, name: str, value: Tensor | None) -> dict[str, Tensor]:
    """A life's tensors, one of which is another or lacks."""
    found = lived(agent) | ({} if value is None else {name: value})
    return {k: t for k, t in found.items() if value is not None or k != name}


Make = Callable[[], Agent]
OTHERS: list[tuple[Make, Callable[[], object], str]] = [
    (greedy, dict, "tensors() gave is not of this life: it has no action; make the life as it was"),
    (greedy, lambda: lived(greedy(), steps=41), "life: its action has shape (2, 41), here it is"),
    (greedy, lambda: lived(greedy(), every=9), "a life that learns every 9 choices, not every 10"),
    (greedy, lambda: lived(greedy(1, 1), wheels=1), "its action has shape (1, 40), here it is"),
    (greedy, lambda: changed(greedy(), "lived", torch.ones(2)), "its lived has shape (2,), here"),
    (greedy, lambda: changed(greedy(), "live", torch.ones(2)), "it has live"),
    (greedy, lambda: changed(greedy(), "agent.phi.W", None), "this agent: it has no phi.W"),
    (greedy, lambda: changed(greedy(), "agent.phi.W", torch.ones(1, ARMS, 2)),
     "this agent: its phi.W has shape (1, 5, 2), here it is (2, 5, 2)"),
    (greedy, lambda: changed(greedy(), "agent.memory.0.W", None), "it has no memory.0.W"),
    (greedy, lambda: lived(greedy(optimiser=Adam(0.1))), "it has memory.1.W"),
    (greedy, lambda: lived(neural()), "this agent: it has no phi.W"),
    (neural, lambda: changed(neural(), "agent.heads.a", None), "it has no heads.a"),
    (neural, lambda: changed(neural(), "agent.heads.mean", None), "it has heads.a"),
    (neural, lambda: changed(neural(), "agent.heads.a", torch.ones(1, ARMS)),
     "its heads.a has shape (1, 5), here it is (2, 5)"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "others", "message"), OTHERS)
def test_a_life_goes_on_as_its_own_alone(
    make: Make, others: Callable[[], Any], message: str
) -> None:
    """Where it does not, nothing has changed."""
    begun, others_tensors = life(make()), others()
    begun.go_on()
    before = begun.tensors()
    assert_refused(lambda: begun.load(others_tensors), ConfigError, message)
    after = begun.tensors()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("make", [greedy, neural])
@pytest.mark.parametrize("blocks", [0, 3])
def test_a_life_is_what_was_loaded_whatever_it_was_before(make: Make, blocks: int) -> None:
    """As of those who did not tell how often they learn, too."""
    kept = lived(make(), blocks)
    kept.pop("every", None)
    other = life(make())
    for _ in range(2):
        other.go_on()
    other.load(kept)
    assert other.tensors().keys() - {"every"} == kept.keys()
    rest = [other.go_on() for _ in range(blocks, other.blocks)]
    whole = life(make())
    expected = [whole.go_on() for _ in range(whole.blocks)][blocks:]
    assert all(torch.equal(a, b) for a, b in zip(rest, expected, strict=True))
