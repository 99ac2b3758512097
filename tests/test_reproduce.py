"""Reproductions: the registry, a tiny run from start to end, kill and resume, the tables."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from rulesearch import cli
from rulesearch.errors import ConfigError, DataError, GrammarError, RunError
from rulesearch.outer.seeds import TEST, generators
from rulesearch.reproduce import (
    REPRODUCTIONS,
    Outcome,
    Plan,
    load_outcome,
    load_plan,
    make_plan,
    reproduce,
    resume_reproduction,
    run_folder,
)
from rulesearch.reproduce.flp import restored
from rulesearch.reproduce.flp_table1 import FLP_TABLE1, SineSettings, sine_network, sine_tasks
from rulesearch.reproduce.tables import latex, markdown

TINY = (
    "updates=5", "hidden=[5, 5, 5]", "functions=2", "batches=3", "examples=4", "lifetimes=3",
    "checkpoint_every=2", "rate=1e-3",
)  # fmt: skip
ROWS = ("flp-3", "gradient-3")
IMAGES = ("flp-table2", "cml-table1", "cml-table2", "cml-table3")  # data that may not be at hand
SINES = tuple(name for name in REPRODUCTIONS if name not in IMAGES)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: threads would only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(*overrides: str, rows: tuple[str, ...] = ROWS) -> Plan:
    return make_plan("flp-table1", "small", (*TINY, *overrides), rows)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("reproduce") / "whole"
    reproduce(tiny(), run)
    return run


@pytest.fixture
def run_main(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run ``rulesearch ...`` in this process: status, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rulesearch", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        code = stopped.value.code
        assert code is None or isinstance(code, int)
        out, err = capsys.readouterr()
        return code or 0, out, err

    return run


def left(run: Path) -> dict[str, Any]:
    """What a run left, but for the time that it took."""
    result = json.loads((run / "result.json").read_text())
    for row in result["rows"]:
        for figure in row["ours"].values():
            figure.pop("minutes")
    jobs = {file.name: load_file(file) for file in sorted((run / "jobs").iterdir())}
    return {
        "result": result,
        "events": (run / "events.jsonl").read_bytes(),
        "jobs": {
            f"{name}: {key}": (tensor.dtype, tensor.tolist())
            for name, tensors in jobs.items()
            for key, tensor in tensors.items()
            if key != "seconds"
        },
    }


# -- what there is --


@pytest.mark.parametrize("scale", ["small", "full"])
@pytest.mark.parametrize("name", SINES)
def test_every_job_has_a_place_and_follows_what_it_needs(name: str, scale: str) -> None:
    check_jobs(make_plan(name, scale))


def check_jobs(plan: Plan) -> None:
    known, seen = {row.key for row in plan.reproduction.rows}, set[str]()
    for job in plan.jobs():
        assert job.row in known
        assert job.condition in plan.reproduction.conditions
        assert job.updates == plan.settings.updates
        assert set(job.needs) <= seen
        assert job.name not in seen
        seen.add(job.name)


def test_full_scale_is_the_papers() -> None:
    sines = make_plan("flp-table1", "full").settings.model_dump()
    assert {key: sines[key] for key in ("updates", "seeds", "episodes", "lifetimes")} == {
        "updates": 20_000, "seeds": 2, "episodes": 1, "lifetimes": 50,
    }  # fmt: skip
    assert sines["hidden"] == (300, 300, 300, 300, 300, 900, 300, 300)
    assert (sines["forward"], sines["rate"], sines["pool"], sines["clip"]) == (
        1e-4, 1e-8, None, None,
    )  # fmt: skip
    images = make_plan("flp-table2", "full").settings.model_dump()
    assert (images["updates"], images["seeds"], images["lifetimes"]) == (40_000, 5, 500)
    assert (images["size"], images["channels"], images["outputs"]) == (84, (128,) * 6, 1000)


def test_published_figures() -> None:
    """As printed in the tables of the paper, mean and standard error."""
    printed = {
        "flp-table1": {
            "feature-reuse-1": {"iid": (0.050, 7e-3), "continual": (0.035, 3e-3)},
            "flp-2": {"iid": (0.00093, 3e-5), "continual": (0.0016, 6e-5)},
            "flp-3": {"iid": (0.00051, 8e-5), "continual": (0.0068, 2e-3)},
            "gradient-3": {"iid": (0.00057, 2e-5), "continual": (0.069, 0.02)},
            "oml-3": {"iid": (0.072, None), "continual": (0.40, None)},
        },
        "flp-table2": {
            "feature-reuse-1": {
                "iid": (4.6, 0.1), "continual": (5.0, 0.1), "mini-imagenet": (48.2, 0.1),
            },
            "flp-2": {"iid": (3.0, 0.1), "continual": (2.7, 0.1), "mini-imagenet": (42.5, 0.6)},
            "gradient-2": {
                "iid": (3.2, 0.1), "continual": (3.4, 0.1), "mini-imagenet": (42.5, 0.3),
            },
            "oml-2": {"iid": (3.5, None), "continual": (7.0, None), "mini-imagenet": (52.0, None)},
        },
    }  # fmt: skip
    for name, table in printed.items():
        rows = {row.key: row.published for row in REPRODUCTIONS[name].rows}
        for key, figures in table.items():
            assert {c: tuple(figure) for c, figure in rows[key].items()} == figures


def test_rows_bring_what_they_need() -> None:
    assert {job.row for job in tiny(rows=("gradient-3",)).jobs()} == {"flp-3", "gradient-3"}
    assert {job.row for job in tiny(rows=("oml-3",)).jobs()} == {"oml-3"}
    assert {job.row for job in tiny(rows=()).jobs()} == {row.key for row in FLP_TABLE1.rows}


def test_controls_change_the_tasks_of_meta_training_alone() -> None:
    settings = make_plan("flp-table1", overrides=["pool=400", "order=mixed"]).settings
    assert isinstance(settings, SineSettings)
    tasks = sine_tasks(settings)
    assert tasks["iid"].train.describe()["pool"] == 400
    assert tasks["iid"].test.describe()["pool"] is None
    assert [t.describe()["order"] for t in tasks["iid"]] == ["mixed", "mixed"]
    assert [t.describe()["order"] for t in tasks["continual"]] == ["continual", "continual"]


def test_networks_learn_as_their_rows_say() -> None:
    jobs = {job.name: job for job in tiny(rows=()).jobs()}
    trained = {
        name: jobs[name].begin({}).model.state_dict() for name in ("flp-3-iid", "flp-3-continual")
    }

    def training(name: str) -> Any:
        return jobs[f"{name}-iid"].begin(trained)

    layers = {
        name: len(training(name).model.W) for name in ("feature-reuse-1", "flp-2", "flp-3", "oml-3")
    }
    assert layers == {"feature-reuse-1": 1, "flp-2": 2, "flp-3": 3, "oml-3": 3}
    methods = {name: training(name).model.learner.method for name in ("flp-3", "gradient-3")}
    assert set(methods.values()) == {"reversible"}
    for name in ("gradient-3-first-order", "gradient-3-random-first-order", "oml-3"):
        assert training(name).model.learner.method == "first-order"
    oml, gradient = training("oml-3"), training("gradient-3")
    assert all(rate.eq(0.006).all() and not rate.requires_grad for rate in oml.model.rate)
    assert all(rate.eq(0.002).all() and rate.requires_grad for rate in gradient.model.rate)
    assert torch.equal(gradient.model.W[1], trained["flp-3-iid"]["W.1"])


# -- a run from start to end --


def test_a_tiny_run(whole: Path) -> None:
    result = json.loads((whole / "result.json").read_text())
    assert [row["row"] for row in result["rows"]] == list(ROWS)
    plan = load_plan(whole)
    assert isinstance(plan.settings, SineSettings)
    flp = sine_network(plan.settings, 3)
    for row in result["rows"]:
        for condition, figure in row["ours"].items():
            assert figure["diverged"] == 0
            assert figure["episodes"] == 5
            seeds = np.array(figure["seeds"])
            assert figure["value"] == pytest.approx(seeds.mean())
            assert figure["sem"] == pytest.approx(seeds.std(ddof=1) / math.sqrt(2))
            errors = load_file(whole / "jobs" / f"{row['row']}-{condition}.safetensors")
            np.testing.assert_allclose(errors["measured.error"].mean(1), seeds, rtol=1e-6)
    # FLP's errors once more, a lifetime at a time.
    tensors = load_file(whole / "jobs" / "flp-3-continual.safetensors")
    model = restored(
        flp,
        plan.settings,
        {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")},
    )
    tasks = sine_tasks(plan.settings)["continual"].test
    for member in range(3):
        task = tasks.sample(generators(0, 0, TEST, [(row, member) for row in range(2)]))
        with torch.no_grad():
            state = model.live(task)
            output = model.learner.network(state, model.see(task.x_query, 2))
        error = (output - task.label_query).square().flatten(1).mean(1)
        torch.testing.assert_close(error, tensors["measured.error"][:, member])


def test_the_tables_show_the_paper_beside_ours(whole: Path) -> None:
    content = load_outcome(whole).content
    ours = {
        (row["title"], c): f"{figure['value']:.3g}"
        for row in content["rows"]
        for c, figure in row["ours"].items()
    }
    for text in (markdown(content), latex(content)):
        (line,) = (line for line in text.splitlines() if "FLP (3)" in line and "0.00051" in line)
        assert "0.00051 (8e-5)" in line
        assert "0.0068 (0.002)" in line
        assert ours["FLP (3)", "iid"] in line
        assert ours["FLP (3)", "continual"] in line
        assert "updates=5" in text
        assert "seeds=2" in text
    assert (whole / "table.md").read_text() == markdown(content)
    assert (whole / "table.tex").read_text() == latex(content)
    assert r"\toprule" in latex(content)
    assert r"\% error & paper & ours" in latex({**content, "unit": "% error"})


def test_finished_jobs_are_not_done_again(whole: Path) -> None:
    before = {file: file.read_bytes() for file in sorted((whole / "jobs").iterdir())}
    seen: list[Mapping[str, Any]] = []
    outcome = reproduce(tiny(), whole, [seen.append])
    assert [event["event"] for event in seen] == ["run"]
    assert seen[0]["finished"] == seen[0]["jobs"] == 4
    assert {file: file.read_bytes() for file in sorted((whole / "jobs").iterdir())} == before
    assert outcome.content == json.loads((whole / "result.json").read_text())


def test_lifetimes_that_diverge_are_told(tmp_path: Path) -> None:
    outcome = reproduce(tiny("oml_rate=1e6", rows=("oml-3",)), tmp_path / "run")
    (row,) = outcome.content["rows"]
    figure = row["ours"]["iid"]
    assert (figure["value"], figure["sem"], figure["diverged"]) == (None, None, 6)
    assert "6 of 6 test lifetimes diverged" in markdown(outcome.content)
    events = (tmp_path / "run" / "events.jsonl").read_text()
    updates = [json.loads(line) for line in events.splitlines()]
    assert updates[0]["loss"] == [None, None]
    assert updates[0]["rejected"] == [True, True]


def test_figures_are_drawn_at_the_end(tmp_path: Path) -> None:
    drawn: list[set[str]] = []

    def draw(measured: Mapping[str, Any], run: Path) -> None:
        drawn.append(set(measured))
        assert measured["oml-3-iid"]["error"].shape == (2, 3)
        assert (run / "result.json").is_file()

    plan = replace(tiny(rows=("oml-3",)), reproduction=replace(FLP_TABLE1, draw=draw))
    reproduce(plan, tmp_path / "run")
    assert drawn == [{"oml-3-iid", "oml-3-continual"}]


# -- broken off --

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from rulesearch.reproduce import load_plan, make_plan, reproduce, resume_reproduction

torch.set_num_threads(1)
run, overrides, rows, kills = Path(sys.argv[1]), *(a.split(";") for a in sys.argv[2:])

def child(most):
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    count = 0
    def sink(event):
        nonlocal count
        count += 1
        if count == most:
            os.kill(os.getpid(), signal.SIGKILL)
    if (run / "manifest.json").exists():
        resume_reproduction(run, [sink])
    else:
        reproduce(make_plan("flp-table1", "small", overrides, rows), run, [sink])
    os._exit(0)

killed = sum(os.WIFSIGNALED(child(int(most))) for most in kills)
assert child(10**9) == 0
print(killed)
"""


def test_killed_at_any_event_it_ends_in_the_same_bits(whole: Path, tmp_path: Path) -> None:
    """Before the first checkpoint, within a job, while measuring, between jobs."""
    kills = (3, 8, 6, 9)
    run = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(run), ";".join(TINY), ";".join(ROWS),
         ";".join(map(str, kills))],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(kills)
    assert left(run) == left(whole)


@pytest.mark.parametrize("moment", [2, 3, 5, 8, 9, 12])
def test_interrupted_it_goes_on_where_it_was(moment: int, whole: Path, tmp_path: Path) -> None:
    run, seen = tmp_path / "run", list[Mapping[str, Any]]()

    def interrupt(event: Mapping[str, Any]) -> None:
        seen.append(event)
        if len(seen) == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce(tiny(), run, [interrupt])
    again: list[Mapping[str, Any]] = []
    resume_reproduction(run, [again.append])
    # An update that was told of may have to be done again: it was not finished.
    done = sum(e["event"] == "update" and e["phase"] == again[1]["job"] for e in seen)
    assert again[1]["done"] >= done - (seen[-1]["event"] == "update")
    assert left(run) == left(whole)


def test_an_interrupt_in_the_middle_of_a_step(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When Adam has moved the meta-parameters, and the update has not been counted."""
    step, count = torch.optim.Adam.step, 0

    def broken(self: Any, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        found = step(self, *arguments)
        if count == 4:
            raise KeyboardInterrupt
        return found

    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.Adam, "step", broken)
        with pytest.raises(KeyboardInterrupt):
            reproduce(tiny(), run)
    assert (run / "checkpoint-flp-3-iid-000003.json").is_file()
    resume_reproduction(run)
    assert left(run) == left(whole)


def test_a_run_under_way_can_be_shown(tmp_path: Path) -> None:
    run = tmp_path / "run"

    def interrupt(event: Mapping[str, Any]) -> None:
        if event["event"] == "job" and event["number"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce(tiny(), run, [interrupt])
    content = load_outcome(run).content
    assert list(content["conditions"]) == ["iid"]
    assert content == json.loads((run / "result.json").read_text())


def test_a_damaged_job_is_named(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    plan = tiny(rows=("oml-3",))
    reproduce(plan, run)
    expected = left(run)["jobs"]
    file = run / "jobs" / "oml-3-iid.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(RunError, match=r"oml-3-iid\.safetensors cannot be read.*remove it"):
        reproduce(plan, run)
    file.unlink()
    reproduce(plan, run)
    assert left(run)["jobs"] == expected


def test_another_plan_in_the_same_folder_is_refused(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"began with updates=5, not 6.*--out.*resume"):
        reproduce(tiny("updates=6"), whole)
    with pytest.raises(RunError, match="began with rows="):
        reproduce(tiny(rows=("oml-3",)), whole)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(RunError, match="not empty"):
        reproduce(tiny(), tmp_path / "other")
    (tmp_path / "config.yaml").write_text(tiny().to_yaml())
    with pytest.raises(RunError, match="no result yet"):
        load_outcome(tmp_path)


def test_the_default_folder_is_its_own_or_free(tmp_path: Path) -> None:
    plan, other = tiny(rows=("oml-3",)), tiny("updates=6", rows=("oml-3",))
    first = run_folder(plan, tmp_path)
    assert first == tmp_path / "flp-table1-small"
    reproduce(plan, first)
    assert run_folder(plan, tmp_path) == first
    assert run_folder(other, tmp_path) == tmp_path / "flp-table1-small-2"
    run_folder(other, tmp_path).mkdir()
    assert run_folder(other, tmp_path) == tmp_path / "flp-table1-small-3"


# -- the command line --


def test_list(run_main: Any) -> None:
    status, out, _ = run_main("reproduce", "list")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()[::2]] == list(REPRODUCTIONS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["flp-tabel1"], "unknown reproduction 'flp-tabel1'; did you mean 'flp-table1'?"),
        (["flp-table1", "--scale", "ful"], "small or full, not 'ful'; did you mean 'full'?"),
        (["flp-table1", "--rows", "flp3"], "unknown row 'flp3'; did you mean 'flp-3'?"),
        (["flp-table1", "--set", "update=3"], "unknown key 'update'; did you mean 'updates'?"),
        (["flp-table1", "--set", "updates"], "--set updates: write key=value"),
        (["flp-table1", "--set", "updates=none"], "--set updates:1:1: 'updates': should be a"),
        (["flp-table1", "--set", "hidden=[4, 4]"], "'hidden': tuple should have at least 3"),
        (["flp-table1", "--set", "clip=0"], "'clip': should be greater than 0"),
        (["flp-table1", "--set", "pool=5"], "the pool 5; enlarge the pool"),
        (["flp-table1", "--set", "order=random"], "'order': should be 'iid' or 'mixed'"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], message: str, run_main: Any, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    status, out, err = run_main("reproduce", *arguments, "--out", run)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not run.exists()


def test_the_command(run_main: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    sets = [word for override in TINY for word in ("--set", override)]
    command = ["reproduce", "flp-table1", *sets, "--rows", "oml-3", "--out", run]
    status, out, err = run_main(*command)
    assert status == 0
    assert "Original OML (3)" in out
    assert "0.072" in out
    assert "2/2 oml-3-continual  5/5  test lifetimes" in err
    assert run_main(*command)[0] == 0
    assert run_main("resume", run)[:2] == run_main("show", run)[:2]
    status, out, _ = run_main("show", run, "--latex")
    assert (status, out) == (0, (run / "table.tex").read_text())
    assert json.loads(run_main("show", run, "--json")[1]) == load_outcome(run).content
    for refused in (["report", run], ["evaluate", run]):
        status, out, err = run_main(*refused)
        assert (status, out, err.count("\n")) == (2, "", 1)


def test_ctrl_c_ends_with_status_3(tmp_path: Path) -> None:
    run = tmp_path / "run"
    sets = [word for override in (*TINY, "updates=100000") for word in ("--set", override)]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "rulesearch.cli", "reproduce", "flp-table1", *sets,
         "--out", str(run)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    events = run / "events.jsonl"
    deadline = time.monotonic() + 120
    while not (events.is_file() and events.stat().st_size > 500):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 3, err
    assert out == ""
    assert err.splitlines()[-1] == f"interrupted; continue with: rulesearch resume {run}"
    updates = len(events.read_bytes().splitlines())
    (newest,) = sorted(run.glob("checkpoint-*.json"))[-1:]
    assert updates - 1 <= json.loads(newest.read_text())["update"] <= updates


def test_damaged_configurations(whole: Path, tmp_path: Path) -> None:
    config = (whole / "config.yaml").read_text()
    path = tmp_path / "config.yaml"
    for content, error, message in (
        (config.replace("reproduction:", "reproductoin:"), RunError, "holds no reproduction"),
        (config.replace("flp-table1", "flp-table9"), ConfigError, "did you mean"),
        (config.replace("updates: 5", "updates: five"), GrammarError, "config.yaml:"),
        (config.replace("flp-3", "flp-4"), ConfigError, "unknown row"),
    ):
        assert content != config
        path.write_text(content)
        with pytest.raises(error, match=message):
            load_plan(tmp_path)
    path.write_text(config)
    assert load_plan(tmp_path).content == load_plan(whole).content


# -- images --


@pytest.fixture
def characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Random images where Omniglot's would be, and mini-ImageNet's beside them."""
    draw = np.random.default_rng(0)
    folders = {
        "omniglot/images_background": 6, "omniglot/images_evaluation": 4,
        "mini/train": 5, "mini/test": 4,
    }  # fmt: skip
    for folder, classes in folders.items():
        for k in range(classes):
            place = tmp_path / "data" / folder / f"class{k}"
            place.mkdir(parents=True)
            for n in range(5):
                shape = (12, 12, 3) if "mini" in folder else (12, 12)
                pixels = draw.integers(256, size=shape, dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{n}.png")
    monkeypatch.setenv("RULESEARCH_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


IMAGES = (
    "updates=2", "lifetimes=3", "ways=3", "shots=2", "size=12", "channels=[2, 3]",
    "strides=[2, 1]", "hidden=4", "outputs=6", "mini_channels=[2, 2]", "mini_hidden=3",
)  # fmt: skip


def test_images(characters: Path, tmp_path: Path) -> None:
    plan = make_plan("flp-table2", "small", (*IMAGES, f"mini_imagenet={characters / 'mini'}"))
    check_jobs(plan)
    content = reproduce(plan, tmp_path / "run").content
    assert list(content["conditions"]) == ["iid", "continual", "mini-imagenet"]
    assert [row["row"] for row in content["rows"]] == [row.key for row in plan.reproduction.rows]
    for row in content["rows"]:
        for condition, figure in row["ours"].items():
            errors = load_file(tmp_path / "run" / "jobs" / f"{row['row']}-{condition}.safetensors")
            wrong = errors["measured.error"] * 6 / 100  # of 3 ways and 2 queries each
            torch.testing.assert_close(wrong, wrong.round(), rtol=0, atol=1e-4)
            assert 0 <= figure["value"] <= 100


def test_mini_imagenet_only_where_it_is(characters: Path) -> None:
    plan = make_plan("flp-table2", "small", IMAGES)
    assert {job.condition for job in plan.jobs()} == {"iid", "continual"}
    missing = make_plan("flp-table2", "small", (*IMAGES, "mini_imagenet=/nowhere"))
    with pytest.raises(DataError, match="/nowhere"):
        missing.jobs()
    uneven = make_plan("flp-table2", "small", (*IMAGES, "strides=[2]"))
    with pytest.raises(ConfigError, match=r"2 convolutions \(channels\) need as many strides"):
        uneven.jobs()


def test_an_outcome_without_jobs_is_empty() -> None:
    assert Outcome(tiny(), {}).content["rows"] == []
