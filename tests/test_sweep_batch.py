"""Trials in batches: one search of many lambdas, told apart again, and the same as each alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_sweep import BASE, RANGES, assert_same, killed, swept, told

from rulesearch.errors import RuleSearchError
from rulesearch.report.result import Result
from rulesearch.report.run_data import RunData
from rulesearch.search.run import resume_search
from rulesearch.search.sweep import Study, StudyResult, load_sweep, work
from rulesearch.search.sweep.worker import _Clock, _Watch

LAMS = "  over: {penalty.lam: [0.1, 2000], network.hidden: [[8], [8, 6]]}\n"
ALONE = BASE.replace("rate: 1.0e-3", "rate: 1.0e-3, ramp: [0, 4]") + LAMS
BATCHED = ALONE + "  batch: 2\n"


@pytest.fixture(scope="module")
def batched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep in batches that nothing disturbed, its configuration beside it."""
    folder = tmp_path_factory.mktemp("batched")
    (folder / "tiny.yaml").write_text(BATCHED)
    return swept(folder / "tiny.yaml", folder / "whole").path


def by_values(study: StudyResult) -> dict[str, dict[str, Any]]:
    return {json.dumps(t["values"], sort_keys=True): t for t in study.content["trials"]}


def test_a_batch_is_its_trials_side_by_side(
    batched: Path, sweep_config: Any, tmp_path: Path
) -> None:
    alone = by_values(swept(sweep_config(ALONE), tmp_path / "alone"))
    together = by_values(StudyResult.load(batched))
    assert sorted(p.name for p in batched.glob("trial-*")) == ["trial-0000-0001", "trial-0002-0003"]
    assert together.keys() == alone.keys()
    supports = set()
    for values, trial in together.items():
        first = trial["number"] - trial["number"] % 2
        run = RunData.load(batched / f"trial-{first:04d}-{first + 1:04d}")
        one = RunData.load(tmp_path / "alone" / f"trial-{alone[values]['number']:04d}")
        rows = np.array([row["lam"] == trial["lam"] for row in run.manifest["rows"]])
        search, wanted = run.curves["search"], one.curves["search"]
        assert np.array_equal(search.theta[rows], wanted.theta)  # to the bit
        assert np.array_equal(search.loss[rows], wanted.loss)
        assert trial["terms"] == alone[values]["terms"]
        assert trial["losses"] == pytest.approx(alone[values]["losses"], rel=1e-4)
        supports.add(tuple(trial["terms"]))
    assert len(supports) > 1  # lambdas that leave the same terms would share a refit
    loss = [sum(t["loss"] for t in trials.values()) for trials in (together, alone)]
    assert loss[0] == pytest.approx(loss[1], rel=1e-4)


def test_workers_killed_in_mid_batch(batched: Path, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    found = killed(batched.parent / "tiny.yaml", folder, str(folder / "journal.log"), 2, 3)
    assert found["killed"] == 3
    ends = found["ends"]
    assert sorted(ends) == ["0", "1", "2", "3"]
    assert_same(folder, batched, found)


def test_a_batch_half_told_is_told_to_its_end(
    batched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Study.begin(load_sweep(batched.parent / "tiny.yaml"), tmp_path / "study") as study:
        url = study.url
    finish = Study.finish

    def dies(self: Study, number: int, *score: Any) -> None:
        if number == 1:
            raise KeyboardInterrupt
        finish(self, number, *score)

    with monkeypatch.context() as patched:
        patched.setattr(Study, "finish", dies)
        with pytest.raises(KeyboardInterrupt):
            work(url)
    states = [t["state"] for t in json.loads((study.folder / "study.json").read_text())["trials"]]
    assert states == ["waiting"] * 4  # what was known when the study began
    with Study.open(url) as study:
        assert study.unfinished() == [1, 2, 3]
    result = StudyResult.load(work(url))
    assert result.content["trials"] == StudyResult.load(batched).content["trials"]


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_lambdas_of_a_batch_are_asked_together(
    sampler: str, sweep_config: Any, tmp_path: Path
) -> None:
    path = sweep_config(f"{RANGES}  sampler: {sampler}\n  batch: 4\n".replace("12", "24"))

    def values(name: str) -> list[dict[str, Any]]:
        with Study.begin(load_sweep(path), tmp_path / name) as study:
            for first in range(0, 24, 4):
                assert study.take() == first
                points = [study.start(number) for number in study.sweep.batch(first)]
                assert study.sweep.experiment(*points).settings.lams == tuple(
                    point["penalty.lam"] for point in points
                )
                for number in range(first, first + 4):
                    told(study, number, (number * 7) % 5, taken=True)
                study.release(first)
            return [study.sweep.values(trial.params) for trial in study.trials()]

    found = values("first")
    assert values("second") == found
    shared = ("optimiser.meta_batch", "network.feedback")
    for first in range(0, 24, 4):
        batch = found[first : first + 4]
        assert len({tuple(v[key] for key in shared) for v in batch}) == 1
        assert len({v["penalty.lam"] for v in batch}) == 4
    assert len({tuple(v[key] for key in shared) for v in found}) > 1


def test_a_batch_is_given_up_once_all_its_trials_are_hopeless(
    sweep_config: Any, tmp_path: Path
) -> None:
    text = BATCHED.replace("[[8], [8, 6]]", "[[8]]") + "  pruner: median\n"
    lams = "[0.1, 2000, 1, 2, 3, 4, 5, 6, 7, 8]"
    text = text.replace("[0.1, 2000]", lams)
    with Study.begin(load_sweep(sweep_config(text)), tmp_path / "study") as study:
        for number in range(6):  # five or more have to be done
            study.start(number)
            assert not any(study.report(number, step, 0.1) for step in range(1, 21))
            told(study, number, 0.1, taken=True)
        points = {number: study.start(number) for number in (6, 7)}
        watch = _Watch(study, 6, _Clock(), lambda: True)
        watch.lams = {number: point["penalty.lam"] for number, point in points.items()}
        watch.updates = 20
        losses = {6: 0.05, 7: 9.0}
        watch._losses = losses.copy  # type: ignore[method-assign]
        for update in range(12):
            watch({"event": "update", "phase": "search", "update": update})
        assert watch.hopeless == {7}  # and the batch goes on for the sake of the other
        for number in points:
            told(study, number, 0.1, taken=True)
        run = study.run_folder(9)
    assert run == tmp_path / "study" / "trial-0008-0009"
    result = StudyResult.load(work(study.url))  # with random weights, a loss of about 2.3
    assert result.counts() == {"done": 8, "pruned": 2}
    assert not (run / "result.json").exists()


def test_losses_of_a_batch_are_told_apart(batched: Path) -> None:
    with Study.open(str(batched / "journal.log")) as study:
        watch = _Watch(study, 0, _Clock(), lambda: True)
        watch.lams, watch.updates = {0: 0.1, 1: 2000.0}, 40
        run = RunData.load(study.run_folder(0))
        loss = run.curves["search"].loss[:, -2:]
        assert watch._losses() == {0: np.median(loss[:2]), 1: np.median(loss[2:])}


# -- the pick of a batch --


def test_the_run_tells_of_the_sweeps_pick(batched: Path) -> None:
    result = StudyResult.load(batched)
    assert result.pick is not None
    first = result.pick["number"] - result.pick["number"] % 2
    run = Result.load(batched / f"trial-{first:04d}-{first + 1:04d}")
    assert run.content["pick"]["lam"] == result.pick["lam"]
    assert run.rule.coefficients == result.rule.coefficients
    assert run.table() in str(result)


def test_the_picks_stability_is_that_of_its_lambda(sweep_config: Any, tmp_path: Path) -> None:
    text = ALONE.replace("sweep:", "stability: {pairs: 2}\nsweep:").replace(
        "[[8], [8, 6]]", "[[8]]"
    )
    alone = swept(sweep_config(text), tmp_path / "alone")
    both = swept(sweep_config(f"{text}  batch: 2\n"), tmp_path / "both")
    assert alone.pick is not None
    assert both.pick is not None
    assert both.pick["lam"] == alone.pick["lam"]
    run = both.path / "trial-0000-0001"
    single = alone.path / f"trial-{alone.pick['number']:04d}"
    found = Result.load(run).content["stability"]
    assert found == Result.load(single).content["stability"]
    assert "halves of the tasks" in str(both)
    # Another pick has halves of its own: those of this one say nothing of it.
    [other] = {0.1, 2000.0} - {both.pick["lam"]}
    with Study.open(str(both.path / "journal.log")) as study:
        experiment = study.sweep.experiment(*(study.start(number) for number in (0, 1)))
    second = resume_search(run, experiment=experiment, lam=other)
    assert second.content["pick"]["lam"] == other
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    phases = [e["phase"] for e in events if e["event"] == "phase"]
    assert phases[-2:] == [f"stability-{both.pick['lam']}", f"stability-{other}"]
    assert str(StudyResult.load(both.path)).count("halves of the tasks") == 0  # none of the pick's


MISTAKES = [
    ("{network.hidden: [[8], [6]]}\n  batch: 2", "differ in penalty.lam, which is not in 'over'"),
    ("{penalty.lam: [1, 2, 3]}\n  batch: 2", "3 values of penalty.lam are no whole number of"),
    ("{penalty.lam: [1, [2, 3]]}\n  batch: 2", "each penalty.lam is one number"),
    ("{penalty.lam: {low: 1, high: 2}}\n  trials: 5\n  batch: 2", "5 trials are no whole number"),
    ("{penalty.lam: [1, 2]}\n  batch: 0", "'batch': should be greater than or equal to 1"),
]


@pytest.mark.parametrize(("over", "message"), MISTAKES)
def test_mistakes_in_batches(over: str, message: str, sweep_config: Any) -> None:
    with pytest.raises(RuleSearchError, match=message):
        load_sweep(sweep_config(f"{BASE}  over: {over}\n"))
