"""Mathematics without a browser's help: LaTeX to numbers, rules and inline SVG outlines."""

from __future__ import annotations

from markupsafe import Markup, escape
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser
from matplotlib.path import Path
from matplotlib.textpath import TextPath, text_to_path

from rulesearch.report.table import exponent

__all__ = [
    "is_typesettable",
    "latex_number",
    "math_label",
    "math_svg",
    "rule_pieces",
]

FONT = FontProperties(math_fontfamily="stix")
_EM = 100.0
_parser = MathTextParser("path")
_COMMANDS = {
    Path.MOVETO: ("M", 1),
    Path.LINETO: ("L", 1),
    Path.CURVE3: ("Q", 2),
    Path.CURVE4: ("C", 3),
}


def latex_number(value: float, digits: int = 3) -> str:
    r"""Write a number in LaTeX: ``8.41\times 10^{-3}``; plain between 0.1 and ten to `digits`."""
    if value == 0.0:
        return "0"
    power = exponent(value)
    if -1 <= power < digits:
        return f"{value:.{digits - 1 - power}f}"
    return rf"{value / 10.0**power:.{digits - 1}f}\times 10^{{{power}}}"


def rule_pieces(latex: str) -> list[str]:
    r"""Return a rule's LaTeX with ``\Delta W =`` before it, cut where it may be broken in lines.

    A rule is cut before each sign that stands outside all braces and parentheses: one piece a
    term. Joined by blanks the pieces are the whole.
    """
    pieces, depth, begin = [r"\Delta\mathbf{W}_{\ell-1,\ell} ="], 0, 0
    for place, letter in enumerate(latex):
        depth += (letter in "{(") - (letter in "})")
        if depth == 0 and latex[place : place + 3] in (" + ", " - "):
            pieces.append(latex[begin:place])
            begin = place + 1
    return [*pieces, latex[begin:]]


def is_typesettable(latex: str) -> bool:
    """Whether matplotlib's mathtext understands a formula."""
    try:
        _parser.parse(f"${latex}$", 72, FONT)
    except ValueError:
        return False
    return "$" not in latex


def math_label(name: str, latex: str) -> str:
    """Label for a figure, in mathtext: the name in bold and, if possible, the formula."""
    plain = name.replace("\\", "").replace("$", r"\$")
    return rf"{plain}  ${latex}$" if is_typesettable(latex) else plain


def math_svg(latex: str) -> Markup:
    """Typeset a formula as inline SVG in the colour and size of the text around it.

    The outlines need no font and the element has no id, so any number of them can share
    a page. Screen readers get the LaTeX. What mathtext does not understand is shown as
    its source.
    """
    if not is_typesettable(latex):
        return Markup('<code class="math">{}</code>').format(latex)
    text = f"${latex}$"
    width, height, depth = text_to_path.get_text_width_height_descent(text, FONT, ismath=True)
    # get_text_width_height_descent speaks of FONT's own size; outlines are drawn at _EM.
    scale = _EM / FONT.get_size_in_points()
    width, height, depth = width * scale, height * scale, depth * scale
    outline = TextPath((0.0, 0.0), text, size=_EM, prop=FONT)
    top = height - depth
    return Markup(
        '<svg class="math" role="img" aria-label="{label}" style="width:{w:.3f}em;'
        'height:{h:.3f}em;vertical-align:{v:.3f}em" viewBox="0 {y:.1f} {vw:.1f} {vh:.1f}">'
        '<title>{label}</title><path transform="scale(1 -1)" d="{d}"/></svg>'
    ).format(
        label=escape(latex),
        w=width / _EM,
        h=height / _EM,
        v=-depth / _EM,
        y=-top,
        vw=width,
        vh=height,
        d=_path_data(outline),
    )


def _path_data(path: Path) -> str:
    parts = []
    for points, code in path.iter_segments(simplify=False, curves=True):
        if code == Path.CLOSEPOLY:
            parts.append("Z")
            continue
        letter, count = _COMMANDS[code]
        parts.append(letter + " ".join(f"{p:.4g}" for p in points[: 2 * count]))
    return "".join(parts)
