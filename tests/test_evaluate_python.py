"""Rules compared from Python, on tasks that only Python can make."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refusals import assert_refused

import rulesearch as rs
from rulesearch.analysis import mann_whitney
from rulesearch.outer import evaluate as judged
from rulesearch.outer.seeds import NETWORK, TASK, generators
from rulesearch.tasks import LinearTeacher, TaskBatch

POOL = rs.Grammar.from_yaml("pool10").enumerate()
NETWORK_OF_THREE = rs.PlasticNetwork([3, 5, 3], activation="tanh", output="linear")
RULES = {"good": rs.Rule(POOL, {"F0": 0.03}), "bad": rs.Rule(POOL, {"F0": -0.03})}


class Noisy:
    """A linear teacher whose word is not to be trusted."""

    n_in, n_out, steps, name = 3, 3, 8, "noisy"

    def __init__(self, noise: float) -> None:
        self.noise = noise

    def describe(self) -> dict[str, object]:
        return {"family": self.name, "noise": self.noise}

    def sample(self, generators: Any) -> TaskBatch:
        batch = LinearTeacher(3, steps=8, queries=4).sample(generators)
        noise = torch.stack([torch.randn(8, 3, generator=g) for g in generators], 1)
        return replace(batch, label=batch.label + self.noise * noise)


def evaluate(**changes: Any) -> Any:
    arguments: dict[str, Any] = {"network": NETWORK_OF_THREE, "tasks": Noisy(0.1), "lifetimes": 6}
    arguments |= changes
    return rs.evaluate(arguments.pop("rules", RULES), **arguments)


def losses(rule: rs.Rule, network: rs.PlasticNetwork, tasks: Noisy) -> Any:
    """Of six lifetimes, lived by the learner itself."""
    who = [(k, 0) for k in range(6)]
    learner = rs.PlasticityLearner(network, rule)
    birth = learner.init(generator=generators(4, 3, NETWORK, who))
    theta = torch.tensor(rule.theta, dtype=torch.float32)
    return judged(learner, birth, theta, tasks.sample(generators(4, 3, TASK, who))).loss.numpy()


def test_rules_live_tasks_of_ones_own_under_varied_conditions() -> None:
    families = {"calm": Noisy(0.0), "noisy": Noisy(0.5)}
    found = evaluate(tasks=families, vary=["width=4"], seed=4, baseline="bad")
    wide = rs.PlasticNetwork([3, 4, 3], activation="tanh", output="linear")
    where = {
        "calm": (NETWORK_OF_THREE, families["calm"]),
        "noisy": (NETWORK_OF_THREE, families["noisy"]),
        "width=4": (wide, families["calm"]),
    }
    named = [(row.condition, row.rule) for row in found.rows]
    assert named == [(name, rule) for name in where for rule in RULES]
    for good, bad in zip(found.rows[::2], found.rows[1::2], strict=True):
        alone = {name: losses(rule, *where[good.condition]) for name, rule in RULES.items()}
        assert good.loss[0] == pytest.approx(np.median(alone["good"]), rel=1e-5)
        assert bad.loss[0] == pytest.approx(np.median(alone["bad"]), rel=1e-5)
        assert good.accuracy is bad.p is None
        assert good.p >= mann_whitney(-alone["good"], -alone["bad"]).p
    assert str(found).splitlines()[0].endswith("p vs bad (Holm)")


def test_rules_by_name_and_what_they_are_tested_against() -> None:
    found = evaluate(rules={}, named=["feedback-alignment", "0.01*oja"])
    assert found.baseline == "feedback alignment"
    assert [row.rule for row in found.rows] == ["feedback alignment", "0.01*oja"]
    assert [row.p is None for row in found.rows] == [True, False]
    again = evaluate(rules={}, named=["feedback-alignment"], baseline="feedback-alignment")
    assert again.rows == found.rows[:1]


def test_the_network_is_fitted_to_the_tasks() -> None:
    other = rs.PlasticNetwork([64, 5, 2], activation="tanh", output="linear")
    assert {tuple(row.sizes) for row in evaluate(network=other).rows} == {(3, 5, 3)}


def test_inputs_below_zero_are_told_where_a_rule_reads_an_error_that_explodes() -> None:
    softplus = replace(NETWORK_OF_THREE, activation="softplus")
    hebbian = {"hebbian": rs.Rule(POOL, {"F0": 0.03, "F2": 0.03})}
    for quiet in (evaluate(network=softplus), evaluate(rules=hebbian)):  # no e_pre, or tanh
        assert quiet.notes == ()
    told = "inputs of 'noisy' are below zero, down to -"
    for changes, where in (
        ({"network": softplus}, ""),
        ({"network": softplus, "tasks": {"calm": Noisy(0.0)}}, "calm: "),
        ({"vary": ["activation=softplus"]}, "activation=softplus: "),
    ):
        for given in ({"rules": hebbian}, {"named": ["ehebb"]}):
            found = evaluate(**changes | given)
            (note,) = found.notes
            assert note.startswith(where + told)
            assert str(found).endswith(f"\n\nNote: {note}.")
            assert found.to_json()["notes"] == [note]


class Longer(Noisy):
    n_in = 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rules": RULES["good"]}, "rules should be a mapping of names to rules, not of type Rule"),
        ({"rules": {"x": "oja"}}, "rules['x'] should be a Rule, not of type str"),
        ({"rules": {}}, "there is no rule to evaluate"),
        ({"network": [3, 3]}, "network should be a PlasticNetwork"),
        ({"tasks": "digits"}, "tasks should be a family of tasks, not of type str"),
        ({"tasks": {"a": Noisy(0), "b": 3}}, "tasks['b'] should be a family of tasks"),
        ({"tasks": {}}, "tasks: there is none"),
        ({"tasks": Longer(0)}, "Longer.sample returns for 2 generators: x has shape (8, 2, 3)"),
        ({"named": "backprop"}, "named should be a list of texts, not of type str"),
        ({"named": [3]}, "each of named should be a text, not of type int"),
        (
            {"named": ["bakprop"]},
            "named bakprop: the catalogue has no 'bakprop'; did you mean 'backprop'",
        ),
        ({"vary": ["dpth=2"]}, "vary dpth=2: unknown factor 'dpth'; did you mean 'depth'"),
        ({"vary": ["steps=20"]}, "vary steps=20: only few-shot tasks have it"),
        ({"baseline": 3}, "baseline should be the name of a rule, not of type int"),
        ({"baseline": "god"}, "baseline god: no rule has this name; did you mean 'good'"),
        ({"lifetimes": 0}, "lifetimes must be at least 1, not 0"),
        ({"seed": 0.5}, "seed is 0.5; give a whole number"),
    ],
)
def test_what_cannot_be_compared(changes: dict[str, Any], message: str) -> None:
    assert_refused(lambda: evaluate(**changes), rs.ConfigError, message)


class Seldom(Noisy):
    """Noisy tasks, some of which have a number that is none."""

    def __init__(self, part: str) -> None:
        super().__init__(0.1)
        self.part = part

    def sample(self, generators: Any) -> TaskBatch:
        batch = super().sample(generators)
        for i, generator in enumerate(generators):
            if torch.rand((), generator=generator) > 0.9:
                values = getattr(batch, self.part)
                lifetime = values[i] if self.part.endswith("query") else values[:, i]
                lifetime[0] = torch.nan
        return batch


@pytest.mark.parametrize("part", ["x", "label", "x_query", "label_query"])
def test_numbers_that_are_not_finite_are_no_rules_divergence(part: str) -> None:
    message = f"tasks: what Seldom.sample returns: {part} holds numbers that are not finite"
    assert_refused(lambda: evaluate(tasks=Seldom(part), lifetimes=60), rs.ConfigError, message)


def test_the_command_names_the_way_in_python(tmp_path: Path, run_main: Any) -> None:
    result = rs.search(POOL, network=NETWORK_OF_THREE, tasks=Noisy(0.1), episodes=2, seeds=1,
                       refit_episodes=0, controls=False, out=tmp_path / "run")  # fmt: skip
    status, out, err = run_main("evaluate", result.path)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "the tasks were made in Python" in err
    assert "rulesearch.evaluate(...) compares its rule with others on them" in err
    assert evaluate(rules={"found": result.rule}).rows[0].lifetimes == 6
