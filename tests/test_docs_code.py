"""Code in the documentation: each page's, from its top, names nothing that it has not made."""

from __future__ import annotations

import ast
import builtins
import math
import re
from pathlib import Path
from typing import Any

import pytest
import tiny_sweep
import torch
from safetensors.torch import load_file
from tiny_reproduction import tiny

import rulesearch as rs
from rulesearch.outer import FLPSettings, MetaTraining
from rulesearch.reproduce import reproduce
from rulesearch.tasks.family import check_batch, check_family
from rulesearch.tasks.wheel import uniform_regret

DOCS = Path(__file__).parent.parent / "docs"


def blocks(page: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


PAGES = sorted(page.name for page in DOCS.glob("*.md") if blocks(page.name))


def names(code: str) -> tuple[set[str], set[str]]:
    """Names that code reads, and those that it makes."""
    read, made = set(), set()
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                read.add(name)
            case ast.Name(id=name) | ast.arg(arg=name):
                made.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                made.add(name)
            case ast.alias(name=name, asname=other):
                made.add(other or name.split(".")[0])
    return read, made


@pytest.mark.parametrize("page", PAGES)
def test_names_are_made_before_they_are_read(page: str) -> None:
    known = set(dir(builtins))
    for code in blocks(page):
        read, made = names(code)
        known |= made
        assert read <= known


def test_pages_on_searches_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of searching and of runs, one after another; only the sizes are small."""
    monkeypatch.chdir(tmp_path)
    [search], runs = blocks("searching.md"), blocks("runs.md")
    for large, small in {
        "shots=50, queries=10": "shots=2, queries=2",
        "episodes=600, seeds=20": "episodes=4, seeds=2",
        "32, 32": "8",
    }.items():
        assert search.count(large) == 1
        search = search.replace(large, small)
    found: dict[str, object] = {}
    for code in (search, *runs):
        exec(compile(code, "docs", "exec"), found)  # noqa: S102 - our own files
    result = found["result"]
    assert isinstance(result, rs.Result)
    assert [entry["lam"] for entry in result.content["front"]] == [5, 10, 20]


def test_the_page_on_sweeps_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sweep on a journal, and its study of Optuna's; only the sizes are small."""
    monkeypatch.chdir(tmp_path)
    sweep, study = blocks("sweeps.md")
    url = "postgresql://me@db/rulesearch"
    assert sweep.count(url) == 2
    Path("sweep.yaml").write_text(tiny_sweep.BASE + "  over: {penalty.lam: [1, 5]}\n")
    swept = run([sweep.replace(url, "journal.log")])
    runs = sorted(swept["folder"].glob("trial-*"))
    assert [path.name for path in runs] == ["trial-0000", "trial-0001"]
    assert swept["result"].rule in [rs.load_run(path).rule for path in runs]

    for large, small in {
        "tasks=tasks,": "tasks=tasks, episodes=4, seeds=2,",
        "n_trials=20": "n_trials=2",
    }.items():
        assert study.count(large) == 1
        study = study.replace(large, small)
    trials = run([study])["study"].trials
    results = [rs.load_run(f"runs/by-hand/{number}") for number in range(2)]
    assert [trial.values for trial in trials] == [[r.loss, len(r.terms)] for r in results]
    lams = [result.content["pick"]["lam"] for result in results]
    assert lams == [trial.params["lam"] for trial in trials]


def run(code: list[str], **known: object) -> dict[str, Any]:
    """What pieces of a page, one after another, leave."""
    found: dict[str, Any] = dict(known)
    for piece in code:
        exec(compile(piece, "docs", "exec"), found)  # noqa: S102 - our own files
    return found


def test_arrays_and_tasks_of_ones_own_on_the_page_on_data(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, family, compared = (
        next(code for code in blocks("data.md") if part in code)
        for part in ("from_arrays", "class NextValue", "rs.evaluate")
    )
    found = run([arrays])
    assert (found["tasks"].n_in, found["tasks"].n_out, found["tasks"].steps) == (24, 4, 20)
    monkeypatch.setattr("rulesearch.search.evidence.TUNING", 3)
    assert compared.count("network=network,") == 1
    few = compared.replace("network=network,", "network=network, lifetimes=3,")
    found = run([family, few])
    assert len(found["evidence"].rows) == 3 * 3  # conditions, and rules
    check_family("tasks", found["tasks"], "a family", "generators", "dtype")
    batch = found["tasks"].sample([torch.Generator().manual_seed(seed) for seed in (0, 1)])
    check_batch("tasks", found["tasks"], batch, 2)
    following = 2 * batch.x[..., 2] * math.cos(0.3) - batch.x[..., 1]  # of any sine
    torch.testing.assert_close(batch.label[..., 0], following, atol=1e-5, rtol=0)
    torch.testing.assert_close(batch.x[1:, :, 2], batch.label[:-1, :, 0])
    torch.testing.assert_close(batch.x_query[:, 0, 2], batch.label[-1, :, 0])


def test_a_reward_strengthens_what_it_followed_on_the_page_on_grammars() -> None:
    torch.manual_seed(0)
    [loop] = [code for code in blocks("grammar.md") if "reward" in code]
    mean = run([loop])["W"].mean(1)
    assert mean[0] > 0.1 > -0.1 > mean[1]


def test_a_rule_teaches_a_module_on_the_page_on_grammars() -> None:
    torch.manual_seed(0)
    loops = [code for code in blocks("grammar.md") if "rule.delta" in code]
    assert run(loops)["right"] == 1


def test_recordings_are_tasks_on_the_page_on_data() -> None:
    [family, recordings] = [c for c in blocks("data.md") if "class " in c]
    found = run([family, recordings])
    tasks = found["recorded"]
    check_family("tasks", tasks, "a family", "generators", "dtype")
    batch = tasks.sample([torch.Generator().manual_seed(seed) for seed in (0, 1)])
    check_batch("tasks", tasks, batch, 2)
    result = rs.search(
        found["pool"].subset(["F0", "F3"]), network=found["linear"], tasks=tasks, episodes=20,
        refit_episodes=0, seeds=1, controls=False, rate=1e-2,
    )  # fmt: skip
    assert (
        result.history["search"].loss[0, -3:].mean() < result.history["search"].loss[0, :3].mean()
    )


def test_the_page_on_contrasts(capsys: pytest.CaptureFixture[str]) -> None:
    """Contrast and unrolling agree on the decay of a module's weights, which then does better.

    So do contrast and the exact gradient on its complex synapses, which do on tasks never met;
    and what learns one thing after another keeps all of it.
    """
    run(blocks("contrastive.md"))
    _, cosine, losses, exact, judged, kept = capsys.readouterr().out.splitlines()
    assert float(exact[7:-1]) > 0.999
    assert [float(loss) for loss in judged.split(" -> ")] == pytest.approx([0.321, 0.068], abs=5e-3)
    assert float(cosine[7:-1]) == pytest.approx(0.998, abs=1e-3)
    assert [float(loss) for loss in losses.split(" -> ")] == pytest.approx([0.157, 0.121], abs=2e-3)
    before, after = (float(loss) for loss in kept.split(" -> "))
    assert before > 1
    assert after < 0.15


def test_the_page_on_complex_synapses(capsys: pytest.CaptureFixture[str]) -> None:
    """A rule's consolidated state, and slow weights under modulation, are worth something."""
    run(blocks("cml.md"))
    losses, right = (
        [float(v) for v in line.split(" -> ")] for line in capsys.readouterr().out.splitlines()
    )
    assert losses == pytest.approx([0.31, 0.24], abs=0.02)
    assert right[0] < 0.5 < 0.8 < right[1]


def test_the_page_on_spiking_networks(capsys: pytest.CaptureFixture[str]) -> None:
    """Three updates of e-prop's consolidated weights help on tasks never met."""
    run(blocks("spiking.md"))
    _, met, unseen = capsys.readouterr().out.splitlines()
    first, *later = (float(loss) for loss in met.split()[1:])
    assert first == pytest.approx(1.80, rel=0.05)
    assert later == pytest.approx([1.76, 4.70], rel=0.3)  # a spike more or less is the processor's
    before, after = (float(loss) for loss in unseen.removeprefix("unseen: ").split(" -> "))
    assert after < 0.8 * before


def test_the_page_on_bandits() -> None:
    """Its agent pays less than one that chooses at random."""
    found = run(blocks("bandit.md")[:1])
    shares = found["regret"].mean(1) / torch.tensor([uniform_regret(0.5), uniform_regret(0.9)])
    assert (shares < torch.tensor([0.5, 0.9])).all()


def small_flp(*parts: str) -> dict[str, Any]:
    """What the pieces of FLP's page that hold these leave, of small networks and short lives."""
    code = [next(c for c in blocks("flp.md") if part in c) for part in parts]
    small = {r"Sines\((\s*functions=4, )?(batches=\w+,? ?)?": r"Sines(batches=1, \1",
             "import SINES,": "import", "SINES": "SMALL"}  # fmt: skip
    for large, other in small.items():
        code = [re.sub(large, other, c) for c in code]
    return run(code, torch=torch, rs=rs, SMALL=FLPSettings((11, 8, 1), 1))


def test_a_model_that_was_kept_goes_on_on_the_page_on_flp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = small_flp(
        "one meta-batch", "Stage(800", "updates=1)", "model.judge", "elsewhere", "follow_updates"
    )
    assert [stage.tasks.steps for stage in found["staged"].stages] == [4, 10]
    found["training"].update()
    models = found["model"], found["again"].model
    pairs = zip(*(model.parameters() for model in models), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    kept = load_file("sines.safetensors")  # after the same update
    state = found["elsewhere"].state_dict()
    assert all(torch.equal(value, kept[f"model.{key}"]) for key, value in state.items())
    assert found["output"].shape == (2, 10 * 32, 1)
    assert found["disturbed"].shape == (2, 1, 9)
    assert found["at_birth"].shape == (2, 1)
    assert found["curve"].shape == (2, 1, 11)
    assert found["updates"].alignment.shape == found["updates"].magnitude.shape == (2, 1, 10, 1)


def test_networks_of_a_run_live_on_the_page_on_flp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    reproduce(tiny(rows=("flp-3",)), "runs/flp-table1-small")
    code = next(c for c in blocks("flp.md") if "trained_model" in c)
    assert code.count("functions=4, batches=6") == 1
    found = run([code.replace("4, batches=6", "2, batches=3")], torch=torch, rs=rs)
    assert (found["flp3"].seeds, len(found["flp3"].W)) == (2, 3)
    assert capsys.readouterr().out.startswith("tensor([")


def test_a_rule_is_learnt_on_the_page_on_flp() -> None:
    found = small_flp("one meta-batch", "candidates.init")
    found["training"].update()  # rates begin at zero, and with them the slope of the rule
    born = torch.tensor(found["candidates"].init)
    moved = (found["model"].theta.detach() - born).abs()
    assert moved.shape == (2, 10)
    assert 0 < moved.max() < 1.1e-3


def test_settings_of_ones_own_on_the_page_on_flp() -> None:
    found = small_flp("one meta-batch", "own = flp_model")
    tasks = rs.tasks.IncrementalSines(functions=2, batches=1, examples=2, queries=2)
    assert (found["own"].learner.network.sizes, tasks.n_in) == ((16, 16, 1), 3)
    training = MetaTraining(found["own"], tasks, found["settings"].rates)
    assert training.update().loss.isfinite().all()


def test_sines_of_the_page_on_data() -> None:
    found: dict[str, object] = {"rs": rs}
    [code] = [code for code in blocks("data.md") if "sines.fresh" in code]
    exec(compile(code, "docs", "exec"), found)  # noqa: S102 - our own file
    x, target = found["x"], found["target"]
    assert isinstance(x, torch.Tensor)
    assert isinstance(target, torch.Tensor)
    assert x.shape[:2] == target.shape[:2] == (1, 1000)  # a hundred of each of ten sines
