"""The benchmark itself: suites, problems, peers, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rulesearch.bench.kinds import content_of
from rulesearch.bench.parent import ChildError, Limits, ask, first_use, measure, reference
from rulesearch.bench.peers.base import Peer
from rulesearch.bench.results import Results
from rulesearch.bench.suites import COMPILE, Case, Suite
from rulesearch.errors import ConfigError

__all__ = ["run_benchmarks", "started"]

Json = dict[str, Any]
# Told before each measurement: what runs now, how many are done, and of how many.
Told = Callable[[str, int, int], None]


def started(out: Path | None, device: str, limits: Limits) -> Results:
    """Results to add to: those of the file, if it is there, the machine measured anew.

    Raises
    ------
    ConfigError
        If the file is of another machine.
    """
    try:
        machine = ask({"kind": "machine", "device": device}, limits.patience)
    except ChildError as failure:
        raise ConfigError(f"--device {device}: {failure}") from None
    if out is None or not out.exists():
        return Results(machine)
    results = Results.load(out)
    for key in ("processor", "cores", "device"):
        if results.machine[key] != machine[key]:
            raise ConfigError(
                f"{out} was measured on another machine ({results.machine[key]}, this is "
                f"{machine[key]}); name another file"
            )
    results.machine = machine
    return results


def run_benchmarks(
    results: Results,
    suites: Sequence[Suite],
    peers: Sequence[Peer],
    repeats: int,
    limits: Limits,
    device: str,
    out: Path | None,
    told: Told,
) -> None:
    """Measure, adding to ``results``; the file is written anew after each measurement."""
    plan = [
        (case, peer)
        for suite in suites
        for case in suite.cases()
        for peer in peers
        if type(case.problem) in peer.ways
        if suite.peers is None or peer.name in suite.peers
    ]
    total = len(plan) + sum(suite.name == COMPILE for suite in suites)

    def keep() -> None:
        if out is not None:
            results.save(out)

    for done, (case, peer) in enumerate(plan):
        where = f"{case.suite}: {case.value} {case.axis}"
        told(f"{where}, {peer.name}", done, total)
        results.put(_row(results, case, peer, repeats, limits, device))
        keep()
    if total > len(plan):
        told("first use of the engine", len(plan), total)
        results.first_use = first_use(limits.patience)
        keep()
    told("done", total, total)


def _row(
    results: Results, case: Case, peer: Peer, repeats: int, limits: Limits, device: str
) -> Json:
    common = {
        "suite": case.suite,
        "axis": case.axis,
        "value": case.value,
        "peer": peer.name,
        "problem": content_of(case.problem),
    }
    exact = results.reference(case.problem)
    if exact is None:
        try:
            exact = {"problem": common["problem"], **reference(case.problem, limits)}
        except ChildError as failure:
            return {**common, "status": "failed", "reason": f"float64 reference: {failure}"}
        results.references.append(exact)
    return {**common, **measure(peer, case.problem, exact, repeats, limits, device)}
