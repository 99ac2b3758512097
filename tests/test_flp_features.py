"""Layers of one's own below the plastic ones: any module, frozen in part, one a seed."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from functools import partial

import pytest
import torch
from refusals import assert_refused
from small_flp import IMAGE, SINE, WIDE, gradients, images, sines, task_of, values
from torch import Tensor, nn

from rulesearch.errors import ConfigError, LearnerError
from rulesearch.outer import FLPSettings, MetaModel, MetaTraining, features, flp_model

pytestmark = pytest.mark.usefixtures("one_thread")

OWN = replace(IMAGE, channels=(), strides=(), widths=(2 * 3 * 3, 6, 4))
"""For convolutions of one's own, two channels of 3 x 3."""


def convolutions() -> nn.Sequential:
    """Two layers and a pool, the lower one frozen, that give (examples, 2, 3, 3)."""
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(3, 2, 2), nn.Tanh()
    )
    for p in net[0].parameters():
        p.requires_grad_(False)
    return net


class Partly(nn.Module):
    """Uses two of its three parameters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.used, self.shift = nn.Linear(4, 5), nn.Parameter(torch.randn(5))
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.used(x)) * self.shift


def model_of(settings: FLPSettings, module: nn.Module, seeds: int = 2) -> MetaModel:
    return flp_model(settings, seeds, features=module, dtype=WIDE)


class Counting(nn.Linear):
    """Counts the examples that it has seen."""

    rows = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return super().forward(x)


def test_an_example_is_seen_once_however_long_a_life() -> None:
    """Those of all steps and the queries, in a lifetime and its gradient, of each seed."""
    settings = replace(SINE, widths=(4, 4, 1), plastic_layers=2)
    for batches in (2, 7):
        model = model_of(settings, Counting(4, 4))
        tasks = sines(batches=batches)
        task = tasks.sample([torch.Generator().manual_seed(k) for k in range(2)], WIDE)
        gradients(model, task)
        for seed in range(2):
            assert model.features[seed][0].rows == 3 * batches * 3 + 3 * 2
            assert model.features[seed][0].weight.grad.abs().max() > 0


def test_a_module_of_ones_own_is_meta_trained_and_what_is_frozen_stays() -> None:
    own = convolutions()
    before = {k: v.clone() for k, v in own.state_dict().items()}
    training = MetaTraining(model_of(OWN, own), images(), OWN.rates)
    start = values(training.model)
    losses = [training.update().loss for _ in range(2)]
    after = values(training.model)
    assert torch.stack(losses).isfinite().all()
    below = {k for k in start if k.startswith("features.")}
    moved = {k for k in below if not after[k].equal(start[k])}
    fixed = {f"features.{seed}.0.0.{part}" for seed in (0, 1) for part in ("weight", "bias")}
    assert below - moved == fixed < below
    for key, value in own.state_dict().items():  # the user's module is left alone
        assert value.equal(before[key])
    assert [p.requires_grad for p in own.parameters()] == [False, False, True, True]


def test_training_begun_anew_keeps_frozen_what_was() -> None:
    """And learns again what only the rates of the first training left out."""
    model = model_of(OWN, convolutions())
    MetaTraining(model, images(), replace(OWN.rates, forward=0.0)).update()
    start = values(model)
    MetaTraining(model, images(), OWN.rates).update()
    after = values(model)
    moved = {k for k, old in start.items() if k.startswith("features.") and not after[k].equal(old)}
    assert moved == {f"features.{s}.0.3.{part}" for s in (0, 1) for part in ("weight", "bias")}


def test_everything_below_may_be_frozen() -> None:
    own = convolutions().requires_grad_(False)
    training = MetaTraining(model_of(OWN, own), images(), OWN.rates)
    start = values(training.model)
    training.update()
    after = values(training.model)
    assert all(after[k].equal(v) for k, v in start.items() if k.startswith("features."))
    assert not after["W.0"].equal(start["W.0"])


def test_the_meta_gradient_through_ones_own_is_autograds() -> None:
    """Of the whole, with the module called by hand and lifetimes by plain autograd."""
    own, task = convolutions().to(WIDE), task_of(IMAGE, 1)
    found = gradients(model_of(OWN, own, 1), task)
    plain = model_of(replace(OWN, method="autograd"), own, 1)
    learnt = [p for p in own.parameters() if p.requires_grad]

    def below(x: Tensor) -> Tensor:
        return own(x.reshape(-1, 1, 8, 8)).reshape(*x.shape[:-1], -1)

    state = plain.learner.live(plain.born(), plain.theta, below(task.x[:]), task.label)
    output = plain.learner.network(state, below(task.x_query))
    loss = plain.learner.network.loss(output, task.label_query).sum()
    for k, exact in enumerate(torch.autograd.grad(loss, learnt)):
        actual = found[f"features.0.0.3.{('weight', 'bias')[k]}"]
        assert actual is not None
        torch.testing.assert_close(actual, exact, rtol=1e-9, atol=1e-12)
    assert found["features.0.0.0.weight"] is None


@pytest.mark.parametrize("rows", [1, 4, 10_000])
@pytest.mark.parametrize("name", ["convolutions", "partly", "bare"])
def test_slices_give_the_same_gradient(
    name: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen and unused parameters, and outputs of several dimensions, included."""
    module = Partly() if name == "partly" else convolutions()
    settings = replace(SINE, widths=(5, 4, 1), plastic_layers=2) if name == "partly" else OWN
    model = model_of(settings, module, 1)
    if name == "bare":  # no flatten at the end
        model = MetaModel(model.learner, model.born(), [module.to(WIDE)], image=(1, 8, 8))
    task = task_of(SINE if name == "partly" else IMAGE, 1)
    whole = gradients(model, task)
    monkeypatch.setattr(features, "ROWS", rows)
    sliced = gradients(model, task)
    assert sliced.keys() == whole.keys()
    for key, g in whole.items():
        if g is None:
            assert sliced[key] is None, key
        else:
            torch.testing.assert_close(sliced[key], g, rtol=1e-10, atol=1e-13)
    absent = {key for key, g in whole.items() if g is None and key.startswith("features")}
    assert len(absent) == (1 if name == "partly" else 2)


def test_fully_connected_layers_stand_on_ones_own() -> None:
    """With one plastic layer of two, the other is a layer as any other below it."""
    module, task = convolutions(), task_of(IMAGE, 1)
    reuse = model_of(replace(OWN, plastic_layers=1), module, 1)
    both = model_of(OWN, module, 1)
    with torch.no_grad():
        hidden = reuse.features[0][2][0]  # after the module and its flatten
        both.W[0][0] = hidden.weight
        both.W[1][0] = reuse.W[0][0]
        found = reuse.learner.network(reuse.born(), reuse.see(task.x_query, 1))
        expected = both.learner.network(both.born(), both.see(task.x_query, 1))
    torch.testing.assert_close(found, expected)


# -- seeds --


def test_one_module_for_all_seeds_is_copied() -> None:
    model = model_of(OWN, convolutions())
    first, second = (list(m.parameters()) for m in model.features)
    assert all(a is not b and a.equal(b) for a, b in zip(first, second, strict=True))
    again = flp_model(OWN, 2, features=[convolutions()] * 2, dtype=WIDE)
    assert len({id(p) for p in again.parameters()}) == len(list(model.parameters()))


def test_modules_of_ones_own_may_differ_by_seed() -> None:
    one, other = convolutions(), convolutions()
    with torch.no_grad():
        other[3].bias.add_(1)
    model = flp_model(OWN, 2, features=[one, other], dtype=WIDE)
    assert not model.features[0][0][3].bias.equal(model.features[1][0][3].bias)
    with pytest.raises(ConfigError, match="3 feature modules for 2 seeds"):
        flp_model(OWN, 2, features=[one] * 3)


def test_a_module_of_two_seeds_is_refused() -> None:
    model, shared = model_of(OWN, convolutions()), convolutions().to(WIDE)
    with pytest.raises(LearnerError, match="seeds 0 and 1 share parameters"):
        MetaModel(model.learner, model.born(), [shared, shared], image=(1, 8, 8))
    half = deepcopy(shared)
    half[3] = shared[3]
    with pytest.raises(LearnerError, match="seeds 0 and 1 share parameters"):
        MetaModel(model.learner, model.born(), [shared, half], image=(1, 8, 8))


def test_what_mixes_examples_is_refused() -> None:
    for layer in (nn.BatchNorm2d(1), nn.Dropout(0.5), nn.RReLU()):
        module = nn.Sequential(layer, convolutions())
        with pytest.raises(LearnerError, match="mixes examples or draws at random"):
            model_of(OWN, module)
        MetaTraining(model_of(OWN, module.eval()), images(), OWN.rates).update()


def test_batch_normalisation_needs_statistics_of_its_own() -> None:
    module = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), convolutions()).eval()
    with pytest.raises(LearnerError, match="BatchNorm2d without running statistics mixes examples"):
        model_of(OWN, module)


def test_training_mode_is_not_for_what_mixes_examples() -> None:
    normalise = nn.BatchNorm2d(1)
    normalise.running_mean, normalise.running_var = torch.tensor([0.4]), torch.tensor([0.09])
    model = model_of(OWN, nn.Sequential(normalise, nn.Dropout(0.5), nn.Conv2d(1, 2, 6)).eval())
    task = task_of(OWN, 2)
    before = model(task).output
    assert model.eval().train() is model
    assert torch.equal(model(task).output, before)
    convolution = model.features[1][0][2]
    x = (task.x_query[1].reshape(-1, 1, 8, 8) - 0.4) / math.sqrt(0.09 + 1e-5)
    seen = nn.functional.conv2d(x, convolution.weight, convolution.bias).flatten(1)
    torch.testing.assert_close(model.see(task.x_query, 2)[1], seen, rtol=1e-6, atol=1e-6)


class Rows(nn.Module):
    """What a recurrent network has in its last row of pixels, of two layers."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(8, 18, 2, dropout=dropout, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        last: Tensor = self.recurrent(x[:, 0])[0][:, -1]
        return last


def test_dropout_inside_of_a_recurrent_network_is_refused() -> None:
    with pytest.raises(LearnerError, match="LSTM in training mode mixes examples or draws"):
        model_of(OWN, Rows(0.5))
    for module in (Rows(0.0), Rows(0.5).eval()):
        MetaTraining(model_of(OWN, module), images(), OWN.rates).update()


def test_what_draws_nothing_is_taken_in_training_mode() -> None:
    for layer in (nn.Dropout(0.0), nn.RReLU(0.2, 0.2)):
        module = nn.Sequential(layer, convolutions())
        MetaTraining(model_of(OWN, module), images(), OWN.rates).update()


def test_features_beside_convolutions_are_refused() -> None:
    with pytest.raises(ConfigError, match="take the place of convolutions"):
        flp_model(IMAGE, features=convolutions())


class Broken(nn.Module):
    """Asks a tensor for what it does not have."""

    def forward(self, x: Tensor) -> Tensor:
        return x.no_such_thing  # type: ignore[attr-defined, no-any-return]


class First(nn.Module):
    """Gives the first of the examples alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x[0]


class Sum(nn.Module):
    """Gives one value of each example, without a dimension for it."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(1)


REFUSED: dict[str, tuple[nn.Module, type[Exception], str]] = {
    "a tuple": (nn.LSTM(4, 4), LearnerError, "features: LSTM gives tuple of 2 examples; it should "
                "return a tensor with a row for each of them, (2, ...)"),
    "one of many": (First(), LearnerError, "features: First gives shape (4,) of 2 examples"),
    "an attribute": (Broken(), ConfigError, "(4,): Broken says 'Tensor' object has no attribute"),
    "another width": (nn.Linear(9, 4), ConfigError, "'sines-3-continual' have 4 values, the model "
                      "takes 9; make its features take 4, or take other tasks"),
    "pixels": (nn.Conv1d(1, 1, 9), ConfigError, "features cannot take an example of 'sines-3-contin"
               "ual', (4,): Conv1d says "),
    "a wider layer": (nn.Linear(4, 7), LearnerError, "features: Linear gives 7 values of an example"
                      ", the next layer takes 4; make widths begin with 7"),
}  # fmt: skip


@pytest.mark.parametrize(("module", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_features_that_give_something_else(
    module: nn.Module, error: type[Exception], message: str
) -> None:
    model = model_of(replace(SINE, plastic_layers=3), module)
    assert_refused(lambda: MetaTraining(model, sines(), SINE.rates), error, message)


def test_bare_features_that_give_something_else() -> None:
    model = model_of(replace(SINE, widths=(4, 4, 1), plastic_layers=2), nn.Linear(4, 4), 1)
    for module, name in ((nn.LSTM(4, 4), "LSTM"), (First(), "First")):
        bare = MetaModel(model.learner, model.born(), [module.to(WIDE)])
        refused = partial(MetaTraining, bare, sines(), SINE.rates)
        assert_refused(refused, LearnerError, f"features: {name} gives")


def test_features_may_give_one_value_without_a_dimension() -> None:
    model = model_of(replace(SINE, widths=(1, 4, 1), plastic_layers=2), Sum())
    assert MetaTraining(model, sines(), SINE.rates).update().loss.isfinite().all()
