"""What FLP's Figure 2 measures, against the same written out step by step."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pretended_gpu import GPU, pretended_gpu
from torch import Tensor

from rulesearch.analysis import flp_control, flp_interference, flp_life, flp_readout, flp_updates
from rulesearch.errors import ConfigError, LearnerError
from rulesearch.networks import LearntFeedback, NetworkState
from rulesearch.outer import OMNIGLOT, FLPSettings, MetaModel, MetaRates, MetaTraining, flp_model
from rulesearch.tasks import FewShot, IncrementalSines, TaskBatch

SEEDS, LIVES = 2, 3
TASKS = IncrementalSines(functions=4, batches=3, examples=5, queries=6, order="continual")
STEPS = TASKS.steps
WIDTHS = (TASKS.n_in, 9, 8, 7, 1)
MODELS: dict[str, FLPSettings] = {
    "reuse": FLPSettings(WIDTHS, 1),
    "flp": FLPSettings(WIDTHS, 3),
    "gradient": FLPSettings(WIDTHS, 3, learning="gradient"),
}

pytestmark = pytest.mark.usefixtures("one_thread")


def model_of(settings: FLPSettings, rate: float | None = None) -> MetaModel:
    """A model in which nothing is zero, as after meta-training; or all of whose rates are equal."""
    model = flp_model(settings, SEEDS, seed=3, dtype=torch.float64)
    g = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=g, dtype=torch.float64)
            if "rate" in name.split(".")[0]:
                parameter.copy_(2e-3 * noise if rate is None else torch.full_like(noise, rate))
            elif name != "theta":
                parameter.add_(0.1 * noise)
    return model


def task_of(tasks: IncrementalSines = TASKS, count: int = SEEDS * LIVES) -> TaskBatch:
    return tasks.sample([torch.Generator().manual_seed(i) for i in range(count)], torch.float64)


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> MetaModel:
    return model_of(MODELS[request.param])


def life(model: MetaModel, task: TaskBatch, steps: int) -> NetworkState:
    """Networks after so many steps, lived from birth in one go."""
    if not steps:
        return model.born(task.x.shape[1] // model.seeds)
    return model.live(replace(task, x=task.x[:steps], label=task.label[:steps]))


def answers(model: MetaModel, state: NetworkState, i: int, x: Tensor, W: list[Tensor]) -> Tensor:
    """Outputs of lifetime i for x (examples, n_in) with weights W of its plastic layers."""
    if model.features:
        x = model.features[i // LIVES](x)
    for k, weight in enumerate(W):
        x = x @ weight.T + state.bias[k][i]
        x = x if k == len(W) - 1 else x.relu()
    return x


def same(found: Tensor, wanted: Any, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(
        found.numpy(), np.asarray(wanted), rtol=tolerance, atol=tolerance * 1e-3
    )


def test_stages_are_a_life_cut_into_pieces(model: MetaModel) -> None:
    task = task_of()
    for number, state in enumerate(flp_life.stages(model, task, TASKS.batches)):
        whole = life(model, task, number * TASKS.batches)
        for piece, weight in zip(state.W + state.bias, whole.W + whole.bias, strict=True):
            torch.testing.assert_close(piece, weight, rtol=1e-11, atol=1e-13)
    assert number == TASKS.functions


@pytest.mark.parametrize("every", [0, 5, STEPS + 1])
def test_stages_divide_a_life(every: int) -> None:
    with pytest.raises(ConfigError, match=f"a lifetime of {STEPS} steps has no stages of {every}"):
        flp_life.query_curve(model_of(MODELS["flp"]), task_of(), every)


def test_query_curve_is_the_query_error_on_the_way(model: MetaModel) -> None:
    task = task_of()
    curve = flp_life.query_curve(model, task, 4)
    assert curve.shape == (SEEDS, LIVES, 1 + STEPS // 4)
    for point in range(curve.shape[2]):
        state = life(model, task, 4 * point)
        for i in range(SEEDS * LIVES):
            output = answers(model, state, i, task.x_query[i], [w[i] for w in state.W])
            error = (output - task.label_query[i]).square().mean()
            same(curve[i // LIVES, i % LIVES, point], error.detach())
    same(curve[..., -1].flatten(), model(task).loss.detach())


def test_updates_are_differences_and_gradients_autograds(model: MetaModel) -> None:
    task = task_of()
    updates = flp_updates.follow_updates(model, task)
    layers = len(model.W)
    assert updates.loss.shape == (SEEDS, LIVES, STEPS)
    assert updates.alignment.shape == updates.magnitude.shape == (SEEDS, LIVES, STEPS, layers)
    states = [life(model, task, t).detach() for t in range(STEPS + 1)]
    for t, (before, after) in enumerate(pairwise(states)):
        for i in range(SEEDS * LIVES):
            place = (i // LIVES, i % LIVES, t)
            leaves = [w[i].clone().requires_grad_() for w in before.W]
            output = answers(model, before, i, task.x[t, i], leaves)
            loss = (output - task.label[t, i]).square().mean()
            same(updates.loss[place], loss.detach())
            for k, gradient in enumerate(torch.autograd.grad(loss, leaves)):
                change = (after.W[k][i] - before.W[k][i]).numpy()
                descent = -gradient.numpy()
                length = np.sqrt((change**2).sum())
                same(updates.magnitude[(*place, k)], length, 1e-7)
                cosine = (change * descent).sum() / length / np.sqrt((descent**2).sum())
                same(updates.alignment[(*place, k)], cosine, 1e-7)
    # Updates with rates of both signs are not along the gradient: the comparison told something.
    assert updates.alignment.abs().mean() < 0.9
    assert updates.alignment.min() < 0 < updates.alignment.max()


def test_gradient_descent_descends_the_gradient() -> None:
    updates = flp_updates.follow_updates(model_of(MODELS["gradient"], rate=1e-2), task_of())
    assert updates.alignment.shape[-1] == 3
    same(updates.alignment, torch.ones_like(updates.alignment))
    assert updates.magnitude.min() > 0


def test_no_update_has_no_direction() -> None:
    updates = flp_updates.follow_updates(model_of(MODELS["flp"], rate=0.0), task_of())
    assert updates.alignment.isnan().all()
    assert (updates.magnitude == 0).all()


def test_a_step_may_have_one_example(model: MetaModel) -> None:
    single = task_of(replace(TASKS, examples=1))
    flat = replace(single, x=single.x[:, :, 0], label=single.label[:, :, 0])
    for with_one, without in zip(
        vars(flp_updates.follow_updates(model, single)).values(),
        vars(flp_updates.follow_updates(model, flat)).values(),
        strict=True,
    ):
        torch.testing.assert_close(with_one, without, rtol=0, atol=0, equal_nan=True)
    both = [flp_readout.frozen_readout_error(model, task) for task in (single, flat)]
    torch.testing.assert_close(*both, rtol=0, atol=0)


def test_interference_is_the_change_for_earlier_sines(model: MetaModel) -> None:
    task = task_of()
    found = flp_interference.interference(model, TASKS, task)
    assert found.shape == (SEEDS, LIVES, TASKS.functions - 1)
    for learnt in range(1, TASKS.functions):
        before = life(model, task, learnt * TASKS.batches)
        after = life(model, task, (learnt + 1) * TASKS.batches)
        for i in range(SEEDS * LIVES):
            # by the slot code, not by the place in the list
            old = task.x_query[i][task.x_query[i][:, :learnt].sum(1) == 1]
            assert len(old) == learnt * TASKS.queries
            changed = answers(model, after, i, old, [w[i] for w in after.W])
            changed = changed - answers(model, before, i, old, [w[i] for w in before.W])
            wanted = changed.square().mean().detach()
            same(found[i // LIVES, i % LIVES, learnt - 1], wanted, 1e-7)


def test_what_does_not_learn_does_not_interfere() -> None:
    found = flp_interference.interference(model_of(MODELS["flp"], rate=0.0), TASKS, task_of())
    assert found.shape == (SEEDS, LIVES, TASKS.functions - 1)
    assert (found == 0).all()


@pytest.mark.parametrize("order", ["iid", "mixed"])
def test_interference_wants_sines_in_turn(order: Any) -> None:
    tasks = replace(TASKS, order=order)
    with pytest.raises(ConfigError, match=f"the order is '{order}'; use order='continual'"):
        flp_interference.interference(model_of(MODELS["flp"]), tasks, task_of(tasks))


def test_interference_wants_sines() -> None:
    wrong: Any = FewShot("digits")
    with pytest.raises(ConfigError, match=r"tasks should be IncrementalSines.*not of type FewShot"):
        flp_interference.interference(model_of(MODELS["flp"]), wrong, task_of())


@pytest.mark.parametrize("other", [{"batches": 1}, {"queries": 3}, {"functions": 2, "slots": 4}])
def test_interference_wants_the_tasks_of_the_task(other: dict[str, int]) -> None:
    told = "a lifetime of these tasks has .* that of the task 12 and 24; give the tasks that it was"
    with pytest.raises(ConfigError, match=told):
        flp_interference.interference(model_of(MODELS["flp"]), replace(TASKS, **other), task_of())


def test_one_sine_alone_interferes_with_none() -> None:
    alone = replace(TASKS, functions=1, slots=TASKS.functions)
    with pytest.raises(ConfigError, match="of a new sine with earlier ones; give functions=2"):
        flp_interference.interference(model_of(MODELS["flp"]), alone, task_of(alone))


def test_frozen_readout_is_least_squares(model: MetaModel) -> None:
    task = task_of(replace(TASKS, order="iid", examples=20))
    found = flp_readout.frozen_readout_error(model, task)
    assert found.shape == (SEEDS, LIVES)
    assert isinstance(task.x, Tensor)
    born = model.born(LIVES).detach()
    for i in range(SEEDS * LIVES):

        def inputs(x: Tensor, i: int = i) -> Any:
            """Of the readout: the last layer but one of the network at birth, and a one."""
            with torch.no_grad():
                h = model.features[i // LIVES](x) if model.features else x
                for k in range(len(born.W) - 1):
                    h = (h @ born.W[k][i].T + born.bias[k][i]).relu()
            return np.hstack([h.numpy(), np.ones((len(h), 1))])

        seen = inputs(task.x[:, i].flatten(0, 1))
        readout = np.linalg.lstsq(seen, task.label[:, i].flatten(0, 1).numpy(), rcond=None)[0]
        error = inputs(task.x_query[i]) @ readout - task.label_query[i].numpy()
        same(found[i // LIVES, i % LIVES], (error**2).mean(), 1e-4)


def test_frozen_readout_bears_silent_units() -> None:
    model = model_of(MODELS["flp"])
    with torch.no_grad():
        model.bias[1].fill_(-1e3)  # relu leaves nothing: the best readout answers the mean
    task = task_of()
    assert isinstance(task.x, Tensor)
    means = task.label.mean((0, 2))
    wanted = (task.label_query - means[:, None]).square().mean((1, 2))
    same(flp_readout.frozen_readout_error(model, task).flatten(), wanted, 1e-6)


def test_frozen_readout_wants_a_linear_output() -> None:
    settings = replace(OMNIGLOT, image=None, channels=(), strides=(), widths=(5, 4, 3))
    with pytest.raises(LearnerError, match="output='linear'"):
        flp_readout.frozen_readout_error(flp_model(settings, SEEDS), task_of())


def test_plasticity_is_added_to_feature_reuse() -> None:
    """It starts as feature reuse left off; then all but the forward weights learn."""
    reuse = model_of(MODELS["reuse"])
    settings = replace(MODELS["flp"], rates=MetaRates(forward=0.0, rate=1e-5))
    model = flp_control.plastic_from_reuse(reuse, settings, seed=1)
    assert len(model.W) == 3
    task = task_of()
    torch.testing.assert_close(model(task).loss, reuse(task).loss, rtol=1e-11, atol=0)
    assert (reuse(task).loss - reuse.judge(reuse.born(LIVES), task).loss).abs().max() > 1e-3

    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    training = MetaTraining(model, TASKS, settings.rates, seed=2)
    for _ in range(2):
        assert not training.update().rejected.any()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    learnt = {"B", "feedback_bias", "mixing", "rate"}
    assert moved == {f"{name}.{k}" for name in learnt for k in range(3)}


@pytest.mark.parametrize("pathway", ["direct", "layered"])
def test_the_control_keeps_what_plastic_feedback_had_learnt(
    pathway: Literal["direct", "layered"],
) -> None:
    plastic = LearntFeedback(plastic=True, pathway=pathway)
    reuse = model_of(replace(MODELS["reuse"], feedback=plastic))
    model = flp_control.plastic_from_reuse(reuse, replace(MODELS["flp"], feedback=plastic), seed=1)
    task = task_of()
    torch.testing.assert_close(model(task).loss, reuse(task).loss, rtol=1e-11, atol=0)


def test_the_control_is_where_feature_reuse_is() -> None:
    """On a pretended GPU, which refuses what lies elsewhere."""
    with pretended_gpu():
        reuse = flp_model(MODELS["reuse"], SEEDS, device="meta")
        model = flp_control.plastic_from_reuse(reuse, MODELS["flp"])
        assert {p.device for p in model.parameters()} == {GPU}


def test_only_feature_reuse_is_given_plasticity() -> None:
    with pytest.raises(ConfigError, match="has 1 plastic layer, this one 3"):
        flp_control.plastic_from_reuse(model_of(MODELS["flp"]), MODELS["flp"])
    other = replace(MODELS["flp"], widths=(TASKS.n_in, 9, 8, 6, 1))
    with pytest.raises(ConfigError, match="other layers"):
        flp_control.plastic_from_reuse(model_of(MODELS["reuse"]), other)
