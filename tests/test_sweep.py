"""Sweeps: what is swept, its mistakes, the same trials again from the same seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from small_data import write_emnist
from tiny_sweep import BASE, GRID, RANGES, swept, told

import rulesearch as rs
from rulesearch.errors import ConfigError, DataError, GrammarError
from rulesearch.search import evaluation
from rulesearch.search.evaluation import evaluate_rules
from rulesearch.search.evidence import TUNING_STREAM
from rulesearch.search.run import HELD_OUT_STREAM, STABILITY_STREAM, start_search
from rulesearch.search.selection import group_losses
from rulesearch.search.sweep import Study, StudyResult, load_sweep, work
from rulesearch.search.sweep.worker import STREAM
from rulesearch.tasks import FewShot

ROOT = Path(__file__).parent.parent


def test_a_grid_has_every_combination_once(whole_sweep: Path) -> None:
    result = StudyResult.load(whole_sweep)
    values = [trial["values"] for trial in result.content["trials"]]
    lists = [(lam, hidden) for lam in (1, 5) for hidden in ([8], [8, 6])]
    assert [(v["penalty.lam"], v["network.hidden"]) for v in values] == lists
    assert result.counts() == {"done": 4}
    for k, (lam, hidden) in enumerate(lists):
        manifest = json.loads((whole_sweep / f"trial-{k:04d}" / "manifest.json").read_text())
        assert manifest["network"]["sizes"] == [64, *hidden, 10]
        assert {row["lam"] for row in manifest["rows"]} == {lam}


def test_a_trial_is_a_run_like_any_other(whole_sweep: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.yaml"
    alone.write_text(GRID[: GRID.index("sweep:")] + "penalty: {lam: 5}\n")
    run = start_search(rs.search.load_config(alone), tmp_path / "run").path
    for name in ("result.json", "events.jsonl"):
        assert (run / name).read_bytes() == (whole_sweep / "trial-0002" / name).read_bytes()


def test_ranges_are_whole_where_the_setting_counts(sweep_config: Any) -> None:
    distributions = load_sweep(sweep_config(RANGES)).distributions
    assert {k: type(d).__name__ for k, d in distributions.items()} == {
        "penalty.lam": "FloatDistribution",
        "optimiser.meta_batch": "IntDistribution",
        "network.feedback": "CategoricalDistribution",
    }


@pytest.mark.parametrize("end", ["penalty.lam=[1, 2]", "penalty.lam.low=2", "tasks.ways=[2]"])
def test_what_varies_is_set_as_a_whole(end: str, sweep_config: Any, run_main: Any) -> None:
    path = sweep_config(GRID)
    status, out, err = run_main("sweep", path, "--workers", 0, "--set", f"sweep.over.{end}")
    assert (status, out, err.count("\n")) == (2, "", 1)
    remedy = "sweep.over={penalty.lam: [1, 2]}"
    assert err.startswith(f"--set sweep.over.{end.partition('=')[0]}: keys in 'sweep.over' have ")
    assert f"give all of it, as --set '{remedy}', or" in err
    assert load_sweep(path, [remedy]).spec.over == {"penalty.lam": [1, 2]}


def test_settings_that_need_one_another_are_set_together(sweep_config: Any) -> None:
    text = f"{BASE}  over: {{penalty.lam: [1, 5]}}\n  sampler: random\n  trials: 4\n"
    sweep = load_sweep(sweep_config(text), ["sweep.sampler=grid", "sweep.trials=2"])
    assert (sweep.spec.kind, sweep.trials) == ("grid", 2)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_seed_gives_the_same_trials(
    sampler: str, sweep_config: Any, tmp_path: Path
) -> None:
    path = sweep_config(f"{RANGES}  sampler: {sampler}\n")

    def values(name: str, *overrides: str) -> list[Any]:
        with Study.begin(load_sweep(path, overrides), tmp_path / name) as study:
            for number in range(12):
                told(study, number, (number * 7) % 5)
            return [study.sweep.values(trial.params) for trial in study.trials()]

    first = values("first")
    assert values("second") == first
    assert values("third", "sweep.seed=1") != first
    lams = [v["penalty.lam"] for v in first]
    assert len(set(lams)) == 12
    assert min(lams) >= 1
    assert max(lams) <= 50


def test_a_trial_left_half_chosen_is_chosen_the_same(sweep_config: Any, tmp_path: Path) -> None:
    path = sweep_config(RANGES)
    with Study.begin(load_sweep(path), tmp_path / "one") as study:
        wanted = study.start(0)
    with Study.begin(load_sweep(path), tmp_path / "two") as study:
        study._storage.set_trial_state_values(study._id(0), 0)  # running, and nothing more
        assert study.trials()[0].params == {}
        assert study.start(0) == wanted
        assert study.trials()[0].params == wanted


def test_grammars_in_files_go_with_the_study(sweep_config: Any, tmp_path: Path) -> None:
    one = sweep_config(
        "name: one\nterms: {A: {expr: -e_post * y_pre.T, init: 1.0e-3}}\n", "one.yaml"
    )
    text = GRID.replace("network.hidden: [[8], [8, 6]]", "grammar: [one.yaml, pool10]")
    with Study.begin(load_sweep(sweep_config(text)), tmp_path / "study") as study:
        url = study.url
    one.unlink()
    with Study.open(url) as study:
        experiment = study.sweep.experiment({"grammar": "one.yaml"})
        assert experiment.pool.names == ("A",)
        assert len(study.sweep.experiment({"grammar": "pool10"}).pool) == 10


MISTAKES = [
    ("{penalty.lamb: [1, 2]}", 13, "unknown key 'lamb'; did you mean 'lam'?"),
    ("{optimizer.rate: [1, 2]}", 13, "unknown key 'optimizer'; did you mean 'optimiser'?"),
    ("{penalty.lam: [1, -2]}", 13, "'lam': should be greater than or equal to 0"),
    ("{penalty.lam: [1, 1]}", 13, "should not hold one value twice"),
    ("{penalty.lam: {low: 2, high: 1}}", 13, "'low' should be below 'high'"),
    ("{penalty.lam: {low: 1, high: 2, logg: true}}", 13, "unknown key 'logg'; did you mean 'log'?"),
    ("{tasks.ways: [3, 99]}", 13, "tasks.ways: data set 'digits': 99-way tasks need 99 classes"),
    ("{episodes.x: [3, 4]}", 13, "'episodes' is a value, there is nothing in it to set"),
    ("{stability.pairs: [2, 4]}", 13, "stability is asked of the pick alone"),
    ("{seed: [0, 1]}", 13, "'seed' is the same in all trials: trials are compared on the same"),
    ("{tasks: [{family: linear-teacher}]}", 13, "these are of another family"),
    ("{tasks.hold_out: [4, 2]}", 13, "tasks.hold_out: which classes are held out is the same in"),
    ("{tasks: [{ways: 2, hold_out: 4}]}", 13, "tasks: which classes are held out is the same in"),
    ("{optimiser.rate: [1, 2], optimiser: [{rate: 3}]}", 13, "is a part of 'optimiser', which is"),
    ("{penalty: [{lam: 1}], penalty.lam: {low: 1, high: 2}}\n  trials: 3", 13, "'penalty.lam' is"),
    ("{penalty.lam: {low: 1, high: 2}}", 12, "missing key 'trials': how many"),
    ("{penalty.lam: [1, 2]}\n  trials: 7", 12, "this grid has 2 trials"),
    ("{penalty.lam: [1, 2]}\n  pruner: medain", 14, "did you mean 'median'?"),
    ("{penalty.lam: [1, 2]}\n  pruner: median\n  objectives: [loss, terms]", 12, "one objective"),
    ("{}", 13, "at least 1 item"),
]


@pytest.mark.parametrize(("over", "line", "message"), MISTAKES)
def test_mistakes_are_told_with_their_place(
    over: str, line: int, message: str, sweep_config: Any
) -> None:
    path = sweep_config(f"{BASE}  over: {over}\n")
    with pytest.raises((ConfigError, GrammarError)) as error:
        load_sweep(path)
    assert str(error.value).startswith(f"{path}:{line}:")
    assert message in str(error.value)


def test_a_device_that_is_not_here_is_told_with_its_place(
    sweep_config: Any, tmp_path: Path, run_main: Any
) -> None:
    absent, study = f"cuda:{torch.cuda.device_count()}", tmp_path / "study"
    path = sweep_config(GRID.replace("seeds: 2", f"device: {absent}\nseeds: 2"))
    for place, asked in (
        (f"{path}:6:9: ", ()),
        ("--set device:1:1: ", ("--set", f"device={absent}")),
        ("", ("--device", absent)),
    ):
        status, out, err = run_main("sweep", path, "--out", study, *asked)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"{place}device {absent}: ")
        assert not study.exists()


def test_a_search_of_a_sweep_is_refused(sweep_config: Any) -> None:
    path = sweep_config(GRID)
    with pytest.raises(ConfigError, match=f"^{path}:11:1: this is a sweep; run it with"):
        rs.search.load_config(path)


@pytest.mark.parametrize("example", sorted((ROOT / "examples" / "sweep").glob("*.yaml")))
def test_examples_are_sound(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_emnist(tmp_path)
    monkeypatch.setenv("RULESEARCH_DATA", str(tmp_path))
    text = example.read_text()
    if example.name == "compose.yaml":
        services = YAML(typ="safe", pure=True).load(text)["services"]
        assert {"database", "worker"} <= set(services)
        assert all(set(s.get("depends_on", {})) <= set(services) for s in services.values())
    else:
        assert load_sweep(example).trials > 1


# -- what trials are judged on --


def judged(run: Path, tasks: FewShot, network: rs.PlasticNetwork, stream: int) -> list[float]:
    """Medians of groups of losses, for a sweep whose trials are judged in twenty lifetimes."""
    rule = rs.Rule.load(run / "rule.json")
    [score] = evaluate_rules({"rule": (rule, network)}, tasks, 20, 0, stream)
    return group_losses(score.loss).tolist()


def test_trials_of_other_tasks_are_judged_on_the_same(
    sweep_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_emnist(tmp_path)
    monkeypatch.setenv("RULESEARCH_DATA", str(tmp_path))
    text = BASE.replace("ways: 3", "ways: 2, hold_out: [7, 8, 9]")
    text = text.replace("episodes: 12", "episodes: 4")
    text += "  over: {tasks.data: [digits, emnist], tasks.ways: [2, 3]}\n"
    result = swept(sweep_config(text), tmp_path / "study")
    tasks = FewShot("digits", ways=2, shots=4, queries=4, hold_out=[7, 8, 9])
    assert result.counts() == {"done": 4}
    for trial in result.content["trials"]:
        run = tmp_path / "study" / f"trial-{trial['number']:04d}"
        sizes = json.loads((run / "manifest.json").read_text())["network"]["sizes"]
        assert sizes[0] == (64 if trial["values"]["tasks.data"] == "digits" else 784)
        network = rs.PlasticNetwork([64, 8, sizes[-1]])
        assert trial["losses"] == judged(run, tasks, network, STREAM)
        # A later evaluation, and the search itself, draw other tasks.
        for stream in (0, 1, evaluation.STREAM, HELD_OUT_STREAM, TUNING_STREAM, STABILITY_STREAM):
            assert trial["losses"] != judged(run, tasks, network, stream)


def test_a_machine_that_lacks_data_leaves_the_trials_alone(
    sweep_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_emnist(tmp_path / "here")
    monkeypatch.setenv("RULESEARCH_DATA", str(tmp_path / "here"))
    text = BASE.replace("episodes: 12", "episodes: 2")
    path = sweep_config(f"{text}  over: {{tasks.data: [digits, emnist]}}\n")
    with Study.begin(load_sweep(path), tmp_path / "study") as study:
        url = study.url
    (tmp_path / "here").rename(tmp_path / "away")
    monkeypatch.setenv("RULESEARCH_DATA", str(tmp_path / "there"))
    with pytest.raises(DataError, match="is not a folder"):
        work(url)
    with Study.open(url) as study:
        assert study.unfinished() == [0, 1]
    # Data that go away under a worker are no fault of the trial's either.
    monkeypatch.setenv("RULESEARCH_DATA", str(tmp_path / "away"))

    def vanishes(line: str) -> None:
        if line.startswith("trial 1"):
            monkeypatch.setenv("RULESEARCH_DATA", str(tmp_path / "there"))

    with pytest.raises(DataError, match="is not a folder"):
        work(url, say=vanishes)
    with Study.open(url) as study:
        assert study.unfinished() == [1]
    monkeypatch.setenv("RULESEARCH_DATA", str(tmp_path / "away"))
    assert StudyResult.load(work(url)).counts() == {"done": 2}
