"""Plain text in columns."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

__all__ = ["broken", "grid", "markdown_grid"]

ANYTHING = re.compile(".+")


def grid(
    rows: Sequence[Sequence[str]],
    align: str = "",
    width: int = sys.maxsize,
    token: re.Pattern[str] = ANYTHING,
) -> str:
    """Columns two blanks apart under a ruled heading; the last one is broken to fit `width`.

    Parameters
    ----------
    rows : sequence of sequence of str
        The first is the heading.
    align : str
        ``<`` or ``>`` for each column; by default all are to the left.
    width : int
    token : Pattern
        What is never broken.
    """
    align = align or "<" * len(rows[0])
    widths = [max(1, *(len(row[column]) for row in rows)) for column in range(len(align))]
    offset = sum(widths[:-1]) + 2 * (len(widths) - 1)
    room = max(width - offset, 20)
    lines = []
    for number, row in enumerate(rows):
        first, *more = broken(row[-1], room, token)
        cells = [f"{c:{a}{w}}" for c, a, w in zip(row[:-1], align[:-1], widths[:-1], strict=True)]
        lines.append("  ".join([*cells, first]).rstrip())
        lines.extend(" " * offset + rest for rest in more)
        if number == 0:
            lines.append("─" * min(width, offset + min(room, widths[-1])))
    return "\n".join(lines)


def markdown_grid(rows: Sequence[Sequence[str]]) -> str:
    """The same in Markdown, all columns but the first to the right."""
    heading, *body = rows
    rule = ["---", *["---:"] * (len(heading) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heading, rule, *body))


def broken(text: str, room: int, token: re.Pattern[str]) -> list[str]:
    """Lines of text, broken between tokens alone."""
    lines = [""]
    for piece in token.findall(text) or [""]:
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > room:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]
