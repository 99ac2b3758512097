"""A reproduction from start to end: job after job, resumable after any update."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rulesearch.errors import RunError
from rulesearch.files import make_folder, read_manifest, write_atomically
from rulesearch.outer.fit import usable_device
from rulesearch.outer.record import UpdateRecord
from rulesearch.reproduce.base import Job, Training
from rulesearch.reproduce.figures import import_all
from rulesearch.reproduce.outcome import (
    REJECTED,
    RESIDUAL,
    SECONDS,
    UNTAUGHT,
    Finished,
    Outcome,
    finished_bytes,
    finite,
    read_finished,
    seeds_of,
)
from rulesearch.reproduce.plan import Plan, first_difference, is_reproduction, load_plan
from rulesearch.reproduce.trained import trained_elsewhere
from rulesearch.search.events import EventSink
from rulesearch.search.folder import Checkpoint, RunFolder, check_free

__all__ = ["load_outcome", "reproduce", "resume_reproduction"]

NOT_YET = torch.tensor(True)
ENOUGH = 100  # updates after which it is worth telling that a seed was taught by none


def reproduce(plan: Plan, out: str | Path, sinks: Sequence[EventSink] = ()) -> Outcome:
    """Run a plan in a run folder, or go on where the folder stands, on the plan's device.

    Raises
    ------
    ConfigError
        If the plan's device is not here.
    ConfigError, RunError
        If networks that the plan takes from another run are not those, or not there.
    RunError
        If the folder is of something else, or cannot be written.
    KeyboardInterrupt
        After a checkpoint: the same call resumes where it was.
    """
    path = Path(out)
    usable_device(plan.settings.device)  # this and the folder before data is loaded
    if not (path / "manifest.json").is_file():
        check_free(path)
        jobs, given = plan.jobs(), trained_elsewhere(plan)
        with RunFolder.create(path, plan.to_yaml(), plan.manifest()) as folder:
            return _Run(plan, jobs, given, folder, tuple(sinks), None).run()
    if not is_reproduction(path):
        read_manifest(path)  # which a damaged one is told by
        raise RunError(f"{path} holds a search, no reproduction; choose another folder with --out")
    _check_same(plan, load_plan(path), path)
    with RunFolder.open(path) as folder:
        jobs, given = plan.jobs(), trained_elsewhere(plan)
        folder.on(plan.settings.device)
        return _Run(plan, jobs, given, folder, tuple(sinks), folder.restore()).run()


def resume_reproduction(run: str | Path, sinks: Sequence[EventSink] = ()) -> Outcome:
    """Go on with a run where it last was; it ends in the bits of one never interrupted."""
    return reproduce(load_plan(Path(run)), run, sinks)


def load_outcome(run: str | Path) -> Outcome:
    """Return what a run has found so far.

    Raises
    ------
    RunError
        If it is no reproduction, or no job of it is finished.
    """
    path = Path(run)
    plan = load_plan(path)
    files = {file.stem: file for file in sorted((path / "jobs").glob("*.safetensors"))}
    if not files:
        raise RunError(f"{path} has no result yet; continue it with 'rulesearch resume {path}'")
    return Outcome(plan, {name: read_finished(file) for name, file in files.items()})


def _check_same(plan: Plan, begun: Plan, path: Path) -> None:
    """Raise RunError where a run began with something else than another device."""
    if (found := first_difference(plan, begun)) is not None:
        key, now, before = found
        raise RunError(
            f"{path} began with {key}={before}, not {now}; choose another "
            f"folder with --out, or continue it as it is with 'rulesearch resume {path}'"
        )


@dataclass
class _Run:
    plan: Plan
    jobs: Sequence[Job]
    given: Mapping[str, Finished]
    folder: RunFolder
    sinks: tuple[EventSink, ...]
    checkpoint: Checkpoint | None
    finished: dict[str, Finished] = field(default_factory=dict)
    rejected: int = 0  # lifetimes of the job that runs
    untaught: Tensor = NOT_YET  # its seeds without an update that was not rejected
    residual: Mapping[str, Tensor] = field(default_factory=dict)  # of its last update

    def run(self) -> Outcome:
        path = self.folder.path
        with self.folder.writing():
            make_folder(path / "jobs")
        if self.plan.reproduction.draw is not None:
            import_all()
        finished = sum(self._file(job.name).is_file() for job in self.jobs)
        jobs = len(self.jobs)
        self._tell({"event": "run", "run": str(path), "jobs": jobs, "finished": finished})
        for number, job in enumerate(self.jobs, 1):
            file = self._file(job.name)
            if not file.is_file():
                self._tell(
                    {
                        "event": "job",
                        "job": job.name,
                        "number": number,
                        "jobs": jobs,
                        "updates": job.updates,
                        "lengths": job.lengths,
                        "done": self._done(job),
                    }
                )
                self._run_job(job, file)
            self.finished[job.name] = read_finished(file)
            with self.folder.writing():
                Outcome(self.plan, self.finished).save(path)
        if self.plan.reproduction.draw is not None:
            measured = {name: done.measured for name, done in self.finished.items()}
            with self.folder.writing():
                self.plan.reproduction.draw(measured, path, self.plan.settings)
        return Outcome(self.plan, self.finished)

    def _file(self, name: str) -> Path:
        return self.folder.path / "jobs" / f"{name}.safetensors"

    def _reached(self, job: Job) -> Checkpoint | None:
        reached = self.checkpoint
        return reached if reached is not None and reached.phase == job.name else None

    def _done(self, job: Job) -> int:
        if (reached := self._reached(job)) is not None:
            return reached.update
        return job.updates - job.untrained if job.name in self.given else 0

    def _run_job(self, job: Job, file: Path) -> None:
        started, self.rejected, self.residual = time.perf_counter(), 0, {}
        self.untaught = NOT_YET
        given = self.given.get(job.name)
        trained = {name: self.finished[name].model for name in job.needs}
        training = job.begin(trained if given is None else trained | {job.name: given.model})
        if (reached := self._reached(job)) is not None:
            tensors = dict(reached.tensors)
            started -= float(tensors.pop(SECONDS))
            self.rejected = int(tensors.pop(REJECTED, 0))
            self.untaught = tensors.pop(UNTAUGHT, ~NOT_YET)  # left out where there is none
            kinds = [key for key in tensors if key.startswith(RESIDUAL)]
            self.residual = {key.removeprefix(RESIDUAL): tensors.pop(key) for key in kinds}
            training.load(tensors, reached.update)
        elif given is not None:
            training.model.load_state_dict(dict(given.model))
            if job.learns:  # as that run was told, this one's table tells
                self.rejected, self.residual = given.rejected, given.residual
                self.untaught = ~NOT_YET if given.untaught is None else given.untaught
        if job.untrained or given is None:
            self._train(job, training, started)
        self._tell({"event": "measuring", "job": job.name})
        measured = job.measure(training)
        content = {
            SECONDS: _seconds_since(started),
            **self._tally(),
            **{f"model.{k}": v.detach() for k, v in training.model.state_dict().items()},
            **{f"measured.{k}": v for k, v in measured.items()},
        }
        whole = torch.contiguous_format  # and of its own: parts of one tensor are none to save
        own = {k: v.clone(memory_format=whole) for k, v in content.items()}
        with self.folder.writing():
            write_atomically(file, finished_bytes(own))

    def _train(self, job: Job, training: Training, started: float) -> None:
        every = self.plan.settings.checkpoint_every
        with self.folder.keeping(every, job.updates) as keep:
            while training.updates < job.updates:
                self._note(job, training.updates, training.update())
                # Copies, for an interrupt may come in the middle of the next update.
                tensors = {k: v.clone() for k, v in training.tensors().items()}
                tensors |= {SECONDS: _seconds_since(started), **self._tally()}
                keep(Checkpoint(job.name, training.updates, self.folder.size, tensors))

    def _tally(self) -> dict[str, Tensor]:
        """What is known of the job's updates besides what they learnt."""
        left = {RESIDUAL + kind: value for kind, value in self.residual.items()}
        some = self.untaught is not NOT_YET and bool(self.untaught.any())
        untaught = {UNTAUGHT: self.untaught} if some else {}
        return {REJECTED: torch.tensor(self.rejected), **untaught, **left}

    def _note(self, job: Job, update: int, record: UpdateRecord) -> None:
        event = {
            "event": "update",
            "phase": job.name,
            "update": update,
            "loss": finite(record.loss),
            "rejected": record.rejected.tolist(),
        }
        lost = record.rejected * self.plan.settings.episodes
        if record.diverged is not None:
            lost = record.diverged
            event["diverged"] = lost.tolist()
        self.rejected += int(lost.sum())
        training = job.updates - job.untrained
        if update < training:  # a life after it is neither taught nor solved
            self.residual = record.residual
            self.untaught = self.untaught & record.rejected.cpu()
        if record.residual:
            event["residual"] = {kind: finite(left) for kind, left in record.residual.items()}
        if record.validation is not None:
            event["validation"] = finite(record.validation)
        self.folder.append(event)
        self._tell(event)
        if update + 1 == min(ENOUGH, training) and self.untaught.any():
            about = {"job": job.name, "seeds": seeds_of(self.untaught), "updates": update + 1}
            self._tell({"event": "untaught", **about})

    def _tell(self, event: Mapping[str, Any]) -> None:
        for sink in self.sinks:
            sink(event)


def _seconds_since(started: float) -> Tensor:
    return torch.tensor(time.perf_counter() - started, dtype=torch.float64)
