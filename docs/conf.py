"""Sphinx configuration; tables of what the code knows are made from it at every build."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.ext.autosummary.generate import find_autosummary_in_files

import rulesearch
from rulesearch.grammar.symbols import VOCABULARY
from rulesearch.tasks import data_sets

sys.path.insert(0, str(Path(__file__).parent))  # mathml.py

project = "rulesearch"
author = "The rulesearch developers"
project_copyright = author
release = version = rulesearch.__version__

extensions = [
    "mathml",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "generated/*.md"]
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

templates_path = ["_templates"]
autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's sections give types with their shapes
autodoc_member_order = "bysource"
numpydoc_show_class_members = False

html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["layout.css"]
html_theme = "furo"
html_title = f"rulesearch {release}"

SHAPES = {"post": "(n_post,)", "pre": "(n_pre,)", "weight": "(n_post, n_pre)"}


def table(*rows: tuple[str, ...]) -> str:
    rule = tuple("---" for _ in rows[0])
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:])) + "\n"


def write_tables(app: Sphinx) -> None:
    vocabulary = [
        (f"`{entry.name}`", f"${entry.latex}$", entry.about, f"`{SHAPES[entry.side]}`")
        for entry in VOCABULARY.values()
    ]
    data = [
        (f"`{each.name}`", each.title, str(each.classes or ""), each.size, each.licence)
        for each in data_sets()
    ]
    folder = Path(app.srcdir) / "generated"
    folder.mkdir(exist_ok=True)
    tables: dict[str, list[tuple[str, ...]]] = {
        "vocabulary": [("name", "in the paper", "means", "shape"), *vocabulary],
        "data_sets": [("name", "holds", "classes", "download", "licence"), *data],
    }
    for name, rows in tables.items():
        (folder / f"{name}.md").write_text(table(*rows), encoding="utf-8")


def drop_unlisted(app: Sphinx) -> None:
    """Remove what earlier builds generated for names that no page lists any more."""
    source = Path(app.srcdir)
    pages = [str(page) for page in source.glob("*.md")]
    listed = {entry.name for entry in find_autosummary_in_files(pages)}
    for page in source.glob("generated/*.rst"):
        if page.stem not in listed:
            page.unlink()


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", drop_unlisted, priority=100)
    app.connect("builder-inited", write_tables, priority=100)
