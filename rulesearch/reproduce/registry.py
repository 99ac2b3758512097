"""The reproductions by name. A new one is a file of its own and a line here."""

from __future__ import annotations

from typing import Any

from rulesearch.errors import ConfigError, did_you_mean
from rulesearch.reproduce.base import Reproduction
from rulesearch.reproduce.cml_continual import CML_CONTINUAL
from rulesearch.reproduce.cml_figure1 import CML_FIGURE1
from rulesearch.reproduce.cml_rules import CML_RULES
from rulesearch.reproduce.cml_table1 import CML_TABLE1
from rulesearch.reproduce.cml_table2 import CML_TABLE2
from rulesearch.reproduce.cml_table3 import CML_TABLE3
from rulesearch.reproduce.cml_table4 import CML_TABLE4
from rulesearch.reproduce.cml_table5 import CML_TABLE5
from rulesearch.reproduce.cml_theta import CML_THETA
from rulesearch.reproduce.flp_curves import FLP_CURVES
from rulesearch.reproduce.flp_figure2 import FLP_FIGURE2
from rulesearch.reproduce.flp_longer import FLP_LONGER
from rulesearch.reproduce.flp_rules import FLP_RULES, FLP_RULES_OMNIGLOT
from rulesearch.reproduce.flp_table1 import FLP_TABLE1
from rulesearch.reproduce.flp_table2 import FLP_TABLE2

__all__ = ["REPRODUCTIONS", "find_reproduction"]

REPRODUCTIONS: dict[str, Reproduction[Any]] = {
    each.name: each
    for each in (
        FLP_TABLE1,
        FLP_TABLE2,
        FLP_FIGURE2,
        FLP_CURVES,
        FLP_LONGER,
        FLP_RULES,
        FLP_RULES_OMNIGLOT,
        CML_FIGURE1,
        CML_TABLE1,
        CML_TABLE2,
        CML_TABLE3,
        CML_TABLE4,
        CML_TABLE5,
        CML_RULES,
        CML_CONTINUAL,
        CML_THETA,
    )
}


def find_reproduction(name: str) -> Reproduction[Any]:
    """Return the reproduction of a name.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if name not in REPRODUCTIONS:
        hint = (
            did_you_mean(name, [*REPRODUCTIONS, "list"])
            or f"; there are {', '.join(REPRODUCTIONS)}"
        )
        raise ConfigError(f"unknown reproduction '{name}'{hint}")
    return REPRODUCTIONS[name]
