"""What a reproduction's table tells of settings that are not those of the named scale."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_reproduction import tiny

from rulesearch.errors import ConfigError, RuleSearchError
from rulesearch.grammar import Term, TermPool
from rulesearch.reproduce import (
    REPRODUCTIONS,
    Outcome,
    Plan,
    load_outcome,
    load_plan,
    make_plan,
    reproduce,
)
from rulesearch.reproduce.flp_table2 import ImageSettings, image_network
from rulesearch.reproduce.given import named_rule
from rulesearch.reproduce.tables import latex, markdown
from rulesearch.rules import Rule

pytestmark = pytest.mark.usefixtures("one_thread")


def told(plan: Plan) -> list[str]:
    """Lines of the notes that tell of settings."""
    lines = markdown(Outcome(plan, {}).content).splitlines()
    return [line.removeprefix("- ") for line in lines if line.startswith("- With ")]


def test_a_shrunken_run_says_so_wherever_its_table_stands(tmp_path: Path, run_main: Any) -> None:
    run = tmp_path / "run"
    content = reproduce(tiny("pool=40", rows=("oml-3",)), run).content
    expected = "hidden=[5, 5, 5], functions=2, batches=3, examples=4, pool=40, rate=0.001."
    for text in (markdown(content), latex(content), run_main("show", run)[1]):
        (line,) = (line for line in text.splitlines() if "With " in line)
        assert line.endswith(f"With {expected}")
    assert (run / "table.md").read_text() == markdown(content)
    other = tmp_path / "other"
    reproduce(tiny("pool=40", "seed=1", rows=("oml-3",)), other)
    assert "pool=40, rate=0.001." in run_main("show", run, other)[1]  # seeds are not alike
    assert "seed=1, hidden" in run_main("show", other)[1]


@pytest.mark.parametrize(
    ("name", "scale"), [(r.name, scale) for r in REPRODUCTIONS.values() for scale in r.scales]
)
def test_a_scale_as_it_is_has_nothing_to_tell(name: str, scale: str) -> None:
    said = ("seeds=3", "checkpoint_every=5")
    assert told(make_plan(name, scale)) == told(make_plan(name, scale, said)) == []


def test_settings_are_told_as_they_are_given() -> None:
    one_shot = make_plan("cml-table2", overrides=["one_shot.steps=50", "one_shot.meta_rate=0.5"])
    assert told(one_shot) == ["With one_shot.steps=50, one_shot.meta_rate=0.5."]
    again = ["pathway=layered", "plastic=true", "clip=null", "conditions=[iid]", "hidden=[5, 5, 5]"]
    (line,) = told(make_plan("flp-table1", overrides=again))
    assert line == 'With pathway="layered", plastic=true, clip=null, hidden=[5, 5, 5].'
    given = line.removeprefix("With ").removesuffix(".").split(", ", 3)
    assert make_plan("flp-table1", overrides=given).changed == {
        "pathway": "layered", "plastic": True, "clip": None, "hidden": [5, 5, 5]
    }  # fmt: skip


def test_all_settings_are_told_where_no_scale_has_the_name_any_more(tmp_path: Path) -> None:
    run = tmp_path / "run"
    reproduce(replace(tiny(rows=("oml-3",)), scale="tiny"), run)
    content = load_outcome(run).content
    assert content["changed"].keys() == content["settings"].keys() - {
        "updates", "episodes", "seeds", "lifetimes", "conditions", "checkpoint_every", "device"
    }  # fmt: skip


# -- the rule, and where mixing begins --

DIGITS = ("data=digits", "held_out=3", "ways=3")


def model_of(name: str, *overrides: str) -> Any:
    """What the first job of FLP (2) begins as."""
    job = next(job for job in make_plan(name, "small", overrides).jobs() if job.row == "flp-2")
    return job.begin({}).model


def saved(expr: str, path: Path) -> str:
    Rule(TermPool([Term.from_text("own", expr)]), {"own": 0.5}).save(path)
    return str(path)


def test_flp_learns_by_the_rule_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert model_of("flp-table1").learner.pool.names == ("oja_single",)
    assert model_of("flp-table1", "rule=hebb").learner.rule.coefficients == {"hebb": 1.0}
    file = saved("e_post * y_pre.T", tmp_path / "rule.json")
    monkeypatch.chdir(tmp_path)
    plan = tiny("rule=rule.json", rows=("flp-2",))
    assert plan.settings.model_dump()["rule"] == file  # the same from any folder
    outcome = reproduce(plan, tmp_path / "run")
    monkeypatch.chdir(tmp_path.parent)
    assert all(done.model["theta"].eq(0.5).all() for done in outcome.finished.values())
    assert f'With rule="{file}", hidden' in markdown(load_outcome(tmp_path / "run").content)
    begun = load_plan(tmp_path / "run").jobs()[0].begin({}).model
    assert begun.learner.rule == Rule.load(file)  # type: ignore[union-attr]
    ours = reproduce(tiny(rows=("flp-2",)), tmp_path / "oja").content["rows"][0]["ours"]["iid"]
    assert outcome.content["rows"][0]["ours"]["iid"]["value"] != ours["value"]


def test_a_rule_of_cml_is_named_in_the_same_way(tmp_path: Path) -> None:
    file = saved("-e_post * y_pre.T", tmp_path / "rule.json")
    for given, expected in (("ehebb", named_rule("ehebb")), (file, Rule.load(file))):
        job: Any = make_plan("cml-rules", "small", [*DIGITS, f"rule={given}"]).jobs()[0]
        learnt_by = job.measure.func.__self__.rule.coefficients
        assert learnt_by == {**expected.coefficients, "consolidation": 0.0}


@pytest.mark.parametrize("name", ["flp-table1", "cml-rules"])
def test_a_rule_that_is_none_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "rule.json").write_text("[]")
    for given, told in {
        "hebbb": "rule=hebbb: no term of the catalogue and no file has this name; did you mean",
        tmp_path / "none.json": "none.json: no term of the catalogue and no file has this name",
        tmp_path / "rule.json": "rule.json: not a rule: 'kind' should be 'rulesearch rule'",
    }.items():
        data = DIGITS if name == "cml-rules" else ()
        plan = make_plan(name, "small", [*data, f"rule={given}"])
        with pytest.raises(RuleSearchError, match=told):
            plan.jobs()


def test_rules_that_a_network_cannot_follow_are_refused_before_it_is_trained(
    tmp_path: Path,
) -> None:
    for expr, setting, told in (
        ("B", "plastic=false", "needs B of its own"),
        ("e_post * y_pre.T", "plastic=true", "needs e_post"),
    ):
        file = saved(expr, tmp_path / "rule.json")
        with pytest.raises(RuleSearchError, match=rf"^rule={file}: a term {told}"):
            reproduce(tiny(f"rule={file}", setting), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(RuleSearchError, match="'rule': is what this searches for"):
        make_plan("flp-rules", "small", ["rule=hebb"])


def test_mixing_begins_where_it_is_said() -> None:
    def begun(*overrides: str) -> dict[str, list[float]]:
        jobs = make_plan("flp-table1", "small", overrides).jobs()
        models: dict[str, Any] = {j.row: j.begin({}).model for j in jobs if not j.needs}
        return {row: [round(m[0].item(), 3) for m in model.mixing] for row, model in models.items()}

    assert begun()["flp-3"] == [0.5, 0.5, 0.5]
    assert begun("mixing_start=0.9")["flp-2"] == [0.9, 0.9]
    each = begun("mixing_start=[0.1, 0.2, 0.3]")
    assert (each["flp-3"], each["flp-2"], each["feature-reuse-1"]) == (
        [0.1, 0.2, 0.3], [0.2, 0.3], [0.3]
    )  # fmt: skip
    assert each["gradient-3-random"] == each["oml-3"] == []
    with pytest.raises(ConfigError, match="mixing_start has 2 values; give one number, or 3"):
        begun("mixing_start=[0.1, 0.2]")
    with pytest.raises(RuleSearchError, match="'mixing_start': should be a valid number"):
        begun("mixing_start=[x]")


def test_mixing_of_images() -> None:
    settings = make_plan(
        "flp-table2", "small", ["mixing_start=[0.25, 0.5]", "mixing=0.01", "rule=hebb"]
    ).settings
    assert isinstance(settings, ImageSettings)
    two, one = (image_network(settings, "iid", layers) for layers in (2, 1))
    assert (two.mixing, one.mixing) == ((0.25, 0.5), (0.5,))
    assert (two.rates.mixing, two.rule) == (0.01, "hebb")
    usual = make_plan("flp-table2", "small").settings
    assert isinstance(usual, ImageSettings)
    assert image_network(usual, "iid", 2).mixing == 1.0
    with pytest.raises(ConfigError, match="mixing_start has 3 values; give one number, or 2"):
        image_network(usual.model_copy(update={"mixing_start": (1.0, 1.0, 1.0)}), "iid", 2)


NEW = ("rule", "mixing_start")


def test_runs_from_before_there_were_these_settings_are_read(tmp_path: Path, run_main: Any) -> None:
    run = tmp_path / "run"
    reproduce(tiny(rows=("flp-2",)), run)
    shown, config = run_main("show", run), run / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)
    older = [line for line in lines if not line.strip().startswith(tuple(f"{k}:" for k in NEW))]
    assert len(lines) - len(older) == len(NEW)
    config.write_text("".join(older))
    assert run_main("show", run) == shown
    assert run_main("resume", run)[0] == 0
