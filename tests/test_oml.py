"""OML's own meta-training: one class learnt, none forgotten, and a readout drawn anew."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from draws import generators as seeded
from small_data import numbered
from small_flp import IMAGE, RATES, SINE, WIDE, sines, values
from torch import Tensor
from torch.nn import functional

from rulesearch.errors import ConfigError, DataError
from rulesearch.outer import MetaModel, MetaRates, MetaTraining, flp_model
from rulesearch.outer.flp_presets import by_oml
from rulesearch.outer.seeds import READOUT, TASK, generators
from rulesearch.reproduce.flp import lifetime_errors
from rulesearch.reproduce.oml import with_new_readout
from rulesearch.tasks import ImageData, OMLTrajectories, OnlineFewShot, TaskBatch, TaskFamily

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES, EACH = 7, 6
SLOW = MetaRates(1e-3, 0.0, 0.0, 0.0)
NETWORK = replace(by_oml(replace(IMAGE, widths=(2 * 4 * 4, 6, CLASSES)), 0.2), rates=SLOW)


def noise() -> ImageData:
    """Seven classes of six random images, 8 x 8."""
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (CLASSES * EACH, 64), generator=draw, dtype=torch.uint8)
    names = tuple("abcdefg")
    return ImageData(pixels, torch.arange(CLASSES).repeat(EACH), CLASSES, names, "noise", (8, 8))


def trajectories(**options: Any) -> OMLTrajectories:
    return OMLTrajectories(noise(), **{"shots": 3, "remember": 5, **options})


def training_of(seeds: int = 2, *, fresh_readout: bool = True, **options: Any) -> MetaTraining:
    model = flp_model(NETWORK, seeds, dtype=WIDE)
    return MetaTraining(
        model, trajectories(), NETWORK.rates, fresh_readout=fresh_readout, **options
    )


# -- tasks --


def test_one_class_is_learnt_and_all_are_remembered() -> None:
    data = numbered([EACH] * 5)
    tasks = OMLTrajectories(data, shots=4, remember=9)
    assert isinstance(tasks, TaskFamily)
    assert (tasks.steps, tasks.n_in, tasks.n_out) == (4, 1, 5)
    batch = tasks.sample(seeded(*range(80)))
    assert isinstance(batch.x, Tensor)
    learnt, asked = batch.x[..., 0].long().T, batch.x_query[..., 0].long()
    assert asked.shape == (80, 4 + 9)
    assert torch.equal(asked[:, :4], learnt)
    assert torch.equal(data.labels[learnt], batch.label.T)
    assert torch.equal(data.labels[asked], batch.label_query)
    for images, classes in zip(learnt.tolist(), batch.label.T.tolist(), strict=True):
        assert (len(set(images)), len(set(classes))) == (4, 1)
    assert set(batch.label.flatten().tolist()) == set(range(5))
    assert set(asked[:, 4:].flatten().tolist()) == set(range(5 * EACH))
    others = batch.label_query[:, 4:] != batch.label[0][:, None]
    assert 0.7 < others.float().mean() < 0.9  # four classes of five


def test_a_class_held_out_is_never_met() -> None:
    data = numbered([EACH] * 5)
    batch = OMLTrajectories(data, shots=2, remember=9, hold_out=["c0", "c3"]).sample(
        seeded(*range(40))
    )
    assert set(batch.label.flatten().tolist()) == {1, 2, 4}
    assert set(batch.label_query.flatten().tolist()) == {1, 2, 4}


def test_a_lifetime_follows_from_its_generator_alone() -> None:
    tasks = trajectories()
    some, other = tasks.sample(seeded(3, 4, 5)), tasks.sample(seeded(4))
    assert torch.equal(some.x[:, 1], other.x[:, 0])
    assert torch.equal(some.x_query[1], other.x_query[0])
    assert not torch.equal(some.x_query[0], some.x_query[1])


def test_tasks_tell_themselves_apart() -> None:
    said = trajectories().describe()
    assert (said["family"], said["remember"], said["shots"]) == ("oml-trajectories", 5, 3)
    assert trajectories(remember=6).describe() != said
    assert trajectories().name == "noise-oml-3shot"
    assert "remember=5" in repr(trajectories())


def test_tasks_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="few-shot tasks: remember"):
        trajectories(remember=0)
    with pytest.raises(DataError, match=r"class 'a' has 6 images but shots .* use fewer shots"):
        trajectories(shots=7)
    assert trajectories(shots=6).sample(seeded(0)).label.unique().numel() == 1


# -- the meta-gradient --


def drawn_anew(seed: int, update: int) -> Tensor:
    """A readout by Kaiming, of six units."""
    (draw,) = generators(0, 0, READOUT, [(seed, 0)], update)
    return torch.randn(CLASSES, 6, generator=draw, dtype=WIDE) * math.sqrt(2 / 6)


def by_hand(model: MetaModel, seed: int, task: TaskBatch, rate: float) -> dict[str, Tensor]:
    """Loss and slopes of one seed, whose inner gradients are taken as constants."""
    weights = [t[seed].detach().clone() for t in (*model.W, *model.bias)]
    weights[1][task.label[0, seed]] = drawn_anew(seed, 0)[task.label[0, seed]]
    leaves = [w.requires_grad_() for w in weights]
    features = model.features[seed]

    def loss(w: list[Tensor], x: Tensor, label: Tensor) -> Tensor:
        hidden = torch.relu(features(x.reshape(-1, 1, 8, 8)) @ w[0].T + w[2])
        return functional.cross_entropy(hidden @ w[1].T + w[3], label)

    now = leaves
    for x, label in zip(task.x[:, seed], task.label[:, seed], strict=True):
        slopes = torch.autograd.grad(loss(now, x, label[None]), now)
        now = [w - rate * slope for w, slope in zip(now, slopes, strict=True)]
    lost = loss(now, task.x_query[seed], task.label_query[seed])
    named = dict(zip(("W.0", "W.1", "bias.0", "bias.1"), leaves, strict=True))
    named |= {f"features.{seed}.{key}": p for key, p in features.named_parameters()}
    found = torch.autograd.grad(lost, list(named.values()))
    return {"loss": lost.detach(), **dict(zip(named, found, strict=True))}


def test_an_update_is_by_the_gradient_of_first_order_oml() -> None:
    training = training_of()
    before = deepcopy(training.model)
    task = trajectories().sample(generators(0, 0, TASK, [(0, 0), (1, 0)], 0), WIDE)
    assert task.label[0, 0] != task.label[0, 1]
    record = training.update()
    found = dict(training.model.named_parameters())
    compared = 0
    for seed in range(2):
        for key, expected in by_hand(before, seed, task, 0.2).items():
            slope = record.loss if key == "loss" else found[key].grad
            assert slope is not None
            own = slope if key.startswith("features") else slope[seed]
            torch.testing.assert_close(own, expected, rtol=1e-9, atol=1e-12)
            compared += bool(expected.any())
    assert compared == 2 * (1 + 4 + 4)  # losses, plastic weights and biases, two convolutions
    assert all(rate.eq(0.2).all() and rate.grad is None for rate in training.model.rate)


def test_the_fixed_rate_stays_whatever_steps_there_are() -> None:
    """Those of weights and of biases, where rates of FLP would be learnt."""
    settings = replace(SINE, learning="oml", rate=(0.02, 0.01, 0.005), rates=RATES)
    training = MetaTraining(flp_model(settings, dtype=WIDE), sines(), RATES)
    before = values(training.model)
    for _ in range(3):
        training.update()
    after = values(training.model)
    for part in ("rate", "bias_rate"):
        for k, rate in enumerate((0.02, 0.01, 0.005)):
            assert after[f"{part}.{k}"].eq(rate).all()
    assert not after["W.0"].equal(before["W.0"])


# -- the readout --


def test_the_readout_of_the_class_to_be_learnt_is_drawn_anew() -> None:
    """And stays, but for Adam's step, which is at most a thousandth here; other rows have that."""
    training, tasks = training_of(), trajectories()
    for update in range(4):
        before = values(training.model)
        task = tasks.sample(generators(0, 0, TASK, [(0, 0), (1, 0)], update), WIDE)
        training.update()
        after = values(training.model)
        for seed, label in enumerate(task.label[0].tolist()):
            wanted = before["W.1"][seed].clone()
            assert (drawn_anew(seed, update)[label] - wanted[label]).abs().max() > 0.1
            wanted[label] = drawn_anew(seed, update)[label]
            torch.testing.assert_close(after["W.1"][seed], wanted, rtol=0, atol=1.001e-3)
        torch.testing.assert_close(after["bias.1"], before["bias.1"], rtol=0, atol=1.001e-3)
    kept = training_of(fresh_readout=False)
    before = values(kept.model)
    kept.update()
    torch.testing.assert_close(values(kept.model)["W.1"], before["W.1"], rtol=0, atol=1.001e-3)


def test_all_classes_of_a_seeds_lifetimes_are_drawn_anew() -> None:
    training = training_of(episodes=3)
    members = [(row, member) for row in range(2) for member in range(3)]
    label = trajectories().sample(generators(0, 0, TASK, members), WIDE).label[0].view(2, 3)
    before = values(training.model)["W.1"]
    training.update()
    moved = (values(training.model)["W.1"] - before).abs().amax(-1) > 0.01
    wanted = torch.zeros_like(moved)
    for seed in range(2):
        wanted[seed, label[seed]] = True
    assert torch.equal(moved, wanted)
    assert int(wanted.sum(1).max()) > 1


def test_targets_are_no_classes() -> None:
    flp = by_oml(replace(SINE, rates=RATES), 0.1)
    training = MetaTraining(flp_model(flp), sines(), flp.rates, fresh_readout=True)
    with pytest.raises(ConfigError, match="these tasks have targets; leave it False"):
        training.update()
    with pytest.raises(ConfigError, match="fresh_readout should be True or False"):
        training_of(fresh_readout=1)  # type: ignore[arg-type]


# -- seeds, and to go on --


def trail(training: MetaTraining, updates: int) -> list[list[float]]:
    return [training.update().loss.tolist() for _ in range(updates)]


def test_a_seed_says_all_that_is_random() -> None:
    whole = trail(training_of(), 4)
    assert trail(training_of(), 4) == whole
    assert trail(training_of(seed=1), 4) != whole
    alone = trail(training_of(seeds=1), 4)
    assert alone == [pytest.approx(both[:1], rel=1e-9) for both in whole]


def test_meta_training_goes_on_to_the_same_bits() -> None:
    whole = training_of()
    expected = trail(whole, 5)
    first = training_of()
    assert trail(first, 2) == expected[:2]
    again = training_of()
    again.load(first.tensors(), updates=2)
    assert trail(again, 3) == expected[2:]
    for key, value in values(whole.model).items():
        assert torch.equal(value, values(again.model)[key]), key


# -- tests --


def test_a_test_begins_with_what_was_learnt_and_a_readout_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    training = training_of()
    trail(training, 3)
    test = by_oml(replace(NETWORK, widths=(2 * 4 * 4, 6, 4)), 0.05)
    model, learnt = with_new_readout(training.model, test), values(training.model)
    for key, value in values(model).items():
        if key.startswith("features") or key in ("W.0", "bias.0"):
            assert torch.equal(value, learnt[key]), key
    assert all(rate.eq(0.05).all() for rate in model.rate)
    assert not model.bias[1].any()

    live, born = MetaModel.live, list[Any]()

    def watched(model: MetaModel, task: TaskBatch, state: Any = None) -> Any:
        born.append(state)
        return live(model, task, state)

    monkeypatch.setattr(MetaModel, "live", watched)
    tasks = OnlineFewShot(noise(), ways=3, shots=2, queries=2, outputs=4)
    errors = lifetime_errors(model, tasks, 5, 0, fresh_readout=True)
    assert errors.shape == (2, 5)
    (state,) = born
    assert torch.equal(state.W[0], model.W[0].repeat_interleave(5, 0))
    readouts = state.W[1]
    assert readouts.shape == (10, 4, 6)
    assert len({tuple(r.flatten().tolist()) for r in readouts}) == 10
    assert 0.8 * math.sqrt(2 / 6) < float(readouts.std()) < 1.2 * math.sqrt(2 / 6)
    assert torch.equal(lifetime_errors(model, tasks, 5, 0, fresh_readout=True), errors)
    assert not torch.equal(lifetime_errors(model, tasks, 5, 0), errors)
