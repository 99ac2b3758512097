"""Meta-training: its steps are Adam's, seeds never mix, and it goes on to the same bits."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from small_flp import (
    IMAGE,
    RATES,
    SETTINGS,
    SINE,
    WIDE,
    gradients,
    sines,
    task_of,
    training_of,
    values,
)
from torch import Tensor

from rulesearch.errors import ConfigError, LearnerError
from rulesearch.outer import MetaModel, MetaRates, MetaTraining, flp_model
from rulesearch.outer.clipping import UsualNorm
from rulesearch.outer.meta_training import CALMER
from rulesearch.tasks import TaskBatch

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_step_is_adams_at_the_rate_of_each_group() -> None:
    """Adam's first step is the sign of the gradient times the rate, but for its epsilon."""
    rates = MetaRates(0.03, 0.02, 0.01, (0.1, 0.2, 0.3))
    settings = replace(SINE, rates=rates)
    slope = gradients(flp_model(settings, 2, dtype=WIDE), task_of(settings, 2))
    training = training_of(settings)
    before = values(training.model)
    training.update()
    after = values(training.model)
    of = {
        "features": 0.03, "W": 0.03, "bias": 0.03, "B": 0.02, "feedback_bias": 0.02,
        "mixing": 0.01, "rate.0": 0.1, "rate.1": 0.2, "rate.2": 0.3, "theta": 0.0,
    }  # fmt: skip
    for key, start in before.items():
        g = slope[key]
        rate = of.get(key, of.get(key.split(".")[0]))
        assert g is not None
        assert rate is not None
        torch.testing.assert_close(after[key], start - rate * g / (g.abs() + 1e-8))


def test_the_second_step_remembers_the_first_as_the_betas_say() -> None:
    """Kingma and Ba (2014), Algorithm 1, written out for two gradients."""
    b1, b2 = 0.6, 0.8
    training = training_of(replace(SINE, rates=replace(RATES, betas=(b1, b2))))
    slopes, trail = [], []
    for _ in range(2):
        training.update()
        own = training.model.named_parameters()
        slopes.append({key: p.grad.clone() for key, p in own if p.grad is not None})
        trail.append(values(training.model))
    rate = {"W": RATES.forward, "B": RATES.feedback, "mixing": RATES.mixing}
    for key, second in slopes[1].items():
        if (of := key.split(".")[0]) not in rate:
            continue
        first = slopes[0][key]
        mean = (b1 * first + second) * (1 - b1) / (1 - b1**2)
        square = (b2 * first**2 + second**2) * (1 - b2) / (1 - b2**2)
        step = rate[of] * mean / (square.sqrt() + 1e-8)
        torch.testing.assert_close(trail[1][key], trail[0][key] - step)


def test_an_update_is_of_the_mean_over_a_seeds_lifetimes() -> None:
    """Which Adam's step does not tell from their sum, but its moments and the record do."""
    settings = replace(SINE, rates=RATES)
    model, task = flp_model(settings, 2, dtype=WIDE), task_of(settings, 2, episodes=3)
    lost = model(task).loss.detach()
    slopes = gradients(model, task, episodes=3)
    training = training_of(settings, episodes=3)
    record = training.update()
    torch.testing.assert_close(record.loss, torch.stack([lost[:3].mean(), lost[3:].mean()]))
    for key, slope in slopes.items():
        if slope is not None and key != "theta":
            torch.testing.assert_close(training.tensors()[f"adam.{key}.exp_avg"], 0.1 * slope)


# -- seeds --


@dataclass(frozen=True)
class Listed:
    """Tasks made beforehand, one after another, those of some seeds."""

    batches: Sequence[TaskBatch]
    rows: slice
    taken: list[int]

    n_in, n_out, steps, name = 4, 1, 6, "listed"

    def describe(self) -> dict[str, object]:
        return {}

    def sample(self, given: Sequence[torch.Generator], dtype: torch.dtype) -> TaskBatch:
        batch = self.batches[len(self.taken)]
        self.taken.append(1)
        assert isinstance(batch.x, Tensor)
        of = self.rows
        return TaskBatch(
            batch.x[:, of], batch.label[:, of], batch.x_query[of], batch.label_query[of]
        )


def training_on(
    batches: Sequence[TaskBatch], model: MetaModel, rates: MetaRates, rows: slice
) -> MetaTraining:
    """Which refuses such tasks at first, for they are of no generator."""
    training = MetaTraining(model, sines(), rates)
    training.tasks = Listed(batches, rows, [])
    return training


def test_seeds_never_mix() -> None:
    """Two seeds side by side end where each ends alone."""
    batches = [task_of(SINE, 2, update=update) for update in range(4)]
    both = flp_model(SINE, 2, dtype=WIDE)
    born, modules = both.born(), list(both.features)
    alone = [
        MetaModel(
            both.learner,
            replace(born, **{name: [t[i : i + 1] for t in part] for name, part in born.parts()}),
            [deepcopy(modules[i])],
        )
        for i in range(2)
    ]
    together = training_on(batches, both, RATES, slice(None))
    losses = torch.stack([together.update().loss for _ in batches])
    assert not torch.allclose(losses[:, 0], losses[:, 1])
    for i, model in enumerate(alone):
        single = training_on(batches, model, RATES, slice(i, i + 1))
        found = torch.stack([single.update().loss for _ in batches])
        torch.testing.assert_close(found[:, 0], losses[:, i], rtol=1e-10, atol=0)
        for mine, theirs in zip(model.by_seed()[0], both.by_seed()[i], strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_a_seeds_draws_are_its_own() -> None:
    """Initial values and tasks of a seed do not depend on how many there are."""
    one, three = flp_model(SINE, 1, dtype=WIDE), flp_model(SINE, 3, dtype=WIDE)
    for mine, theirs in zip(one.by_seed()[0], three.by_seed()[0], strict=True):
        assert torch.equal(mine, theirs)
    assert not torch.equal(three.W[0][0], three.W[0][1])
    few, many = task_of(SINE, 1), task_of(SINE, 3)
    assert torch.equal(few.x_query[0], many.x_query[0])
    assert not torch.equal(many.x_query[0], many.x_query[1])


def test_a_seed_that_diverges_stays_as_it_was() -> None:
    """But for its rates, which made it diverge."""
    training = training_of(SINE, seeds=3)
    training.update()
    with torch.no_grad():
        training.model.W[0][1] = 1e200
    before = values(training.model)
    record = training.update()
    assert record.rejected.tolist() == [False, True, False]
    after = values(training.model)
    for key, old in before.items():
        part, *rest = key.split(".")
        if part == "features":
            assert after[key].equal(old) == (rest[0] == "1"), key
        elif part != "theta":
            rejected = CALMER * old[1] if part == "rate" else old[1]
            assert after[key][1].equal(rejected), key
            assert not after[key][0].equal(old[0]), key
            assert not after[key][2].equal(old[2]), key
    assert all(v.isfinite().all() for v in after.values())


@pytest.mark.parametrize("clip", [None, 2.0])
def test_a_gradient_whose_square_is_no_number_is_rejected(clip: float | None) -> None:
    """It is finite itself; Adam would divide by an infinite root for ever, or by none."""
    training = training_of(replace(SINE, rates=replace(RATES, clip=clip)))
    training.model.W[0].register_hook(lambda g: g.index_fill(0, torch.tensor([1]), 1e160))
    before = values(training.model)
    assert training.update().rejected.tolist() == [False, True]
    after = values(training.model)
    for key in ("W.0", "W.1", "B.0"):
        assert after[key][1].equal(before[key][1])
        assert not after[key][0].equal(before[key][0])
    moments = {k: v for k, v in training.tensors().items() if "exp_avg" in k or "usual" in k}
    assert all(v.isfinite().all() for v in moments.values())


# -- clipping --


def test_an_unusual_gradient_is_clipped() -> None:
    """The first is usual by definition; of one a thousand times as long, twice that is left."""
    usual = UsualNorm(2.0)
    first = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    none = torch.tensor([False, False])
    again = first.clone()
    usual.clip("W", again, none)
    assert again.equal(first)
    large = 1000 * first
    usual.clip("W", large, none)
    torch.testing.assert_close(large, 2 * first)
    torch.testing.assert_close(usual.usual["W"], torch.tensor([5.25, 1.05]))
    usual.clip("W", torch.zeros(2, 2), torch.tensor([True, False]))
    torch.testing.assert_close(usual.usual["W"], torch.tensor([5.25, 0.9975]))


def test_a_multiple_by_which_the_usual_norm_could_only_fall_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"multiple is 1\.0; give a number above 1, as 2"):
        UsualNorm(1.0)


def test_clipping_reaches_every_parameter() -> None:
    """Of a seed whose loss is enormous once, and of no other."""
    batches = [task_of(SINE, 2, update=update) for update in range(2)]
    batches[1].label_query[0] *= 1e6

    def squares(clip: float | None) -> list[dict[str, float]]:
        """Adam's mean squares after each update, of every parameter of each seed."""
        model, rates = flp_model(SINE, 2, dtype=WIDE), replace(RATES, clip=clip)
        training, found = training_on(batches, model, rates, slice(None)), []
        for _ in batches:
            training.update()
            moments = {k: v for k, v in training.tensors().items() if k.endswith("exp_avg_sq")}
            whole = {k: float(v.sum()) for k, v in moments.items() if "features" in k}
            split = {
                f"{k}[{i}]": float(v[i].sum())
                for k, v in moments.items()
                if k not in whole
                for i in range(2)
            }
            found.append(whole | split)
        return found

    (before, clipped), (_, free) = squares(1e3), squares(None)
    for key, old in before.items():
        if key.endswith("[1]") or key.startswith("adam.features.1"):
            assert clipped[key] == free[key]
        else:  # a norm a thousand times the first one's, and before clipping far more
            assert clipped[key] / old == pytest.approx(0.999 + 1e6), key
            assert free[key] > 10 * clipped[key], key


# -- going on --


@pytest.mark.parametrize("clip", [None, 1.01])
@pytest.mark.parametrize("name", ["flp", "gradient", "clamped"])
def test_a_checkpoint_goes_on_to_the_same_bits(name: str, clip: float | None) -> None:
    settings = replace(SETTINGS[name], rates=replace(RATES, clip=clip))
    through = training_of(settings, episodes=2)
    losses = [through.update().loss for _ in range(5)]
    broken = training_of(settings, episodes=2)
    for _ in range(2):
        broken.update()
    kept = {key: t.clone() for key, t in broken.tensors().items()}
    broken.update()  # goes on by itself: what was kept does not
    resumed = training_of(settings, episodes=2)
    resumed.load(kept, 2)
    again = [resumed.update().loss for _ in range(3)]
    assert [t.tolist() for t in again] == [t.tolist() for t in losses[2:]]
    expected, found = through.tensors(), resumed.tensors()
    assert expected.keys() == found.keys()
    assert all(torch.equal(t, found[key]) for key, t in expected.items())


def test_a_checkpoint_from_before_the_first_update_begins_anew() -> None:
    """Adam's moments of what was lived since are not its; nor does it move along."""
    training = training_of(SINE)
    start = training.tensors()
    born = {key: t.clone() for key, t in start.items()}
    losses = [training.update().loss.tolist() for _ in range(3)]
    assert all(torch.equal(t, born[key]) for key, t in start.items())
    kept = training.tensors()
    before = {key: t.clone() for key, t in kept.items()}
    training.update()
    assert all(torch.equal(t, before[key]) for key, t in kept.items())
    training.load(start, 0)
    assert training.tensors().keys() == start.keys()
    assert [training.update().loss.tolist() for _ in range(3)] == losses


def test_a_checkpoint_goes_on_with_other_numbers() -> None:
    """Adam's moments of float32 go on in float64, where the next step is the same but for them."""
    settings = replace(SINE, rates=replace(RATES, clip=1.01))

    def training(dtype: torch.dtype) -> MetaTraining:
        return MetaTraining(flp_model(settings, 2, dtype=dtype), sines(), settings.rates)

    narrow, wide = training(torch.float32), training(WIDE)
    for _ in range(3):
        narrow.update()
    wide.load(narrow.tensors(), 3)
    losses = [each.update().loss for each in (narrow, wide)]
    torch.testing.assert_close(losses[0].double(), losses[1], rtol=1e-2, atol=1e-2)
    for key, value in wide.tensors().items():
        assert value.dtype == (torch.float32 if key.endswith(".step") else WIDE)


@pytest.mark.parametrize("updates", [-1, 1.5])
def test_updates_that_were_none(updates: Any) -> None:
    with pytest.raises(ConfigError, match="updates"):
        training_of(SINE).load(training_of(SINE).tensors(), updates)


def test_a_checkpoint_of_another_model_is_refused() -> None:
    other = training_of(replace(SINE, plastic_layers=2))
    with pytest.raises(
        ConfigError, match=r"of another model: it has no W\.2; make the training as"
    ):
        training_of(SINE).load(other.tensors(), 1)


def test_a_checkpoint_of_other_shapes_is_refused_and_changes_nothing() -> None:
    """One of a single seed would otherwise become the start of all seeds."""
    mine, one = (training_of(replace(SINE, plastic_layers=4), seeds=n) for n in (2, 1))
    before = {k: v.clone() for k, v in mine.tensors().items()}
    with pytest.raises(
        ConfigError, match=r"another model: its theta has shape \(1, 1\), here it is \(2, 1\)"
    ):
        mine.load(one.tensors(), 1)
    assert all(torch.equal(v, before[k]) for k, v in mine.tensors().items())


# -- what moves --


@pytest.mark.parametrize("still", ["forward", "feedback", "mixing", "rate"])
def test_a_group_of_rate_0_does_not_move(still: str) -> None:
    training = training_of(replace(SINE, rates=replace(RATES, **{still: 0.0})))
    before = values(training.model)
    for _ in range(2):
        training.update()
    moved = {
        key.split(".")[0] for key, v in values(training.model).items() if not v.equal(before[key])
    }
    groups = {
        "forward": {"features", "W", "bias"},
        "feedback": {"B", "feedback_bias"},
        "mixing": {"mixing"},
        "rate": {"rate"},
    }
    assert moved == set().union(*(g for name, g in groups.items() if name != still))


def test_the_forward_rate_drops_at_milestones() -> None:
    """A rate that drops to nothing: forward weights move before the milestone and not after."""
    training = training_of(replace(SINE, rates=replace(RATES, milestones=(1,), drop=0.0)))
    trail = [values(training.model)]
    for _ in range(2):
        training.update()
        trail.append(values(training.model))
    born, first, second = trail
    assert not first["W.0"].equal(born["W.0"])
    assert second["W.0"].equal(first["W.0"])
    assert not second["B.0"].equal(first["B.0"])


def test_rates_begin_as_told() -> None:
    """One for all layers, or one for each; the biases of gradient descent follow their layer."""
    assert [r.unique().tolist() for r in flp_model(replace(SINE, rate=0.5)).rate] == [[0.5]] * 3
    model = flp_model(replace(SINE, learning="gradient", rate=(0.25, 0.0, 2.0)))
    for part in (model.rate, model.bias_rate):
        assert [r.unique().tolist() for r in part] == [[0.25], [0.0], [2.0]]


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match="every rate is 0"):
        training_of(replace(SINE, rates=MetaRates(0.0, 0.0, 0.0, 0.0)))
    with pytest.raises(ConfigError, match="2 values of rate for 3 plastic layers"):
        training_of(replace(SINE, rates=replace(RATES, rate=(1.0, 2.0))))
    with pytest.raises(ConfigError, match="FLP: 2 values of rate for 3 plastic layers"):
        replace(SINE, rate=(1.0, 2.0))
    with pytest.raises(ConfigError, match="4 layers, of which 1 or more"):
        replace(SINE, plastic_layers=5)
    with pytest.raises(ConfigError, match="learning is one of"):
        replace(SINE, learning="hope")
    with pytest.raises(ConfigError, match="larger image"):
        flp_model(replace(IMAGE, image=(1, 4, 4)))
    model = flp_model(SINE, 2)
    with pytest.raises(LearnerError, match="1 feature modules for 2 seeds"):
        MetaModel(model.learner, model.born(), list(model.features)[:1])
