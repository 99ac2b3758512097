"""Starts measurements, each in a fresh process, and skips those that would take too long."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rulesearch.bench.child import relative_error
from rulesearch.bench.kinds import AnyProblem, content_of
from rulesearch.bench.machine import installed
from rulesearch.bench.peers.base import Peer
from rulesearch.bench.problem import Problem
from rulesearch.machine import memory_bytes

__all__ = ["ChildError", "Limits", "ask", "first_use", "measure", "reference"]

Json = dict[str, Any]
PILOT_NUMBERS = 3e7  # weights times steps of a pilot: short, and long enough to measure
GIB = 2**30


class ChildError(Exception):
    """A measuring process that gave no answer; the message says why."""


@dataclass(frozen=True)
class Limits:
    """What a peer may take; beyond it is skipped.

    Attributes
    ----------
    seconds : float
        Of one run, as foretold by short ones.
    gigabytes : float
        Beyond the idle process; never more than three quarters of the machine's memory.
    patience : float
        Seconds after which a process is ended, whatever was foretold.
    """

    seconds: float = 60.0
    gigabytes: float = 12.0
    patience: float = 1200.0

    def exceeded(self, seconds: float, held: float) -> str:
        """Why a run is skipped, or nothing."""
        if held > min(self.gigabytes * GIB, 0.75 * memory_bytes()):
            return f"would take about {held / GIB:.0f} GB"
        if seconds > self.seconds:
            return f"would take about {duration(seconds)}"
        return ""


def duration(seconds: float) -> str:
    """Rounded, in the unit that suits."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def ask(
    request: Mapping[str, Any], patience: float, environment: Mapping[str, str] | None = None
) -> Json:
    """Have a fresh process answer; it uses all cores.

    Raises
    ------
    ChildError
        If it ends without an answer, or not in time.
    """
    inherited = {
        k: v for k, v in os.environ.items() if k not in {"OMP_NUM_THREADS", "JAX_ENABLE_X64"}
    }
    if request.get("device", "cpu") == "cpu":
        inherited["JAX_PLATFORMS"] = "cpu"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "rulesearch.bench.child"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            check=False,
            timeout=patience,
            env={**inherited, **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        raise ChildError(f"took more than {duration(patience)}") from None
    if done.returncode < 0:
        raise ChildError(f"was ended by signal {-done.returncode}; too little memory, perhaps")
    if done.returncode:
        raise ChildError((done.stderr.strip() or "no message").splitlines()[-1][:300])
    found: Json = json.loads(done.stdout)
    return found


def reference(problem: AnyProblem, limits: Limits) -> Json:
    """Loss and gradient in float64, and how far plain autograd is on a short life."""
    return ask({"kind": "reference", "problem": content_of(problem)}, limits.patience)


def measure(
    peer: Peer,
    problem: AnyProblem,
    exact: Mapping[str, Any],
    repeats: int,
    limits: Limits,
    device: str = "cpu",
    dtype: str = "float32",
) -> Json:
    """Measure one peer on one problem, or say why not.

    Returns
    -------
    dict
        ``status`` is 'measured', 'skipped', 'failed' or 'not installed', ``reason`` why; then
        what the child measured, and the relative errors of loss and gradient.
    """
    if peer.needs and installed(peer.needs) is None:
        reason = f"pip install 'rulesearch[{peer.needs}]'"
        return {"status": "not installed", "reason": reason}
    common = {"peer": peer.name, "device": device, "dtype": dtype}
    try:
        if reason := _too_much(peer, problem, common, limits):
            return {"status": "skipped", "reason": reason}
        asked = {**common, "kind": "measure", "problem": content_of(problem), "repeats": repeats}
        found = ask(asked, limits.patience)
    except ChildError as failure:
        return {"status": "failed", "reason": str(failure)}
    errors = {
        "gradient_error": relative_error(found["gradient"], exact["gradient"]),
        "loss_error": abs(found["loss"] - exact["loss"]) / abs(exact["loss"]),
    }
    return {"status": "measured", "reason": "", **found, **errors}


def _too_much(peer: Peer, problem: AnyProblem, common: Json, limits: Limits) -> str:
    """Foretell time and memory from two short lives; nothing if they are within limits."""
    short = max(2, int(PILOT_NUMBERS / (problem.lifetimes * problem.weights)))
    if peer.ours or 4 * short > problem.steps:
        return ""
    held = []
    for steps in (short, 2 * short):
        pilot = content_of(replace(problem, steps=steps))
        asked = {**common, "kind": "measure", "problem": pilot, "repeats": 1}
        found = ask(asked, limits.patience)
        held.append(found["peak_bytes"] - found["idle_bytes"])
    further = problem.steps / (2 * short)
    if peer.memory_growth == 1.0:  # what every length needs is in both, and not in what is added
        memory = held[1] + 2 * (further - 1) * max(0, held[1] - held[0])
    else:
        memory = held[1] * further**peer.memory_growth
    return limits.exceeded(further * min(found["seconds"]), memory)


def first_use(patience: float) -> Json:
    """Time of the first gradient with an empty cache, and in a second process.

    Returns
    -------
    dict
        ``first`` and ``second``: seconds of the gradient, and of the whole process.
    """
    found: Json = {}
    request = {"kind": "first use", "problem": content_of(Problem(steps=10))}
    with tempfile.TemporaryDirectory() as cache:
        for which in ("first", "second"):
            start = time.perf_counter()
            told = ask(request, patience, {"RULESEARCH_CACHE": str(Path(cache))})
            found[which] = {**told, "process_seconds": time.perf_counter() - start}
    return found
