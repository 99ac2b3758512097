"""What a reproduction's table tells of settings that are not those of the named scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_reproduction import tiny

from rulesearch.reproduce import REPRODUCTIONS, Outcome, Plan, load_outcome, make_plan, reproduce
from rulesearch.reproduce.tables import latex, markdown

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
    reproduce(tiny(rows=("oml-3",)), run)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("scale: small", "scale: tiny"))
    content = load_outcome(run).content
    assert content["changed"].keys() == content["settings"].keys() - {
        "updates", "episodes", "seeds", "lifetimes", "conditions", "checkpoint_every", "device"
    }  # fmt: skip
