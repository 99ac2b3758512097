"""Rules compared under conditions: the conditions, the contenders, the table and its tests."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_data import write_emnist

import rulesearch as rs
from rulesearch import cli
from rulesearch.analysis import bootstrap_interval, holm, mann_whitney
from rulesearch.errors import ConfigError, DataError
from rulesearch.search.conditions import FACTORS, conditions
from rulesearch.search.evaluation import Score, evaluate_rules
from rulesearch.search.evidence import (
    RATES,
    TUNING,
    TUNING_STREAM,
    Contender,
    _chance,
    baseline_among,
    contender_named,
    evidence,
)
from rulesearch.tasks import FewShot, LinearTeacher

POOL = rs.Grammar.from_yaml("pool10").enumerate()
TASKS = FewShot("digits", ways=2, shots=3, queries=3, hold_out=[7, 8, 9])
NETWORK = rs.PlasticNetwork([64, 40, 10, 10])


# -- statistics --


def test_holm_by_hand() -> None:
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.2, 0.9, 0.5, 0.01]), [0.6, 1.0, 1.0, 0.04])
    np.testing.assert_allclose(holm([0.3]), [0.3])
    assert holm([]).shape == (0,)


def test_mann_whitney_is_the_share_of_relabellings() -> None:
    first, second = [3.0, 5.0, 9.0, 7.5], [1.0, 4.0, 6.0, 2.0]
    u = sum(a > b for a in first for b in second)
    values = first + second
    larger = [
        sum(values[i] > values[j] for i in some for j in range(8) if j not in some) >= u
        for some in itertools.combinations(range(8), 4)
    ]
    test = mann_whitney(first, second)
    assert test.u == u
    assert test.p == pytest.approx(np.mean(larger))


def test_the_bootstrap_covers_what_it_says() -> None:
    rng = np.random.default_rng(0)
    samples = rng.exponential(size=(60, 400))
    interval = bootstrap_interval(samples, level=0.9)
    inside = (interval.low <= 1.0) & (interval.high >= 1.0)  # the mean of the distribution
    assert 0.84 < inside.mean() < 0.94


def test_a_lifetime_that_diverged_ranks_last() -> None:
    nan = np.nan
    good = Score("a", np.array([0.5, 0.6, 0.7]), np.ones(3))
    lucky = Score("b", np.array([nan, 0.9, nan]), np.array([nan, 0.1, np.inf]))
    # Of the 20 ways to label, those with the three ranks 3, 4, 5 (two tied last) or better.
    assert _chance(good, lucky) < 0.5 < _chance(lucky, good)
    targets = Score("c", np.full(3, nan), np.array([0.1, 0.2, 0.3]))
    worse = Score("d", np.full(3, nan), np.array([0.4, nan, 0.6]))
    assert _chance(targets, worse) == pytest.approx(1 / 20)  # beaten in each of the pairs


# -- conditions --


def test_conditions_change_one_thing() -> None:
    found = conditions(NETWORK, TASKS, ["depth=0,2,3", "width=7", "activation=tanh,relu", "beta=2"])
    assert [c.name for c in found] == [
        "as given", "depth=0", "depth=3", "width=7", "activation=tanh", "activation=relu", "beta=2"
    ]  # fmt: skip
    assert [tuple(c.network.sizes) for c in found[:4]] == [
        (64, 40, 10, 10), (64, 10), (64, 40, 20, 10, 10), (64, 7, 7, 10)
    ]  # fmt: skip
    assert found[4].network.activation == "tanh"
    assert found[6].network.beta == 2.0
    assert all(c.tasks is TASKS for c in found)

    vary = ["feedback=direct", "feedback_init=normal", "steps=8", "ways=3", "classes=held-out"]
    feedback, init, steps, ways, classes = conditions(NETWORK, TASKS, vary)[1:]
    assert feedback.network.feedback == "direct"
    assert init.network.feedback_init == "normal"
    assert (steps.tasks.steps, steps.tasks.describe()["shots"]) == (8, 4)
    assert ways.tasks.describe()["ways"] == 3
    assert isinstance(classes.tasks, FewShot)
    assert classes.tasks.classes == (7, 8, 9)
    assert steps.tasks.describe()["hold_out"] == [7, 8, 9]
    teacher = LinearTeacher(inputs=4, steps=9)
    [_, longer] = conditions(rs.PlasticNetwork([4, 4], output="linear"), teacher, ["steps=20"])
    assert longer.tasks.steps == 20


def test_a_condition_that_is_given_twice_counts_once() -> None:
    vary = ["ways=3,3", "steps=8,08,12", "shots=4", "ways=3", "depth=4,4"]
    found = conditions(NETWORK, TASKS, vary)
    assert [c.name for c in found] == ["as given", "ways=3", "steps=8", "steps=12", "depth=4"]


def test_the_network_is_fitted_to_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_emnist(tmp_path)
    monkeypatch.setenv("RULESEARCH_DATA", str(tmp_path))
    network = rs.PlasticNetwork([64, 5, 10])
    assert len(conditions(network, TASKS, ["data=digits"])) == 1  # nothing changes
    [_, other] = conditions(network, TASKS, ["data=emnist"])
    assert other.network.sizes == (784, 5, 47)
    assert isinstance(other.tasks, FewShot)
    assert (other.tasks.data.name, len(other.tasks.classes)) == ("emnist", 47)  # none held out
    assert other.tasks.describe()["ways"] == TASKS.describe()["ways"]
    [_, back] = conditions(other.network, other.tasks, ["data=digits"])
    assert back.network.sizes == (64, 5, 47)  # a wider output holds fewer classes
    rule = rs.Rule(POOL, {"F0": 0.01})
    [score] = evaluate_rules({"rule": (rule, other.network)}, other.tasks, 3)
    assert np.isfinite(score.loss).all()


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ("dept=2", "unknown factor 'dept'; did you mean 'depth'"),
        ("moon=2", f"known are {', '.join(FACTORS)}"),
        ("depth", "write depth=value,value"),
        ("depth=", "write depth=value,value"),
        ("depth=two", "two is no number"),
        ("depth=-1", "no such number of hidden layers"),
        ("width=0", "at least 1, not 0"),
        ("steps=7", "7 is no multiple of 2 ways"),
        ("activation=softmax", "activation is one of"),
        ("data=digts", "did you mean 'digits'"),
        ("classes=mine", "write searched or held-out"),
        ("ways=9", "9-way tasks need 9 classes"),
    ],
)
def test_conditions_that_cannot_be(vary: str, message: str) -> None:
    with pytest.raises((ConfigError, DataError)) as raised:
        conditions(NETWORK, TASKS, [vary])
    assert message in str(raised.value)
    assert str(raised.value).startswith(f"{vary}: ")


# -- contenders --


def test_contenders_by_name() -> None:
    backprop, alignment = contender_named("backprop"), contender_named("feedback-alignment")
    assert (backprop.name, backprop.symmetric) == ("backprop", True)
    assert (alignment.name, alignment.symmetric) == ("feedback alignment", False)
    assert str(backprop.term) == "-e_post * y_pre.T"
    assert contender_named("oja").signs == (1.0, -1.0)
    rule = contender_named("1e-3*pseudo_gradient - 2.5*ehebb+1.5E+2*decay").rule
    assert rule is not None
    assert rule.coefficients == {"pseudo_gradient": 1e-3, "ehebb": -2.5, "decay": 150.0}
    twice = contender_named("0.01*pseudo_gradient+1*ehebb+0.02*pseudo_gradient").rule
    assert twice is not None
    assert twice.coefficients == {"pseudo_gradient": pytest.approx(0.03), "ehebb": 1.0}
    for text, message in (
        ("bakprop", "did you mean 'backprop'"), ("2*ojja", "did you mean 'oja'"),
        ("x*oja", "'x' is no number"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            contender_named(text)


def test_a_rate_is_tuned_on_tasks_of_its_own() -> None:
    [condition] = conditions(NETWORK, TASKS)
    backprop = contender_named("backprop")
    network = rs.PlasticNetwork(NETWORK.sizes, feedback="symmetric")
    term = rs.Grammar.from_yaml("catalogue").enumerate()["pseudo_gradient"]
    tried = {
        str(rate): (rs.Rule(rs.TermPool([term]), {term.name: rate}), network) for rate in RATES
    }
    scores = evaluate_rules(tried, TASKS, TUNING, 3, TUNING_STREAM)
    best = max(scores, key=lambda s: np.where(np.isfinite(s.loss), s.accuracy, 0).mean())
    rule = backprop.settled(condition, 3)
    assert rule.coefficients == {term.name: float(best.name)}
    # Not the tasks of the test.
    [test] = evaluate_rules({"r": tried[best.name]}, TASKS, TUNING, 3)
    assert not np.array_equal(test.loss, best.loss)


# -- the table --


def test_the_table_of_two_rules_and_two_conditions() -> None:
    good, bad = rs.Rule(POOL, {"F0": 0.03}), rs.Rule(POOL, {"F0": -0.03})
    contenders = [Contender("good", good), Contender("same", good), Contender("bad", bad)]
    found = evidence(contenders, conditions(NETWORK, TASKS, ["steps=12"]), 30, 0, "bad")
    names = [(row.condition, row.rule) for row in found.rows]
    assert names == list(itertools.product(["as given", "steps=12"], ["good", "same", "bad"]))
    scores = {
        (name, rule.theta): evaluate_rules({"r": (rule, NETWORK)}, tasks, 30, 0)[0]
        for name, tasks in (
            ("as given", TASKS),
            ("steps=12", FewShot("digits", ways=2, shots=6, queries=3, hold_out=[7, 8, 9])),
        )
        for rule in (good, bad)
    }
    chances = []
    for row in found.rows:
        rule = bad if row.rule == "bad" else good
        score = scores[row.condition, rule.theta]
        assert row.accuracy is not None
        assert row.loss is not None
        assert row.accuracy[0] == pytest.approx(score.accuracy.mean())
        assert row.loss[0] == pytest.approx(np.median(score.loss))
        assert row.accuracy[1] <= row.accuracy[0] <= row.accuracy[2]
        assert (row.diverged, row.lifetimes) == (0, 30)
        if row.rule != "bad":
            other = scores[row.condition, bad.theta]
            chances.append(mann_whitney(score.accuracy, other.accuracy).p)
    told = [row.p for row in found.rows if row.p is not None]
    np.testing.assert_allclose(told, holm(chances))
    lines = found.table().splitlines()
    assert lines[0].endswith("p vs bad (Holm)")
    assert [line.split("  ")[0] for line in lines[2:]] == ["as given", "", "", "steps=12", "", ""]
    assert json.loads(json.dumps(found.to_json()))["rows"][0]["coefficients"] == {"F0": 0.03}


def test_columns_that_hold_nothing_are_left_out() -> None:
    teacher, network = LinearTeacher(4, steps=10), rs.PlasticNetwork([4, 4], output="linear")
    found = rs.evaluate({"one": rs.Rule(POOL, {"F0": 0.03})}, network=network, tasks=teacher)
    heading, _, row = found.table().splitlines()
    assert heading.split() == ["median", "loss", "98%", "interval", "diverged"]
    assert row.startswith("one  ")
    assert row.endswith("  0/200")
    [told] = found.to_json()["rows"]
    assert told["accuracy"] is None  # as before
    alone = {"network": network, "tasks": teacher, "lifetimes": 1}
    heading, *_ = rs.evaluate({"one": rs.Rule(POOL, {"F0": 0.03})}, **alone).table().splitlines()
    assert heading.split() == ["median", "loss", "diverged"]  # one lifetime has no interval


@pytest.mark.parametrize(
    ("vary", "told"),
    [
        (
            "depth=1000000000",
            "so many layers take 14,000.0 GB of memory, and this machine has 17.2",
        ),
        ("depth=1000000", "W, B and examples of 25 lifetimes at a time take "),
        ("width=1000000", "W, B and examples of 25 lifetimes at a time take "),
        ("steps=1000000000", "W, B and examples of 25 lifetimes at a time take "),
        ("width=99999999999", "no machine holds so many; choose at most 1000000000"),
    ],
)
def test_what_no_machine_holds_is_told_at_once(
    vary: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rulesearch.machine.memory_bytes", lambda: 2**34)
    teacher, rule = LinearTeacher(4, steps=10), rs.Rule(POOL, {"F0": 0.03})
    network = rs.PlasticNetwork([4, 9, 8, 4], output="linear")
    with pytest.raises(ConfigError, match=f"^vary {vary}: {told}"):
        rs.evaluate({"one": rule}, network=network, tasks=teacher, vary=[vary], lifetimes=60)


def test_layers_that_take_long_to_prepare_are_told_of_before_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rs.Rule(POOL, {"F0": 0.03}).save(tmp_path / "a.json")
    told: list[str] = []

    def late(*_: object) -> None:
        told.extend(capsys.readouterr())
        raise ConfigError("enough")

    monkeypatch.setattr("rulesearch.search.evaluate_command.evidence", late)
    command = ["rulesearch", "evaluate", str(tmp_path / "a.json"), "--tasks", "digits"]
    command += ["--lifetimes", "1", "--rules", "backprop", "--vary", "depth=9,20000"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        cli.main()
    out, err = told
    assert "1 lifetimes of 250 steps" in out
    assert err == (
        "depth=20000: 20,001 layers take 10 seconds or more to prepare for each rule, before "
        "its first lifetime; fewer layers take less, in proportion\n"
    )


def test_tables_that_cannot_be() -> None:
    one = Contender("one", rs.Rule(POOL, {"F0": 0.03}))
    with pytest.raises(ConfigError, match=r"^onne: no rule has this name; did you"):
        baseline_among([one], "onne")
    with pytest.raises(ConfigError, match="two rules are called 'one'"):
        evidence([one, one], conditions(NETWORK, TASKS), 2)


def test_the_command(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    for name, rate in (("a", 0.03), ("b", 0.01)):
        rs.Rule(POOL, {"F0": rate}).save(tmp_path / f"{name}.json")

    def run(*arguments: str) -> tuple[int, str, str]:
        files = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
        shape = ["--tasks", "digits", "--ways", "2", "--shots", "2", "--queries", "2"]
        command = ["rulesearch", "evaluate", *files, *shape, "--lifetimes", "4", *arguments]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        assert isinstance(stopped.value.code, int | None)
        return stopped.value.code or 0, out, err

    status, out, _ = run("--vary", "width=5", "--rules", "0.01*oja,feedback-alignment")
    assert status == 0
    first, heading, _, *rows = out.splitlines()
    assert first.endswith("4 lifetimes of 4 steps, [64, 170, 130, 100, 70, 10]")
    assert heading.endswith("p vs feedback alignment (Holm)")
    assert len(rows) == 8
    assert [row[11:].split("  ")[0] for row in rows[:4]] == [
        "a", "b", "0.01*oja", "feedback alignment"
    ]  # fmt: skip
    status, out, _ = run("--json", "--baseline", "b")
    content = json.loads(out)
    assert content["baseline"] == "b"
    assert [row["p"] is None for row in content["rows"]] == [False, True]
    for option, mistake, told in (
        ("--vary", "dpeth=2", "dpeth=2: unknown factor 'dpeth'; did you mean 'depth'?"),
        ("--vary", "depth=1,two", "depth=two: two is no number"),
        ("--vary", "data=digts", "data=digts: unknown data set 'digts'; did you mean 'digits'?"),
        ("--rules", "ojja", "ojja: the catalogue has no 'ojja'; did you mean 'oja'?"),
        ("--rules", "x*oja", "x*oja: 'x' is no number"),
        ("--rules", "nan*oja", "nan*oja: the coefficient of oja is nan; give a finite number"),
        ("--baseline", "c", "c: no rule has this name"),
    ):
        assert run(option, mistake) == (2, "", f"{option} {told}\n")
