"""Rules and continual sines with consolidation: problems by hand, and whole tiny runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_reproduction import left
from tiny_search import interrupt_after

from rulesearch.errors import ConfigError, DataError, GrammarError, LearnerError
from rulesearch.grammar import Term, TermPool
from rulesearch.outer.bilevel import MetaParameters
from rulesearch.outer.seeds import NETWORK, TEST, generators
from rulesearch.reproduce import make_plan, reproduce
from rulesearch.reproduce.cml_continual import CML_CONTINUAL, ContinualSettings
from rulesearch.reproduce.cml_rules import CML_RULES, Coefficients, RuleSettings
from rulesearch.reproduce.cml_theta import CML_THETA, ThetaSettings
from rulesearch.rules import Rule
from rulesearch.tasks import FewShot, IncrementalSines

pytestmark = pytest.mark.usefixtures("one_thread")

DIGITS: dict[str, Any] = {
    "data": "digits", "held_out": 3, "unseen": 20, "ways": 3, "shots": 2, "queries": 4,
    "hidden": (6,), "updates": 2, "seeds": 2, "episodes": 2, "lifetimes": 3, "steps": 4,
    "nudged_steps": 2,
}  # fmt: skip
SINES: dict[str, Any] = {
    "hidden": (5, 4), "functions": 2, "batches": 3, "examples": 4, "updates": 2, "seeds": 2,
    "lifetimes": 3,
}  # fmt: skip


def test_the_rule_alone_learns_by_its_formulas() -> None:
    """Random feedback and products of errors, on two images of each of three classes held out."""
    settings = RuleSettings(**DIGITS, coefficients=Coefficients(F0=0.3, F2=-0.1, F9=0.0))
    met, new = (job for job in CML_RULES.jobs(settings) if job.row == "alone")
    begun = met.begin({})
    assert new.needs == ("alone-met",)
    found = new.measure(new.begin({"alone-met": begun.model.state_dict()}))["error"]

    network_draws = generators(0, 0, NETWORK, [(row, 0) for row in range(2)])
    pairs = [(row, k) for row in range(2) for k in range(3)]
    family = FewShot("digits", ways=3, shots=2, queries=4, hold_out=3, held_out=True)
    task = family.sample(generators(0, 0, TEST, pairs))
    expected = torch.zeros(2, 3)
    for row, g in enumerate(network_draws):
        shapes = [(6, 64), (10, 6)]
        bounds = [(6 / sum(shape)) ** 0.5 for shape in shapes]
        V0, W0, C, B = (
            torch.empty(shape).uniform_(-bound, bound, generator=g)
            for shape, bound in zip(shapes * 2, bounds * 2, strict=True)
        )
        for k in range(3):
            V, W, life = V0, W0, 3 * row + k
            x, asked = task.x[:][:, life], torch.eye(10)[task.label[:, life]]
            for _ in range(4):
                h = torch.nn.functional.softplus(x @ V.T, beta=10)
                error = (h @ W.T).softmax(-1) - asked
                back = (error @ B) * torch.sigmoid(10 * (x @ V.T))
                deeper = back @ C  # what goes back to the input, whose slope is one
                V = V - 0.3 * back.T @ x / 6 + 0.1 * back.T @ deeper / 6
                W = W - 0.3 * error.T @ h / 6 + 0.1 * error.T @ back / 6
            answer = torch.nn.functional.softplus(task.x_query[life] @ V.T, beta=10) @ W.T
            right = answer.argmax(-1).eq(task.label_query[life]).float()
            expected[row, k] = 100 * right.mean()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("row", ["omega", "omega-lambda", "omega-log-lambda"])
def test_the_rule_alone_from_a_meta_learnt_state(row: str) -> None:
    """It is the first row, begun where another has ended, and is drawn nowhere."""
    settings = RuleSettings(**DIGITS, strength=0.3)
    jobs = {job.name: job for job in CML_RULES.jobs(settings)}
    job, first = jobs[f"{row}-alone-met"], jobs["alone-met"]
    assert (job.updates, job.needs) == (0, (f"{row}-met",))
    training = jobs[f"{row}-met"].begin({})
    for _ in range(2):
        training.update()
    state = training.model.state_dict()
    begun = first.begin({})
    begun.model.load_state_dict({name: state[name] for name in begun.model.state_dict()})
    for condition in ("met", "new"):
        alone, other, drawn = (jobs[f"{r}-{condition}"] for r in (f"{row}-alone", "alone", row))
        taken = alone.begin({job.name: job.begin({f"{row}-met": state}).model.state_dict()}
                            if condition == "new" else {f"{row}-met": state})  # fmt: skip
        found = alone.measure(taken)["error"]
        assert torch.equal(found, other.measure(begun)["error"])
        assert not torch.equal(found, drawn.measure(training)["error"])
    plan = make_plan(
        "cml-rules", "small", ["data=digits", "held_out=3", "unseen=20", "ways=3"], [f"{row}-alone"]
    )
    assert f"{row}-met" in {job.name for job in plan.jobs()}


def test_no_image_of_a_test_was_met_in_meta_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of classes met, the last 20 images each; of others, any."""
    images: set[bytes] = set()
    labels: set[int] = set()
    sample = FewShot.sample

    def seen(family: FewShot, draws: Any, *rest: Any) -> Any:
        batch = sample(family, draws, *rest)
        shown = torch.cat([batch.x[:].flatten(0, 1), batch.x_query.flatten(0, 1)])
        images.update(row.numpy().tobytes() for row in shown)
        labels.update(batch.label.flatten().tolist())
        return batch

    monkeypatch.setattr(FewShot, "sample", seen)
    settings = RuleSettings(**{**DIGITS, "shots": 5, "queries": 8, "lifetimes": 20})
    jobs = {job.name: job for job in CML_RULES.jobs(settings)}
    training: Any = jobs["omega-met"].begin({})
    for update in range(150):
        training.problems(update)
    learnt, met = set(images), set(labels)
    assert met == set(range(7))
    assert len(learnt) > 1000  # of 1095: nearly all that is not kept back
    for condition, classes in {"met": met, "new": {7, 8, 9}}.items():
        images.clear(), labels.clear()
        needed = {"omega-met": training.model.state_dict()}
        jobs[f"omega-{condition}"].measure(jobs[f"omega-{condition}"].begin(needed))
        assert labels == classes
        assert len(images) > 100
        assert not images & learnt


def test_only_rows_with_a_learnt_state_are_trained_and_all_of_it_moves() -> None:
    jobs = {job.name: job for job in CML_RULES.jobs(RuleSettings(**DIGITS))}
    trained = {f"{row}-met" for row in ("omega", "omega-lambda", "omega-log-lambda")}
    assert {name for name, job in jobs.items() if job.updates} == trained
    training = jobs["omega-lambda-met"].begin({})
    assert isinstance(training.model, MetaParameters)
    before = {k: v.detach().clone() for k, v in training.model.theta().items()}
    assert set(before) == {f"{part}.W{k}" for part in ("omega", "lambda") for k in range(2)}
    training.update()
    for name, value in training.model.theta().items():
        assert not torch.equal(value, before[name])


@pytest.mark.parametrize("repeats", [1, 3])
def test_sines_are_descended_one_after_another(repeats: int) -> None:
    settings = ContinualSettings(**SINES, rate=0.05, momentum=0.0, repeats=repeats)
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
        for step in range(6 * repeats):
            turn = step // repeats
            away = answer(w, task.x[:][turn, life]) - task.label[turn, life]
            slopes = torch.autograd.grad(away.square().mean() / 2, list(w.values()))
            w = {
                name: (value - 0.05 * slope).detach().requires_grad_()
                for (name, value), slope in zip(w.items(), slopes, strict=True)
            }
        error = (answer(w, task.x_query[life]) - task.label_query[life]).square().mean()
        torch.testing.assert_close(found[row, member], error.detach())


@pytest.mark.parametrize("order", ["continual", "iid"])
@pytest.mark.parametrize(("name", "met"), [("readout-born", 0), ("readout-last", -1)])
def test_readouts_are_learnt_to_their_minimum_batch_after_batch(
    order: Any, name: str, met: int
) -> None:
    """As they are born, in numpy: features below, and a ridge regression drawn to the last one."""
    settings = ContinualSettings(**SINES, strength=0.2)
    jobs = {job.name: job for job in CML_CONTINUAL.jobs(settings)}
    job = jobs[f"{name}-{order}"]
    training = job.begin({})
    found = job.measure(training)["error"]
    assert (jobs[f"readout-born-{order}"].updates, jobs[f"readout-{order}"].updates) == (0, 2)
    assert isinstance(training.model, MetaParameters)
    theta = {k: v.detach().double().numpy() for k, v in training.model.theta().items()}
    assert set(theta) == {"W0", "bias0", "W1", "bias1", "omega.W2", "omega.bias2"}
    pairs = [(row, k) for row in range(2) for k in range(3)]
    task = IncrementalSines(2, 3, 4, 4, order).sample(generators(0, 0, TEST, pairs))

    def features(row: int, x: torch.Tensor) -> Any:
        h = x.double().numpy()
        for k in range(2):
            h = np.maximum(h @ theta[f"W{k}"][row].T + theta[f"bias{k}"][row], 0)
        return np.hstack([h, np.ones((len(h), 1))])

    for life, (row, member) in enumerate(pairs):
        w = np.append(theta["omega.W2"][row, 0], theta["omega.bias2"][row])
        for x, y in zip(task.x[:][met:, life], task.label[met:, life], strict=True):
            h = features(row, x)
            left = h.T @ h / 4 + 0.2 * np.eye(len(w))
            w = np.linalg.solve(left, h.T @ y.double().numpy()[:, 0] / 4 + 0.2 * w)
        away = features(row, task.x_query[life]) @ w - task.label_query[life].numpy()[:, 0]
        assert float(found[row, member]) == pytest.approx(np.mean(away**2), rel=1e-3)


def test_all_of_what_a_readout_stands_on_is_meta_learnt() -> None:
    jobs = {job.name: job for job in CML_CONTINUAL.jobs(ContinualSettings(**SINES))}
    strengths = {"lambda.W2", "lambda.bias2"}
    for row, more in (("readout", set()), ("readout-lambda", strengths), ("readout-last", set())):
        training = jobs[f"{row}-continual"].begin({})
        assert isinstance(training.model, MetaParameters)
        before = {k: v.detach().clone() for k, v in training.model.theta().items()}
        assert before.keys() == {"W0", "bias0", "W1", "bias1", "omega.W2", "omega.bias2"} | more
        training.update()
        for name, value in training.model.theta().items():
            assert not torch.equal(value, before[name]), name


@pytest.mark.parametrize(("name", "settings"), [("cml-rules", DIGITS), ("cml-continual", SINES)])
def test_a_tiny_run_fills_its_table(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    changes = [f"{k}={list(v) if isinstance(v, tuple) else v}" for k, v in settings.items()]
    plan, run = make_plan(name, "small", changes), tmp_path / name
    outcome = reproduce(plan, run)
    table, found = (run / "table.md").read_text(), dict[str, Any]()
    for row in outcome.plan.reproduction.rows:
        assert f"| {row.title} |" in table
    for job in plan.jobs():  # each figure is that of the meta-parameters beside it
        model, measured, *_ = outcome.finished[job.name]
        training = job.begin({needed: outcome.finished[needed].model for needed in job.needs})
        born = {k: v.clone() for k, v in training.model.state_dict().items()}
        training.model.load_state_dict(dict(model))
        again = job.measure(training)["error"]
        assert torch.equal(again, measured["error"])
        moved = [float((v - born[k]).abs().max()) for k, v in model.items()]
        if job.updates:
            assert 0 < max(moved) <= 1.01 * job.updates * plan.settings.model_dump()["meta_rate"]
        else:
            assert max(moved) == 0
        found[job.name] = measured["error"]
    # Tasks of a condition are the same for all rows, and rows are not: to be held matters.
    first, second = [row.key for row in outcome.plan.reproduction.rows][:2]
    for condition in outcome.plan.reproduction.conditions:
        pair = (found[f"{first}-{condition}"], found[f"{second}-{condition}"])
        assert name == "cml-rules" or not torch.equal(*pair)


def test_a_run_that_diverges_says_so_and_resumes(tmp_path: Path) -> None:
    """At a rate of 30 nothing settles, and what it leaves is the same if it is broken off."""
    changes = [f"{k}={list(v) if isinstance(v, tuple) else v}" for k, v in SINES.items()]
    changes += ["rate=30", "checkpoint_every=1"]
    plan = make_plan("cml-continual", "small", changes, ("descent", "omega", "omega-lambda"))
    reproduce(plan, tmp_path / "whole")
    run = tmp_path / "broken"
    for moment in (6, 3, 4):
        with pytest.raises(KeyboardInterrupt):
            reproduce(plan, run, [interrupt_after(moment)])
    reproduce(plan, run)
    assert repr(left(run)) == repr(left(tmp_path / "whole"))  # for NaN is not NaN
    content = json.loads((run / "result.json").read_text())
    for row in content["rows"][1:]:
        for figure in row["ours"].values():
            assert figure["rejected"] == 2 * 2 * 2  # updates, seeds and lifetimes of each
    assert "8 lifetimes of meta-training were rejected" in (run / "table.md").read_text()
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    for event in events:
        if event["event"] == "update":
            assert (event["rejected"], event["diverged"]) == ([True, True], [2, 2])


def test_a_missing_folder_says_what_to_name(tmp_path: Path) -> None:
    plan = make_plan("cml-table1", "small", [f"data={tmp_path / 'nothing'}"])
    with pytest.raises(DataError, match=r"there is no .*nothing.*; name a folder or zip of class"):
        plan.jobs()


def test_a_contrast_of_long_learning_comes_near_the_unrolled_gradient() -> None:
    settings = ThetaSettings(seeds=1, lifetimes=1)
    jobs = {job.name: job for job in CML_THETA.jobs(settings)}
    short, long = (
        job.measure(job.begin({})) for job in (jobs["beta-0.003-20"], jobs["beta-0.003-180"])
    )
    assert float(long["error"]) < 0.01 < float(short["error"])
    assert float(long["cosine"]) > 0.9999


def rule_of(path: Path, **terms: str) -> Path:
    """A file with a rule of some terms."""
    pool = TermPool([Term.from_text(name, text) for name, text in terms.items()])
    Rule(pool, dict.fromkeys(terms, 0.01)).save(path)
    return path


@pytest.mark.parametrize("term", ["Omega - W", "hadamard(Omega, W)"])
def test_a_rule_with_consolidation_of_its_own_is_refused(term: str, tmp_path: Path) -> None:
    """Which the rows would add to, or drop, and the rule alone be drawn back."""
    rule = rule_of(tmp_path / "rule.json", learns="outer(e_post, y_pre)", held=term)
    message = (
        rf"^rule={rule}: term held, '{re.escape(term)}', speaks of Omega; leave consolidation out"
    )
    refused("cml-rules", {**DIGITS, "rule": rule}, message, tmp_path / "run")
    plain = rule_of(tmp_path / "rule.json", learns="outer(e_post, y_pre)", decay="W")
    assert CML_RULES.jobs(RuleSettings(**DIGITS, rule=str(plain)))


def test_a_rule_that_learns_nothing_from_examples_is_refused(tmp_path: Path) -> None:
    rule = rule_of(tmp_path / "rule.json", decay="W")
    message = rf"^rule={rule}: no term of the rule depends on examples"
    refused("cml-rules", {**DIGITS, "rule": rule}, message, tmp_path / "run")


def refused(name: str, settings: dict[str, Any], message: str, run: Path) -> None:
    """Before there is a folder, which could never be finished."""
    changes = [f"{k}={list(v) if isinstance(v, tuple) else v}" for k, v in settings.items()]
    with pytest.raises((ConfigError, LearnerError), match=message):
        reproduce(make_plan(name, "small", changes), run)
    assert not run.exists()


PHASE = '{"shots": 1, "steps": 2, "nudged_steps": 2, "beta": 1, "strength": 0, "meta_rate": 1}'


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("cml-table2", f"one_shot={PHASE}"),
        ("cml-table3", f"five_shot={PHASE}"),
        ("cml-table4", "strength=0"),
        ("cml-rules", "strength=0"),
        ("cml-continual", "strength=0"),
    ],
)
def test_states_that_would_never_be_learnt_are_refused(name: str, change: str) -> None:
    with pytest.raises(GrammarError, match="'strength': should be above 0"):
        make_plan(name, "small", [change])
