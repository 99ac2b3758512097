"""The report from a run folder: read, drawn, typeset, and safe from what a run may hold."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from synthetic_run import KEPT, TERMS, synthetic_run

from rulesearch import Rule
from rulesearch.errors import RunError
from rulesearch.report.figures import PLATES
from rulesearch.report.page import render_page, write_report
from rulesearch.report.run_data import RunData
from rulesearch.report.style import _apart, figure_bytes
from rulesearch.report.table import (
    achievements,
    coefficient_text,
    latex_coefficient,
    latex_table,
    number,
    text_table,
)
from rulesearch.report.typeset import latex_number, math_label, math_svg, rule_pieces

HOSTILE = "<script>alert(1)</script>\"'{{ 7*7 }}$\\end{document}"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "path"
    return synthetic_run(folder, seeds=6, updates=80, lambdas=(3.0, 10.0, 30.0))


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


@pytest.fixture
def result(run: Path) -> dict[str, Any]:
    return json.loads((run / "result.json").read_text())


class Page(HTMLParser):
    """Every element with its attributes, and the text outside the style sheet."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._style = False
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._style = tag == "style"

    def handle_data(self, data: str) -> None:
        self.text += "" if self._style else data


# --- reading a run -----------------------------------------------------------------------


def test_run_data_holds_what_was_logged(run):
    data = RunData.load(run)
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
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


def test_a_refit_shows_the_rows_of_the_pick(run):
    data = RunData.load(run)
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
    with pytest.raises(RunError, match=r"not a run folder"):
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
    with pytest.raises(RunError, match=r"manifest\.json: expected a JSON object"):
        RunData.load(folder)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(RunError, match=r"manifest\.json: not valid JSON"):
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


# --- figures -----------------------------------------------------------------------------


@pytest.mark.parametrize("plate", PLATES, ids=lambda plate: plate.name)
def test_each_figure_draws_the_same_twice(run, plate):
    data = RunData.load(run)
    assert plate.available(data)
    first, second = (figure_bytes(plate.draw(data), "svg") for _ in range(2))
    assert first == second
    ET.fromstring(first)


def test_figures_show_what_they_say(run):
    data = RunData.load(run)
    figures = {plate.name: plate.draw(data) for plate in PLATES}
    accuracy, loss = figures["meta_learning"].axes
    assert (accuracy.get_title("left"), loss.get_title("left")) == ("meta-accuracy", "meta-loss")
    assert accuracy.get_xlabel() == "update (running mean over 2)"
    assert loss.get_xlabel() == "update (running median over 2)"
    written = {text.get_text() for text in accuracy.texts}
    assert written == {"pool", "survivors", "backprop", "feedback alignment"}
    assert [len(figures[name].axes) for name in ("alignment", "orthonormality")] == [3, 4]
    assert figures["orthonormality"].axes[0].get_yscale() == "log"
    for ax in figures["orthonormality"].axes:
        labels = {text.get_text() for text in ax.texts}
        assert labels == {rf"$\ell={layer}$" for layer in (1, 2, 3, 4)}, "the last is left out"
    titles = [ax.get_title("left") for ax in figures["kept_terms"].axes]
    assert titles == [r"$\lambda=3$", r"$\lambda=10$", r"$\lambda=30$"]
    widths = [bar.get_width() for bar in figures["kept_terms"].axes[1].patches]
    assert widths == [term[-1] for term in TERMS]
    colours = {
        text.get_text().split()[0]: text.get_color()
        for text in figures["coefficients"].axes[0].texts
    }
    grey = colours["F1"]
    assert {name for name, colour in colours.items() if colour != grey} == set(KEPT)
    assert len({colours[name] for name in KEPT}) == 3


def test_one_lifetime_that_diverges_does_not_flatten_a_figure(tmp_path):
    folder = synthetic_run(tmp_path, seeds=6, updates=60)
    path = folder / "events.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for event in events:
        if event["event"] == "update" and event["update"] in (20, 21, 40):
            event["loss"][2] = 3e8
        if event["event"] == "probe" and event["update"] == 20:
            event["orthonormality"][1] = [1e30] * 5
    path.write_text("\n".join(map(json.dumps, events)) + "\n")
    figures = {plate.name: plate.draw(RunData.load(folder)) for plate in PLATES}
    _, loss = figures["meta_learning"].axes
    assert 1.0 < loss.get_ylim()[1] < 6.0
    assert figures["orthonormality"].axes[0].get_ylim()[1] < 1e4


def test_losses_over_decades_are_logarithmic(tmp_path):
    folder = synthetic_run(tmp_path, seeds=3, updates=40, labels=False)
    path = folder / "events.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for event in (e for e in events if e["event"] == "update"):
        event["loss"] = [10.0 ** (-0.1 * event["update"])] * len(event["loss"])
    path.write_text("\n".join(map(json.dumps, events)) + "\n")
    (loss,) = PLATES[0].draw(RunData.load(folder)).axes
    assert loss.get_yscale() == "log"
    low, high = loss.get_ylim()
    assert low < 1e-3
    assert 0.5 < high < 3


def test_labels_move_apart_as_little_as_possible():
    np.testing.assert_allclose(_apart(np.array([0.0, 0.5, 1.0]), 0.1), [0.0, 0.5, 1.0])
    np.testing.assert_allclose(_apart(np.array([0.5, 0.5, 0.5]), 0.1), [0.4, 0.5, 0.6])
    np.testing.assert_allclose(_apart(np.array([0.0, 0.02, 0.9]), 0.1), [-0.04, 0.06, 0.9])
    assert _apart(np.array([]), 0.1).size == 0


# --- the page ----------------------------------------------------------------------------


def test_page_needs_nothing_but_itself(page):
    content = Page(page)
    for tag, attributes in content.elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base"}
        for key in ("src", "href", "srcset", "poster", "xlink:href"):
            value = attributes.get(key)
            assert value is None or value.startswith("data:image/svg+xml;base64,")
    assert "default-src 'none'" in page
    assert not re.search(r"url\(|@import", page)


def test_page_has_every_part(run, page):
    content = Page(page)
    images = [attributes for tag, attributes in content.elements if tag == "img"]
    assert len(images) == len(PLATES)
    for image, plate in zip(images, PLATES, strict=True):
        assert (image["alt"] or "").startswith(plate.title)
        assert int(image["width"] or 0) > 300
    ids = [attributes["id"] for _, attributes in content.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    formulas = [
        attributes.get("aria-label") for tag, attributes in content.elements if tag == "svg"
    ]
    for _, latex, *_ in TERMS:
        assert latex in formulas
    latex = Rule.from_json(json.loads((run / "result.json").read_text())["rule"]).latex()
    rule = " ".join(rule_pieces(latex))
    assert ("div", rule) in [(tag, a.get("aria-label")) for tag, a in content.elements]
    for told in (rule, r"\begin{tabular}", "episodes: 80", "torch 2.13.0", "784-170-130", "6/6"):
        assert told in content.text
    for plate in PLATES:
        assert (run / "figures" / f"{plate.name}.pdf").read_bytes().startswith(b"%PDF")
        ET.parse(run / "figures" / f"{plate.name}.svg")
    assert not list(run.rglob(".*")), "no half-written file is left"


def test_hostile_names_are_text(tmp_path):
    folder = synthetic_run(tmp_path, seeds=2, updates=12, name=HOSTILE)
    manifest = json.loads((folder / "manifest.json").read_text())
    outcome = json.loads((folder / "result.json").read_text())
    for entry in (manifest["terms"][0], outcome["table"][0]):
        entry.update(name=HOSTILE, latex=HOSTILE, locality=HOSTILE)
    manifest["grammar"] = HOSTILE
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "result.json").write_text(json.dumps(outcome))
    (folder / "config.yaml").write_text(f"# {HOSTILE} </pre>\n")
    data = RunData.load(folder)
    drawings = {plate.name: figure_bytes(plate.draw(data), "svg") for plate in PLATES[1:3]}
    content = Page(render_page(data, drawings))
    assert "script" not in {tag for tag, _ in content.elements}
    assert not any(key.startswith("on") for _, attributes in content.elements for key in attributes)
    assert HOSTILE in content.text
    assert "{{ 7*7 }}" in content.text


def test_a_search_under_way_has_a_page(tmp_path):
    folder = synthetic_run(tmp_path, seeds=2, updates=12, finished=False)
    page = write_report(folder).read_text()
    assert "has not finished" in page
    assert len([tag for tag, _ in Page(page).elements if tag == "img"]) == 4
    (folder / "events.jsonl").unlink()
    assert "<img" not in write_report(folder).read_text()


def test_a_run_of_one_update_that_kept_nothing(tmp_path):
    folder = synthetic_run(tmp_path, seeds=1, updates=1, layers=1)
    outcome = json.loads((folder / "result.json").read_text())
    for row in outcome["table"]:
        row.update(kept=False, share=0.0, coefficient=None, spread=None)
    del outcome["accuracy"]["refit"]
    outcome["rule"]["terms"] = []
    (folder / "result.json").write_text(json.dumps(outcome))
    data = RunData.load(folder)
    page = render_page(data, {})
    assert "0/1" in page
    assert r"\Delta\mathbf{W}_{\ell-1,\ell} = \mathbf{0}" in page
    drawn = [plate.name for plate in PLATES if plate.available(data)]
    assert drawn == [each.name for each in PLATES if each.name not in ("penalty_path",)]
    for plate in PLATES:
        if plate.name in drawn:
            assert figure_bytes(plate.draw(data), "svg")


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")
@pytest.mark.parametrize("width", [1100, 500])
@pytest.mark.usefixtures("page")
def test_a_browser_shows_it(run, tmp_path, width):
    picture = tmp_path / "page.png"
    flags = [
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        "--hide-scrollbars",
    ]
    subprocess.run(
        [
            str(CHROMIUM),
            *flags,
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--screenshot={picture}",
            f"--window-size={width},4000",
            (run / "report.html").as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    shown = imread(picture)[..., :3]
    assert shown.shape[1] == width
    # The figures are there: blue ink of the search's curves below the tables.
    blue = np.abs(shown - np.array([0x00, 0x72, 0xB2]) / 255).max(axis=-1) < 0.05
    assert blue[1500:].sum() > 500
    margin = shown[:, -3:]
    assert np.ptp(margin) == 0, "nothing runs out of the page"
