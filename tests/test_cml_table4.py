"""Spiking networks in the outer loop: their slopes, unrolling, and a tiny run of the table."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from draws import generators
from safetensors.torch import load_file
from torch import Tensor

from rulesearch.errors import ConfigError
from rulesearch.learners.bptt import BPTT
from rulesearch.learners.eprop import EProp
from rulesearch.networks.spiking import SpikingNetwork
from rulesearch.outer.best_on_validation import BestOnValidation
from rulesearch.outer.bilevel import (
    SGD,
    ComplexSynapse,
    Contrastive,
    Descent,
    Named,
    UnrolledDescent,
)
from rulesearch.outer.seeds import TEST, VALIDATION
from rulesearch.outer.seeds import generators as seeds_of
from rulesearch.outer.spiking import LastWindow, SpikingProblem
from rulesearch.reproduce import Plan, make_plan, reproduce
from rulesearch.tasks.spiking_sines import SpikingSines, SpikingTasks

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = (
    "updates=2",
    "validate_every=1",
    "validation=2",
    "seeds=2",
    "lifetimes=3",
    "hidden=6",
    "free_steps=4",
    "nudged_steps=3",
)
STEPS = ("unrolled_steps=3", "truncated_steps=4", "window=2", "checkpoint_every=1")


def problem_of(learner: EProp | BPTT, batch: int | None = None) -> SpikingProblem:
    sines = SpikingSines(examples=3, queries=4, neurons=5, time=6, width=0.2)
    return SpikingProblem(learner, sines.sample(generators(0, 1), torch.float64), batch)


def smooth_network() -> SpikingNetwork:
    """Without a reset to speak of, whose gradient is none of a finite difference."""
    return SpikingNetwork(5, 3, 1, 5.0, 5.0, threshold=1e-9, spike=torch.sigmoid)


def born(network: SpikingNetwork) -> dict[str, Tensor]:
    drawn = network.init(generators(2, 3), torch.float64)
    return {name: 5 * w for name, w in drawn.items()}


def smooth_eprop(network: SpikingNetwork) -> EProp:
    return EProp(network, lambda v, _: torch.sigmoid(v) * torch.sigmoid(-v), 0.1, 0.2)


@pytest.mark.parametrize("rule", ["eprop", "bptt"])
def test_a_nudge_is_the_rule_on_what_is_judged(rule: str) -> None:
    network = SpikingNetwork(5, 3)
    learner = EProp(network, rate_strength=0.5) if rule == "eprop" else BPTT(network, 0.5)
    plain = EProp(network) if rule == "eprop" else BPTT(network)
    problem, phi = problem_of(learner), born(network)
    with torch.no_grad():
        free, nudged = (problem.slope(phi, {}, beta, 0) for beta in (0.0, -2.0))
        judged = plain(phi, *problem.tasks.evaluate)
    for name in phi:
        torch.testing.assert_close(nudged[name], free[name] - 2 * judged[name])


def test_examples_take_turns() -> None:
    network = SpikingNetwork(5, 3)
    problem, phi = problem_of(EProp(network), batch=2), born(network)
    x, target = problem.tasks.learn
    for step, turn in enumerate([[0, 1], [2, 0], [1, 2], [0, 1]]):
        expected = EProp(network)(phi, x[:, :, turn], target[:, turn])
        found = problem.slope(phi, {}, 0.0, step)
        assert all(torch.equal(found[name], expected[name]) for name in phi)


def differences(problem: SpikingProblem, learner: Callable[..., Named], theta: Named) -> Tensor:
    """Of the loss after learning, by the first input weight of the first network, and others."""

    def loss(name: str, step: float) -> Tensor:
        moved = {k: w.clone() for k, w in theta.items()}
        moved[name][:, 0, 1] += step
        with torch.no_grad():
            return problem.eval_loss(learner(problem, {}, moved), {})

    return torch.stack([(loss(name, 1e-5) - loss(name, -1e-5)) / 2e-5 for name in theta])


@pytest.mark.parametrize("rule", ["eprop", "bptt"])
def test_unrolling_differentiates_what_the_rule_does(rule: str) -> None:
    network = smooth_network()
    problem = problem_of(smooth_eprop(network) if rule == "eprop" else BPTT(network), batch=2)
    learner, theta = Descent(4, SGD(0.02, 0.9, nesterov=True)), born(network)
    found = UnrolledDescent(learner)(problem, theta)
    entries = torch.stack([found.gradient[name][:, 0, 1] for name in theta])
    torch.testing.assert_close(entries, differences(problem, learner, theta), rtol=1e-5, atol=1e-8)


def test_a_window_goes_on_from_where_it_begins() -> None:
    """It takes its turn of the examples, and its gradient is that of its own steps alone."""
    network = smooth_network()
    problem, theta = problem_of(smooth_eprop(network), batch=2), born(network)
    before, window = Descent(4, SGD(0.02)), Descent(2, SGD(0.02))
    found = LastWindow(before, window)(problem, theta)
    with torch.no_grad():
        begun = before(problem, {}, theta)
        whole = Descent(6, SGD(0.02))(problem, {}, theta)
    torch.testing.assert_close(found.loss, problem.eval_loss(whole, {}))
    entries = torch.stack([found.gradient[name][:, 0, 1] for name in theta])
    expected = differences(problem, partial(window, first=4), begun)
    torch.testing.assert_close(entries, expected, rtol=1e-5, atol=1e-8)


def test_contrasting_moves_consolidated_weights_to_the_nudged_ones() -> None:
    network = SpikingNetwork(5, 3)
    inner, weights = problem_of(EProp(network)), born(network)
    theta = {f"omega.{name}": w for name, w in weights.items()}
    problem = ComplexSynapse(inner, {f"lambda.{name}": torch.tensor(0.1) for name in weights})
    free, nudged = Descent(5, SGD(1e-3)), Descent(4, SGD(1e-3))
    estimate = Contrastive(free, nudged, 0.5, continued=True)(problem, theta)
    with torch.no_grad():
        first = free(problem, theta, weights)
        on, pushed = (nudged(problem, theta, first, beta, 5) for beta in (0.0, 0.5))
    for name in weights:
        expected = -0.1 / 0.5 * (pushed[name] - on[name])
        torch.testing.assert_close(estimate.gradient[f"omega.{name}"], expected)
        assert expected.abs().max() > 0


def tiny(*overrides: str) -> Plan:
    return make_plan("cml-table4", "small", (*TINY, *STEPS, *overrides))


def test_a_tiny_run_fills_the_table(tmp_path: Path) -> None:
    run = tmp_path / "run"
    reproduce(tiny(), run)
    content = json.loads((run / "result.json").read_text())
    rows = {row["row"]: row["ours"] for row in content["rows"]}
    assert len(rows) == 6
    for row, ours in rows.items():
        for condition, figure in ours.items():
            tested = {
                "own": True,
                "bptt": row in ("bptl-eprop", "tbptl-eprop"),
                "validation": row != "untrained",
            }
            if not tested[condition]:
                assert figure is None
                continue
            tasks = 2 if condition == "validation" else 3
            assert (len(figure["seeds"]), figure["lifetimes"], figure["diverged"]) == (2, tasks, 0)
    own, other = (load_file(run / "jobs" / f"bptl-eprop-{c}.safetensors") for c in ("own", "bptt"))
    models = [{k: v for k, v in job.items() if k.startswith("model.")} for job in (own, other)]
    assert models[0].keys() == models[1].keys()
    assert len(models[0]) == 3
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    learnt = {
        "bptl-bptt-own": by_torch(run, "bptl-bptt-own", "bptt", 3),
        "bptl-eprop-bptt": by_torch(run, "bptl-eprop-bptt", "plain bptt", 3),
        "tbptl-eprop-own": by_torch(run, "tbptl-eprop-own", "eprop", 4),
        "cml-eprop-own": by_torch(run, "cml-eprop-own", "anchored", 4),
        "untrained-own": by_torch(run, "untrained-own", "anchored", 4),
    }
    for job, expected in learnt.items():
        found = load_file(run / "jobs" / f"{job}.safetensors")["measured.error"]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def by_torch(run: Path, job: str, how: str, steps: int) -> Tensor:
    """What the networks of a job learn of the test tasks by torch's optimisers, ``(2, 3)``."""
    model = load_file(run / "jobs" / f"{job}.safetensors")
    weights = {
        name.rpartition("/")[2].rpartition(".")[2]: value.repeat_interleave(3, 0)
        for name, value in model.items()
        if name.startswith("model.")
    }
    pairs = [(row, k) for row in range(2) for k in range(3)]
    tasks, network = SpikingSines().sample(seeds_of(0, 0, TEST, pairs)), SpikingNetwork(hidden=6)
    at = {name: w.clone().requires_grad_() for name, w in weights.items()}
    optimiser: torch.optim.Optimizer
    if how == "anchored":
        optimiser = torch.optim.Adam(at.values(), lr=1e-3)
    else:
        rate = 3e-4 if job == "bptl-bptt-own" else 1e-4
        optimiser = torch.optim.SGD(at.values(), lr=rate, momentum=0.9, nesterov=True)
    for _ in range(steps):
        x, target = tasks.learn
        if how.endswith("bptt"):
            spikes = network(at, x)
            loss = (spikes.answer - target).square().mean((1, 2))
            if how == "bptt":
                loss = loss + 1e-6 * (spikes.z.mean((1, 2, 3)) - 0.1).square()
            slope = dict(zip(at, torch.autograd.grad(loss.sum(), list(at.values())), strict=True))
        else:
            rates = (1e-5, 0.2) if how == "anchored" else (1e-2, 0.05)
            eprop = EProp(network, rate_strength=rates[0], rate_target=rates[1])
            with torch.no_grad():
                slope = dict(eprop(at, x, target))
                slope["W_out"] = 0.1 * slope["W_out"]  # as the released code slows the readout
                if how == "anchored":
                    for name, value in at.items():
                        share = 0.1 if name == "W_out" else 1.0
                        slope[name] = slope[name] + share * 1e-3 * (value - weights[name])
        for name, value in at.items():
            value.grad = slope[name]
        optimiser.step()
    with torch.no_grad():
        answer = network(at, tasks.evaluate.x).answer
    return (answer - tasks.evaluate.target).square().mean((1, 2)).reshape(2, 3)


@pytest.mark.parametrize("row", ["bptl-eprop", "cml-eprop"])
def test_weights_are_tested_that_validation_liked_best(row: str) -> None:
    """Of two updates seed 0 is told to like the first, seed 1 the second."""
    jobs = {job.name: job for job in tiny().jobs()}
    best: Any = jobs[f"{row}-own"].begin({})
    looks, after = iter(([1.0, 2.0], [2.0, 1.0])), []
    best.judge = lambda model: torch.tensor(next(looks))
    for _ in range(2):
        best.update()
        after.append({k: v.clone() for k, v in best.model.state_dict().items()})
    first, second = after
    liked = {name: torch.stack([first[name][0], second[name][1]]) for name in first}
    assert not any(torch.equal(first[name], second[name]) for name in first)
    error = jobs[f"{row}-own"].measure(best)["error"]
    assert all(torch.equal(best.model.state_dict()[name], liked[name]) for name in first)
    told = jobs[f"{row}-own"].begin({})
    told.model.load_state_dict(liked)
    assert torch.equal(jobs[f"{row}-own"].measure(told)["error"], error)
    assert not torch.equal(jobs[f"{row}-own"].measure(jobs[f"{row}-own"].begin({}))["error"], error)


def test_unrolled_rows_may_be_chosen_by_what_bptt_learns() -> None:
    """As the released code does; rows that learn by what they were meta-trained with stay."""
    usual, other = (
        {job.name: job for job in tiny(*as_).jobs()} for as_ in ((), ("validate_as=bptt",))
    )
    for row, differs in (("tbptl-eprop", True), ("bptl-bptt", False), ("cml-eprop", False)):
        own, by = (jobs[f"{row}-own"].begin({}) for jobs in (usual, other))
        assert isinstance(own, BestOnValidation)
        assert isinstance(by, BestOnValidation)
        told = usual[f"{row}-validation"].measure(own)["error"].mean(1)
        assert torch.equal(own.judge(own.model), told)
        assert torch.equal(by.judge(by.model), told) != differs
        assert torch.equal(other[f"{row}-validation"].measure(by)["error"].mean(1), told) != differs
    begun = other["tbptl-eprop-own"].begin({})
    assert isinstance(begun, BestOnValidation)
    tasks = SpikingSines().sample(
        seeds_of(0, 0, VALIDATION, [(r, k) for r in (0, 1) for k in (0, 1)])
    )
    weights = {k: w.repeat_interleave(2, 0) for k, w in begun.model.theta().items()}
    learnt = Descent(4, SGD(1e-4, 0.9, nesterov=True))(
        problem := SpikingProblem(BPTT(SpikingNetwork(hidden=6)), tasks), {}, weights
    )
    error = problem.eval_loss(learnt, {}).reshape(2, 2).mean(1)
    torch.testing.assert_close(begun.judge(begun.model), error.detach(), rtol=1e-5, atol=1e-7)


def test_networks_that_explode_are_left_out_though_their_errors_are_finite(tmp_path: Path) -> None:
    plan = make_plan(
        "cml-table4", "small", (*TINY, *STEPS, "free_rate=1e9"), ("cml-eprop", "untrained")
    )
    content = reproduce(plan, tmp_path / "run").content
    figures = [row["ours"][c] for row in content["rows"] for c in row["ours"] if row["ours"][c]]
    assert len(figures) == 3
    for figure in figures:
        assert (figure["value"], figure["diverged"]) == (None, 2 * figure["lifetimes"])
    table = (tmp_path / "run" / "table.md").read_text()
    assert "tested as trained: 6 of 6 test lifetimes diverged and are left out of" in table


def test_windows_are_parts_of_learning() -> None:
    with pytest.raises(ConfigError, match="window is 5 steps, of truncated_steps=4"):
        tiny("window=5").jobs()


def test_tasks_are_of_the_shapes_that_networks_take() -> None:
    tasks: SpikingTasks = SpikingSines(examples=2).sample(generators(0))
    assert SpikingNetwork()(SpikingNetwork().init(generators(1)), tasks.learn.x).u.shape == (
        1,
        20,
        2,
        1,
    )
