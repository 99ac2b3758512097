"""Figures and page of a report: redrawn alike, whole, and safe from what a run may hold."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from synthetic_run import HOSTILE, KEPT, TERMS, synthetic_run

from rulesearch import Rule
from rulesearch.files import read_sealed, sealed
from rulesearch.report.figures import PLATES
from rulesearch.report.page import render_page, write_report
from rulesearch.report.run_data import RunData
from rulesearch.report.style import _apart, figure_bytes
from rulesearch.report.typeset import rule_pieces

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def page(path_run: Path) -> str:
    return write_report(path_run).read_text(encoding="utf-8")


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


def test_the_front_says_what_its_figures_are(page: str, tmp_path: Path) -> None:
    assert "Means over the seeds (of losses medians): with the penalty" in page
    other = synthetic_run(tmp_path, seeds=2, updates=20, lambdas=(1.0, 10.0), labels=False)
    assert "Medians over the seeds: with the penalty" in write_report(other).read_text()


# --- figures -----------------------------------------------------------------------------


@pytest.mark.parametrize("plate", PLATES, ids=lambda plate: plate.name)
def test_each_figure_draws_the_same_twice(path_run, plate):
    data = RunData.load(path_run)
    assert plate.available(data)
    first, second = (figure_bytes(plate.draw(data), "svg") for _ in range(2))
    assert first == second
    ET.fromstring(first)


def test_figures_show_what_they_say(path_run):
    data = RunData.load(path_run)
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


def test_networks_of_which_none_stayed_finite_are_not_drawn(tmp_path):
    folder = synthetic_run(tmp_path, seeds=3, updates=40)
    path = folder / "events.jsonl"
    events = [json.loads(line) for line in path.read_text().splitlines()]
    (plate,) = (plate for plate in PLATES if plate.name == "orthonormality")
    assert plate.available(RunData.load(folder))
    for event in events:
        if event["event"] == "probe":
            event["orthonormality"] = [[None] * len(row) for row in event["orthonormality"]]
    path.write_text("\n".join(map(json.dumps, events)) + "\n")
    assert not plate.available(RunData.load(folder))


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


def test_page_has_every_part(path_run, page):
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
    latex = Rule.from_json(json.loads((path_run / "result.json").read_text())["rule"]).latex()
    rule = " ".join(rule_pieces(latex))
    assert ("div", rule) in [(tag, a.get("aria-label")) for tag, a in content.elements]
    for told in (rule, r"\begin{tabular}", "episodes: 80", "torch 2.13.0", "784-170-130", "6/6"):
        assert told in content.text
    for plate in PLATES:
        assert (path_run / "figures" / f"{plate.name}.pdf").read_bytes().startswith(b"%PDF")
        ET.parse(path_run / "figures" / f"{plate.name}.svg")
    assert not list(path_run.rglob(".*")), "no half-written file is left"


def test_page_counts_seeds_that_diverged(tmp_path, page):
    folder = synthetic_run(tmp_path, seeds=6, updates=12)
    outcome = read_sealed(folder / "result.json", "")
    outcome["accuracy"]["refit"] = [0.9, 0.9, *[None] * 4]
    outcome["front"] = [{**outcome["front"][0], "lam": lam, "diverged": 4} for lam in (1.0, 10.0)]
    (folder / "result.json").write_text(json.dumps(sealed(outcome)))
    written = write_report(folder).read_text(encoding="utf-8")
    assert "in <i>p</i> the others rank last" in written
    found = re.sub(r"<[^>]+>", " ", written)
    assert re.search(r"survivors, refitted\s+0\.900\s+0\.900 to 0\.900\s+2/6\s", found)
    assert "those that did not diverge, of how many" in found
    assert "† over the seeds that did not diverge; others did." in found
    assert "†" not in page
    assert "those that did not diverge" not in page


def test_hostile_names_are_text(tmp_path):
    folder = synthetic_run(tmp_path, seeds=2, updates=12, name=HOSTILE)
    manifest = read_sealed(folder / "manifest.json", "")
    outcome = read_sealed(folder / "result.json", "")
    for entry in (manifest["terms"][0], outcome["table"][0]):
        entry.update(name=HOSTILE, latex=HOSTILE, locality=HOSTILE)
    manifest["grammar"] = HOSTILE
    (folder / "manifest.json").write_text(json.dumps(sealed(manifest)))
    (folder / "result.json").write_text(json.dumps(sealed(outcome)))
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
    outcome = read_sealed(folder / "result.json", "")
    for row in outcome["table"]:
        row.update(kept=False, share=0.0, coefficient=None, spread=None)
    del outcome["accuracy"]["refit"]
    outcome["rule"]["terms"] = []
    (folder / "result.json").write_text(json.dumps(sealed(outcome)))
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
def test_a_browser_shows_it(path_run, tmp_path, width):
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
            (path_run / "report.html").as_uri(),
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
