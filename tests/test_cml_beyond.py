"""Rules and continual sines with consolidation: problems by hand, and whole tiny runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rulesearch.errors import DataError
from rulesearch.outer.bilevel import MetaParameters
from rulesearch.outer.seeds import NETWORK, TEST, generators
from rulesearch.reproduce import make_plan, reproduce
from rulesearch.reproduce.cml_continual import CML_CONTINUAL, ContinualSettings
from rulesearch.reproduce.cml_rules import CML_RULES, RuleSettings
from rulesearch.tasks import IncrementalSines, OnlineFewShot, load

pytestmark = pytest.mark.usefixtures("one_thread")

DIGITS = {
    "data": "digits", "held_out": 3, "ways": 3, "shots": 2, "queries": 4, "hidden": (6,),
    "updates": 2, "seeds": 2, "episodes": 2, "lifetimes": 3, "steps": 4, "nudged_steps": 2,
}  # fmt: skip
SINES = {
    "hidden": (5, 4), "functions": 2, "batches": 3, "examples": 4, "updates": 2, "seeds": 2,
    "lifetimes": 3,
}  # fmt: skip


def test_the_rule_alone_learns_by_its_formulas() -> None:
    """Feedback alignment on two images of each of three new classes, and what it then answers."""
    settings = RuleSettings(**DIGITS, gradient=0.3)
    job = next(job for job in CML_RULES.jobs(settings) if job.name == "alone-gradient")
    found = job.measure(job.begin({}))["error"]

    network_draws = generators(0, 0, NETWORK, [(row, 0) for row in range(2)])
    pairs = [(row, k) for row in range(2) for k in range(3)]
    family = OnlineFewShot(
        load("digits"), ways=3, shots=2, queries=4, order="iid", hold_out=3, held_out=True
    )
    task = family.sample(generators(0, 0, TEST, pairs))
    expected = torch.zeros(2, 3)
    for row, g in enumerate(network_draws):
        shapes = [(6, 64), (3, 6)]
        bounds = [(6 / sum(shape)) ** 0.5 for shape in shapes]
        V0, W0, _, B = (
            torch.empty(shape).uniform_(-bound, bound, generator=g)
            for shape, bound in zip(shapes * 2, bounds * 2, strict=True)
        )
        for k in range(3):
            V, W, life = V0, W0, 3 * row + k
            x, asked = task.x[:][:, life], torch.eye(3)[task.label[:, life]]
            for _ in range(4):
                h = torch.nn.functional.softplus(x @ V.T, beta=10)
                error = (h @ W.T).softmax(-1) - asked
                back = (error @ B) * torch.sigmoid(10 * (x @ V.T))
                V, W = V - 0.3 * back.T @ x / 6, W - 0.3 * error.T @ h / 6
            answer = torch.nn.functional.softplus(task.x_query[life] @ V.T, beta=10) @ W.T
            right = answer.argmax(-1).eq(task.label_query[life]).float()
            expected[row, k] = 100 * right.mean()
    torch.testing.assert_close(found, expected)


def test_what_is_held_stays_nearer_to_birth_and_what_is_learnt_moves() -> None:
    jobs = {job.name: job for job in CML_RULES.jobs(RuleSettings(**DIGITS))}
    assert {name for name, job in jobs.items() if job.updates} == {
        f"{row}-{rule}" for row in ("omega", "omega-lambda") for rule in ("gradient", "discovered")
    }
    training = jobs["omega-lambda-discovered"].begin({})
    assert isinstance(training.model, MetaParameters)
    before = {k: v.detach().clone() for k, v in training.model.theta().items()}
    assert set(before) == {f"{part}.W{k}" for part in ("omega", "lambda") for k in range(2)}
    training.update()
    for name, value in training.model.theta().items():
        assert not torch.equal(value, before[name])


def test_sines_are_descended_one_after_another() -> None:
    settings = ContinualSettings(**SINES, rate=0.05, momentum=0.0)
    job = next(job for job in CML_CONTINUAL.jobs(settings) if job.name == "descent-continual")
    training = job.begin({})
    found = job.measure(training)["error"]
    assert isinstance(training.model, MetaParameters)
    born = {k.removeprefix("omega."): v.detach() for k, v in training.model.theta().items()}
    pairs = [(row, k) for row in range(2) for k in range(3)]
    task = IncrementalSines(2, 3, 4, 4).sample(generators(0, 0, TEST, pairs))

    def answer(w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        for k in range(3):
            x = x @ w[f"W{k}"].T + w[f"bias{k}"]
            x = x.relu() if k < 2 else x
        return x

    for life, (row, member) in enumerate(pairs):
        w = {name: value[row].clone().requires_grad_() for name, value in born.items()}
        for step in range(6):
            away = answer(w, task.x[:][step, life]) - task.label[step, life]
            slopes = torch.autograd.grad(away.square().mean() / 2, list(w.values()))
            w = {
                name: (value - 0.05 * slope).detach().requires_grad_()
                for (name, value), slope in zip(w.items(), slopes, strict=True)
            }
        error = (answer(w, task.x_query[life]) - task.label_query[life]).square().mean()
        torch.testing.assert_close(found[row, member], error.detach())


@pytest.mark.parametrize(("name", "settings"), [("cml-rules", DIGITS), ("cml-continual", SINES)])
def test_a_tiny_run_fills_its_table(name: str, settings: dict[str, object], tmp_path: Path) -> None:
    changes = [f"{k}={list(v) if isinstance(v, tuple) else v}" for k, v in settings.items()]
    outcome = reproduce(make_plan(name, "small", changes), tmp_path / name)
    table = (tmp_path / name / "table.md").read_text()
    for row in outcome.plan.reproduction.rows:
        assert f"| {row.title} |" in table


def test_a_missing_folder_says_what_to_name(tmp_path: Path) -> None:
    plan = make_plan("cml-table1", "small", [f"data={tmp_path / 'nothing'}"])
    with pytest.raises(DataError, match=r"there is no .*nothing.*; name a folder or zip of class"):
        plan.jobs()
