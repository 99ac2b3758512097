"""The paper's figures beside ours: as printed there, and where nothing of them is run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rulesearch.errors import ConfigError
from rulesearch.reproduce import make_plan
from rulesearch.reproduce.outcome import Finished, Outcome
from rulesearch.reproduce.registry import REPRODUCTIONS
from rulesearch.reproduce.tables import latex, markdown

# Value and spread, as the tables have them; of Tables 2 and 3 the standard deviation over 5 seeds.
PRINTED: dict[str, dict[str, dict[str, tuple[float, float | None]]]] = {
    "cml-table1": {
        "t1-t2": {"evaluation": (64.77, 0.40), "test": (62.57, 0.31)},
        "cg": {"evaluation": (57.65, 1.51), "test": (57.51, 0.98)},
        "rbp": {"evaluation": (64.92, 1.32), "test": (62.14, 0.97)},
        "cml": {"evaluation": (74.43, 0.53), "test": (66.94, 0.25)},
        "no-meta": {"evaluation": (60.06, 0.37), "test": (60.13, 0.38)},
        "tbptl": {"evaluation": (73.17, 0.27), "test": (65.35, 0.36)},
    },
    "cml-table2": {
        "synaptic": {"1-shot": (48.43, 0.43)},
        "modulatory": {"1-shot": (49.80, 0.40)},
        "maml": {"1-shot": (48.70, None)},
        "fomaml": {"1-shot": (48.07, None)},
    },
    "cml-table3": {
        "synaptic": {"1-shot": (94.16, 0.12), "5-shot": (98.06, 0.26)},
        "modulatory": {"1-shot": (94.24, 0.39), "5-shot": (98.60, 0.27)},
        "maml": {"1-shot": (95.8, None), "5-shot": (98.9, None)},
        "fomaml": {"1-shot": (89.4, None), "5-shot": (97.9, None)},
        "reptile": {"1-shot": (89.43, None), "5-shot": (97.12, None)},
        "imaml": {"1-shot": (94.46, None), "5-shot": (98.69, None)},
    },
    "cml-table4": {
        "bptl-bptt": {"validation": (0.17, 0.01), "own": (0.41, 0.10)},
        "bptl-eprop": {"validation": (0.52, 0.05), "bptt": (0.72, 0.08)},
        "tbptl-eprop": {"validation": (0.27, 0.07), "bptt": (0.50, 0.11)},
        "cml-eprop": {"validation": (0.23, 0.04), "own": (0.23, 0.04)},
    },
    "cml-table5": {
        "neural-linear": {"0.5": (0.95, 0.02), "0.9": (4.65, 0.18), "0.99": (49.63, 2.41)},
        "maml": {"0.5": (0.45, 0.01), "0.9": (1.02, 0.76), "0.99": (15.21, 1.69)},
        "cml-synaptic": {"0.5": (0.40, 0.02), "0.9": (0.82, 0.02), "0.99": (12.27, 1.02)},
        "cml-modulatory": {"0.5": (0.42, 0.01), "0.9": (1.83, 0.11), "0.99": (16.46, 1.80)},
    },
}


@pytest.mark.parametrize("name", PRINTED)
def test_published_figures(name: str) -> None:
    rows = {row.key: row.published for row in REPRODUCTIONS[name].rows if row.published}
    assert rows.keys() == PRINTED[name].keys()
    for key, figures in PRINTED[name].items():
        assert rows[key].keys() == figures.keys()
        for condition, (value, spread) in figures.items():
            shown = rows[key][condition]
            assert shown.value == value
            if spread is not None and name in ("cml-table2", "cml-table3"):
                spread = spread / 5**0.5
            assert shown.sem == (None if spread is None else pytest.approx(spread, abs=0.005))


def outcome(name: str, job: str) -> dict[str, Any]:
    """Of a run that has finished one job."""
    done = Finished({}, {"error": torch.tensor([[2.0, 4.0]])}, 60.0, 0, {})
    return Outcome(make_plan(name, "small"), {job: done}).content


def cells(text: str, title: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {title} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_rows_that_are_quoted_stand_in_the_table_alone() -> None:
    content = outcome("cml-table3", "synaptic-1-shot")
    table = markdown(content)
    assert cells(table, "CML (synaptic)") == ["CML (synaptic)", "94.2 (0.05)", "3 (1)†", "1.0"]
    assert cells(table, "Reptile, as published") == ["Reptile, as published", "89.4", "-", "-"]
    assert "iMAML, as published & 94.5 & - & -" in latex(content)
    for text in (table, latex(content)):
        assert "5-shot" not in text
        assert "modulatory)" not in text  # for nothing of it has been run
    with pytest.raises(ConfigError, match="'imaml' is quoted from the paper, never run"):
        make_plan("cml-table3", "small", (), ["imaml"])


def test_conditions_that_were_not_run_have_no_column() -> None:
    table = markdown(outcome("cml-table4", "bptl-bptt-own"))
    heading = next(line for line in table.splitlines() if line.startswith("| mean squared"))
    assert [cell.strip() for cell in heading.strip("|").split("|")] == [
        "mean squared error", "tested as trained: paper", "tested as trained: ours", "minutes",
    ]  # fmt: skip
    assert cells(table, "BPTL + BPTT")[1:] == ["0.41 (0.1)", "3 (1)†", "1.0"]


@pytest.mark.parametrize(
    ("means", "cell"),
    [
        ((60.0, 84.0), "72 (10)"),
        ((1234.0, 1234.0), "1230 (0)"),
        ((9.996, 9.996), "10 (0)"),
        ((2e-4, 3.2e-4), "0.00026 (6e-5)"),
        ((3.0e6, 5.0e6), "4e6 (1e6)"),
    ],
)
def test_figures_have_three_digits_and_errors_one(means: tuple[float, float], cell: str) -> None:
    done = Finished({}, {"error": torch.tensor(means, dtype=torch.float64)[:, None]}, 60.0, 0, {})
    content = Outcome(make_plan("cml-table4", "small"), {"bptl-bptt-own": done}).content
    assert cells(markdown(content), "BPTL + BPTT")[2] == cell
