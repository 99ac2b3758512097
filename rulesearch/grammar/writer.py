"""Plain data to YAML text, which :func:`rulesearch.grammar.reader.read_document` reads back."""

from __future__ import annotations

from io import StringIO
from typing import Any

from ruamel.yaml import YAML

__all__ = ["yaml_text"]


def yaml_text(content: dict[str, Any], width: int = 80) -> str:
    """Return a mapping as YAML, its keys in their order; lines longer than `width` are folded."""
    text = StringIO()
    writer: Any = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False
    writer.width = width
    writer.dump(content, text)
    return text.getvalue()
