"""One measurement in a process of its own: a request as JSON on stdin, the answer on stdout.

``python -m rulesearch.bench.child`` is what :mod:`rulesearch.bench.parent` starts.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Any

import torch

from rulesearch.bench.kinds import AnyProblem, problem_of
from rulesearch.bench.machine import cores, describe, synchronise
from rulesearch.bench.memory import MemoryMeter
from rulesearch.bench.peers.base import Answer, Peer, Prepared
from rulesearch.bench.peers.registry import EXACT, OURS, PEERS

__all__ = ["answer", "relative_error"]

Json = dict[str, Any]
BUDGET = 60.0  # seconds that the runs of one peer may take together
ORACLE_STEPS, ORACLE_NUMBERS = 25, 1e8  # length and size of the check against plain autograd


def answer(request: Mapping[str, Any]) -> Json:
    """Do what ``request["kind"]`` asks for."""
    kind, device = request["kind"], request.get("device", "cpu")
    if kind == "machine":
        return describe(device)
    problem = problem_of(request["problem"])
    match kind:
        case "measure":
            return _measure(PEERS[request["peer"]], problem, request)
        case "reference":
            return _reference(problem)
        case "first use":
            return _first_use(problem)
    raise ValueError(f"unknown kind {kind!r}")


def _timed(prepared: Prepared, device: str) -> tuple[Answer, float]:
    start = time.perf_counter()
    found = prepared.run()
    synchronise(device)
    seconds = time.perf_counter() - start
    return prepared.tell(found), seconds


def _measure(peer: Peer, problem: AnyProblem, request: Mapping[str, Any]) -> Json:
    device, dtype = request["device"], getattr(torch, request["dtype"])
    prepared = peer.prepare(problem, problem.make().to(dtype).to(device))
    gc.collect()
    meter = MemoryMeter(device, "jax" if peer.needs == "jax" else "torch")
    found, first = _timed(prepared, device)
    repeats = max(1, min(request["repeats"], int(BUDGET // first)))
    seconds = [_timed(prepared, device)[1] for _ in range(repeats)]
    return {
        "loss": found.loss,
        "gradient": found.gradient,
        "compile_seconds": prepared.compile_seconds,
        "first_seconds": first,
        "seconds": seconds,
        "idle_bytes": meter.idle,
        "peak_bytes": meter.peak,
        "remarks": prepared.remarks(),
    }


def _reference(problem: AnyProblem) -> Json:
    """The gradient in float64, by the reversible method; a short life by plain autograd too."""
    exact = EXACT[type(problem)]
    found = exact(problem)
    steps = min(problem.steps, ORACLE_STEPS, max(2, int(ORACLE_NUMBERS / problem.numbers)))
    short = replace(problem, steps=steps, lifetimes=1)
    oracle = PEERS["plain"].prepare(short, short.make().to(torch.float64)).answer()
    return {
        "loss": found.loss,
        "gradient": found.gradient,
        "oracle_steps": steps,
        "oracle_error": relative_error(exact(short).gradient, oracle.gradient),
    }


def _first_use(problem: AnyProblem) -> Json:
    """Time of this process's first gradient, its libraries imported."""
    prepared = PEERS[OURS].prepare(problem, problem.make())
    return {"seconds": _timed(prepared, "cpu")[1], "remarks": prepared.remarks()}


def relative_error(found: list[float], exact: list[float]) -> float:
    """Distance of two vectors over the length of the second."""
    a, b = (torch.tensor(v, dtype=torch.float64) for v in (found, exact))
    return float((a - b).norm() / b.norm())


def main() -> None:
    """Answer one request; whatever libraries print goes to stderr."""
    request = json.load(sys.stdin)
    torch.set_num_threads(cores())
    with redirect_stdout(sys.stderr):
        content = answer(request)
    print(json.dumps(content), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    main()
