"""Fixtures of more than one file."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rulesearch.__main__ import SIGNALS, main


def pytest_configure() -> None:
    """Interrupts arrive in tests and their processes, though a background shell ignores them."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small tensors: threads would only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the user's folders."""
    monkeypatch.delenv("RULESEARCH_DATA", raising=False)
    monkeypatch.setenv("RULESEARCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run_main(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run ``rulesearch ...`` in this process: status, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rulesearch", *map(str, arguments)])
        before = {number: signal.getsignal(number) for number in SIGNALS}
        try:
            with pytest.raises(SystemExit) as stopped:
                main()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        code = stopped.value.code
        assert code is None or isinstance(code, int)
        out, err = capsys.readouterr()
        return code or 0, out, err

    return run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a search; a file of tests may have its own."""
    from tiny_search import TINY

    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def whole(tiny: Path) -> Path:
    """A search that nothing interrupted; tests copy it."""
    from rulesearch.search import load_config, start_search

    return start_search(load_config(tiny), tiny.parent / "whole").path


@pytest.fixture
def sweep_config(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str, name: str = "tiny.yaml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.fixture(scope="session")
def whole_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep over a grid that nothing disturbed, its configuration beside it."""
    import tiny_sweep  # with Optuna, for which other tests need not wait

    folder = tmp_path_factory.mktemp("sweep")
    (folder / "tiny.yaml").write_text(tiny_sweep.GRID)
    return tiny_sweep.swept(folder / "tiny.yaml", folder / "whole").path


@pytest.fixture(scope="module")
def path_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a search over three lambdas, without the search."""
    from synthetic_run import synthetic_run

    folder = tmp_path_factory.mktemp("runs") / "path"
    return synthetic_run(folder, seeds=6, updates=80, lambdas=(3.0, 10.0, 30.0))
