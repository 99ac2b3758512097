"""Rules learnt inside FLP: their shape, a planted one, pruned terms, kill and resume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_reproduction import left
from tiny_search import interrupt_after

from rulesearch.errors import ConfigError, GrammarError, RuleSearchError
from rulesearch.grammar import Grammar, Term, TermPool
from rulesearch.networks import LearntFeedback
from rulesearch.outer import FLPSettings, MetaRates, MetaTraining, ProximalL1, flp_model
from rulesearch.outer.rule_shape import ShapeTraining, in_common_units
from rulesearch.outer.seeds import TEST, generators
from rulesearch.reproduce import make_plan, reproduce, resume_reproduction, trained_model
from rulesearch.reproduce.base import Job, Measured
from rulesearch.reproduce.flp import Tasks
from rulesearch.reproduce.flp_rules import SineRuleSettings, of_one_sign, rule_jobs, rule_table
from rulesearch.rules import Rule
from rulesearch.tasks import IncrementalSines, LinearTeacher

pytestmark = pytest.mark.usefixtures("one_thread")

CANDIDATES = TermPool(
    [
        Term.from_text("hebb", "y_post * y_pre.T"),
        Term.from_text("decay", "-W", init=1.0),
        Term.from_text("fed", "e_post * y_pre.T"),
        Term.from_text("pre_only", "ones_post * y_pre.T"),
    ]
)
# What is fed back does not enter the activity: "fed" alone knows the target of a lifetime.
TAUGHT = FLPSettings(
    (3, 3),
    1,
    rule="hebb",
    feedback=LearntFeedback(activation="identity"),
    mixing=0.0,
    rate=0.03,
    rates=MetaRates(forward=1e-2, feedback=1e-2, mixing=0.0, rate=3e-4, clip=2),
)
TEACHER = LinearTeacher(inputs=3, steps=30)
RUN = SineRuleSettings(updates=300, seeds=2, lifetimes=5, theta=1e-2, lam=0.1, keep=0.1)


def taught(theta: tuple[float, ...], **rates: float) -> MetaTraining:
    model = flp_model(TAUGHT, 2, pool=CANDIDATES, theta=theta, dtype=torch.float64)
    return MetaTraining(model, TEACHER, replace(TAUGHT.rates, theta=1e-2, **rates))


# -- the shape of a rule --


def test_the_size_of_a_rule_goes_into_the_rates_and_no_lifetime_changes() -> None:
    training = taught((0.5, -0.25, -2.0, 0.0))
    task = TEACHER.sample([torch.Generator().manual_seed(k) for k in range(2)], torch.float64)
    before = training.model(task).output
    ShapeTraining(training)
    expected = torch.tensor([[0.25, -0.125, -1.0, 0.0]] * 2, dtype=torch.float64)
    torch.testing.assert_close(training.model.theta.detach(), expected, rtol=0, atol=0)
    (rate,) = training.model.rate
    torch.testing.assert_close(rate.detach(), torch.full_like(rate, 2 * 0.03))
    torch.testing.assert_close(training.model(task).output, before, rtol=1e-12, atol=1e-12)


def test_the_size_of_a_rule_goes_into_rates_that_are_fixed_too() -> None:
    oml = replace(TAUGHT, learning="oml")
    pool = TermPool([Term.from_text("descent", "-e_post * y_pre.T")])
    model = flp_model(oml, 2, pool=pool, theta=[0.5], dtype=torch.float64)
    task = TEACHER.sample([torch.Generator().manual_seed(k) for k in range(2)], torch.float64)
    before = model(task).output
    ShapeTraining(MetaTraining(model, TEACHER, TAUGHT.rates))
    assert model.theta.eq(1).all()
    torch.testing.assert_close(model(task).output, before, rtol=1e-12, atol=1e-12)


def test_a_penalty_cannot_shrink_the_whole_rule() -> None:
    training = taught((1.0, 0.5, 0.5, 0.5))
    training.penalty = ProximalL1(1e3)
    shape = ShapeTraining(training)
    for _ in range(5):
        shape.update()
        assert (shape.model.theta.abs().amax(1) == 1).all()
    assert shape.updates == 5
    assert (shape.model.theta == torch.tensor([1.0, 0, 0, 0])).all()


def test_what_a_seed_dropped_stays_out() -> None:
    kept = torch.tensor([[True, True, False, True], [False, True, True, True]])
    shape = ShapeTraining(taught((0.5, 1.0, 0.5, 0.5)), kept)
    start = shape.model.theta.detach().clone()
    for _ in range(5):
        shape.update()
        now = shape.model.theta.detach()
        assert (now[~kept] == 0).all()
    assert (now != start)[kept].sum() >= 4  # all but the largest, which is one
    free = ShapeTraining(taught((0.5, 1.0, 0.0, 0.5)))
    free.update()
    assert (free.model.theta[:, 2] != 0).all()


def test_a_seed_without_any_term_is_refused() -> None:
    none = torch.tensor([[False] * 4, [True] * 4])
    with pytest.raises(ConfigError, match="begins without any term"):
        ShapeTraining(taught((1.0, 1.0, 1.0, 1.0)), none)


def test_terms_in_common_units() -> None:
    """t on the scaled terms moves weights as scale * t does on the terms as they are."""
    draw = torch.Generator().manual_seed(0)
    signals = {
        name: torch.randn(n, generator=draw, dtype=torch.float64)
        for name, n in {"y_pre": 4, "y_post": 3, "e_post": 3}.items()
    }
    W = torch.randn(3, 4, generator=draw, dtype=torch.float64)
    scales = torch.tensor([0.7, 3.0, 0.31, 1.5])
    scaled = in_common_units(CANDIDATES, scales)
    t = dict(zip(CANDIDATES.names, (0.5, -1.0, 0.25, 2.0), strict=True))
    theta = {name: t[name] * float(c) for name, c in zip(t, scales, strict=True)}
    torch.testing.assert_close(
        Rule(scaled, t).delta(W, **signals), Rule(CANDIDATES, theta).delta(W, **signals)
    )
    assert scaled.init == CANDIDATES.init


def test_the_grammar() -> None:
    """Ten terms; FLP's own rule is what a search starts from; none needs a B of its own."""
    pool = Grammar.from_yaml("flp10").enumerate()
    assert len(pool) == 10
    catalogue = Grammar.from_yaml("catalogue").enumerate()
    assert {t.name for t in pool if t.init} == {"oja_single"}
    assert pool["oja_single"] == catalogue["oja_single"]
    assert "B" not in pool.symbols
    wide = {t.name for t in pool if t.locality != "synapse"}
    assert wide == {"oja", "anti_hebb"}  # sums over the layer, and over a neuron's inputs


# -- a planted rule --


def finish(jobs: list[Job]) -> dict[str, Measured]:
    """Run jobs to their ends."""
    trained: dict[str, Mapping[str, torch.Tensor]] = {}
    measured: dict[str, Measured] = {}
    for job in jobs:
        training = job.begin({name: trained[name] for name in job.needs})
        while training.updates < job.updates:
            training.update()
        trained[job.name] = training.model.state_dict()
        measured[job.name] = job.measure(training)
    return measured


def test_the_only_term_that_knows_the_target_is_found() -> None:
    tasks = Tasks(TEACHER, TEACHER)
    measured = finish(rule_jobs("iid", TAUGHT, tasks, RUN, CANDIDATES))
    found = rule_table(CANDIDATES, measured, "iid")
    rows = {row["name"]: row for row in found["table"]}
    assert found["pick"]["terms"] == ["fed"]
    assert [rows[name]["share"] for name in CANDIDATES.names] == [0, 0, 1, 0]
    assert rows["decay"]["coefficient"] is None
    t = measured["refitted-iid"]["t"]
    assert (t[:, [0, 1, 3]] == 0).all()
    assert (t[:, 2].abs() == 1).all()
    scale = float(measured["refitted-iid"]["scales"][2])
    assert rows["fed"]["coefficient"] == pytest.approx(scale)  # of either sign in t, with its rates
    # A network that knows nothing of its teacher loses the variance of the target, one.
    assert float(measured["hebb-iid"]["error"].mean()) > 0.5
    assert float(measured["refitted-iid"]["error"].mean()) < 0.05
    assert Rule.from_json(found["rule"]).coefficients == {"fed": rows["fed"]["coefficient"]}


def test_a_rule_and_its_negative_are_the_same_rule() -> None:
    """With rates negated too, so that two seeds with either of them have found one rule."""
    t = torch.tensor([[1.0, 0.0, 0.3, 0.0], [-1.0, 0.0, -0.3, 0.0]])
    of = {"t": t, "scales": torch.ones(4), "error": torch.ones(2, 5)}
    found = rule_table(CANDIDATES, {"penalised-iid": of, "refitted-iid": of}, "iid")
    assert Rule.from_json(found["rule"]).coefficients == pytest.approx({"hebb": 1.0, "fed": 0.3})
    assert [row["spread"] for row in found["table"]] == [0, None, 0, None]


def test_seeds_agree_in_sign_whichever_term_is_their_largest() -> None:
    t = torch.tensor([[0.9, 1.0, 0.0], [1.0, 0.8, 0.0], [-1.0, -0.9, 0.2], [0.0, -0.5, 1.0]])
    expected = [[0.9, 1.0, 0.0], [1.0, 0.8, 0.0], [1.0, 0.9, -0.2], [0.0, 0.5, -1.0]]
    assert torch.equal(of_one_sign(t), torch.tensor(expected))
    opposed = torch.tensor([[0.9, -1.0], [1.0, -0.9]])  # each by its own largest would differ
    assert torch.equal(of_one_sign(opposed), opposed)


# -- from start to end --

TINY = (
    "updates=4", "hidden=[5, 5, 5]", "functions=2", "batches=3", "examples=4", "lifetimes=3",
    "checkpoint_every=2", "rate=1e-3", "theta=0.1", "keep=0.5",
)  # fmt: skip
SEARCH = ("refitted",)


def everything(run: Path) -> dict[str, Any]:
    """What a run left, with the files of its rules."""
    files = sorted(path for path in (run / "rules").rglob("*") if path.is_file())
    return left(run) | {str(path.relative_to(run)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("rules") / "whole"
    reproduce(make_plan("flp-rules", "small", TINY, SEARCH), run)
    return run


def test_rules_and_tables_are_left(whole: Path) -> None:
    rows = [row["row"] for row in json.loads((whole / "result.json").read_text())["rows"]]
    assert rows == ["all-terms", "penalised", "refitted"]  # those that the last needs, too
    for condition in ("iid", "continual"):
        rule = Rule.load(whole / "rules" / condition / "rule.json")
        job = load_file(whole / "jobs" / f"refitted-{condition}.safetensors")
        kept = (job["measured.t"] != 0).sum(0) >= 1  # of two seeds
        names = Grammar.from_yaml("flp10").enumerate().names
        assert [n for n, k in zip(names, kept, strict=True) if k] == list(rule.coefficients)
        latex = (whole / "rules" / condition / "terms.tex").read_text()
        assert "Kept (of 2)" in latex
        assert all(name.replace("_", r"\_") in latex for name in names)
        assert "survivors, refitted" in (whole / "rules" / condition / "terms.txt").read_text()


def test_a_network_with_the_rule_that_was_found_is_had(whole: Path) -> None:
    model = trained_model(whole, "refitted", "continual")
    job = load_file(whole / "jobs" / "refitted-continual.safetensors")
    assert torch.equal(model.theta, job["measured.t"])
    tasks = IncrementalSines(2, 3, 4, 4, order="continual")
    draws = generators(0, 0, TEST, [(seed, k) for seed in range(2) for k in range(3)])
    with torch.no_grad():
        loss = model(tasks.sample(draws)).loss
    torch.testing.assert_close(loss.reshape(2, 3), job["measured.error"])


@pytest.mark.parametrize("name", ["flp-rules", "flp-rules-omniglot"])
def test_plastic_feedback_is_refused_before_anything_is_trained(name: str) -> None:
    """Its synapses have no errors, of which three of the terms speak."""
    speak = {
        t.name for t in Grammar.from_yaml("flp10").enumerate() if t.symbols & {"e_post", "e_pre"}
    }
    assert speak == {"fed", "fed_pre", "fed_both"}
    with pytest.raises(GrammarError, match=r"'plastic': should be false: .*e_pre, e_post"):
        make_plan(name, "small", ("plastic=true",))


# -- among what terms, and from where --


def begun(*overrides: str) -> Any:
    """What all terms begin as, of two seeds."""
    jobs = make_plan("flp-rules", "small", (*TINY, *overrides), ("all-terms",)).jobs()
    return jobs[0].begin({}).model


def test_a_search_begins_where_it_is_told_to() -> None:
    oja, *others = begun().theta.tolist()[0]
    assert (oja, set(others)) == (1.0, {0.0})
    model = begun("theta_start={hebb: 0.5, decay: -0.25}", "start=0.01")
    names = model.learner.pool.names
    expected = [{"hebb": 1.0, "decay": -0.5}.get(name, 0.0) for name in names]
    assert model.theta.tolist() == [expected] * 2
    assert all(rate.eq(0.005).all() for rate in model.rate)  # half of 0.01: the same rule
    assert begun("theta_start.hebb=1").theta[:, names.index("hebb")].eq(1).all()


def test_a_search_that_begins_at_random_has_no_favourite() -> None:
    theta = begun("theta_start=random", "seeds=3", "start=0.01").theta.detach()
    assert theta.shape == (3, 10)
    assert theta.ne(0).all()
    assert theta.abs().amax(1).eq(1).all()
    assert len({tuple(row) for row in theta.tolist()}) == 3
    assert theta.lt(0).any()
    assert torch.equal(begun("theta_start=random", "seeds=2").theta, theta[:2])
    other = begun("theta_start=random", "seeds=2", "seed=1").theta
    assert not torch.equal(other, theta[:2])


def test_a_grammar_of_ones_own_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "name: own\nterms:\n  grows: {expr: y_post * y_pre.T}\n  fades: {expr: -W}\n"
    (tmp_path / "own.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    own = (*TINY, "grammar=own.yaml", "conditions=[iid]", "updates=2")
    plan = make_plan("flp-rules", "small", (*own, "theta_start=random"), SEARCH)
    content = reproduce(plan, tmp_path / "run").content
    assert content["changed"]["grammar"] == str(tmp_path / "own.yaml")
    assert content["changed"]["theta_start"] == "random"
    terms = (tmp_path / "run" / "rules" / "iid" / "terms.txt").read_text()
    assert "grows" in terms
    assert "fades" in terms
    assert set(Rule.load(tmp_path / "run" / "rules" / "iid" / "rule.json").coefficients) <= {
        "grows", "fades"
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"own.yaml: no term begins .* as theta_start=\{grows"):
        make_plan("flp-rules", "small", own).jobs()
    (tmp_path / "own.yaml").write_text("terms:\n  back: {expr: B, init: 1.0}\n")
    with pytest.raises(RuleSearchError, match=r"own.yaml: a term needs B of its own connection"):
        make_plan("flp-rules", "small", own).jobs()


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("theta_start={}", "no term begins with a coefficient, and the largest is held at one"),
        ("theta_start={hebb: 0}", "no term begins with a coefficient"),
        ("theta_start={hebbb: 1}", "theta_start: .*no term 'hebbb' in the pool; did you mean"),
        ("theta_start={hebb: x}", "'hebb': should be a valid number, not 'x'"),
        ("theta_start=zero", "'theta_start': should be 'random'"),
        ("grammar=flp11", "no file and no bundled grammar 'flp11'; did you mean 'flp10'"),
    ],
)
def test_beginnings_that_there_are_not(setting: str, told: str) -> None:
    with pytest.raises(RuleSearchError, match=told):
        make_plan("flp-rules", "small", (*TINY, setting)).jobs()


def test_survivors_are_those_that_the_penalty_left(whole: Path) -> None:
    for condition in ("iid", "continual"):
        jobs = {
            row: load_file(whole / "jobs" / f"{row}-{condition}.safetensors")
            for row in ("penalised", "refitted")
        }
        t = jobs["penalised"]["measured.t"]
        small = t.abs() <= 0.5 * t.abs().amax(1, keepdim=True)
        assert small.any()
        assert (jobs["refitted"]["measured.t"][small] == 0).all()


@pytest.mark.parametrize("events", [3, 7, 10, 15])
def test_interrupted_it_ends_in_the_same_bits(events: int, whole: Path, tmp_path: Path) -> None:
    """In each of the three steps, and while the first is measured."""
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        reproduce(make_plan("flp-rules", "small", TINY, SEARCH), run, [interrupt_after(events)])
    resume_reproduction(run)
    assert everything(run) == everything(whole)


def test_on_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    for split, classes in {"images_background": 4, "images_evaluation": 3}.items():
        for k in range(classes):
            place = tmp_path / "data" / "omniglot" / split / f"class{k}"
            place.mkdir(parents=True)
            for n in range(5):
                pixels = draw.integers(256, size=(12, 12), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{n}.png")
    monkeypatch.setenv("RULESEARCH_DATA", str(tmp_path / "data"))
    overrides = (
        "updates=2", "lifetimes=3", "ways=3", "shots=2", "size=12", "channels=[2, 3]",
        "strides=[2, 1]", "hidden=4", "outputs=6",
    )  # fmt: skip
    plan = make_plan("flp-rules-omniglot", "small", overrides)
    content = reproduce(plan, tmp_path / "run").content
    assert [row["row"] for row in content["rows"]] == [row.key for row in plan.reproduction.rows]
    for condition in ("iid", "continual"):
        assert len(Rule.load(tmp_path / "run" / "rules" / condition / "rule.json")) >= 1
