"""A study: the table of a sweep's trials, in its storage, and who takes which."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import distribution_to_json
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from rulesearch.errors import ConfigError, RunError, did_you_mean
from rulesearch.files import write_atomically
from rulesearch.report.result import Result
from rulesearch.search.sweep.outcome import Score, StudyResult, run_folder, study_content
from rulesearch.search.sweep.spec import Sweep, sweep_from
from rulesearch.search.sweep.storage import Claims, open_claims, open_storage, shown

__all__ = ["REPORTS", "Study"]

JOURNAL = "journal.log"
KEY = "rulesearch"  # of the study's user attributes
REPORTS = 20  # times that a trial tells the pruner how it does
LAYOUT = 2**31 - 1  # the claim on the table itself, beyond any trial
PRUNERS: dict[str, Callable[[], BasePruner]] = {
    "none": lambda: NopPruner(),
    "median": lambda: MedianPruner(n_startup_trials=5, n_warmup_steps=REPORTS // 4),
    "hyperband": lambda: HyperbandPruner(min_resource=1, max_resource=REPORTS),
}


@dataclass(frozen=True)
class Study:
    """The trials of a sweep; made by :meth:`begin` and :meth:`open`, left by ``with``.

    Attributes
    ----------
    sweep : Sweep
    folder : Path
        Of the trials' runs, and of ``study.json``.
    url : str
        Of the storage.
    """

    sweep: Sweep
    folder: Path
    url: str
    _storage: BaseStorage
    _study: optuna.Study
    _claims: Claims
    _ids: dict[int, int] = field(default_factory=dict)

    # -- begin, open --

    @classmethod
    def begin(cls, sweep: Sweep, folder: Path | None = None, url: str | None = None) -> Study:
        """Make a study, or go on with it: all its trials are there, waiting.

        Parameters
        ----------
        folder : Path, optional
            By default ``runs/NAME``, or where the study has been.
        url : str, optional
            By default a journal in the folder.

        Raises
        ------
        ConfigError
            If a study of this name is another.
        RunError
            If the folder is in use, or the storage cannot be reached.
        """
        place = (folder or Path("runs") / sweep.name).absolute()
        url = str(place / JOURNAL) if url is None else url
        _check_free(place, sweep.name, shown(url))
        storage = open_storage(url, create=True)
        study = optuna.create_study(
            storage=storage,
            study_name=sweep.name,
            directions=["minimize"] * len(sweep.spec.objectives),
            load_if_exists=True,
        )
        content: dict[str, Any] = {
            "config": sweep.config,
            "grammars": sweep.grammars,
            "distributions": {k: distribution_to_json(d) for k, d in sweep.distributions.items()},
            "folder": str(place),
        }
        before = study.user_attrs.get(KEY)
        if before is None and study.get_trials(deepcopy=False):
            raise ConfigError(f"{shown(url)} holds a study '{sweep.name}' of something else")
        if before is not None:
            if folder is None:
                content["folder"] = before["folder"]
            _check_same(sweep, before, content)
        try:
            Path(content["folder"]).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{content['folder']} cannot be made: {error.strerror}") from None
        if content != before:
            study.set_user_attr(KEY, content)
        opened = cls._opened(storage, sweep.name, url)
        opened._lay_out()
        opened.record()
        return opened

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave every claim."""
        self._claims.close()

    @classmethod
    def open(cls, url: str, name: str | None = None) -> Study:
        """Open the study of a storage.

        Raises
        ------
        ConfigError
            If there are several, and none is named, or it is not there.
        RunError
            If the storage cannot be reached, or the study's folder is not on this machine.
        """
        storage = open_storage(url)
        names = [s.study_name for s in storage.get_all_studies() if KEY in s.user_attrs]
        if name is None and len(names) == 1:
            name = names[0]
        if name not in names:
            if not names:
                raise ConfigError(f"{shown(url)} holds no sweep; begin one with 'rulesearch sweep'")
            which = f"no '{name}'{did_you_mean(name, names)}; it" if name else "several sweeps; it"
            raise ConfigError(
                f"{shown(url)} holds {which} has {', '.join(names)}; choose one with --study"
            )
        return cls._opened(storage, str(name), url)

    @classmethod
    def _opened(cls, storage: BaseStorage, name: str, url: str) -> Study:
        study = optuna.load_study(study_name=name, storage=storage)
        content = study.user_attrs[KEY]
        sweep, folder = sweep_from(name, content), Path(content["folder"])
        if not folder.is_dir():
            raise RunError(
                f"{folder}, the folder of '{name}', is not on this machine; workers share one "
                "file system"
            )
        study.pruner = PRUNERS[sweep.spec.pruner]()
        return cls(sweep, folder, url, storage, study, open_claims(url, name, folder))

    def _lay_out(self) -> None:
        """Add the trials that are not there yet; a grid's are decided now, others as they begin."""
        grid = self.sweep.spec.grid() if self.sweep.spec.kind == "grid" else None
        with self._claimed(LAYOUT):
            for number in range(len(self.trials()), self.sweep.trials):
                self._study.enqueue_trial(grid[number] if grid else {})

    # -- which trial --

    def trials(self) -> list[FrozenTrial]:
        """All trials, by number."""
        return self._study.get_trials(deepcopy=False)

    def unfinished(self) -> list[int]:
        """Numbers of the trials that wait or run."""
        return [trial.number for trial in self.trials() if not trial.state.is_finished()]

    @contextmanager
    def _claimed(self, number: int) -> Iterator[None]:
        while not self._claims.take(number):
            time.sleep(0.05)
        try:
            yield
        finally:
            self._claims.release(number)

    def unproven(self) -> list[int]:
        """Number of the pick, once there is one whose stability is asked for and not yet known."""
        if self.sweep.config.get("stability") is None or self.unfinished():
            return []
        pick = self._content()["pick"]
        known = pick is None or "stability" in Result.load(self.run_folder(pick)).content
        return [] if known else [pick]

    def left(self) -> list[int]:
        """Numbers of the trials with something to do: the unfinished ones, at last the pick."""
        return self.unfinished() or self.unproven()

    def take(self) -> int | None:
        """Claim the first trial with something to do that nobody claims; None if there is none."""
        for number in self.left():
            if not self._claims.take(number):
                continue
            if number in self.left():  # not done by another worker since it was listed
                return number
            self._claims.release(number)
        return None

    def release(self, number: int) -> None:
        """Give up a claim."""
        self._claims.release(number)

    def check(self) -> None:
        """Raise where the claim may have been lost."""
        self._claims.check()

    def run_folder(self, number: int) -> Path:
        """Where a trial runs."""
        return run_folder(self.folder, number)

    # -- a trial's life; only for whoever holds its claim --

    def start(self, number: int) -> dict[str, Any]:
        """Return a trial's parameters, decided now if they are not yet.

        They follow from the seed, the trial's number and, for ``tpe``, from the trials that are
        finished, so that one worker alone repeats the same sweep.
        """
        trial_id = self._id(number)
        trial = self._storage.get_trial(trial_id)
        if trial.state == TrialState.WAITING:
            self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        params = trial.system_attrs.get("fixed_params")
        if not params:
            params = self._sample(number)
            self._storage.set_trial_system_attr(trial_id, "fixed_params", params)
        for key, distribution in self.sweep.distributions.items():
            if key not in trial.params:
                value = distribution.to_internal_repr(params[key])
                self._storage.set_trial_param(trial_id, key, value, distribution)
        return dict(params)

    def _sample(self, number: int) -> dict[str, Any]:
        trial = self._storage.get_trial(self._id(number))
        sampler = _sampler(self.sweep, number)
        space = sampler.infer_relative_search_space(self._study, trial)
        params = sampler.sample_relative(self._study, trial, space)
        for key, distribution in self.sweep.distributions.items():
            if key not in params:
                params[key] = sampler.sample_independent(self._study, trial, key, distribution)
        return params

    def report(self, number: int, step: int, loss: float) -> bool:
        """Tell how a trial does at one of ``REPORTS`` steps; True if it is hopeless."""
        trial_id = self._id(number)
        self._storage.set_trial_intermediate_value(trial_id, step, loss)
        if self.sweep.spec.pruner == "none":
            return False
        return self._study.pruner.prune(self._study, self._storage.get_trial(trial_id))

    def finish(self, number: int, score: Score, seconds: Mapping[str, float]) -> None:
        """Write down what a trial achieved, and the seconds of its worker in the run and beside."""
        trial_id = self._id(number)
        self._storage.set_trial_user_attr(trial_id, "score", score.to_json())
        self._storage.set_trial_user_attr(trial_id, "seconds", dict(seconds))
        self._study.tell(number, score.values(self.sweep.spec.objectives))

    def prune(self, number: int) -> None:
        """Write down that a trial was given up."""
        self._study.tell(number, state=TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """Write down why a trial has no result."""
        self._storage.set_trial_user_attr(self._id(number), "reason", reason)
        self._study.tell(number, state=TrialState.FAIL)

    def record(self) -> None:
        """Write ``study.json``: what is known of all trials.

        Workers write it without waiting for one another; whoever writes last looks again, so
        that nothing told in between is missing.
        """
        content = None
        while content != (now := self._content()):
            content = now
            write_atomically(self.folder / "study.json", json.dumps(content, indent=1) + "\n")

    def _content(self) -> dict[str, Any]:
        return study_content(self.sweep, shown(self.url), self.trials())

    def _id(self, number: int) -> int:
        """The storage's name for a trial, which never changes: asked for once."""
        if number not in self._ids:
            study = self._storage.get_study_id_from_name(self.sweep.name)
            found = self._storage.get_trial_id_from_study_id_trial_number(study, number)
            self._ids[number] = found
        return self._ids[number]


def _check_free(folder: Path, name: str, storage: str) -> None:
    """A folder holds one study of one storage, and nothing else."""
    if (folder / "study.json").is_file():
        held = StudyResult.load(folder).content
        if (held["name"], held["storage"]) != (name, storage):
            raise RunError(
                f"{folder} holds the study '{held['name']}' of {held['storage']}; go on with that, "
                "or choose another folder with --out"
            )
    # A study that was killed as it began has left its journal, and files with a dot.
    elif folder.exists() and any(p.name[0] != "." and p.name != JOURNAL for p in folder.iterdir()):
        raise RunError(f"{folder} exists and is no study; choose another folder with --out")


def _check_same(sweep: Sweep, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """A study goes on with what it began with; it may only get more trials."""

    def comparable(content: Mapping[str, Any]) -> dict[str, Any]:
        config = content["config"]
        swept = {**config["sweep"], "trials": None}
        return {**config, "sweep": swept, "grammars": content["grammars"]}

    old, new = comparable(before), comparable(now)
    for key in {**old, **new}:
        if old.get(key) != new.get(key):
            raise ConfigError(
                f"'{key}' is not what the study '{sweep.name}' began with; give it back, or "
                "another name with --set name=NAME"
            )
    if (before["config"]["sweep"].get("trials") or 0) > sweep.trials:
        raise ConfigError(f"the study '{sweep.name}' has more trials already; there are no fewer")
    if before["folder"] != now["folder"]:
        raise ConfigError(
            f"the study '{sweep.name}' has its runs in {before['folder']}; leave --out"
        )


def _sampler(sweep: Sweep, number: int) -> BaseSampler:
    """A sampler for one trial, so that nothing depends on which process asks, and how often."""
    seed = int(np.random.SeedSequence([sweep.spec.seed, number]).generate_state(1)[0])
    return TPESampler(seed=seed) if sweep.spec.kind == "tpe" else RandomSampler(seed)
