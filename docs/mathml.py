"""Mathematics as MathML, which browsers draw themselves: a page needs no network, no script."""

from __future__ import annotations

import re
from html import unescape
from xml.etree import ElementTree

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)

NAMESPACE = "http://www.w3.org/1998/Math/MathML"
ElementTree.register_namespace("", NAMESPACE)
ENTITY = re.compile(r"&(?!lt;|gt;|amp;)\w+;")  # of HTML, which XML does not know
PARTS = {"mfrac": 2, "mroot": 2, "msub": 2, "msup": 2, "msubsup": 3}
PARTS |= {"mover": 2, "munder": 2, "munderover": 3}
UNBRACED = re.compile(r"\\(?:[dt]?frac|sqrt) *[^{\[ ].")
ACCENTS = "_ˆˉ˜→˙¨"  # noqa: RUF001


def mathml(node: nodes.math | nodes.math_block) -> str:
    """What browsers draw; with a warning where that would not be what the LaTeX says."""
    # To docutils all that follows a \boldsymbol is its argument; \mathbf ends where it should.
    text = node.astext().replace(r"\boldsymbol", r"\mathbf")
    try:
        made = str(tex2mathml(text, as_block=isinstance(node, nodes.math_block)))
    except MathError as error:
        logger.warning("not in the LaTeX that MathML is made from: %s", error, location=node)
        return str(text)
    if found := UNBRACED.search(text):  # of \frac12 docutils makes 12 over what follows
        logger.warning("give %s its braces", found[0], location=node)
    tree = ElementTree.fromstring(ENTITY.sub(lambda found: unescape(found[0]), made))
    for element in tree.iter():
        tag = element.tag.removeprefix(f"{{{NAMESPACE}}}")
        if len(element) != PARTS.get(tag, len(element)):
            logger.warning("%s has %d parts: %s", tag, len(element), text, location=node)
        elif tag == "munderover" and element[2].text in ACCENTS:
            index_beside(element)
        elif tag == "mover" and element[1].text in ACCENTS:
            element.set("accent", "false")  # or fonts that are not for mathematics hide it
    return ElementTree.tostring(tree, encoding="unicode")


def index_beside(element: ElementTree.Element) -> None:
    """Set the index of an accented letter beside it, where docutils sets it below."""
    letter, index, accent = element
    element.clear()
    element.tag = f"{{{NAMESPACE}}}msub"
    accented = ElementTree.SubElement(element, f"{{{NAMESPACE}}}mover")
    accented.extend([letter, accent])
    element.append(index)


def visit_inline(translator: HTML5Translator, node: nodes.math) -> None:
    translator.body.append(mathml(node))
    raise nodes.SkipNode


def visit_block(translator: HTML5Translator, node: nodes.math_block) -> None:
    identifier = f' id="{node["ids"][0]}"' if node["ids"] else ""
    translator.body.append(f'<div class="equation"{identifier}>')
    if node["number"]:
        number = get_node_equation_number(translator, node)
        translator.body.append(f'<span class="eqno">({number})</span>')
    translator.body.append(mathml(node) + "</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.add_css_file("mathml.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
