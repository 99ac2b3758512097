"""Runs of one reproduction, here or on other machines: their rows and seeds in one table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rulesearch.errors import ConfigError, RunError
from rulesearch.files import read_manifest
from rulesearch.reproduce.differences import differences, of_differences
from rulesearch.reproduce.outcome import Finished, Outcome
from rulesearch.reproduce.plan import is_reproduction
from rulesearch.reproduce.run import load_outcome

__all__ = ["pooled"]

# Settings that say which jobs were run, and where; the others are what the figures are of.
APART = {"seed", "seeds", "conditions", "checkpoint_every", "device"}


def pooled(runs: Sequence[Path], against: str | None = None) -> dict[str, Any]:
    """Return what ``result.json`` would hold, had one run had the rows and seeds of all.

    Settings that are not alike in all runs are left out; ``seeds`` is that of the row which has
    most. A job whose networks and errors are the same to the bit in several runs counts once, as
    where one run took the networks of another.

    Parameters
    ----------
    runs : sequence of path
        Run folders; a run under way counts as far as it got.
    against : str, optional
        Key of a row: figures are what each other row has more than it, on the same test lifetimes.

    Raises
    ------
    ConfigError
        If one is a search, if the runs are not of one reproduction with the same settings, or if
        two of them, begun with the same ``seed``, have run the same job and found something else;
        if there is no such row, or it is not judged on the same lifetimes.
    RunError
        If one is no run, or no job of it is finished; or none of `against` beside one of another
        row, of the same seed and condition.
    """
    for run in runs:
        if not is_reproduction(run):
            read_manifest(run)
            raise ConfigError(
                f"{run} is a search, and only runs of one reproduction make one table; 'rulesearch "
                f"show {run}' shows it alone, 'rulesearch evaluate' compares rules of searches"
            )
    outcomes = {run: load_outcome(run) for run in runs}
    first, *others = outcomes
    for other in others:
        _check_alike(first, outcomes[first], other, outcomes[other])
    reproduction = outcomes[first].plan.reproduction
    by_seed = _by_seed(outcomes)
    if against is not None:
        by_seed = [differences(reproduction, jobs, against) for jobs in by_seed]
        reproduction = of_differences(reproduction, against)
    names = dict.fromkeys(job for jobs in by_seed for job in jobs)
    if not names:
        raise RunError(
            f"--against: no job of '{against}' is finished beside one of another row, of the same "
            "seed and condition"
        )
    finished = {job: _joined([jobs[job] for jobs in by_seed if job in jobs]) for job in names}
    plan = replace(outcomes[first].plan, reproduction=reproduction)
    content = Outcome(plan, finished).content
    settings = [outcome.plan.settings.model_dump(mode="json") for outcome in outcomes.values()]
    content["settings"] = {
        key: value for key, value in settings[0].items() if all(s[key] == value for s in settings)
    }
    content["changed"] = {
        key: value for key, value in content["changed"].items() if key in content["settings"]
    }
    content["settings"]["seeds"] = max(
        done.measured["error"].shape[0] for done in finished.values()
    )
    return content


def _by_seed(outcomes: Mapping[Path, Outcome]) -> list[dict[str, Finished]]:
    """Of every ``seed`` of the runs, what is finished, each job once."""
    places: dict[int, dict[str, Path]] = {}  # by seed and job, the run
    for run, outcome in outcomes.items():
        runs_by_job = places.setdefault(outcome.plan.settings.seed, {})
        for job, found in outcome.finished.items():
            before = runs_by_job.setdefault(job, run)
            known = outcomes[before].finished[job]
            if not _same(known, found):
                raise ConfigError(
                    f"{before} and {run} both have {job} of seed={outcome.plan.settings.seed}, "
                    "with other errors or networks; give one of them --set seed=1, or show it alone"
                )
            if found.seconds > known.seconds:  # it trained what the other took
                runs_by_job[job] = run
    return [
        {job: outcomes[run].finished[job] for job, run in runs_by_job.items()}
        for runs_by_job in places.values()
    ]


def _joined(parts: Sequence[Finished]) -> Finished:
    """One job's seeds, all of them."""

    def seeds(parts: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        known = [key for key in parts[0] if all(key in part for part in parts)]  # in older runs too
        return {key: torch.cat([part[key] for part in parts]) for key in known}

    return Finished(
        model={},
        measured=seeds([{"error": part.measured["error"]} for part in parts]),
        seconds=sum(part.seconds for part in parts),
        rejected=sum(part.rejected for part in parts),
        residual=seeds([part.residual for part in parts]),
        untaught=torch.cat([_untaught(part) for part in parts]),
    )


def _same(one: Finished, other: Finished) -> bool:
    """Whether networks and errors are the same to the bit."""
    mine, theirs = ({**part.model, "": part.measured["error"]} for part in (one, other))
    return mine.keys() == theirs.keys() and all(
        value.shape == theirs[key].shape and value.allclose(theirs[key], 0, 0, equal_nan=True)
        for key, value in mine.items()
    )


def _untaught(part: Finished) -> torch.Tensor:
    none = torch.zeros(len(part.measured["error"]), dtype=torch.bool)
    return none if part.untaught is None else part.untaught


def _check_alike(run: Path, outcome: Outcome, other: Path, theirs: Outcome) -> None:
    names = outcome.plan.reproduction.name, theirs.plan.reproduction.name
    if names[0] != names[1]:
        raise ConfigError(f"{run} is of {names[0]}, {other} of {names[1]}; show them one by one")
    now, then = (each.plan.settings.model_dump(mode="json") for each in (outcome, theirs))
    for key in now.keys() - APART:
        if now[key] != then[key]:
            raise ConfigError(
                f"{run} has {key}={json.dumps(now[key])}, {other} {key}={json.dumps(then[key])}; "
                "show them one by one"
            )
