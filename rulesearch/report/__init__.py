"""The result shown: a table in the terminal, figures, and one self-contained page."""

from __future__ import annotations

from rulesearch.report.page import write_report
from rulesearch.report.run_data import RunData
from rulesearch.report.table import latex_table, text_table

__all__ = ["RunData", "latex_table", "text_table", "write_report"]
