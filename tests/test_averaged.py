"""The mean of the last updates, resumed or not, and steps that shrink at milestones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rulesearch.errors import ConfigError
from rulesearch.named import Named, under
from rulesearch.outer.averaged import Averaged
from rulesearch.outer.bilevel import BilevelTraining, MetaParameters
from rulesearch.outer.bilevel.problem import Estimate
from rulesearch.reproduce.base import Job
from rulesearch.reproduce.flp import lifetime_errors, restored
from rulesearch.reproduce.flp_table1 import FLP_TABLE1, SineSettings, sine_network, sine_tasks
from rulesearch.reproduce.plan import Plan
from rulesearch.reproduce.run import reproduce


def down(problem: int, theta: Named) -> Estimate:
    """A meta-gradient of one: by Adam every weight falls by the rate at each update."""
    assert torch.is_grad_enabled()  # a meta-gradient may unroll
    gradient = {name: torch.ones_like(t) for name, t in theta.items()}
    return Estimate(gradient, torch.zeros(2), {}, torch.ones(2, dtype=torch.bool))


def training(begin: int, milestones: tuple[int, ...] = ()) -> Averaged[MetaParameters]:
    model = MetaParameters({"w": torch.zeros(2, 3), "b": torch.zeros(2)})
    steps = BilevelTraining(model, lambda update: update, down, 0.25, milestones=milestones)
    return Averaged(steps, begin)


def bias(of: Averaged[MetaParameters]) -> torch.Tensor:
    return of.model.theta()["b"].detach()


def test_it_ends_with_the_mean_of_the_last() -> None:
    """After 7 updates, of which the first 3 do not count: the mean of 4, 5, 6 and 7 quarters."""
    averaged = training(3)
    for _ in range(7):
        averaged.update()
    assert averaged.updates == 7
    torch.testing.assert_close(bias(averaged), torch.full((2,), -7 / 4))
    averaged.choose()
    torch.testing.assert_close(bias(averaged), torch.full((2,), -5.5 / 4))
    weights = averaged.model.theta()["w"].detach()
    torch.testing.assert_close(weights, torch.full((2, 3), -5.5 / 4))


def test_before_anything_counts_it_is_the_last() -> None:
    averaged = training(5)
    averaged.update()
    averaged.choose()
    torch.testing.assert_close(bias(averaged), torch.full((2,), -1 / 4))


@pytest.mark.parametrize("broken_off", [1, 3, 5])
def test_it_goes_on_from_a_checkpoint(broken_off: int) -> None:
    first = training(3)
    for _ in range(broken_off):
        first.update()
    kept = {key: value.clone() for key, value in first.tensors().items()}
    first.update()
    resumed = training(3)
    resumed.load(kept, broken_off)
    for _ in range(7 - broken_off):
        resumed.update()
    resumed.choose()
    torch.testing.assert_close(bias(resumed), torch.full((2,), -5.5 / 4))


def test_steps_are_halved_at_milestones() -> None:
    """Two steps of a quarter, one of an eighth, two of a sixteenth."""
    halved = training(99, (2, 3))
    for _ in range(5):
        halved.update()
    torch.testing.assert_close(bias(halved), torch.full((2,), -(2 / 4 + 1 / 8 + 2 / 16)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"drop": 0.0}, "drop must be a positive number"), ({"milestones": (2, -1)}, "milestone")],
)
def test_bad_milestones(settings: dict[str, float], message: str) -> None:
    model = MetaParameters({"b": torch.zeros(2)})
    with pytest.raises(ConfigError, match=message):
        BilevelTraining(model, lambda update: update, down, 0.25, **settings)  # type: ignore[arg-type]


def test_fewer_than_no_updates() -> None:
    with pytest.raises(ConfigError, match="averaged"):
        training(-1)


# -- networks of FLP, and rows of its tables --

TINY = SineSettings(
    updates=4, average=3, seeds=2, lifetimes=2, hidden=(6, 6, 6), functions=2, batches=2,
    examples=3, forward=1e-2, rate=1e-4, gradient_start=1e-2, oml_rate=1e-3,
)  # fmt: skip


def way(job: Job, updates: int) -> list[dict[str, Tensor]]:
    """Meta-parameters after each update."""
    training, found = job.begin({}), []
    for _ in range(updates):
        training.update()
        found.append({k: p.detach().clone() for k, p in training.model.named_parameters()})
    return found


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("row", ["flp-2", "feature-reuse-1"])
def test_a_row_is_tested_with_the_mean_of_its_last_updates(row: str, tmp_path: Path) -> None:
    job = next(job for job in FLP_TABLE1.jobs(TINY) if job.name == f"{row}-iid")
    last = way(job, 4)[1:]
    plan = Plan(FLP_TABLE1, "small", TINY.model_copy(update={"conditions": ("iid",)}), (row,))
    reproduce(plan, tmp_path / "run")
    kept = load_file(tmp_path / "run" / "jobs" / f"{row}-iid.safetensors")
    for name in last[0]:
        mean = torch.stack([each[name] for each in last]).double().mean(0)
        torch.testing.assert_close(kept[f"model.{name}"].double(), mean, rtol=1e-5, atol=1e-7)
    layers = {"flp-2": 2, "feature-reuse-1": 1}
    model = restored(sine_network(TINY, layers[row]), TINY, under("model.", kept))
    error = lifetime_errors(model, sine_tasks(TINY)["iid"].test, TINY.lifetimes, TINY.seed)
    torch.testing.assert_close(kept["measured.error"], error)


def test_a_search_for_rules_averages_nothing(run_main: Any) -> None:
    status, _, err = run_main("reproduce", "flp-rules", "--set", "average=2")
    assert (status, err.count("\n")) == (2, 1)
    assert "average" in err
    assert "should be 1" in err
