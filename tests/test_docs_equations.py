"""The documentation's equations, as browsers get them, say what their LaTeX says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

nodes = pytest.importorskip("docutils.nodes", reason="of the extra 'docs'")
pytest.importorskip("sphinx", reason="of the extra 'docs'")

FILE = Path(__file__).parents[1] / "docs" / "mathml.py"


@pytest.fixture(scope="module")
def mathml() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mathml", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn(mathml: ModuleType, latex: str) -> str:
    """The elements, each as tag[children] or as its text."""

    def told(element: ElementTree.Element) -> str:
        tag = element.tag.rpartition("}")[2]
        return f"{tag}[{' '.join(map(told, element))}]" if len(element) else str(element.text)

    return told(ElementTree.fromstring(mathml.mathml(nodes.math(latex, latex))))


@pytest.mark.parametrize(
    ("latex", "elements"),
    [
        (r"\frac{1}{2} x", "math[mfrac[1 2] x]"),
        (r"\boldsymbol\alpha x", "math[𝛂 x]"),  # noqa: RUF001
        (r"\frac{\boldsymbol{\alpha} x}{y}", "math[mfrac[mrow[𝛂 x] y]]"),  # noqa: RUF001
        (r"\hat{\phi}_\beta x", "math[msub[mover[ϕ ˆ] β] x]"),  # noqa: RUF001
        (r"\overline{u}_t x", "math[msub[mover[u _] t] x]"),
        (r"\sum_i^n x", "math[munderover[∑ i n] x]"),
    ],
)
def test_what_is_written_is_drawn(mathml: ModuleType, latex: str, elements: str) -> None:
    assert drawn(mathml, latex) == elements


@pytest.mark.parametrize("latex", [r"\frac12 x", r"\tfrac12(x)", r"\sqrt xy", r"\nosuchcommand"])
def test_what_would_be_drawn_as_something_else_is_told(
    mathml: ModuleType, latex: str, caplog: pytest.LogCaptureFixture
) -> None:
    mathml.mathml(nodes.math(latex, latex))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
