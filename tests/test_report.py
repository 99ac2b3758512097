"""The report from a run folder: read, drawn, typeset, and safe from what a run may hold."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_run import HOSTILE, KEPT, TERMS, synthetic_run

from rulesearch import Rule
from rulesearch.errors import RunError
from rulesearch.report.achievements import achievements
from rulesearch.report.page import write_report
from rulesearch.report.run_data import RunData
from rulesearch.report.table import (
    coefficient_text,
    latex_coefficient,
    latex_table,
    number,
    text_table,
)
from rulesearch.report.typeset import latex_number, math_label, math_svg, rule_pieces


@pytest.fixture
def result(path_run: Path) -> dict[str, Any]:
    return json.loads((path_run / "result.json").read_text())


# --- reading a run -----------------------------------------------------------------------


def test_run_data_holds_what_was_logged(path_run):
    data = RunData.load(path_run)
    events = [json.loads(line) for line in (path_run / "events.jsonl").read_text().splitlines()]
    searched = [e for e in events if e["event"] == "update" and e["phase"] == "search"]
    curves = data.curves["search"]
    assert curves.accuracy.shape == (18, 80)
    assert curves.theta.shape == (18, 80, 10)
    assert data.curves["backprop"].theta.shape == (6, 80, 1)
    np.testing.assert_array_equal(curves.theta[4, 7], searched[7]["theta"][4])
    assert data.probes["refit"].angles.shape == (18, 4, 5)
    assert (data.seeds, data.lambdas, data.lam) == (tuple(range(6)), (3.0, 10.0, 30.0), 10.0)
    assert data.kept == set(KEPT)
    assert data.measure == "accuracy"
    np.testing.assert_array_equal(data.shown("search", curves.accuracy), curves.accuracy[6:12])
    control = data.curves["backprop"].loss
    np.testing.assert_array_equal(data.shown("backprop", control), control)


def test_a_refit_shows_the_rows_of_the_pick(path_run):
    data = RunData.load(path_run)
    # Shorter sets first: lambda 30 left F2 alone, 10 left three terms, 3 the fourth besides.
    assert data.supports == (("F2",), ("F0", "F2", "F9"), ("F0", "F2", "F3", "F9"))
    loss = data.curves["refit"].loss
    assert loss.shape == (18, 40)
    np.testing.assert_array_equal(data.shown("refit", loss), loss[6:12])
    # What counts is the set that the penalty left, though the refit drop from it.
    outcome = {**(data.result or {}), "pick": {"lam": 3.0, "terms": ["F0", "F2", "F9"]}}
    np.testing.assert_array_equal(replace(data, result=outcome).shown("refit", loss), loss[12:])


def test_rejected_lifetimes_are_gaps(tmp_path):
    folder = synthetic_run(tmp_path, seeds=2, updates=3)
    line = {
        "event": "update",
        "phase": "search",
        "update": 1,
        "accuracy": [None, 0.5],
        "loss": [None, 1.0],
        "theta": [[0.0] * 10] * 2,
        "rejected": [1, 0],
    }
    with (folder / "events.jsonl").open("a") as stream:
        stream.write(json.dumps(line) + "\n")
    curves = RunData.load(folder).curves["search"]
    assert curves.updates.tolist() == [0, 1, 2], "the later event for an update counts"
    assert np.isnan(curves.accuracy[0, 1])
    assert curves.accuracy[1, 1] == 0.5


@pytest.mark.parametrize("cut", [1, 40, 90])
def test_a_torn_last_line_is_left_out(tmp_path, cut):
    whole = synthetic_run(tmp_path, seeds=2, updates=5)
    text = (whole / "events.jsonl").read_bytes()
    (whole / "events.jsonl").write_bytes(text[: -1 - cut])
    torn = RunData.load(whole).curves
    assert torn["feedback_alignment"].updates.size == 4
    assert torn["search"].updates.size == 5


def test_a_last_line_that_lacks_only_its_newline_counts(tmp_path):
    folder = synthetic_run(tmp_path, seeds=2, updates=5)
    text = (folder / "events.jsonl").read_bytes()
    (folder / "events.jsonl").write_bytes(text.rstrip(b"\n"))
    assert RunData.load(folder).curves["feedback_alignment"].updates.size == 5


def test_damage_is_named(tmp_path):
    with pytest.raises(RunError, match=r"is not a run: it has no manifest"):
        RunData.load(tmp_path)
    folder = synthetic_run(tmp_path / "run", seeds=2, updates=3)
    lines = (folder / "events.jsonl").read_text().splitlines()
    events = folder / "events.jsonl"
    events.write_text("\n".join([lines[0], lines[1][:30], *lines[2:], ""]))
    with pytest.raises(RunError, match=r"events\.jsonl:2: not valid JSON"):
        RunData.load(folder)
    ragged = {**json.loads(lines[2]), "accuracy": [0.1]}
    events.write_text("\n".join([*lines, json.dumps(ragged), ""]))
    with pytest.raises(RunError, match=r"phase 'search' do not have the same rows"):
        RunData.load(folder)
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(RunError, match=r"manifest\.json is damaged: it holds no JSON object"):
        RunData.load(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(RunError, match=r"manifest\.json is damaged: it is not valid JSON"):
        RunData.load(folder)


# --- tables ------------------------------------------------------------------------------


def test_text_table_tells_the_result(result):
    lines = text_table(result).splitlines()
    assert max(map(len, lines)) <= 96
    assert [line for line in lines if line.startswith(">")] == [
        ">      10     0.650     0.680  1.070     0.910   0.930 ± 0.02  F0 F2 F9"
    ]
    row = "        3     0.664     0.680  1.021     0.903   0.923 ± 0.02  F0 F2 F3 F9 -> F0 F2 F9"
    assert row in lines
    marked = [line.split()[1] for line in lines if line.startswith("*")]
    assert marked == list(KEPT)
    (f2,) = (line for line in lines if line.startswith("*  F2"))
    assert "(-2.90 ± 0.23)e-2" in f2
    assert "6/6" in f2
    assert "synapse" in f2
    assert r"-\mathbf{e}_{\ell}\mathbf{e}_{\ell-1}^{T}" in f2
    assert "   kept by no seed:  F1 F4 F6 F8" in lines
    for name in ("pool with penalty", "survivors, refitted", "backprop", "feedback alignment"):
        assert any(name in line for line in lines)


@pytest.mark.parametrize("width", [80, 96, 140])
def test_latex_in_the_text_table_is_whole_at_any_width(result, width):
    text = text_table(result, width)
    assert max(map(len, text.splitlines())) <= width
    joined = re.sub(r"\s+", "", text)
    for _, latex, *_, share in TERMS:
        assert (latex in joined) == (share > 0)
    assert not re.search(r" [-+]$", text, re.MULTILINE), "no sign is left at the end of a line"


def test_a_wide_terminal_has_one_line_a_term(result):
    lines = text_table(result, 170).splitlines()
    for name, latex, *_, share in TERMS:
        if share:
            (row,) = (line for line in lines if re.match(rf"[ *]  {name} ", line))
            assert row.endswith(latex)


def test_without_labels_the_loss_counts(tmp_path):
    folder = synthetic_run(tmp_path, seeds=4, updates=20, lambdas=(5.0, 10.0), labels=False)
    data = RunData.load(folder)
    assert data.measure == "loss"
    outcome = dict(data.result or {})
    outcome["loss"]["search"][0] = 2e7
    text = text_table(outcome)
    assert "accuracy" not in text
    assert "feedback alignment" not in text
    first, second = achievements(outcome)
    assert (first.phase, second.phase, first.p) == ("search", "refit", None)
    assert first.centre == np.median(outcome["loss"]["search"]) < 10
    assert f"{first.low:.3f} to {first.high:.2e}" in text
    page = write_report(folder).read_text()
    assert "Loss of" in page
    assert "ccuracy" not in re.sub(r"<pre>.*?</pre>|<!--.*?-->", "", page, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0.000"),
        (0.6543, "0.654"),
        (1.71e-4, "0.000171"),
        (2e-7, "2.00e-07"),
        (5.9e7, "5.90e+07"),
    ],
)
def test_numbers_keep_their_digits(value, text):
    assert number(value) == text


def test_one_penalty_has_no_front(result):
    alone = {**result, "front": result["front"][1:2]}
    assert "lambda" not in text_table(alone)


def test_achievements_carry_an_interval_and_a_test(result):
    rows = {row.phase: row for row in achievements(result)}
    values = result["accuracy"]["refit"]
    assert rows["refit"].centre == pytest.approx(np.mean(values))
    assert min(values) <= rows["refit"].low <= rows["refit"].centre <= rows["refit"].high
    # Six against six, all greater: one arrangement of 924.
    assert rows["refit"].p == pytest.approx(1 / 924)
    assert rows["feedback_alignment"].p is None
    assert achievements({**result, "accuracy": {"search": [0.5, None]}})[0].centre == 0.5


def test_seeds_that_diverged_are_counted_and_rank_last(result):
    """Three that did well beside seventeen that came to nothing are no better than twenty."""
    refit = [0.9] * 3 + [None] * 17
    accuracy = {"search": [0.9] * 20, "refit": refit, "feedback_alignment": [0.5, 0.52] * 10}
    outcome = {**result, "accuracy": accuracy}
    rows = {row.phase: row for row in achievements(outcome)}
    assert rows["search"].p < 1e-6
    assert (rows["refit"].centre, rows["refit"].finite, rows["refit"].seeds) == (0.9, 3, 20)
    assert rows["refit"].p > 0.99
    lines = text_table(outcome).splitlines()
    (row,) = (line.split() for line in lines if "survivors, refitted" in line)
    assert row[-5:] == ["0.900", "to", "0.900", "3/20", "1"]
    assert lines[-1] == (
        "seeds: those that did not diverge, of how many; figures are over them, in p the others "
        "rank last"
    )
    assert "others rank last" not in text_table(result)


def test_figures_of_the_front_tell_that_seeds_diverged(result):
    """Both before and after the refit; what held-out tasks lose is of the rule, not of seeds."""
    told = "† over the seeds that did not diverge; others did"
    assert told not in text_table(result)
    first, second, *others = result["front"]
    front = [{**first, "diverged": 2}, {**second, "refit_diverged": 1}, *others]
    text = text_table({**result, "front": front})
    assert f"\n{told}\n" in text
    rows = [line.split() for line in text.splitlines()[2:4]]
    marks = [sum("†" in cell for cell in row) for row in rows]
    assert marks == [2, 2]  # accuracy and loss
    assert f"{number(first['accuracy'])}†" in rows[0]
    assert f"{number(second['refit_accuracy'])}†" in rows[1]


def test_notes_below_a_table_fit_a_narrow_terminal(result):
    accuracy = {"search": [0.9, 0.8], "refit": [0.9, None], "feedback_alignment": [0.5, 0.52]}
    stability = {"terms": [], "searches": 20, "threshold": 0.75, "selected": 4.8,
                 "expected_false": 4.6}  # fmt: skip
    table = [{**row, "interval": None} for row in result["table"]]
    outcome = {**result, "table": table, "accuracy": accuracy, "stability": stability}
    for width, wide in ((80, False), (96, True), (140, True)):
        lines = text_table(outcome, width).splitlines()
        assert max(map(len, lines)) <= width
        assert ("* in 75% or more of 20 searches on halves of the tasks, which kept 4.8 terms on "
                "average; at most" in lines) == wide  # fmt: skip
        assert any(line.startswith("seeds: those that did not") for line in lines)


def test_losses_of_seeds_that_diverged_are_the_largest(result):
    """And where all have, there is no figure but that."""
    loss = {"search": [1.0] * 9, "refit": [None] * 9, "feedback_alignment": [2.0, None, 2.1] * 3}
    outcome = {**result, "accuracy": {phase: [None] * 9 for phase in loss}, "loss": loss}
    rows = {row.phase: row for row in achievements(outcome)}
    assert rows["search"].p < 1e-3
    assert rows["refit"].p > 0.99
    (row,) = (s.split() for s in text_table(outcome).splitlines() if "survivors, refitted" in s)
    assert row[-4:] == ["-", "-", "0/9", "1"]


@pytest.mark.parametrize(
    ("mean", "spread", "text", "latex"),
    [
        (8.41e-3, 6.2e-4, "( 8.41 ± 0.62)e-3", r"(8.41 \pm 0.62)\times 10^{-3}"),
        (-2.9e-2, 1.3e-3, "(-2.90 ± 0.13)e-2", r"(-2.90 \pm 0.13)\times 10^{-2}"),
        (1e-6, 1e-3, "( 0.00 ± 1.00)e-3", r"(0.00 \pm 1.00)\times 10^{-3}"),
        (9.999e-4, None, "( 1.00)e-3", r"(1.00)\times 10^{-3}"),
        (0.0, 0.0, "( 0.00 ± 0.00)", r"0.00 \pm 0.00"),
        (None, None, "-", "-"),
    ],
)
def test_coefficients_share_one_exponent(mean, spread, text, latex):
    assert coefficient_text(mean, spread) == text
    assert latex_coefficient(mean, spread) == latex


def test_latex_table_is_booktabs(result):
    result["table"][0]["name"] = "my_term"
    rows = latex_table(result).splitlines()
    assert rows[1] == r"\begin{tabular}{llrrl}"
    assert rows[-1] == r"\end{tabular}"
    body = [row for row in rows if row.endswith(r"\\")]
    assert len(body) == 11
    assert all(row.count(" & ") == 4 for row in body)
    assert body[1] == (
        r"my\_term & $-\mathbf{e}_{\ell}\mathbf{y}_{\ell-1}^{T}$ & "
        r"$(8.40 \pm 0.67)\times 10^{-3}$ & 6 & synapse \\"
    )
    assert [row.split(" & ")[0] for row in body[1:4]] == [r"my\_term", "F2", "F9"]


# --- mathematics -------------------------------------------------------------------------


def test_the_rule_is_cut_between_its_terms(result):
    latex = Rule.from_json(result["rule"]).latex()
    pieces = rule_pieces(latex)
    assert len(pieces) == 4
    assert pieces[0] == r"\Delta\mathbf{W}_{\ell-1,\ell} ="
    assert " ".join(pieces[1:]) == latex
    assert pieces[1].startswith(r"-8.40 \times 10^{-3} \, ")
    assert pieces[2].startswith("+ 0.029")
    assert re.match(r"\+ .* \(.* - .*\)$", pieces[3]), "a term that is a sum stays whole"
    assert rule_pieces(r"\mathbf{0}")[1:] == [r"\mathbf{0}"]


@pytest.mark.parametrize(
    ("value", "digits", "latex"),
    [
        (0.0, 3, "0"),
        (0.25, 3, "0.250"),
        (-12.34, 3, "-12.3"),
        (999.6, 3, r"1.00\times 10^{3}"),
        (3.4e-8, 2, r"3.4\times 10^{-8}"),
    ],
)
def test_numbers_in_latex(value, digits, latex):
    assert latex_number(value, digits) == latex


def test_formulas_become_outlines_with_a_name():
    latex = r"\mathbf{y}_{\ell} \odot 1 < 2"
    svg = ET.fromstring(str(math_svg(latex)))
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == latex
    assert svg.findtext("title") == latex
    outline = svg.find("path")
    assert outline is not None
    assert len(outline.get("d", "")) > 200
    assert "id" not in svg.attrib
    _, top, width, height = map(float, (svg.get("viewBox") or "").split())
    xs = [float(x) for x in re.findall(r"M(\S+) ", outline.get("d", ""))]
    assert min(xs) >= 0
    assert max(xs) <= width
    assert top < 0 < top + height, "the baseline lies inside"


@pytest.mark.parametrize("latex", [r"\frac", "a$b", HOSTILE, r"\undefined{x}", "{"])
def test_what_cannot_be_typeset_is_shown_as_source(latex):
    shown = str(math_svg(latex))
    assert shown.startswith("<code")
    assert "<script" not in shown
    assert math_label("F$1", latex) == r"F\$1"
