"""The documentation builds where it was built before, whatever has gone from the code since."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

for module in ("sphinx", "furo", "myst_parser", "numpydoc"):
    pytest.importorskip(module, reason="of the extra 'docs'")

DOCS = Path(__file__).parents[1] / "docs"
PAGE = """\
# Python

```{eval-rst}
.. currentmodule:: rulesearch

.. autosummary::
   :toctree: generated

   L1
```
"""
GONE = """\
Gone
====

.. currentmodule:: rulesearch

.. autoclass:: Gone
"""


def test_a_class_that_is_gone_is_in_no_ones_way(tmp_path: Path) -> None:
    for name in ("conf.py", "mathml.py"):
        shutil.copy(DOCS / name, tmp_path)
    for name in ("_static", "_templates"):
        shutil.copytree(DOCS / name, tmp_path / name)
    (tmp_path / "index.md").write_text(PAGE)
    stale = tmp_path / "generated" / "rulesearch.Gone.rst"
    stale.parent.mkdir()
    stale.write_text(GONE)
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", tmp_path,
         tmp_path / "_build"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not stale.exists()
    assert (tmp_path / "_build" / "generated" / "rulesearch.L1.html").is_file()
