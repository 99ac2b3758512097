"""What ``rulesearch evaluate`` does: finds the rules, the network and the tasks, and prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from rulesearch.arguments import naming
from rulesearch.errors import ConfigError, RunError
from rulesearch.files import read_manifest
from rulesearch.outer.fit import usable_device
from rulesearch.report.result import Result
from rulesearch.report.run_data import RunData
from rulesearch.rules import Rule
from rulesearch.search.conditions import Condition, conditions
from rulesearch.search.evaluation import (
    contenders,
    network_for,
    side_by_side,
    tasks_for,
    unseen_classes,
)
from rulesearch.search.evidence import (
    Contender,
    baseline_among,
    check_names,
    contender_named,
    evidence,
)
from rulesearch.tasks import FewShot

__all__ = ["run_evaluate"]

PREPARING = 0.0005  # seconds a layer and rule, at the least; 0.0004 to 0.0013 were measured
PATIENCE = 10  # seconds that need no word


def run_evaluate(
    targets: Sequence[Path],
    data: str | None,
    held_out: bool | None,
    lifetimes: int,
    seed: int,
    vary: Sequence[str],
    rules: Sequence[str],
    baseline: str | None,
    as_json: bool,
    device: str,
    **few_shot: Any,
) -> None:
    """Compare rules and print the table; tasks and network are those of the first run, if any."""
    usable_device(device)
    for target in targets:
        if not target.exists():
            raise RunError(f"{target}: cannot be read as a rule or a run: there is no such file")
    results = [Result.load(target) if target.is_dir() else None for target in targets]
    first = next((t for t, result in zip(targets, results, strict=True) if result), None)
    run = None if first is None else RunData.load(first)
    tasks = tasks_for(run, data, held_out, **few_shot)
    network = network_for(run, tasks)
    with naming("--rules"):
        named = [contender_named(name) for text in rules for name in text.split(",")]
    own: list[Contender] = []
    others: dict[str, Contender] = {}
    for target, result in zip(targets, results, strict=True):
        rule = result.rule if result else Rule.load(target)
        for name, (one, its) in contenders(result, rule, network).items():
            symmetric = its.feedback == "symmetric"
            if name == "rule":
                own.append(Contender(_name(target, targets), one, symmetric=symmetric))
            else:
                others.setdefault(name, Contender(name, one, symmetric=symmetric))
    called = [contender.name for contender in named]
    found = [*own, *(c for name, c in others.items() if name not in called), *named]
    check_names(found)
    with naming("--vary"):
        where = conditions(network, tasks, vary, side_by_side(lifetimes, device))
    manifests = {t: read_manifest(t) for t, result in zip(targets, results, strict=True) if result}
    _check_classes(manifests, where)
    with naming("--baseline"):
        baseline = baseline_among(found, baseline)
    if not as_json:
        print(
            f"{tasks!r}: {lifetimes} lifetimes of {tasks.steps} steps, {list(network.sizes)}",
            flush=True,
        )
    _tell_of_layers(where, len(found))
    told = evidence(found, where, lifetimes, seed, baseline, _tracked, device)
    networks = [manifest["network"] for manifest in manifests.values()]
    elsewhere = [str(t) for t, its in zip(manifests, networks, strict=True) if its != networks[0]]
    if elsewhere:
        note = (
            f"all rules lived in the network of {first}; that of {', '.join(elsewhere)} is another"
        )
        told = replace(told, notes=(*told.notes, note))
    print(json.dumps(told.to_json(), indent=1) if as_json else told.table())


def _name(target: Path, targets: Sequence[Path]) -> str:
    """What a rule is called: 'rule' if it is alone, else its folder or file; all of it in need."""
    if len(targets) == 1:
        return "rule"
    short = [path.stem if path.is_file() else path.resolve().name for path in targets]
    own = short[targets.index(target)]
    return own if short.count(own) == 1 else str(target)


def _check_classes(manifests: Mapping[Path, Mapping[str, Any]], where: Sequence[Condition]) -> None:
    """Refuse classes that one run was searched on and another was not."""
    for condition in where:
        tasks = condition.tasks
        if not isinstance(tasks, FewShot):
            continue
        unseen = {
            run: set(unseen_classes(manifest["tasks"])) & set(tasks.classes)
            for run, manifest in manifests.items()
            if manifest["tasks"].get("data") == tasks.data.name
        }
        for one, other in permutations(unseen, 2):
            known = sorted(unseen[other] - unseen[one])
            if known:
                classes = ", ".join(tasks.data.class_names[k] for k in known)
                raise ConfigError(
                    f"{condition.name}: {one} was searched on classes of '{tasks.data.name}' that "
                    f"{other} never drew ({classes}), and would be judged on what it knows; "
                    "evaluate each by itself, or both on other data (--tasks)"
                )


def _tell_of_layers(where: Sequence[Condition], rules: int) -> None:
    """Say at once which networks have so many layers that they take long to prepare."""
    for condition in where:
        layers = len(condition.network.connections)
        seconds = layers * PREPARING
        if seconds * rules > PATIENCE:
            took = f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"
            print(
                f"{condition.name}: {layers:,} layers take {took} or more to prepare for each "
                "rule, before its first lifetime; fewer layers take less, in proportion",
                file=sys.stderr,
            )


def _tracked(where: Sequence[Condition]) -> Iterable[Condition]:
    """Show how far it is, where somebody watches and waits."""
    hidden = not sys.stderr.isatty() or len(where) < 2
    return track(where, "conditions", console=Console(stderr=True), transient=True, disable=hidden)
