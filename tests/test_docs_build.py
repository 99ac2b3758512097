"""The documentation builds where it was built before, and fits its window."""

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


WIDE = f"""\
# Wide

    {"word " * 40}

| {" | ".join(["a heading"] * 20)} |
|{"---|" * 20}
| {" | ".join(["1.234 (0.005)"] * 20)} |
"""
CHROMIUM = shutil.which("chromium")
MEASURE = (
    "<script>document.title = `${document.documentElement.scrollWidth} of ${innerWidth}`</script>"
)


def built(folder: Path, page: str) -> None:
    """Build a single page, as the documentation is built."""
    for name in ("conf.py", "mathml.py"):
        shutil.copy(DOCS / name, folder)
    for name in ("_static", "_templates"):
        shutil.copytree(DOCS / name, folder / name)
    (folder / "index.md").write_text(page)
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", folder,
         folder / "_build"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_class_that_is_gone_is_in_no_ones_way(tmp_path: Path) -> None:
    stale = tmp_path / "generated" / "rulesearch.Gone.rst"
    stale.parent.mkdir()
    stale.write_text(GONE)
    built(tmp_path, PAGE)
    assert not stale.exists()
    assert (tmp_path / "_build" / "generated" / "rulesearch.L1.html").is_file()


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the PATH")
def test_what_is_too_wide_scrolls_by_itself_and_not_the_page(tmp_path: Path) -> None:
    built(tmp_path, WIDE)
    page = tmp_path / "_build" / "index.html"
    page.write_text(page.read_text().replace("</body>", f"{MEASURE}</body>"))
    for width in (500, 800, 1100, 1300, 1500):
        shown = subprocess.run(
            [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900",
             "--dump-dom", page.as_uri()],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert f"<title>{width} of {width}</title>" in shown.stdout
