"""Problems and learners of one's own: what would teach something else is refused, or copes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rulesearch.errors import ConfigError, LearnerError
from rulesearch.grammar import Term, TermPool
from rulesearch.learners import PlasticityLearner
from rulesearch.networks import PlasticNetwork
from rulesearch.networks.modulated import ModulatedNetwork
from rulesearch.outer.bilevel import (
    SGD,
    BilevelTraining,
    Chain,
    ComplexSynapse,
    Contrastive,
    ContrastiveChain,
    Dense,
    Descent,
    Evolution,
    Implicit,
    LossProblem,
    MetaParameters,
    Named,
    Newton,
    RidgeSolution,
    UnrolledDescent,
    accuracy,
    always,
    classifier_problem,
    draw_ridge,
    exact_ridge_gradient,
    fast_and_slow,
    rule_problem,
)
from rulesearch.outer.bilevel.networks import Examples
from rulesearch.outer.spiking import LastWindow
from rulesearch.rules import Rule

pytestmark = pytest.mark.usefixtures("one_thread")

FREE = Descent(40, SGD(0.2))
G = torch.Generator().manual_seed(0)
X, Y, X_EVAL, Y_EVAL = (
    torch.randn(3, *shape, generator=G, dtype=torch.float64) for shape in ((9, 4), (9,)) * 2
)
Losses = Callable[[Tensor], Tensor]


def squares(phi: Named, x: Tensor, y: Tensor) -> Tensor:
    """Of three problems, ``(3, examples)``."""
    return ((x @ phi["w"][..., None])[..., 0] - y).square()


def regression(learn: Losses, judge: Losses = lambda e: e.mean(-1)) -> ComplexSynapse[LossProblem]:
    inner = LossProblem(
        lambda phi, theta, step: learn(squares(phi, X, Y)),
        lambda phi, theta, step: judge(squares(phi, X_EVAL, Y_EVAL)),
        lambda theta: {"w": torch.zeros(3, 4, dtype=torch.float64)},
    )
    return ComplexSynapse(inner)


def anchored() -> dict[str, Tensor]:
    zero = torch.zeros(3, 4, dtype=torch.float64)
    return {"omega.w": zero, "lambda.w": zero + 0.3}


METHODS: dict[str, Any] = {
    "contrastive": Contrastive(FREE, FREE, 0.01),
    "unrolled": UnrolledDescent(FREE),
    "implicit": Implicit(FREE, Dense()),
    "evolution": Evolution(FREE, 1, 0.1, torch.Generator()),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("learn", "said"),
    [
        (
            lambda e: e.mean(),
            r"what learn returns has shape \(\), and what evaluate returns \(3,\)",
        ),
        (lambda e: e.mean(-1, True), r"has shape \(3, 1\), .* \(3,\): give one loss for each"),
        (lambda e: e.mean(-1).detach(), "what learn returns does not depend on phi"),
    ],
)
def test_what_is_learnt_is_one_loss_a_problem(method: str, learn: Losses, said: str) -> None:
    METHODS[method](regression(lambda e: e.mean(-1)), anchored())
    with pytest.raises(LearnerError, match=said):
        METHODS[method](regression(learn), anchored())


@pytest.mark.parametrize("method", METHODS)
def test_what_judges_may_have_no_slope_where_none_is_taken(method: str) -> None:
    problem = regression(lambda e: e.mean(-1), lambda e: e.mean(-1).detach())
    if method != "evolution":
        with pytest.raises(LearnerError, match=r"does not depend on phi; .* let Evolution judge"):
            METHODS[method](problem, anchored())
        return
    METHODS[method].generator.manual_seed(2)
    found = METHODS[method](problem, anchored())
    METHODS[method].generator.manual_seed(2)
    expected = METHODS[method](regression(lambda e: e.mean(-1)), anchored())
    assert torch.equal(found.gradient["omega.w"], expected.gradient["omega.w"])


def test_a_nudge_is_of_as_many_losses_as_are_learnt() -> None:
    """Of a step's examples, where what is judged of all of them is right."""
    inner = LossProblem(
        lambda phi, theta, step: squares(phi, X, Y).mean(-1),
        lambda phi, theta, step: squares(phi, X_EVAL, Y_EVAL).mean(
            -1 if step is None else (0, 1), step is not None
        ),
        lambda theta: {"w": torch.zeros(3, 4, dtype=torch.float64)},
    )
    with pytest.raises(LearnerError, match=r"has shape \(3,\), and what evaluate returns \(1, 1\)"):
        METHODS["contrastive"](ComplexSynapse(inner), anchored())


class InPlace:
    """A loop around an optimiser of torch, which moves what it is given."""

    steps = 60

    def __call__(
        self, problem: Any, theta: Named, phi: Named, beta: float = 0.0, first: int = 0
    ) -> Named:
        optimiser = torch.optim.SGD(list(phi.values()), lr=0.3)
        for step in range(self.steps):
            for name, slope in problem.slope(phi, theta, beta, first + step).items():
                phi[name].grad = slope
            optimiser.step()
        return phi


def test_a_learner_may_work_in_place() -> None:
    """Nothing of what it is given is anybody else's: the same comes out, and theta stays."""
    ridge = draw_ridge(3, 6, 20, torch.Generator().manual_seed(0))
    zero = torch.zeros(3, 6, dtype=torch.float64)
    own, ours = InPlace(), Descent(60, SGD(0.3))
    methods: list[Callable[[Any], Any]] = [
        lambda learner: Contrastive(learner, learner, 0.01, "symmetric"),
        lambda learner: Implicit(learner, Dense()),
        lambda learner: Evolution(learner, 2, 0.1, torch.Generator().manual_seed(1)),
    ]
    for method in methods:
        theta = {"omega.W": zero + 0.1, "lambda.W": zero + 0.3}
        found, expected = (method(learner)(ridge, theta) for learner in (own, ours))
        for name, slope in expected.gradient.items():
            torch.testing.assert_close(found.gradient[name], slope)
        torch.testing.assert_close(theta["omega.W"], zero + 0.1)
    start = LossProblem(
        lambda phi, theta, step: phi["w"].square().sum(1),
        lambda phi, theta, step: (phi["w"] - 1).square().sum(1),
        lambda theta: theta,
    )
    theta = {"w": zero + 0.1}
    LastWindow(own, Descent(1, SGD(0.3)))(start, theta)  # type: ignore[arg-type]
    torch.testing.assert_close(theta["w"], zero + 0.1)
    theta = {"omega.W": zero + 0.1, "lambda.W": zero + 0.3}
    chains = (ContrastiveChain(learner, learner, 0.01) for learner in (own, ours))
    found, expected = (chain(Chain([ridge, ridge]), theta) for chain in chains)
    for name, slope in expected.gradient.items():
        torch.testing.assert_close(found.gradient[name], slope)


class Careless:
    """A parabola whose partial, or slope, is not of the names that it should be of."""

    def __init__(self, partial: dict[str, float], slope: tuple[str, ...] = ("w",)) -> None:
        self._partial, self._slope = partial, slope

    def start(self, theta: Named) -> Named:
        return {"w": torch.zeros(2, dtype=torch.float64)}

    def slope(self, phi: Named, theta: Named, beta: float, step: int) -> Named:
        return dict.fromkeys(self._slope, phi["w"] - theta["a"] + beta * (phi["w"] - 1))

    def partial(self, phi: Named, theta: Named, beta: float) -> Named:
        return {name: value * (theta["a"] - phi["w"]) for name, value in self._partial.items()}

    def eval_loss(self, phi: Named, theta: Named) -> Tensor:
        return (phi["w"] - 1).square() / 2


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (Careless({}), "the problem's partial returns has nothing; give one tensor for each of a"),
        (Careless({"a": 1.0, "z": 1.0}), "the problem's partial returns has a, z; give one"),
        (Careless({"a": 1.0}, ()), "the problem's slope returns has nothing; give .* each of w"),
    ],
)
def test_slopes_have_the_names_of_what_they_are_of(problem: Careless, said: str) -> None:
    long = Descent(200, SGD(0.2))
    contrast: Contrastive[Careless] = Contrastive(long, long, 0.01)
    theta = {"a": torch.tensor([0.5, 2.0], dtype=torch.float64)}
    right = contrast(Careless({"a": 1.0}), theta).gradient["a"]
    torch.testing.assert_close(right, (theta["a"] - 1) / 1.01)  # w is (a + beta) / (1 + beta)
    with pytest.raises(LearnerError, match=said):
        contrast(problem, theta)


def test_one_problem_by_itself_goes_to_its_minimum() -> None:
    """Losses without a leading dimension, held against the formula of the implicit function."""
    root = torch.randn(5, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    hessian, pull = root @ root.T + torch.eye(5, dtype=torch.float64), root[0]
    problem = LossProblem(
        lambda phi, theta, step: (
            phi["w"] @ hessian @ phi["w"] / 2
            - pull @ phi["w"]
            + theta["c"] * phi["w"].square().sum()
        ),
        lambda phi, theta, step: (phi["w"] - 1).square().sum(),
        lambda theta: {"w": torch.zeros(5, dtype=torch.float64)},
    )
    theta = {"c": torch.tensor(0.1, dtype=torch.float64)}
    whole = hessian + 0.2 * torch.eye(5, dtype=torch.float64)
    w = torch.linalg.solve(whole, pull)
    exact = -2 * w @ torch.linalg.solve(whole, 2 * (w - 1))
    methods: tuple[Any, ...] = (
        Implicit(Newton(), Dense()),
        Contrastive(Newton(), Newton(), 1e-3, "symmetric"),
    )
    for method in methods:
        found = method(problem, theta)
        torch.testing.assert_close(found.phi["w"], w)
        torch.testing.assert_close(found.gradient["c"], exact, rtol=1e-4, atol=0)


def test_a_chain_begins_from_one_state_for_a_whole_matrix() -> None:
    """Omega of a size that broadcasts: the same as if it were written out, and training moves."""
    ridge = draw_ridge(2, 3, 12, torch.Generator().manual_seed(4))
    one = torch.ones(2, 1, dtype=torch.float64)
    narrow = {"omega.W": 0.1 * one, "lambda.W": 0.4 * one}
    wide = {name: t.expand(2, 3).clone() for name, t in narrow.items()}
    contrast = ContrastiveChain(Newton(), Newton(), 0.01)
    chain = Chain([ridge, ridge])
    found, expected = (contrast(chain, theta) for theta in (narrow, wide))
    for name, t in narrow.items():
        torch.testing.assert_close(
            found.gradient[name], expected.gradient[name].sum_to_size(t.shape)
        )
    training = BilevelTraining(MetaParameters(narrow), lambda update: chain, contrast, 0.1)
    training.update()
    assert not torch.equal(training.model.theta()["omega.W"], narrow["omega.W"])


def test_a_rule_is_drawn_to_the_state_that_its_network_was_born_with() -> None:
    """Omega of the state at birth, as where the rule's own term for it learns."""
    network = PlasticNetwork((3, 4, 2))
    pool = TermPool(
        [Term.from_text("gradient", "-e_post * y_pre.T"), Term.from_text("held", "Omega - W")]
    )
    rule = Rule(pool, {"gradient": 0.2, "held": 0.5})
    born = network.init([torch.Generator().manual_seed(5)])
    born = replace(born, Omega=[w + 1 for w in born.W])
    x = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(6))
    label = torch.tensor([[0, 1, 1, 0, 1, 0]])
    examples = always(Examples(x, label))
    problem = rule_problem(network, rule, born, examples, examples)
    found = Descent(7, SGD(1.0))(problem, {}, problem.start({}))
    learner = PlasticityLearner(network, rule)
    lived = learner.live(born, None, x[None].expand(7, -1, -1, -1), label[None].expand(7, -1, -1))
    for k, w in enumerate(lived.W):
        torch.testing.assert_close(found[f"W{k}"], w)
    with pytest.raises(LearnerError, match=r"theta: nothing depends on 'W0'; .* has omega\.W0"):
        Contrastive(FREE, FREE, 0.1)(problem, {"W0": born.W[0]})
    evolution = Evolution(Descent(1, SGD(1.0)), 1, 0.1, torch.Generator())
    with pytest.raises(LearnerError, match=r"theta: nothing depends on 'omega\.W0'; .* synapses"):
        evolution(problem.inner, {"omega.W0": born.W[0]})


def test_what_training_tells_of_itself_stays_as_it_was() -> None:
    ridge = draw_ridge(2, 3, 12, torch.Generator().manual_seed(4))
    theta = {f"{part}.W": torch.full((2, 3), 0.3, dtype=torch.float64)
             for part in ("omega", "lambda")}  # fmt: skip
    contrast: Contrastive[Any] = Contrastive(FREE, FREE, 0.01)
    training = BilevelTraining(MetaParameters(theta), lambda update: ridge, contrast, 0.1)
    training.update()
    kept, before = training.tensors(), exact_ridge_gradient(ridge, dict(training.model.theta()))
    training.update()
    for wrong, said in (
        ({k: t for k, t in kept.items() if k != "adam.steps"}, "it has no adam.steps"),
        ({**kept, "adam.first.omega.W": torch.zeros(1, 3)}, r"adam\.first\.omega\.W has shape \(1"),
    ):
        before_that = training.tensors()
        with pytest.raises(ConfigError, match=said):
            training.load(wrong, 1)
        assert all(torch.equal(t, before_that[k]) for k, t in training.tensors().items())
    with pytest.raises(ConfigError, match="updates must be at least 0, not -1"):
        training.load(kept, -1)
    training.load(kept, 1)
    again = exact_ridge_gradient(ridge, dict(training.model.theta()))
    for name, slope in before.gradient.items():
        assert torch.equal(slope, again.gradient[name])


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (torch.tensor([[0, 1, 3]]), "labels run from 0 to 3; the output has 3 units"),
        (torch.tensor([[0, 1, -100]]), "labels run from -100 to 1; the output has 3 units"),
        (
            torch.tensor([[0.0, 1.0, 2.0]]),
            r"label is torch.float32 of shape \(1, 3\); give the cla",
        ),
        (torch.eye(3, dtype=torch.int64)[None], r"of shape \(1, 3, 3\); give the class of each"),
    ],
)
def test_labels_are_classes(label: Tensor, said: str) -> None:
    network = ModulatedNetwork((4, 5, 3))
    fast, slow = fast_and_slow(network.init([torch.Generator().manual_seed(0)]), ("gain", "shift"))
    x = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(1))
    right, wrong = (always(Examples(x, t)) for t in (torch.tensor([[0, 1, 2]]), label))
    contrast = Contrastive(FREE, FREE, 0.1)
    short = always(Examples(x, torch.tensor([[0, 1, 2]], dtype=torch.int32)))
    found = [contrast(classifier_problem(network, fast, s, right), slow) for s in (right, short)]
    assert torch.equal(found[0].loss, found[1].loss)
    for learn, judge in ((wrong, right), (right, wrong)):
        with pytest.raises(LearnerError, match=said):
            contrast(classifier_problem(network, fast, learn, judge), slow)
    with pytest.raises(LearnerError, match=said):
        accuracy(network, {**fast, **slow}, wrong)
    with pytest.raises(LearnerError, match=r"x is torch.float64, the weights torch.float32: give"):
        accuracy(network, {**fast, **slow}, always(Examples(x.double(), right(None).label)))


@pytest.mark.parametrize("name", ["type", "values", "forward"])
def test_names_that_torch_keeps_for_itself(name: str) -> None:
    with pytest.raises(LearnerError, match=f"'{name}' is a name of torch's own; call it otherwise"):
        MetaParameters({name: torch.zeros(2)})


def test_names_are_kept_as_they_are_given() -> None:
    theta = {"b/W": torch.zeros(2), "a.W": torch.ones(2)}
    kept = MetaParameters(theta).theta()
    assert {name: w.tolist() for name, w in kept.items()} == {
        name: w.tolist() for name, w in theta.items()
    }
    with pytest.raises(LearnerError, match=r"of b/W, b\.W two are the same but for '\.' and '/'"):
        MetaParameters({"b/W": torch.zeros(2), "b.W": torch.ones(2)})


@pytest.mark.parametrize("shape", [(), (1, 2), (2,), (3, 1)])
def test_problems_may_share_a_strength(shape: tuple[int, ...]) -> None:
    """Its slope is that of the sum of their losses: exact, and by evolution."""
    ridge = draw_ridge(3, 2, 20, torch.Generator().manual_seed(0))
    zero = torch.zeros(3, 2, dtype=torch.float64)
    at = {"omega.W": zero, "lambda.W": torch.full(shape, 0.5, dtype=torch.float64)}
    exact = exact_ridge_gradient(ridge, at)
    drawn = torch.Generator().manual_seed(1)
    found = Evolution(RidgeSolution(), 300, 0.05, drawn)(ridge, at)
    assert found.accepted.all()
    slope = exact.gradient["lambda.W"]
    torch.testing.assert_close(found.gradient["lambda.W"], slope, rtol=0, atol=0.08)
    broken = {**found.gradient, "lambda.W": slope.clone()}
    broken["lambda.W"].view(-1)[0] = torch.nan
    accepted = replace(found, gradient=broken).accepted
    assert accepted.tolist() == ([False, True, True] if shape == (3, 1) else [False] * 3)
