"""Top-down modulation: gains and thresholds learn, weights meta-learn."""

from __future__ import annotations

import pytest
import torch
from draws import generator, normal

from rulesearch.errors import ConfigError, LearnerError
from rulesearch.networks import ConvNet, ModulatedNetwork
from rulesearch.outer.bilevel import (
    SGD,
    ComplexSynapse,
    Contrastive,
    Dense,
    Descent,
    Implicit,
    LossProblem,
    Named,
    accuracy,
    always,
    classifier_problem,
    fast_and_slow,
)
from rulesearch.outer.bilevel.networks import Examples


@pytest.mark.parametrize("unit", ["linear-threshold", "tanh"])
def test_a_neuron_is_its_formula(unit: str) -> None:
    network = ModulatedNetwork([3, 4, 6, 2], unit)
    weights = {k: normal(2, *w.shape[1:], seed=n) for n, (k, w) in
               enumerate(network.init([generator(0), generator(1)]).items())}  # fmt: skip
    x = normal(2, 5, 3, seed=9)
    found = network(weights, x)
    for k in range(2):
        w = {name: value[k] for name, value in weights.items()}
        for example in range(5):
            y = x[k, example]
            for layer in ("full0", "full1"):
                z, gain, shift = w[f"{layer}.W"] @ y, w[f"{layer}.gain"], w[f"{layer}.shift"]
                if unit == "tanh":
                    y = torch.tanh(gain * (z + w[f"{layer}.bias"]) + shift)
                else:
                    y = gain * torch.clamp(z - shift, min=0)
            torch.testing.assert_close(found[k, example], w["head.W"] @ y + w["head.bias"])


NETWORKS = {
    "linear-threshold": ModulatedNetwork([4, 6, 6, 2]),
    "tanh": ModulatedNetwork([4, 6, 6, 2], "tanh"),
    "convolutional": ConvNet((1, 2, 2), 2, (3,), hidden=(6,)),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_weights_of_another_shape_are_refused(kind: str) -> None:
    network = NETWORKS[kind]
    weights, x = network.init([generator(k) for k in range(3)]), normal(3, 5, 4).float()
    for name, w in weights.items():
        size = tuple(w.shape)
        wrong = {"too many": torch.cat([w, w[:1]]), "one number": w[:, :1]}
        if len(set(size)) == w.ndim:  # else it looks the same
            wrong["swapped"] = w.transpose(-1, -2)
        for part in wrong.values():
            with pytest.raises(LearnerError) as refused:
                network({**weights, name: part}, x)
            if part is not wrong["too many"] or name != next(iter(weights)):  # else x misfits
                said = f"weights['{name}'] has shape {tuple(part.shape)}; it should be {size}"
                assert said in str(refused.value)
        with pytest.raises(LearnerError, match=r"is torch\.float"):
            network({**weights, name: w.double()}, x)
    with pytest.raises(LearnerError, match=r"its axes are swapped, give \.mT"):
        network({**weights, "head.W": weights["head.W"].mT}, x)


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_identity_for_a_head_shows_features(kind: str) -> None:
    network = NETWORKS[kind]
    weights, x = network.init([generator(k) for k in range(3)]), normal(3, 5, 4).float()
    eye = {"head.W": torch.eye(6).expand(3, 6, 6), "head.bias": torch.zeros(3, 6)}
    features = network({**weights, **eye}, x)
    read = features @ weights["head.W"].mT + weights["head.bias"][:, None]
    torch.testing.assert_close(network(weights, x), read)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_weight_of_one_network_is_the_same_for_all(kind: str) -> None:
    network = NETWORKS[kind]
    weights, x = network.init([generator(k) for k in range(3)]), normal(3, 5, 4).float()
    for name, w in weights.items():
        each = network({**weights, name: w[:1].repeat_interleave(3, 0)}, x)
        torch.testing.assert_close(network({**weights, name: w[:1]}, x), each)


@pytest.mark.parametrize("unit", ["linear-threshold", "tanh"])
def test_weights_are_born_uniform_with_variance_one_over_the_fan_in(unit: str) -> None:
    born = ModulatedNetwork([50, 300, 200, 40], unit).init([generator(0), generator(1)])
    for name, fan_in in {"full0.W": 50, "full1.W": 300, "head.W": 200}.items():
        bound = (3 / fan_in) ** 0.5
        assert 0.99 * bound < born[name].abs().max() <= bound
        assert float(born[name].var()) == pytest.approx(1 / fan_in, rel=0.05)
        assert not torch.equal(born[name][0], born[name][1])
    rest = {k.rpartition(".")[2]: w.unique().tolist() for k, w in born.items() if w.ndim == 2}
    assert rest == {"gain": [1], "shift": [0], "bias": [0]}


def task(fast: tuple[str, ...], unit: str = "tanh") -> tuple[ComplexSynapse[LossProblem], Named]:
    """Anchored modulation of two small networks, and their slow weights."""
    network = ModulatedNetwork([3, 4, 2], unit)
    weights = {k: w.double() for k, w in network.init([generator(0), generator(1)]).items()}
    phi, slow = fast_and_slow(weights, fast)
    learn, judge = (
        always(Examples(normal(2, 8, 3, seed=s), (normal(2, 8, seed=s + 1) > 0).long()))
        for s in (1, 3)
    )
    problem = classifier_problem(network, phi, learn, judge)
    fixed = {f"lambda.{name}": torch.tensor(0.3, dtype=torch.float64) for name in phi}
    return ComplexSynapse(problem, fixed | {f"omega.{k}": v for k, v in phi.items()}), slow


def test_what_learns_and_what_meta_learns() -> None:
    problem, slow = task(("gain", "shift"))
    assert set(problem.start(slow)) == {"full0.gain", "full0.shift"}
    assert set(slow) == {"full0.W", "full0.bias", "head.W", "head.bias"}
    weights = ConvNet((1, 8, 8), 3, (4,)).init([generator(0)])
    fast, slow = fast_and_slow(weights, ("gain", "shift", "head"))
    assert set(fast) == {"conv0.gain", "conv0.shift", "head.W", "head.bias"}
    assert set(slow) == {"conv0.W", "conv0.bias"}
    with pytest.raises(LearnerError, match=r"none of .*conv0\.W.* is one of threshold"):
        fast_and_slow(weights, ("threshold",))


def test_slow_weights_change_as_by_backprop_at_two_modulations() -> None:
    problem, slow = task(("gain", "shift", "head"))
    phi = {k: v + 0.1 for k, v in problem.start(slow).items()}
    at = {k: v.clone().requires_grad_() for k, v in slow.items()}
    loss = problem.learn_loss(phi, at) + 0.7 * problem.eval_loss(phi, at)
    expected = torch.autograd.grad(loss.sum(), list(at.values()))
    found = problem.partial(phi, slow, 0.7)
    for name, value in zip(at, expected, strict=True):
        torch.testing.assert_close(found[name], value)


def test_the_contrastive_meta_gradient_of_slow_weights() -> None:
    """Against the implicit function theorem with the whole Hessian, at the solution."""
    problem, slow = task(("gain", "shift", "head"))
    learner = Descent(300, SGD(0.3, 0.9))
    exact = Implicit(learner, Dense())(problem, slow)
    found = Contrastive(learner, learner, 1e-3, "symmetric")(problem, slow)
    for name, gradient in exact.gradient.items():
        torch.testing.assert_close(found.gradient[name], gradient, rtol=1e-3, atol=1e-5)
    direct = problem.partial(exact.phi, slow, 1.0)["full0.W"]
    assert (direct - exact.gradient["full0.W"]).norm() > 0.1 * direct.norm()  # not the whole of it


def test_accuracy_is_counted() -> None:
    network = ModulatedNetwork([2, 2])
    weights = {"head.W": torch.eye(2).repeat(2, 1, 1), "head.bias": torch.zeros(2, 2)}
    x = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]]).repeat(2, 200, 1)
    label = torch.tensor([[0, 1, 0, 0], [1, 0, 1, 1]]).repeat(1, 200)
    source = always(Examples(x, label))
    shown = always(Examples(x[:, :3], label[:, :3]))
    torch.testing.assert_close(
        accuracy(network, weights, source, shown), torch.tensor([0.75, 0.25])
    )


def test_networks_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="unit is one of linear-threshold, tanh, not 'relu'"):
        ModulatedNetwork([2, 2], "relu")
    with pytest.raises(ConfigError, match="two layers or more"):
        ModulatedNetwork([2])
