"""The report: one HTML page that needs nothing but itself, and the figures as files."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from rulesearch.files import make_folder, read_manifest, write_atomically
from rulesearch.report.achievements import achievement_note, achievements, measure
from rulesearch.report.configuration import check_configuration
from rulesearch.report.figures import PLATES
from rulesearch.report.result import notes_of
from rulesearch.report.run_data import RunData
from rulesearch.report.style import figure_bytes
from rulesearch.report.table import (
    front_columns,
    front_figure,
    front_note,
    front_terms,
    interval_text,
    latex_coefficient,
    latex_table,
    number,
    share_text,
    shares,
    stability_note,
    stability_rows,
)
from rulesearch.report.typeset import latex_number, math_svg, rule_pieces
from rulesearch.rules import Rule

__all__ = ["render_page", "write_report"]

POINT = 4.0 / 3.0  # CSS pixels in a point


def write_report(run: str | Path) -> Path:
    """Write ``report.html`` and ``figures/*.svg, *.pdf`` into a run folder.

    Works on a search still under way too; what is not known yet is left out. Each file
    appears whole or not at all.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    RunError
        If the folder is not a run, is damaged, cannot be written, or its configuration is not
        what it began with.
    """
    check_configuration(Path(run), read_manifest(Path(run)))
    data = RunData.load(run)
    drawings: dict[str, bytes] = {}
    folder = make_folder(data.path / "figures")
    for plate in PLATES:
        if not plate.available(data):
            continue
        figure = plate.draw(data)
        for form in ("pdf", "svg"):
            drawing = figure_bytes(figure, form)
            write_atomically(folder / f"{plate.name}.{form}", drawing)
        drawings[plate.name] = drawing
    return write_atomically(data.path / "report.html", render_page(data, drawings))


def render_page(run: RunData, drawings: Mapping[str, bytes]) -> str:
    """Return the page's HTML.

    Parameters
    ----------
    run : RunData
    drawings : Mapping from a plate's name to its SVG file
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["math"] = math_svg
    template = environment.from_string(
        (files("rulesearch.report") / "page.html.j2").read_text(encoding="utf-8")
    )
    result = run.result
    plates = [
        {
            "title": plate.title,
            "caption": plate.caption(run),
            "data": base64.b64encode(drawings[plate.name]).decode("ascii"),
            **_size(drawings[plate.name]),
        }
        for plate in PLATES
        if plate.name in drawings
    ]
    found = achievements(result) if result else []
    return template.render(
        run=run,
        result=result,
        subtitle=_subtitle(run),
        pieces=rule_pieces(Rule.from_json(result["rule"]).latex()) if result else [],
        notes=notes_of(result) if result else (),
        latex_table=latex_table(result) if result else "",
        measure=measure(result) if result else "",
        achievements=found,
        tested=any(row.p is not None for row in found),
        diverged=achievement_note(found),
        front_figure=front_figure,
        front_note=front_note(result) if result else "",
        front_terms=front_terms,
        front_columns=front_columns(result) if result else [],
        coefficient=lambda row: latex_coefficient(row["coefficient"], row["spread"]),
        shares=shares(result) if result else [],
        stability=stability_rows(result) if result and "stability" in result else [],
        stability_note=stability_note(result) if result and "stability" in result else "",
        share=lambda value: share_text(value, len(run.seeds)),
        p_value=lambda p: latex_number(p, digits=2),
        number=number,
        interval=interval_text,
        plates=plates,
        provenance=_provenance(run),
        rule_json=_pretty(result["rule"]) if result else "",
        manifest_json=_pretty(run.manifest),
    )


def _subtitle(run: RunData) -> str:
    """Say in one line what was searched."""
    seeds = len(run.seeds)
    parts = [f"{len(run.terms)} candidate terms", f"{seeds} seed{'s' * (seeds != 1)}"]
    if len(run.lambdas) > 1:
        parts.append(f"{len(run.lambdas)} penalties")
    if "episodes" in run.manifest:
        episodes = run.manifest["episodes"]
        parts.append(f"{episodes} update{'s' * (episodes != 1)}")
    return " · ".join(parts)


def _provenance(run: RunData) -> list[tuple[str, str]]:
    """Return what made this run, as the manifest tells it, in lines for people."""
    manifest = run.manifest
    seeds = ", ".join(str(seed) for seed in run.seeds)
    scales = zip(run.terms, manifest.get("scales") or [], strict=False)
    rows = {
        "Grammar": manifest.get("grammar"),
        "Network": _flat(manifest.get("network")),
        "Tasks": _flat(manifest.get("tasks")),
        "Updates": manifest.get("episodes"),
        "Penalties": ", ".join("none" if lam is None else f"{lam:g}" for lam in run.lambdas),
        "Seeds": seeds,
        "Term scales": ", ".join(f"{term.name} {scale:.3g}" for term, scale in scales),
        "Software": _flat(
            {"rulesearch": manifest.get("rulesearch", ""), **manifest.get("software", {})}
        ),
        "Started": manifest.get("created"),
    }
    return [(key, str(value)) for key, value in rows.items() if value]


def _flat(value: Any) -> str:
    """One line for a mapping or list of plain values; what is empty or off is left out."""
    if isinstance(value, Mapping):
        said = {key: inner for key, inner in value.items() if inner not in (None, False, "", [])}
        parts = [key if inner is True else f"{key} {_flat(inner)}" for key, inner in said.items()]
        return ", ".join(part.replace("_", " ") for part in parts)
    if isinstance(value, (list, tuple)):
        return "-".join(_flat(inner) for inner in value)
    return "" if value is None else str(value)


def _size(svg: bytes) -> dict[str, int]:
    """Width and height of a figure in CSS pixels, so that the page does not jump."""
    sizes = re.findall(rb'(width|height)="([\d.]+)pt"', svg[:2000])
    return {key.decode(): round(float(value) * POINT) for key, value in sizes[:2]}


def _pretty(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False)
