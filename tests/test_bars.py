"""Progress bars: a live view on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console
from rich.text import Text

from rulesearch.report.bars import Bars
from rulesearch.report.progress import TerminalProgress
from rulesearch.reproduce.progress import JobProgress


def screen(terminal: bool) -> Console:
    return Console(file=StringIO(), force_terminal=terminal, width=100, color_system=None)


def written(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("total", "told"),
    [(30, list(range(3, 31, 3))), (4, [1, 2, 3, 4]), (25, [*range(2, 25, 2), 25])],
)
def test_elsewhere_every_tenth_is_told_and_the_end(total: int, told: list[int]) -> None:
    bars = Bars(screen(terminal=False), "{task.description}")
    bars.begin("a stage", total, 0)
    assert [n for n in range(1, total + 1) if bars.worth_telling(n)] == told


def test_a_terminal_shows_bars_of_all_stages_and_what_is_below() -> None:
    console = screen(terminal=True)
    with Bars(console, "{task.description}", Text("below them")) as bars:
        bars.begin("first", 10, 0)
        bars.reach(10, "done")
        bars.begin("two", 1000, 300)
        assert bars.worth_telling(301)
        bars.reach(301, "loss [0.5]")
    last = written(console).rpartition("first")[2]
    for shown in ("10/10", "done", "two", "301/1000", "loss [0.5]", "below them"):
        assert shown in last


def test_the_bar_goes_by_effort_and_counts_updates() -> None:
    """Of 30 updates 20 have a step and 10 have ten: after 25 of them 70 steps of 120 are done."""
    console = screen(terminal=True)
    with JobProgress(console) as progress:
        progress({"event": "job", "job": "x", "number": 1, "jobs": 1, "updates": 30,
                  "lengths": [(20, 1), (10, 10)], "done": 0})  # fmt: skip
        for n in range(25):
            progress({"event": "update", "update": n, "loss": [1.0], "rejected": [False]})
        bar = progress._bars._bars.tasks[0]
        assert (bar.completed, bar.total) == (70, 120)
    assert "25/30" in written(console)


def test_elsewhere_nothing_is_drawn() -> None:
    console = screen(terminal=False)
    with Bars(console, "{task.description}", Text("below")) as bars:
        bars.begin("one", 2, 0)
        bars.reach(1)
        bars.say("one 1/2")
    assert written(console) == "one 1/2\n"


def test_a_reproduction_tells_the_mean_loss_of_late_and_who_was_rejected() -> None:
    console = screen(terminal=False)
    with JobProgress(console) as progress:
        progress({"event": "run", "run": "runs/x", "jobs": 2, "finished": 1})
        progress({"event": "job", "job": "flp-3-iid", "number": 2, "jobs": 2, "updates": 40,
                  "lengths": (), "done": 0})  # fmt: skip
        for n in range(40):
            loss = [float(n), None if n == 39 else float(n)]
            progress({"event": "update", "update": n, "loss": loss, "rejected": [False, n == 39]})
        progress({"event": "measuring", "job": "flp-3-iid"})
    first, *lines = written(console).splitlines()
    assert first == "runs/x: 2 jobs, 1 finished"
    assert lines[0] == "2/2 flp-3-iid  4/40  loss 1.5"
    # The last twenty losses: 39, twice 38 ... 30, and one 29, for one of the last two is missing.
    mean = (39 + 2 * sum(range(30, 39)) + 29) / 20
    assert lines[-2] == f"2/2 flp-3-iid  40/40  loss {mean:.4g}  rejected 1"
    assert lines[-1] == "2/2 flp-3-iid  40/40  test lifetimes"
    assert len(lines) == 10 + 1


def test_a_search_tells_the_mean_accuracy_and_the_terms_alive() -> None:
    console = screen(terminal=False)
    with TerminalProgress(console) as progress:
        progress({"event": "phase", "phase": "refit", "terms": ["A", "B"], "updates": 2,
                  "scales": [[1.0, 1.0]], "done": 0})  # fmt: skip
        for n, accuracy in enumerate((0.25, 0.75)):
            progress({"event": "update", "update": n, "accuracy": [accuracy], "loss": [1.0],
                      "theta": [[1.0, 0.01]], "rejected": [False]})  # fmt: skip
    assert written(console).splitlines() == [
        "survivors, refitted  1/2  accuracy 0.250  terms 1",
        "survivors, refitted  2/2  accuracy 0.500  terms 1",
    ]
