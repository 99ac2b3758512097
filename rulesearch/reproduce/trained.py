"""Networks that another run has trained, taken in place of training the same again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rulesearch.errors import ConfigError
from rulesearch.files import read_manifest
from rulesearch.reproduce.base import Job
from rulesearch.reproduce.outcome import Finished, read_finished
from rulesearch.reproduce.plan import Plan, is_reproduction, load_plan

__all__ = ["trained_elsewhere"]

# Settings that a network does not depend on, but for rounding.
AFTERWARDS = {"lifetimes", "horizon", "checkpoint_every", "conditions", "device"}


def trained_elsewhere(plan: Plan) -> dict[str, Finished]:
    """Return the finished jobs that a plan takes from another run, by the names of its own.

    A job that the other reproduction does not have is trained by the plan's own run; so is, where
    both are of one reproduction, a row that the other run was not asked for.

    Raises
    ------
    ConfigError
        If the other run is of another reproduction or was trained with other settings, has not
        trained one of the networks, or has the same rows under other conditions only.
    RunError
        If it cannot be read.
    """
    if plan.trained is None:
        return {}
    run, wanted = plan.trained, plan.reproduction.trained_by
    if not is_reproduction(run):
        if (run / "manifest.json").is_file():
            read_manifest(run)  # which a damaged one is told by
        raise ConfigError(f"--trained {run}: this is no run of {wanted}")
    other = load_plan(run)
    if other.reproduction.name != wanted:
        raise ConfigError(
            f"{run} is of {other.reproduction.name}; {plan.reproduction.name} takes the networks "
            f"of a run of {wanted}"
        )
    _check_settings(plan, other, run)
    alike = other.reproduction.name == plan.reproduction.name
    jobs = other.jobs() if alike else other.reproduction.jobs(other.settings)
    asked = plan.jobs()
    if alike:
        _check_conditions(asked, jobs, run)
    files = {job.name: run / "jobs" / f"{job.name}.safetensors" for job in jobs}
    known = {job.network: files[job.name] for job in jobs}  # any will do that is finished
    done = [job for job in jobs if files[job.name].is_file()]
    known |= {job.network: files[job.name] for job in done}
    known |= {job.network: files[job.name] for job in done if job.learns}  # and tells how it went
    taken = {job.name: known[job.network] for job in asked if job.network in known}
    missing = [name for name, file in taken.items() if not file.is_file()]
    if missing:
        raise ConfigError(
            f"{run} has not trained {', '.join(missing)}; finish it with 'rulesearch resume {run}'"
            ", or choose among its rows with --rows"
        )
    return {name: read_finished(file) for name, file in taken.items()}


def _check_conditions(asked: Sequence[Job], jobs: Sequence[Job], run: Path) -> None:
    """Refuse a run of the same rows of which nothing could be taken, or half of what is needed."""
    networks, rows = {job.network for job in jobs}, {job.row for job in jobs}
    taken = {job.name for job in asked if job.network in networks}
    lacking = {need for job in asked if job.name in taken for need in job.needs} - taken
    if not taken and all(job.row in rows for job in asked):
        lacking = {job.name for job in asked}
    if lacking:
        names = sorted(job.name for job in jobs)
        raise ConfigError(
            f"{run} has {', '.join(names)}, but not {', '.join(sorted(lacking))}; choose "
            "among its conditions with --set 'conditions=[...]', or leave out --trained"
        )


def _check_settings(plan: Plan, other: Plan, run: Path) -> None:
    now, before = (p.settings.model_dump(mode="json") for p in (plan, other))
    for key in before.keys() & now.keys() - AFTERWARDS:
        if now[key] != before[key]:
            same = f"{key}={json.dumps(before[key])}"
            raise ConfigError(
                f"{run} was trained with {same}, not {json.dumps(now[key])}; "
                f"say the same here, --set '{same}', or leave out --trained"
            )
