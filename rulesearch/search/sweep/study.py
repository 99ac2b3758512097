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
from rulesearch.files import make_folder, sealed, write_atomically
from rulesearch.report.result import Result
from rulesearch.search.sweep.checks import check_free, check_same
from rulesearch.search.sweep.outcome import Score, run_folder, study_content
from rulesearch.search.sweep.spec import LAM, Sweep, sweep_from
from rulesearch.search.sweep.storage import JOURNAL, Claims, open_claims, open_storage, shown

__all__ = ["REPORTS", "Study"]

KEY = "rulesearch"  # of the study's user attributes
REPORTS = 20  # times that a trial tells the pruner how it does
WARM_UP = REPORTS // 4  # of them, before which no trial is hopeless
DEATHS = 5  # of its process at the same place, after which a trial has failed
LAYOUT = 2**31 - 1  # the claim on the table itself, beyond any trial
PRUNERS: dict[str, Callable[[], BasePruner]] = {
    "none": lambda: NopPruner(),
    "median": lambda: MedianPruner(n_startup_trials=5, n_warmup_steps=WARM_UP),
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
        damage = check_free(place, sweep.name, shown(url))
        storage = open_storage(url, create=True)
        if damage and sweep.name not in [s.study_name for s in storage.get_all_studies()]:
            raise damage
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
            check_same(sweep, before, content)
        make_folder(Path(content["folder"]))
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
        """Number of the pick, once there is one whose run has not had its last word.

        It has that once it tells of the pick's lambda, and of its stability if that is asked for.
        """
        asked = self.sweep.config.get("stability") is not None
        if not (asked or self.sweep.spec.batch > 1) or self.unfinished():
            return []
        pick = self.pick()
        if pick is None or self._given_up(pick) or not self.run_folder(pick).is_dir():
            return []
        found = Result.load(self.run_folder(pick)).content
        known = found["pick"]["lam"] == self.lam(pick) and ("stability" in found or not asked)
        return [] if known else [pick]

    def pick(self) -> int | None:
        """Number of the trial that is picked; None while none is done."""
        found: int | None = self._content()["pick"]
        return found

    def lam(self, number: int) -> float:
        """The penalty that the rule of a trial that is done was found with."""
        score = self._storage.get_trial(self._id(number)).user_attrs["score"]
        return float(score["lam"])

    def left(self) -> list[int]:
        """Numbers of the trials with something to do: the unfinished ones, at last the pick."""
        return self.unfinished() or self.unproven()

    def firsts(self) -> list[int]:
        """The same, but of each batch the first number alone."""
        return list(dict.fromkeys(self.sweep.batch(number)[0] for number in self.left()))

    def take(self) -> int | None:
        """Claim the first trial with something to do that nobody claims; None if there is none.

        Of a batch it is the first number, which stands for all.
        """
        for first in self.firsts():
            if not self._claims.take(first):
                continue
            batch = self.sweep.batch(first)
            # Not done by another worker since it was listed, nor what its workers die of.
            if set(self.left()) & set(batch) and self._begun(first):
                return first
            self._claims.release(first)
        return None

    def release(self, first: int) -> None:
        """Give up a claim, alive."""
        self._study.set_user_attr(_begun_key(first), None)
        self._claims.release(first)

    def _begun(self, first: int) -> bool:
        """Write down that a trial is taken up, unless its workers died of it time and again.

        Whoever dies does not release it, so the next to take it up knows. A checkpoint more, and
        the deaths before it do not count.
        """
        at = sorted(p.name for p in self.run_folder(first).glob("checkpoint-*.json"))
        before = self._study.user_attrs.get(_begun_key(first)) or {}
        times = before["times"] + 1 if before.get("at") == at else 1
        if times <= DEATHS:
            self._study.set_user_attr(_begun_key(first), {"at": at, "times": times})
            return True
        reason = (
            f"its process died {DEATHS} times with no checkpoint between, as for want of memory; "
            "see what ended the workers"
        )
        for number in sorted(set(self.unfinished()) & set(self.sweep.batch(first))):
            self.fail(number, reason)
        self._study.set_user_attr(_given_up_key(first), reason)
        self._study.set_user_attr(_begun_key(first), None)
        self.record()
        return False

    def _given_up(self, number: int) -> str | None:
        """Why no worker goes on with a trial, if none does."""
        found: str | None = self._study.user_attrs.get(_given_up_key(self.sweep.batch(number)[0]))
        return found

    def check(self) -> None:
        """Raise where the claim may have been lost."""
        self._claims.check()

    def run_folder(self, number: int) -> Path:
        """Where a trial runs, or its batch."""
        return run_folder(self.folder, number, self.sweep.spec.batch)

    # -- a trial's life; only for whoever holds its claim --

    def start(self, number: int) -> dict[str, Any]:
        """Return a trial's parameters, decided now if they are not yet.

        They follow from the seed, the trial's number and, for ``tpe``, from the trials that are
        finished, so that one worker alone repeats the same sweep. In a batch all but lambda are
        those of its first trial, which is started first.
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
        first = self.sweep.batch(number)[0]
        params: dict[str, Any] = {}
        if number != first:
            params |= self._storage.get_trial(self._id(first)).system_attrs["fixed_params"]
            del params[LAM]
        space = sampler.infer_relative_search_space(self._study, trial)
        asked = {key: space[key] for key in space if key not in params}
        params |= sampler.sample_relative(self._study, trial, asked)
        for key, distribution in self.sweep.distributions.items():
            if key not in params:
                params[key] = sampler.sample_independent(self._study, trial, key, distribution)
        return params

    def report(self, number: int, step: int, loss: float) -> bool:
        """Tell the pruner how a trial does at one of ``REPORTS`` steps; True if it is hopeless.

        A loss that is not finite, most of the lifetimes having diverged, is not told: after the
        warm-up it is hopeless whatever the others do.
        """
        if not np.isfinite(loss):
            return step > WARM_UP
        trial_id = self._id(number)
        self._storage.set_trial_intermediate_value(trial_id, step, loss)
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
        """Write down why a trial has no result, begun or not."""
        self.start(number)
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
            try:
                text = json.dumps(sealed(content), indent=1) + "\n"
                write_atomically(self.folder / "study.json", text)
            except RunError as error:
                again = "mend that, then start again; nothing is lost"
                raise RunError(f"{error}; {again}") from None

    def _content(self) -> dict[str, Any]:
        content = study_content(self.sweep, shown(self.url), self.trials())
        pick = content["pick"]
        reason = None if pick is None else self._given_up(pick)
        return content if reason is None else {**content, "given_up": reason}

    def _id(self, number: int) -> int:
        """The storage's name for a trial, which never changes: asked for once."""
        if number not in self._ids:
            study = self._storage.get_study_id_from_name(self.sweep.name)
            found = self._storage.get_trial_id_from_study_id_trial_number(study, number)
            self._ids[number] = found
        return self._ids[number]


def _begun_key(first: int) -> str:
    return f"begun-{first:04d}"


def _given_up_key(first: int) -> str:
    return f"given-up-{first:04d}"


def _sampler(sweep: Sweep, number: int) -> BaseSampler:
    """A sampler for one trial, so that nothing depends on which process asks, and how often."""
    seed = int(np.random.SeedSequence([sweep.spec.seed, number]).generate_state(1)[0])
    if sweep.spec.kind != "tpe":
        return RandomSampler(seed)
    # In a batch, lambdas asked for before stand for bad ones, so that the next keeps away.
    return TPESampler(seed=seed, constant_liar=sweep.spec.batch > 1)
