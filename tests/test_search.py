"""Searches: planted rules, seeds, penalties, rejected lifetimes, what is selected."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_search import POOL, tiny_search

import rulesearch as rs
from rulesearch.errors import RunError
from rulesearch.outer import Unrolled
from rulesearch.report.page import write_report
from rulesearch.search.outcome import Outcome
from rulesearch.search.phase import History
from rulesearch.search.selection import candidates, kept_terms, pick
from rulesearch.search.settings import settings_from
from rulesearch.tasks import FewShot, LinearTeacher


@pytest.mark.parametrize("silent", [0, 6])
def test_a_planted_rule_is_found(silent: int, tmp_path: Path) -> None:
    tasks = LinearTeacher(silent=silent)
    result = rs.search(
        POOL,
        network=rs.PlasticNetwork(
            [tasks.n_in, tasks.n_out], output="linear", activation="tanh", feedback="random"
        ),
        tasks=tasks,
        episodes=120,
        seeds=20,
        penalty=rs.ProximalL1(3.0),
        ramp=(25, 50),
        rate=1e-2,
        meta_batch=4,
        clip=10.0,
        controls=False,
        refit_episodes=10,
        out=tmp_path / "run",
    )
    assert set(result.terms) == tasks.optimum == {"F0", *(["F9"] if silent else [])}
    assert set(result.rule.coefficients) == tasks.optimum

    # Each seed by itself, from what was logged: the terms above 5% of its largest.
    events = (result.path / "events.jsonl").read_text().splitlines()
    updates = [event for event in map(json.loads, events) if event["event"] == "update"]
    theta = np.array([event["theta"] for event in updates[90:120]])
    assert theta.shape == (30, 20, 10)
    scales = json.loads((result.path / "manifest.json").read_text())["scales"]
    t = np.abs(theta.mean(0) / scales)
    kept = t > 0.05 * t.max(1, keepdims=True)
    found = Counter(frozenset(np.array(POOL.names)[row]) for row in kept)
    assert found[tasks.optimum] >= 18, found


def test_the_planted_optimum_loses_less_than_its_neighbours() -> None:
    # 200 lifetimes of 600 steps: the delta rule with Oja's rule reaches the teacher and forgets
    # the silent inputs; the delta rule alone keeps them, and with decay it stays beside it.
    tasks = LinearTeacher(silent=6, steps=600)
    network = rs.PlasticNetwork([12, 6], output="linear", activation="tanh")
    generators = [torch.Generator().manual_seed(i) for i in range(200)]
    task = tasks.sample(generators)

    def loss(coefficients: dict[str, float]) -> float:
        learner = rs.PlasticityLearner(network, rs.Rule(POOL, coefficients))
        state = learner.live(learner.init(200), None, task.x, task.label)
        return float(network.loss(network(state, task.x_query), task.label_query).median())

    best = loss({"F0": 0.1, "F9": 0.02})
    assert best < 1e-6
    assert best < 1e-3 * min(loss({"F0": 0.1, "F3": d}) for d in (0.003, 0.01, 0.03))
    assert best < 1e-3 * loss({"F0": 0.1})
    assert best < 1e-3 * loss({"F9": 0.02})


def test_a_seed_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    def theta(out: str, **changes: Any) -> Any:
        result = tiny_search(tmp_path / out, episodes=8, refit_episodes=0, **changes)
        return result.history["search"].theta

    five = theta("five", seeds=5, lams=[4.0])
    four = theta("four", seeds=4, lams=[1.0, 4.0, 9.0])  # rows: four seeds of each lambda
    assert np.array_equal(five[3], four[4 + 3])
    assert not np.array_equal(five[3], four[3])
    assert not np.array_equal(five[3], five[2])
    other = theta("other", seeds=4, lams=[4.0], seed=1)
    assert not np.array_equal(five[3], other[3])


@pytest.mark.parametrize("activation", ["softplus", "tanh"])
def test_the_bits_of_a_lifetime_are_its_own(activation: str) -> None:
    """How many lifetimes run beside it does not change them."""
    network = rs.PlasticNetwork([64, 37, 23, 10], activation=activation)
    learner, tasks = rs.PlasticityLearner(network, POOL), FewShot(ways=3, shots=4, queries=3)

    def evaluated(lifetimes: int) -> tuple[torch.Tensor, torch.Tensor]:
        state, task = (
            draw([torch.Generator().manual_seed(i) for i in range(lifetimes)])
            for draw in (network.init, tasks.sample)
        )
        found = Unrolled()(learner, state, torch.full((lifetimes, 10), 1e-3), task)
        return found.loss, found.gradient

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a search's workers
    loss, gradient = evaluated(7)
    for lifetimes in (1, 2, 3, 6, 7):
        some = evaluated(lifetimes)
        assert torch.equal(some[0], loss[:lifetimes])
        assert torch.equal(some[1], gradient[:lifetimes])
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "penalty", [rs.L1(20.0), rs.L2(20.0), rs.NoPenalty(), rs.ProximalL1(20.0)], ids=lambda p: p.name
)
def test_penalties_run(penalty: rs.L1, tmp_path: Path) -> None:
    result = tiny_search(tmp_path / "run", penalty=penalty, episodes=16, ramp=(0, 4))
    last = result.history["search"].theta[:, -1]
    zeros = (last == 0).sum()
    assert zeros > 0 if penalty.name == "proximal-l1" else zeros == 0
    assert result.content["pick"]["lam"] == penalty.lam


@pytest.mark.parametrize(
    ("given", "note"),
    [
        (
            {"ramp": (4, 17)},
            "ramp [4, 17], which ends after the last of 16 episodes, so that no",
        ),
        ({"penalty": rs.NoPenalty(), "lams": [1.0, 2.0]}, "no penalty that the 2 lambdas could we"),
        ({"ramp": (4, 16)}, None),
        ({"ramp": (4, 17), "penalty": rs.NoPenalty()}, None),
    ],
)
def test_lambdas_that_weigh_nothing_are_told(
    given: dict[str, Any], note: str | None, tmp_path: Path
) -> None:
    heard: list[Mapping[str, Any]] = []
    result = tiny_search(tmp_path / "run", episodes=16, sinks=[heard.append], **given)
    told = [each for each in result.notes if "lambda" in each]
    assert [note in each for each in told] == ([True] if note else [])
    assert [e["text"] for e in heard if e["event"] == "note"] == [n[6:-1] for n in told]
    page = write_report(result.path).read_text()
    assert page.count('<p class="warning">') == len(result.notes)
    assert all(f'<p class="warning">{escape(each, quote=False)}</p>' in page for each in told)


def test_notes_are_broken_between_words(tmp_path: Path) -> None:
    result = tiny_search(tmp_path / "run", penalty=rs.NoPenalty(), lams=[1.0, 2.0])
    shown = result.summary(60)
    note = shown[shown.index("Note: there is no penalty") :].split("\n\n")[0].splitlines()
    assert note == [
        "Note: there is no penalty that the 2 lambdas could weigh,",
        "      and all of them are one search: give one alone, or a",
        "      penalty, as proximal-l1.",
    ]


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    result = tiny_search(tmp_path / "run", seeds=1)
    kept = [row for row in result.content["table"] if row["kept"]]
    assert {(row["spread"], row["interval"]) for row in kept} == {(None, None)}
    assert "±" not in str(result)
    assert r"\pm" not in result.latex_table()
    achieved = [line for line in str(result).splitlines() if line.startswith("   ")][-2:]
    assert [line[:10] for line in achieved] == ["   pool wi", "   survivo"]
    assert all(line.endswith("  -") for line in achieved)
    assert write_report(result.path).read_text().count('<td class="n">-</td></tr>') == 2


def test_a_penalty_above_everything_leaves_no_rule(tmp_path: Path) -> None:
    result = tiny_search(tmp_path / "run", penalty=rs.ProximalL1(1e9), ramp=(0, 0), episodes=16)
    assert result.terms == ()
    assert result.rule.coefficients == {}
    assert "none" in repr(result)
    assert rs.Rule.load(result.path / "rule.json") == result.rule
    print(result, result.latex_table())


def test_lifetimes_that_diverge_are_told(tmp_path: Path) -> None:
    wild = POOL[:1] + rs.TermPool([rs.Term.from_text("wild", "y_post * y_pre.T", 1e3)])
    result = rs.search(
        wild,
        network=rs.PlasticNetwork([64, 8, 10]),
        tasks=FewShot("digits", ways=3, shots=4, queries=4),
        episodes=6,
        seeds=2,
        controls=False,
        rate=1.0,
        out=tmp_path / "run",
    )
    assert result.content["rejected"]["search"] > 0.2
    assert "diverged at the end; lower" in str(result)
    with pytest.raises(RunError, match="diverged at update 0 of 'search', and rejection is off"):
        rs.search(
            wild,
            network=rs.PlasticNetwork([64, 8, 10]),
            tasks=FewShot("digits", ways=3, shots=4, queries=4),
            episodes=6,
            seeds=2,
            reject=False,
            out=tmp_path / "off",
        )


def test_the_end_is_an_average_without_the_rejected() -> None:
    history = History()
    for accuracy in (0.1, None, 0.3, 0.5):
        loss = None if accuracy is None else 10 * accuracy
        history.add(
            {"accuracy": [accuracy, None], "loss": [loss, None], "theta": [[1.0], [2.0]],
             "rejected": [0, 1]}
        )  # fmt: skip
    np.testing.assert_allclose(history.end("accuracy", 3), [0.4, np.nan])
    np.testing.assert_allclose(history.end("loss", 4), [3.0, np.nan])
    np.testing.assert_allclose(history.end("theta", 2), [[1.0], [2.0]])


def test_selection() -> None:
    t = np.array([[[1.0, -0.04, 0.06], [1.0, 0.0, 0.9]], [[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]])
    assert kept_terms(t[0], 0.05).tolist() == [[True, False, True], [True, False, True]]
    assert not kept_terms(t[1], 0.05)[0].any()
    found = candidates("abc", [1.0, 9.0], t, np.ones((2, 2)), np.ones((2, 2)), 0.05)
    assert [c.terms for c in found] == [("a", "c"), ()]
    assert found[1].share == {"a": 0.5, "b": 0.0, "c": 0.0}
    best, close, far = np.array([1.0, 1.2, 0.8]), np.array([1.1, 1.0, 1.1]), np.array([2.0] * 3)
    assert pick([5, 3, 1], [best, close, far]) == 1
    assert pick([5, 3, 1], [best, far, far]) == 0
    assert pick([5, 3, 3], [best, close + 0.01, close]) == 2
    assert pick([1, 2], [np.array([np.nan]), best]) == 1
    assert pick([1, 2], [np.array([np.nan]), np.array([np.nan])]) == 0


def test_the_outcome_refits_each_support_once() -> None:
    settings = settings_from(lams=[1.0, 2.0, 3.0], seeds=1, episodes=4)
    outcome = Outcome(POOL[:3], settings, np.array([1.0, 2.0, 1.0]))
    theta = [[1.0, 0.2, 0.0], [1.0, 0.0, 0.0], [2.0, 0.0, 0.0]]
    for _ in range(4):
        outcome.history("search").add(
            {"accuracy": [0.5, 0.4, 0.3], "loss": [1.0, 1.0, 1.0], "theta": theta,
             "rejected": [0, 0, 0]}
        )  # fmt: skip
    assert outcome.supports() == [("F0",), ("F0", "F1")]
    assert [tuple(rule.coefficients) for rule in outcome.rules()] == [("F0", "F1"), *[("F0",)] * 2]
    held_out = [np.array([0.9, 1.1]), np.array([1.0, 1.1]), np.array([1.0, 1.1])]
    result = outcome.result(held_out)
    assert result["pick"] == {"lam": 2.0, "terms": ["F0"]}  # ties go to the first
    assert result["front"][0]["held_out_error"] == pytest.approx(0.1)
    assert [row["coefficient"] for row in result["table"]] == [1.0, None, None]


def test_the_front_counts_the_seeds_that_diverged() -> None:
    settings = settings_from(lams=[1.0, 2.0], seeds=2, episodes=4)
    outcome = Outcome(POOL[:3], settings, np.ones(3))
    nan, kept = float("nan"), [1.0, 0.0, 0.0]
    for _ in range(4):
        outcome.history("search").add(
            {"accuracy": [0.5, nan, 0.3, 0.2], "loss": [1.0, nan, 2.0, 4.0], "theta": [kept] * 4,
             "rejected": [0] * 4}
        )  # fmt: skip
        outcome.history("refit").add(
            {"accuracy": [nan, nan], "loss": [nan, nan], "theta": [[1.0]] * 2, "rejected": [0] * 2}
        )
    first, second = outcome.result([])["front"]
    assert [first["diverged"], first["refit_diverged"], first["loss"]] == [1, 2, 1.0]
    assert [second["diverged"], second["refit_diverged"], second["loss"]] == [0, 2, 3.0]


def test_what_diverged_is_told_of_the_pick_alone() -> None:
    settings = settings_from(lams=[1.0, 2.0], seeds=1, episodes=4, meta_batch=4)
    outcome = Outcome(POOL[:3], settings, np.ones(3))
    of_search = {"accuracy": [0.5] * 2, "loss": [1.0] * 2, "rejected": [4, 1]}
    of_refit = {"accuracy": [0.5] * 2, "loss": [1.0] * 2, "rejected": [2, 4]}
    for _ in range(4):
        outcome.history("search").add({**of_search, "theta": [[1.0, 0.2, 0.0], [1.0, 0.0, 0.0]]})
        outcome.history("refit").add({**of_refit, "theta": [[1.0, 0.0], [1.0, 0.2]]})
    assert outcome.supports() == [("F0",), ("F0", "F1")]
    for lam, share in ((2.0, {"search": 0.25, "refit": 0.5}), (1.0, {"search": 1, "refit": 1})):
        outcome = replace(outcome, lam=lam)
        assert outcome.result([])["rejected"] == share
