"""CML's Table 1 on random images: a tiny run from end to end, and what its rows differ by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cml_images import left, write_images
from torch import Tensor

from rulesearch.errors import ConfigError, DataError, GrammarError
from rulesearch.outer.bilevel import (
    SGD,
    BilevelTraining,
    ConjugateGradient,
    Contrastive,
    Descent,
    Identity,
    Implicit,
    MetaParameters,
    UnrolledDescent,
)
from rulesearch.reproduce import make_plan, reproduce, resume_reproduction
from rulesearch.reproduce.cml_cifar import Cifar, CifarSettings
from rulesearch.reproduce.cml_table1 import SharedStrength

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cifar")
    write_images(folder / "train", 3, 8, 32)
    write_images(folder / "test", 3, 4, 32, seed=1)
    return folder


METHODS = ("cml", "t1_t2", "cg", "rbp", "tbptl")


def table1(folder: Path, *overrides: str, rows: tuple[str, ...] = ()) -> Any:
    few = "{steps: 3, rate: 0.02, strength: 0.01, meta_rate: 0.005}"
    tiny = (
        f"data={json.dumps(str(folder))}", "updates=2", "examples=12", "judged=9", "tested=10",
        "batch=6", "channels=[2, 3]", "hidden=[5]", "nudged_steps=2", "iterations=2", "terms=2",
        "window=2", "shared=[0, 0.1]", *(f"{method}={few}" for method in METHODS),
    )  # fmt: skip
    return make_plan("cml-table1", "small", (*tiny, *overrides), rows)


def test_a_tiny_run_of_table_1(cifar: Path, tmp_path: Path) -> None:
    rows = ("cml", "t1-t2", "cg", "rbp-control", "tbptl", "no-meta")
    plan = table1(cifar, rows=rows)
    content = reproduce(plan, tmp_path / "run").content
    found = {row["row"]: row["ours"] for row in content["rows"]}
    assert set(found) == set(rows)
    for ours in found.values():
        for condition, images in (("evaluation", 9), ("test", 10)):
            for accuracy in ours[condition]["seeds"]:
                right = accuracy / 100 * images
                assert abs(right - round(right)) < 1e-4
                assert 0 <= round(right) <= images
    jobs = left(tmp_path / "run")
    for row in found:
        learnt, tested = (
            {k.split(": ")[1]: v for k, v in jobs.items() if k.startswith(f"{row}-{condition}: m")
             and "model" in k}
            for condition in ("evaluation", "test")
        )  # fmt: skip
        assert learnt == tested
        assert learnt
    # Adam's first step is the rate for all strengths: two of them, and none below zero.
    strengths = torch.tensor(jobs["cml-evaluation: model.named.lambda/conv0/W"])
    assert strengths.shape == (2, 2, 3, 5, 5)
    assert (strengths >= 0).all()
    assert ((strengths - 0.01).abs() <= 0.0101).all()
    assert strengths.unique().numel() > 100


def test_rows_of_table_1_differ_by_their_meta_gradients(cifar: Path) -> None:
    """T1-T2 takes the Hessian for the identity, unscaled; CML nudges forward."""
    jobs = {job.row: job for job in table1(cifar).jobs() if job.condition == "evaluation"}
    gradients: dict[str, Any] = {
        row: job.begin({}).meta_gradient  # type: ignore[attr-defined]
        for row, job in jobs.items()
        if not row.startswith("no-meta")
    }
    learner = Descent(3, SGD(0.02, 0.9, nesterov=True))
    for control in ("", "-control"):
        assert gradients["t1-t2" + control] == Implicit(learner, Identity(1.0))
        assert gradients["cg" + control] == Implicit(learner, ConjugateGradient(2, False))
        assert gradients["rbp" + control].inverse.terms == 2
        assert gradients["tbptl" + control] == UnrolledDescent(learner, 2)
    nudged = Descent(2, SGD(1.3e-3, 0.9, nesterov=True))
    assert gradients["cml"] == Contrastive(learner, nudged, 10.0, "forward")


def test_cml_as_born_and_no_meta_learning_with_its_learner(cifar: Path) -> None:
    plan = table1(cifar, "cml={steps: 4, rate: 0.1, strength: 0.7, meta_rate: 0.3}")
    jobs = {job.name: job for job in plan.jobs()}
    born, cml = (jobs[f"{row}-evaluation"] for row in ("cml-born", "cml"))
    assert (born.updates, cml.updates) == (0, plan.settings.updates)
    start = born.begin({})
    assert all((p == 0.7).all() for p in start.model.parameters())
    untaught = cml.begin({})
    assert torch.equal(born.measure(start)["error"], cml.measure(untaught)["error"])
    for row, steps, rate in (("no-meta", 3, 0.02), ("no-meta-control", 4, 0.1)):
        learner: Any = jobs[f"{row}-evaluation"].begin({}).learner  # type: ignore[attr-defined]
        assert (learner.steps, learner.optimiser.rate) == (steps, rate)


def test_interrupted_it_ends_in_the_same_bits(cifar: Path, tmp_path: Path) -> None:
    rows, updates = ("cml", "no-meta"), 0
    plan = table1(cifar, "seeds=1", "checkpoint_every=1", rows=rows)
    reproduce(plan, tmp_path / "whole")

    def interrupt(event: object) -> None:
        nonlocal updates
        updates += isinstance(event, dict) and event["event"] == "update"
        if updates in (2, 5):  # within each job
            updates += 1
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            reproduce(plan, tmp_path / "run", [interrupt])
    resume_reproduction(tmp_path / "run")
    assert left(tmp_path / "run") == left(tmp_path / "whole")


def test_controls_begin_as_cml_and_nothing_else_differs(cifar: Path) -> None:
    plan = table1(cifar, "cml={steps: 4, rate: 0.1, strength: 0.7, meta_rate: 0.3}")
    jobs = {job.name: job for job in plan.jobs()}
    plain, control = (jobs[f"tbptl{end}-evaluation"].begin({}) for end in ("", "-control"))
    for training, strength, rate in ((plain, 0.01, 0.005), (control, 0.7, 0.3)):
        assert isinstance(training, BilevelTraining)
        assert training.rate == rate
        assert all((p == strength).all() for p in training.model.parameters())
        gradient = training.meta_gradient
        assert isinstance(gradient, UnrolledDescent)
        assert (gradient.learner.steps, gradient.last) == (3, 2)


def test_solvers_may_be_told_to_be_strict(cifar: Path) -> None:
    for overrides, strict in (((), False), (("strict=true", "tolerance=0.5"), True)):
        jobs = {job.name: job for job in table1(cifar, *overrides).jobs()}
        for row in ("cg", "rbp-control"):
            training: Any = jobs[f"{row}-evaluation"].begin({})
            assert training.meta_gradient.inverse.strict is strict
            assert training.meta_gradient.tolerance == (0.5 if strict else None)


def test_the_best_shared_strength_is_kept() -> None:
    """Losses of two seeds by strength are made up: the least wins, what diverged never."""
    losses = iter(([3.0, 2.0], [1.0, float("nan")], [2.0, 1.5]))
    settings = CifarSettings(updates=1, seeds=2, shared=(0.1, 0.2, 0.3))
    born = {"a": torch.zeros(2, 4)}

    class Told:
        def start(self, theta: object) -> dict[str, Tensor]:
            return born

        def eval_loss(self, phi: object, theta: object) -> Tensor:
            return torch.tensor(next(losses))

    class Stub(Cifar):
        def problem(self, update: int) -> Any:
            return Told()

    stub: Any = Stub(settings, None, born, None, None, ())  # type: ignore[arg-type]
    training = SharedStrength(stub, Descent(0), MetaParameters(stub.strengths(0.0)))
    rejected = [training.update().rejected.tolist() for _ in range(3)]
    assert rejected == [[False, False], [False, True], [False, False]]
    (kept,) = training.model.theta().values()
    torch.testing.assert_close(kept.detach(), torch.tensor([[0.2] * 4, [0.3] * 4]))


def test_panel_b_of_figure_1_on_table_1s_network(cifar: Path, tmp_path: Path) -> None:
    panel = (
        f"cifar={{data: {json.dumps(str(cifar))}, examples: 12, judged: 8, batch: 4, shorter: 250}}"
    )
    plan = make_plan("cml-figure1", "full", ("updates=2", "seeds=2", panel), ("beta-1", "beta-30"))
    jobs = {job.name: job for job in plan.jobs()}
    training: Any = jobs["beta-1-cifar-500"].begin({})
    contrast = training.meta_gradient
    assert contrast.free == Descent(2, SGD(3e-4 * 250, 0.9, nesterov=True))
    assert contrast.nudged == Descent(1, contrast.free.optimiser)  # for the nudge is weak
    strong: Any = jobs["beta-30-cifar-5000"].begin({})
    assert strong.meta_gradient.free.steps == 20
    assert strong.meta_gradient.nudged.optimiser.rate == pytest.approx(250 * 1e-4 * 11 / 31)
    reproduce(plan, tmp_path / "run")
    numbers = json.loads((tmp_path / "run" / "figures" / "numbers.json").read_text())
    assert set(numbers["loss"]) == {"2", "6", "20"}  # as they were taken
    assert set(numbers["without"]) == set(numbers["loss"])
    begun: Any = jobs["beta-1-cifar-1500"].begin({})
    begun.updates = 2  # the order of images goes by them
    without = jobs["beta-1-cifar-1500"].measure(begun)["error"].mean()  # nothing is learnt yet
    assert numbers["without"]["6"] == pytest.approx(float(without), rel=1e-4)
    assert numbers["betas"] == [1.0, 30.0]
    found = left(tmp_path / "run")
    for name, values in found.items():
        if "cifar" in name and "model" in name:  # two steps of Adam from 0.2
            moved = (torch.tensor(values) - 0.2).abs()
            assert 0 < float(moved.max()) < 0.121


def test_data_and_settings_that_do_not_fit(cifar: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no"):
        table1(tmp_path / "nothing").jobs()
    with pytest.raises(ConfigError, match=r"25 train images are asked for .* there are 24"):
        table1(cifar, "examples=16").jobs()
    with pytest.raises(GrammarError, match=r"beta.*greater than 0"):
        table1(cifar, "beta=0")
    with pytest.raises(ConfigError, match=r"^window is 9 steps, of tbptl\.steps=3$"):
        table1(cifar, "window=9").jobs()
    with pytest.raises(ConfigError, match=r"^batch is 13 images, of examples=12$"):
        reproduce(table1(cifar, "batch=13"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
