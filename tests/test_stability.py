"""Stability selection: halves of the tasks, shares of terms and groups, and the bound on chance."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rulesearch as rs
from rulesearch.analysis.stability import collinear_groups, expected_false, threshold_for
from rulesearch.compile.naive import evaluate
from rulesearch.errors import ConfigError
from rulesearch.learners.signals import connection_signals
from rulesearch.outer.scaling import term_correlations, term_scales
from rulesearch.report.page import write_report
from rulesearch.report.table import stability_note, stability_rows
from rulesearch.search.config import load_config
from rulesearch.search.run import resume_search, start_search
from rulesearch.search.stability import Stability, halves
from rulesearch.tasks import FewShot, LinearTeacher

POOL = rs.Grammar.from_yaml("pool10").enumerate()
TINY = """\
name: stable
grammar: pool10
network: {hidden: [8]}
tasks: {data: digits, ways: 3, shots: 3, queries: 3, hold_out: 2}
episodes: 14
seeds: 3
refit_episodes: 4
penalty: {lam: [5]}
optimiser: {rate: 1.0e-3}
stability: {pairs: 2, threshold: 0.75, collinear: 0.9}
controls: false
checkpoint_every: 4
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stability")
    (folder / "tiny.yaml").write_text(TINY)
    return start_search(load_config(folder / "tiny.yaml"), folder / "run").path


def test_the_bound_by_hand() -> None:
    # 3 of 10 terms kept on average, called stable from three quarters on: 9 / (0.5 * 10).
    assert expected_false(3.0, 10, 0.75) == pytest.approx(1.8)
    assert expected_false(2.0, 100, 1.0) == pytest.approx(0.04)
    for threshold in (0.5, 1.01):
        with pytest.raises(ValueError, match="threshold"):
            expected_false(3.0, 10, threshold)
    with pytest.raises(ValueError, match="at least one term"):
        expected_false(0.0, 0, 0.75)


def test_the_threshold_solves_the_bound() -> None:
    assert threshold_for(3.0, 10, 1.8) == pytest.approx(0.75)
    for wanted in (0.5, 1.0, 4.0):
        assert expected_false(2.0, 100, threshold_for(2.0, 100, wanted)) == pytest.approx(wanted)
    assert threshold_for(8.0, 10, 1.0) > 1  # too many are kept: no share is enough


def test_the_bound_holds_and_cannot_be_lowered() -> None:
    """Useless terms in the worst way that the theorem allows: as often stable as it says."""
    rng, terms, pairs, share, threshold = np.random.default_rng(0), 40, 10, 0.2, 0.75
    both = round(pairs * (2 * threshold - 1))  # of the pairs, in which a lucky term is kept twice
    lucky = share**2 / (2 * threshold - 1)  # so that a pair keeps one twice as often as two guesses
    else_once = 2 * (share - lucky * threshold) / (1 - lucky)  # and each keeps 8 of 40 on average
    false, bound = [], []
    for _ in range(1500):
        kept = np.zeros((pairs, 2, terms), dtype=bool)
        halves_of = rng.integers(2, size=(pairs, terms))
        is_lucky = rng.random(terms) < lucky
        once = is_lucky | (rng.random((pairs, terms)) < else_once)
        for side in range(2):
            kept[:, side] = once & (halves_of == side)
        kept[:both, :, is_lucky] = True
        found = Stability(
            [str(k) for k in range(terms)],
            kept.reshape(-1, terms),
            threshold,
            [[k] for k in range(terms)],
        )
        told = found.to_json()
        false.append(sum(row["stable"] for row in told["terms"]))
        bound.append(told["expected_false"])
    assert expected_false(8, 40, 0.75) == pytest.approx(3.2)
    assert np.mean(bound) == pytest.approx(3.2, rel=0.05)
    assert 0.93 < np.mean(false) / np.mean(bound) < 1.03  # of what it says, no more and hardly less


def test_groups_are_chains_of_collinear_terms() -> None:
    correlation = np.eye(5)
    for i, j, value in ((0, 2, -0.95), (2, 4, 0.91), (1, 3, 0.89)):
        correlation[i, j] = correlation[j, i] = value
    assert collinear_groups(correlation, 0.9) == [[0, 2, 4], [1], [3]]
    assert collinear_groups(correlation, 0.8) == [[0, 2, 4], [1, 3]]


def test_shares_of_terms_and_groups() -> None:
    kept = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=bool)
    found = Stability("abcd", kept, 0.75, [[0], [1, 2], [3]]).to_json()
    assert [row["share"] for row in found["terms"]] == [1.0, 0.5, 0.25, 0.0]
    assert [row["group_share"] for row in found["terms"]] == [1.0, 0.75, 0.75, 0.0]
    assert [row["with"] for row in found["terms"]] == [[], ["c"], ["b"], []]
    assert [row["stable"] for row in found["terms"]] == [True, False, False, False]
    assert found["selected"] == 1.75
    assert found["expected_false"] == pytest.approx(1.75**2 / (0.5 * 4))


def test_twins_that_share_the_searches_are_stable_together() -> None:
    kept = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1], [1, 0, 1, 0]], dtype=bool)
    found = Stability("abcd", kept, 0.75, [[0, 3], [1, 2]]).to_json()
    assert [row["stable"] for row in found["terms"]] == [True, False, False, False]
    assert [row["group_stable"] for row in found["terms"]] == [False, True, True, False]
    table = [{"name": n, "interval": None, "kept": False} for n in "abcd"]
    content: Any = {"stability": found, "table": table}
    assert [row[:2] for row in stability_rows(content)] == [
        ["*", "a"], ["+", "b"], ["+", "c"], ["", "d"]
    ]  # fmt: skip
    assert "; + collinear terms, of which that many" in stability_note(content)


def test_a_wanted_number_of_false_terms_raises_the_threshold() -> None:
    kept = np.array([[1, 1, 0, 0]] * 3 + [[1, 0, 0, 0]], dtype=bool)  # 1.75 of 4 on average
    alone = [[0], [1], [2], [3]]
    for wanted, stable, threshold in (
        (2.0, [True, True], 0.75),
        (0.9, [True, False], 0.925),
        (0.5, [False] * 2, None),
    ):
        found = Stability("abcd", kept, 0.75, alone, wanted).to_json()
        assert [row["stable"] for row in found["terms"]][:2] == stable
        assert found["expected_false"] <= wanted
        assert found["threshold"] == (
            None if threshold is None else pytest.approx(threshold, abs=1e-3)
        )
    content: Any = {"stability": found}
    assert stability_note(content).startswith("no term is called stable: searches on halves")


def test_halves_are_complementary() -> None:
    tasks = FewShot("digits", ways=3, shots=2, queries=1, hold_out=[0, 5, 6])
    found = halves(tasks, 3, seed=1)
    assert len(found) == 6
    splits = set()
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert isinstance(first, FewShot)
        assert isinstance(second, FewShot)
        assert sorted(first.classes + second.classes) == [1, 2, 3, 4, 7, 8, 9]
        assert {len(first.classes), len(second.classes)} == {3, 4}
        assert first.steps == tasks.steps
        splits.add(first.classes)
    assert len(splits) == 3
    again = halves(tasks, 3, seed=1)
    assert [f.describe() for f in again] == [f.describe() for f in found]
    teacher = LinearTeacher()
    assert halves(teacher, 2, 0) == [teacher] * 4
    with pytest.raises(ConfigError, match="half of 7 classes is too few for 4-way tasks"):
        halves(FewShot("digits", ways=4, shots=2, queries=1, hold_out=3), 1, 0)


def test_correlations_are_cosines_of_updates() -> None:
    network = rs.PlasticNetwork([6, 5, 4])
    pool = POOL[:3] + rs.TermPool([rs.Term.from_text("twice", "-2 * e_post * e_pre.T - 2 * W")])
    generator = torch.Generator().manual_seed(0)
    state = network.init([torch.Generator().manual_seed(k) for k in range(3)])
    x, label = torch.rand(2, 3, 6, generator=generator), torch.tensor([[0, 1, 2], [3, 0, 1]])
    found = term_correlations(pool, network, state, x, label)
    needed = pool.symbols | {"W", "B", "y_pre", "e_post", "e_pre"}
    vectors: list[list[list[torch.Tensor]]] = [[[] for _ in pool] for _ in range(2)]
    for t in range(2):
        signals = connection_signals(network, state, x[t][:, None], label[t][:, None], needed)
        for k, of_connection in enumerate(signals):
            for r, term in enumerate(pool):
                vectors[k][r].append(evaluate(term.expr, of_connection).double().flatten())
    expected = torch.zeros(4, 4, dtype=torch.float64)
    for terms in vectors:
        unit = torch.nn.functional.normalize(torch.stack([torch.cat(parts) for parts in terms]))
        expected += 0.5 * unit @ unit.T
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.diagonal(), torch.ones(4).double())
    assert term_scales(pool, network, state, x, label).shape == (4,)


def test_a_search_tells_what_is_stable(run: Path) -> None:
    content = rs.load_run(run).content
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    theta = np.array([e["theta"] for e in events if e.get("phase") == "stability" and "theta" in e])
    assert theta.shape == (14, 4, 10)
    scales = json.loads((run / "manifest.json").read_text())["scales"]
    t = np.abs(theta[-3:].mean(0) / scales)  # a quarter of the updates
    kept = t > 0.05 * t.max(1, keepdims=True)
    found = content["stability"]
    assert [row["share"] for row in found["terms"]] == kept.mean(0).tolist()
    assert found["searches"] == 4
    q = kept.sum(1).mean()
    assert found["expected_false"] == pytest.approx(q**2 / (0.5 * 10))
    # The rows of a pair live on other classes, and so end elsewhere.
    assert len({tuple(row) for row in theta[-1]}) == 4


def test_intervals_of_the_refitted_coefficients(run: Path) -> None:
    content = rs.load_run(run).content
    for row in content["table"]:
        if row["kept"]:
            low, high = row["interval"]
            assert low <= row["coefficient"] <= high
            assert high - low <= 2 * 3**0.5 * row["spread"] + 1e-12  # means stay among the values
        elif row["coefficient"] is None:
            assert row["interval"] is None


def test_it_is_shown(run: Path) -> None:
    text = str(rs.load_run(run))
    assert "halves  group  collinear with" in text
    assert "searches on halves of the" in text
    assert max(map(len, text.splitlines())) <= 100
    assert "Which terms are stable" in write_report(run).read_text()


def test_it_resumes_to_the_same_bytes(run: Path, tmp_path: Path) -> None:
    seen = iter(range(27))  # in the midst of the halves

    def sink(event: Mapping[str, Any]) -> None:
        if next(seen, None) is None:
            assert event["phase"] == "stability"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start_search(load_config(run.parent / "tiny.yaml"), tmp_path / "run", [sink])
    resume_search(tmp_path / "run")
    for name in ("rule.json", "result.json", "events.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes()


def test_too_few_classes_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(TINY.replace("hold_out: 2", "hold_out: 5"))
    with pytest.raises(ConfigError, match="half of 5 classes is too few for 3-way tasks"):
        load_config(path)


WILD = """\
grammar: {terms: {A: {expr: -e_post * y_pre.T, init: 1.0e-3}, D: {expr: -W, init: START}}}
network: {hidden: [], activation: tanh}
tasks: {family: linear-teacher, inputs: 4, silent: 4, steps: 20, queries: 4}
episodes: 8
seeds: 2
penalty: {lam: 1}
optimiser: {rate: 1.0e-2, meta_batch: 2}
stability: {pairs: 1}
controls: false
"""


def test_searches_that_never_learnt_say_nothing(tmp_path: Path) -> None:
    path = tmp_path / "wild.yaml"
    path.write_text(WILD.replace("START", "1.0e+6"))  # which explodes, at a half and a quarter too
    result = start_search(load_config(path), tmp_path / "wild")
    found = result.content["stability"]
    assert (found["searches"], found["left_out"], found["selected"]) == (0, 2, 0.0)
    assert not any(row["stable"] or row["group_stable"] for row in found["terms"])
    assert result.content["rejected"]["stability"] == 1.0
    assert "no term is called stable: all 2 searches on halves of the tasks" in str(result)
    assert "Note: 100% of the lifetimes of 'stability' diverged at the end" in str(result)
    assert "bound" not in write_report(result.path).read_text()
    path.write_text(WILD.replace("START", "1.0e-2"))
    calm = start_search(load_config(path), tmp_path / "calm")
    assert calm.content["stability"]["searches"] == 2
    assert calm.content["rejected"]["stability"] == 0.0


def test_searches_left_out_are_told() -> None:
    kept = np.array([[1, 0], [1, 1]], dtype=bool)
    found = Stability("ab", kept, 0.75, [[0], [1]], left_out=2).to_json()
    assert [row["share"] for row in found["terms"]] == [1.0, 0.5]
    note = stability_note({"stability": found, "table": []})
    assert "of 2 searches on halves" in note
    assert note.endswith("; left out are 2 that diverged too often to learn")
