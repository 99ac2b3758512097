"""Files that mean harm end in one clear line, soon and in little memory."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hostile import corpus

from rulesearch.errors import GrammarError
from rulesearch.grammar import Grammar

FILES = corpus()


@pytest.mark.parametrize("name", FILES)
def test_refused_in_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_bytes(FILES[name])
    start = time.process_time()
    with pytest.raises(GrammarError) as raised:
        Grammar.from_yaml(path).enumerate()
    assert time.process_time() - start < 5
    message = str(raised.value)
    assert re.match(r"^[^:]+:\d+:\d+: \S", message)
    assert "\n" not in message
    assert len(message) < 400


def test_the_whole_corpus_in_little_memory(tmp_path: Path) -> None:
    # A process of its own, with a limit; its peak would count that of the one it is forked from.
    for i, content in enumerate(FILES.values()):
        (tmp_path / f"{i}.yaml").write_bytes(content)
    program = """
import resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_DATA, (500_000_000, 500_000_000))
from rulesearch.errors import GrammarError
from rulesearch.grammar import Grammar
for path in Path(sys.argv[1]).glob("*.yaml"):
    try:
        Grammar.from_yaml(path)
    except GrammarError:
        continue
    sys.exit(f"{path} was taken")
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
