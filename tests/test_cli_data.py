"""``rulesearch data``: what is there, and what could not be fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


def test_data(run_main: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RULESEARCH_CACHE", str(tmp_path))
    monkeypatch.delenv("RULESEARCH_DATA", raising=False)
    status, out, _ = run_main("data", "list")
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["name", "classes", "size", "licence", "found"]
    assert {"digits", "emnist", "mnist", "fashion_mnist", "omniglot"} <= {row[0] for row in rows}
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    status, out, err = run_main("data", "fetch", "mnist")
    assert (status, out) == (2, "")
    last = err.splitlines()[-1]
    for word in ("train-images-idx3-ubyte.gz", "https://", "RULESEARCH_DATA", str(tmp_path)):
        assert word in last


def test_digits_need_no_fetching(run_main: Any) -> None:
    told = "digits comes with scikit-learn; there is nothing to fetch\n"
    assert run_main("data", "fetch", "digits") == (0, told, "")
