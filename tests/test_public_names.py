"""What can be reached from `import rulesearch as rs`."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rulesearch as rs
from rulesearch import errors

ERRORS = (
    "RuleSearchError", "GrammarError", "ConfigError", "DataError", "LearnerError", "RunError",
    "DivergedError",
)  # fmt: skip


def test_every_public_name_is_there_and_no_other_is() -> None:
    for name in rs.__all__:
        assert getattr(rs, name) is not None
    assert dir(rs) == sorted(rs.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Grammer'"):
        rs.Grammer  # noqa: B018


@pytest.mark.parametrize("name", ERRORS)
def test_errors_can_be_caught_by_their_public_names(name: str) -> None:
    assert getattr(rs, name) is getattr(rs.errors, name) is getattr(errors, name)
    assert issubclass(getattr(rs, name), rs.RuleSearchError)


def test_errors_are_there_without_another_import() -> None:
    program = """
import sys
import rulesearch as rs
try:
    rs.Grammar.from_string("terms: {F0: W")
except rs.errors.GrammarError as error:
    print(error.place.line, issubclass(rs.GrammarError, rs.errors.RuleSearchError))
sys.exit("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1 True\n"), done.stderr
