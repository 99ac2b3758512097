"""Tiny searches, for the tests of searches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import rulesearch as rs
from rulesearch.tasks import FewShot

POOL = rs.Grammar.from_yaml("pool10").enumerate()
ENDS = ("rule.json", "result.json", "events.jsonl")
TINY = """\
name: tiny
grammar: {terms: {F0: {expr: -e_post * y_pre.T, init: 1.0e-3}, F2: -e_post * e_pre.T, F3: -W}}
network: {hidden: [6]}
tasks: {data: digits, ways: 2, shots: 2, queries: 2}
episodes: 12
seeds: 2
refit_episodes: 6
controls: false
penalty: {lam: 0.1}
optimiser: {rate: 1.0e-3}
checkpoint_every: 3
"""
SMALL = """\
name: tiny
grammar: pool10
network: {hidden: [8]}
tasks: {data: digits, ways: 3, shots: 4, queries: 4}
episodes: 24
seeds: 2
refit_episodes: 6
penalty: {lam: [1, 5]}
optimiser: {rate: 1.0e-3, meta_batch: 2}
checkpoint_every: 4
probe_every: 7
"""


def ends(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in ENDS}


def interrupt_after(events: int) -> Callable[[Mapping[str, Any]], None]:
    seen = iter(range(events))

    def sink(_: Mapping[str, Any]) -> None:
        if next(seen, None) is None:
            raise KeyboardInterrupt

    return sink


def tiny_search(out: Path, **changes: Any) -> rs.Result:
    arguments: dict[str, Any] = {
        "network": rs.PlasticNetwork([64, 8, 10]),
        "tasks": FewShot("digits", ways=3, shots=4, queries=4),
        "episodes": 12,
        "seeds": 2,
        "controls": False,
        "refit_episodes": 4,
        "rate": 1e-3,
    }
    return rs.search(POOL, out=out, **{**arguments, **changes})
