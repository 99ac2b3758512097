"""Table 5 of CML by hand: what its baseline is meta-trained on, and regret in percent."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rulesearch.errors import ConfigError
from rulesearch.networks.modulated import ModulatedNetwork
from rulesearch.outer.bandit import GreedyAgent
from rulesearch.outer.seeds import NETWORK, TASK, TEST, VALIDATION, generators
from rulesearch.report.bandit_figures import regret_curves
from rulesearch.reproduce import make_plan, reproduce
from rulesearch.reproduce.base import Job
from rulesearch.reproduce.figures import seed_means
from rulesearch.tasks.wheel import Wheel, WheelLogs

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = (
    "updates=4", "seeds=2", "episodes=1", "lifetimes=2", "hidden=8", "tasks=3", "learnt=20",
    "judged=6", "horizon=60", "batch=16", "shorter=50",
)  # fmt: skip
KEYS = {"NeuralLinear": "neural-linear", "CML (modulatory)": "cml-modulatory"}
PAIRS = [(row, k) for row in range(2) for k in range(2)]


def jobs(row: str, *changes: str) -> dict[str, Job]:
    plan = make_plan("cml-table5", "small", [*TINY, *changes], [row])
    return {job.name: job for job in plan.jobs()}


def rewards(w: dict[str, Tensor], x: Tensor) -> Tensor:
    """Of two rectified layers, whose shift is subtracted, and a linear head."""
    for layer in ("full0", "full1"):
        x = (x @ w[f"{layer}.W"].T - w[f"{layer}.shift"]).clamp(min=0)
    return x @ w["head.W"].T + w["head.bias"]


def chosen_arms(w: dict[str, Tensor], log: Sequence[Tensor], part: slice) -> Tensor:
    """Mean squared error, in double precision, of the rewards of some of what was logged."""
    x, arm, reward = (each[part] for each in log)
    return (rewards(w, x.double())[torch.arange(len(arm)), arm] - reward.double()).square().mean()


def judged_after_ten_steps(theta: dict[str, Tensor], log: Sequence[Tensor]) -> Tensor:
    """Of MAML, by plain autograd: what is lost on the last six choices after learning others."""
    w = dict(theta)
    for _ in range(10):
        loss = chosen_arms(w, log, slice(0, 20))
        slopes = torch.autograd.grad(loss, list(w.values()), create_graph=True)
        w = {k: v - 0.01 * s for (k, v), s in zip(w.items(), slopes, strict=True)}
    return chosen_arms(w, log, slice(20, 26))


def test_maml_differentiates_ten_steps_on_what_was_logged_of_its_own_wheels() -> None:
    """In double precision by plain autograd: 20 choices learnt, 6 others judged, 4 wheels of 3."""
    training: Any = jobs("maml")["maml-0.5"].begin({}).training  # type: ignore[attr-defined]
    record = training.update()
    moments = training.tensors()
    logs = WheelLogs(26).sample(
        generators(0, 0, TASK, [(r, k) for r in range(2) for k in range(3)])
    )
    born = ModulatedNetwork((2, 8, 8, 5)).init(generators(0, 0, NETWORK, [(0, 0), (1, 0)]))
    learnt = [name for name in born if not name.endswith("gain")]
    assert {name for name in moments if "first" in name} == {f"adam.first.{k}" for k in learnt}
    draws = generators(0, 1, TASK, [(0, 0), (1, 0)], 0)
    for row, g in enumerate(draws):
        theta = {name: born[name][row].double().requires_grad_() for name in learnt}
        losses = []
        for wheel in torch.randint(3, (4,), generator=g).tolist():
            losses.append(judged_after_ten_steps(theta, [part[3 * row + wheel] for part in logs]))
        mean = torch.stack(losses).mean()
        assert float(record.loss[row]) == pytest.approx(mean.item(), rel=1e-3)
        exact = torch.autograd.grad(mean, list(theta.values()))
        for name, slope in zip(theta, exact, strict=True):
            found = moments[f"adam.first.{name}"][row].double()
            assert (found - 0.1 * slope).norm() < 1e-3 * 0.1 * slope.norm()


def test_lives_begin_with_what_validation_wheels_like_best(tmp_path: Path) -> None:
    """Each seed's own of four updates, by plain autograd on four wheels; broken off, too."""
    training: Any = jobs("maml", "updates=16")["maml-0.5"].begin({}).training  # type: ignore[attr-defined]
    logs = WheelLogs(26).sample(
        generators(0, 0, VALIDATION, [(r, k) for r in range(2) for k in range(4)])
    )
    states, errors = list[dict[str, Tensor]](), list[list[float]]()
    for _ in range(4):
        training.update()
        states.append(training.model.theta())
        states[-1] = {name: w.detach().clone() for name, w in states[-1].items()}
        errors.append([])
        for row in range(2):
            theta = {k: w[row].double().requires_grad_() for k, w in states[-1].items()}
            each = [judged_after_ten_steps(theta, [p[4 * row + k] for p in logs]) for k in range(4)]
            errors[-1].append(torch.stack(each).mean().item())
    best = np.argmin(errors, 0)
    assert min(best) < 3  # some other than the last
    told = [*TINY, "updates=16", "validate_every=1", "validation=4", "checkpoint_every=1"]
    plan = make_plan("cml-table5", "small", [*told, "conditions=[0.5, 0.99]"], ["maml"])

    def interrupt(event: Mapping[str, Any]) -> None:
        if event["event"] == "update" and event["update"] == 5:
            raise KeyboardInterrupt  # after the first block of life

    with pytest.raises(KeyboardInterrupt):
        reproduce(plan, tmp_path / "broken", [interrupt])
    for run in ("broken", "whole"):
        reproduce(plan, tmp_path / run)
        for job in ("maml-0.5", "maml-0.99"):
            found = load_file(tmp_path / run / "jobs" / f"{job}.safetensors")
            for name in states[0]:
                wanted = torch.stack([states[k][name][row] for row, k in enumerate(best)])
                assert torch.equal(found["model.named." + name.replace(".", "/")], wanted)
    lines = (tmp_path / "whole" / "events.jsonl").read_text().splitlines()
    looks = [e["validation"] for e in map(json.loads, lines) if "validation" in e]
    np.testing.assert_allclose(looks, errors, rtol=1e-4)
    broken, whole = (
        load_file(tmp_path / run / "jobs" / "maml-0.5.safetensors") for run in ("broken", "whole")
    )
    assert torch.equal(broken["measured.regret"], whole["measured.regret"])


def test_no_look_at_the_validation_wheels_is_refused() -> None:
    with pytest.raises(ConfigError, match="of updates=4 MAML has 1; look at least as often"):
        jobs("cml-synaptic", "validate_every=2")


def test_regret_is_in_percent_of_what_chance_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of agents that always choose the last arm, but for two rounds of all."""
    monkeypatch.setattr(
        GreedyAgent, "act", lambda agent, x: torch.full(x.shape[:2], 4, dtype=torch.int64)
    )
    named, delta = jobs("maml"), 0.9
    first = named["maml-0.5"].begin({}).model.state_dict()
    life = named["maml-0.9"].begin({"maml-0.5": first})
    for _ in range(named["maml-0.9"].updates):
        life.update()
    measured = named["maml-0.9"].measure(life)
    found, regret = measured["error"], measured["regret"]
    wheel = Wheel(torch.full((4,), delta))
    context = wheel.contexts(generators(0, 0, TEST, PAIRS, 2), 60).numpy()
    chance = delta**2 * 0.8 * 0.2 + (1 - delta**2) * (0.2 * 48.8 + 0.6 * 49)
    for (row, member), lived in zip(PAIRS, context, strict=True):
        lost = []
        for step, (x, y) in enumerate(lived):
            means = [1.0, 1.0, 1.0, 1.0, 1.2]
            if np.hypot(x, y) >= delta:
                means[2 * int(x <= 0) + int(y <= 0)] = 50.0
            lost.append(max(means) - means[step % 5 if step < 10 else 4])
        assert max(lost) > 48
        assert float(found[row, member]) == pytest.approx(100 * np.mean(lost) / chance, rel=1e-5)
        so_far = 100 * np.cumsum(lost)[9:] / 60 / chance  # from two rounds of all arms on
        np.testing.assert_allclose(regret[row, member], so_far, rtol=1e-5)


@pytest.mark.parametrize("wheels", [1, 3])
def test_a_panel_for_each_wheel(wheels: int) -> None:
    """A network's line is the mean of seeds, in one colour throughout, whoever stands beside it."""
    g, choices = np.random.default_rng(0), np.arange(10.0, 15)
    data = {f"delta {k}": {"MAML": g.random((2, 5)).cumsum(1)} for k in range(wheels)}
    data["delta 0"] = {"NeuralLinear": np.ones((2, 5)), **data["delta 0"]}
    axes = [ax for part in regret_curves(choices, data).subfigs for ax in part.axes]
    assert [ax.get_title("left") for ax in axes] == list(data)
    colours = set()
    for ax, networks in zip(axes, data.values(), strict=True):
        assert len(ax.texts) == len(networks)
        seeds, mean = ax.lines[3 * len(networks) - 3 :][:2], ax.lines[3 * len(networks) - 1]
        for line, values in zip(
            (*seeds, mean), (*networks["MAML"], networks["MAML"].mean(0)), strict=True
        ):
            np.testing.assert_array_equal(line.get_xdata(), choices)
            np.testing.assert_allclose(line.get_ydata(), values)
            colours.add(line.get_color())
    assert len(colours) == 1


def test_lives_of_networks_trained_by_another_run(tmp_path: Path) -> None:
    """Those of their own run are lived again; with others beside them, and broken off, too."""
    rows = ("neural-linear", "cml-modulatory")
    wheels = [*TINY, "conditions=[0.9, 0.99]"]
    reproduce(make_plan("cml-table5", "small", wheels, rows), tmp_path / "trained")

    def lived(name: str, *settings: str, broken: str = "") -> dict[str, Tensor]:
        plan = make_plan("cml-table5", "small", [*wheels, *settings], rows, tmp_path / "trained")
        run, phases = tmp_path / name, list[str]()

        def note(event: Mapping[str, Any]) -> None:
            if event["event"] == "update":
                phases.append(event["phase"])
                if phases[-1] == broken and phases.count(broken) == 2:
                    raise KeyboardInterrupt  # before the second block is kept

        if broken:
            with pytest.raises(KeyboardInterrupt):
                reproduce(plan, run, [note])
        reproduce(plan, run, [note])
        assert {p: phases.count(p) - (p == broken) for p in phases} == blocks
        files = sorted((run / "jobs").iterdir())
        return {f.stem: load_file(f)["measured.error"] for f in files}

    blocks = {f"{row}-{d}": n for row, n in zip(rows, (4, 2), strict=True) for d in (0.9, 0.99)}
    found = {f.stem: load_file(f) for f in (tmp_path / "trained" / "jobs").iterdir()}
    again = lived("again")
    drawn = json.loads((tmp_path / "again" / "figures" / "numbers.json").read_text())
    choices = [*range(10, 61)]
    assert drawn["choices"] == choices
    for delta, row in (
        (d, r) for d in ("0.9", "0.99") for r in ("NeuralLinear", "CML (modulatory)")
    ):
        job = found[f"{KEYS[row]}-{delta}"]
        regret, lives = (drawn[what][f"delta {delta}"][row] for what in ("regret", "lives"))
        np.testing.assert_allclose(regret, job["measured.regret"].mean(1), rtol=1e-5)
        np.testing.assert_allclose(lives, job["measured.error"], rtol=1e-5)
        assert np.shape(regret) == (2, len(choices))
    broken = [lived(job, broken=job) for job in ("cml-modulatory-0.9", "neural-linear-0.99")]
    more = lived("more", "lifetimes=3")
    for name, tensors in found.items():
        assert torch.equal(again[name], tensors["measured.error"])
        assert all(torch.equal(each[name], tensors["measured.error"]) for each in broken)
        assert more[name].shape == (2, 3)
        torch.testing.assert_close(more[name][:, :2], tensors["measured.error"])


def test_networks_live_on_wheels_that_their_own_run_did_not_have(tmp_path: Path) -> None:
    """Whichever of its jobs is finished: all have the same network."""
    elsewhere, trained = [*TINY, "conditions=[0.5, 0.9]"], tmp_path / "trained"
    reproduce(make_plan("cml-table5", "small", elsewhere, ["cml-modulatory"]), trained)
    for job, asked in (("0.9", "[0.9, 0.99]"), ("0.5", "[0.95]")):
        told, run = [*TINY, f"conditions={asked}"], tmp_path / job
        events: list[Mapping[str, Any]] = []
        (trained / "jobs" / f"cml-modulatory-{job}.safetensors").rename(tmp_path / "away")
        plan = make_plan("cml-table5", "small", told, ["cml-modulatory"], trained)
        reproduce(plan, run, [events.append])
        (tmp_path / "away").rename(trained / "jobs" / f"cml-modulatory-{job}.safetensors")
        reproduce(make_plan("cml-table5", "small", told, ["cml-modulatory"]), tmp_path / "own")
        for file in (run / "jobs").iterdir():
            own = load_file(tmp_path / "own" / "jobs" / file.name)
            assert torch.equal(load_file(file)["measured.regret"], own["measured.regret"])
        assert all("residual" not in event for event in events)  # nothing was meta-trained
        rmtree(tmp_path / "own")
    rmtree(trained / "jobs")
    with pytest.raises(ConfigError, match=r"has not trained cml-modulatory-0\.95; finish it"):
        reproduce(plan, tmp_path / "none")


def test_neural_linear_regresses_on_the_last_hidden_layer() -> None:
    agent = jobs("neural-linear")["neural-linear-0.5"].begin({}).life.agent  # type: ignore[attr-defined]
    g = torch.Generator().manual_seed(1)
    weights = {k: w + 0.3 * torch.randn(w.shape, generator=g) for k, w in agent.weights.items()}
    x = torch.randn(4, 7, 2, generator=g)
    found = agent.features({**agent.constant, **weights}, x)
    assert found.shape == (4, 7, 8)
    for life in range(4):
        w = {k: each[life] for k, each in weights.items()}
        head = {"head.W": torch.eye(8), "head.bias": torch.zeros(8)}
        torch.testing.assert_close(found[life], rewards({**w, **head}, x[life]))


def test_one_life_of_one_seed_is_kept(tmp_path: Path) -> None:
    """Its error is the end of its regret, and both are saved."""
    told = [*TINY, "seeds=1", "lifetimes=1", "conditions=[0.9]"]
    reproduce(make_plan("cml-table5", "small", told, ["cml-synaptic"]), tmp_path / "run")
    job = load_file(tmp_path / "run" / "jobs" / "cml-synaptic-0.9.safetensors")
    assert job["measured.error"].shape == (1, 1)
    assert torch.equal(job["measured.error"], job["measured.regret"][..., -1])
    older = {"cml-synaptic-0.9": {"error": job["measured.error"]}}  # of before regret was kept
    assert seed_means(older, "regret", "0.9", ["cml-synaptic"]) == {}
    assert seed_means(older, "error", "0.9", ["cml-synaptic"]).keys() == {"cml-synaptic"}


def test_what_went_wrong_in_meta_training_is_told_after_the_lives(tmp_path: Path) -> None:
    """Blocks of a life are neither rejected nor solved: the last update's residual stays."""
    settings, rows = [*TINY, "conditions=[0.5]"], ["cml-synaptic"]
    for name, more in (("accepted", []), ("rejected", ["tolerance=1e-9"])):
        run, events = tmp_path / name, list[Mapping[str, Any]]()
        reproduce(make_plan("cml-table5", "small", settings + more, rows), run, [events.append])
        known = [event["residual"] for event in events if "residual" in event]
        told = json.loads((run / "result.json").read_text())["rows"][0]["ours"]["0.5"]
        assert (len(known), told["residual"]) == (4, known[-1])
        untaught = [event["seeds"] for event in events if event["event"] == "untaught"]
        assert ([told["untaught"]], untaught) == (([[0, 1]], [[0, 1]]) if more else ([[]], []))
        assert "Residual of learning" in (run / "table.md").read_text()
    again = make_plan("cml-table5", "small", settings, rows, tmp_path / "accepted")
    taken = reproduce(again, tmp_path / "taken").content["rows"][0]["ours"]["0.5"]
    accepted = json.loads((tmp_path / "accepted" / "result.json").read_text())
    assert taken["residual"] == accepted["rows"][0]["ours"]["0.5"]["residual"]
