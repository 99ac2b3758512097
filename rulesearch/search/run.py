"""A search from start to end: pool, survivors, controls, rule."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rulesearch.analysis import Floats
from rulesearch.analysis.stability import collinear_groups
from rulesearch.files import sealed, write_atomically
from rulesearch.grammar import TermPool
from rulesearch.learners import PlasticityLearner
from rulesearch.outer import MetaOptimiser, OptimiserState
from rulesearch.report.result import Result
from rulesearch.rules import Rule
from rulesearch.search.config import Experiment
from rulesearch.search.device import device_here
from rulesearch.search.evaluation import control, controls, evaluate_rules
from rulesearch.search.events import EventSink
from rulesearch.search.folder import Checkpoint, RunFolder
from rulesearch.search.manifest import begun_with, check_same, correlations, manifest_of
from rulesearch.search.outcome import Outcome, search_phase
from rulesearch.search.phase import Phase
from rulesearch.search.ranks import ALONE, Ranks
from rulesearch.search.selection import group_losses, kept_terms
from rulesearch.search.settings import StabilitySpec
from rulesearch.search.stability import Stability, halves

__all__ = ["resume_search", "start_search"]

REFIT_STREAM, HELD_OUT_STREAM, STABILITY_STREAM = 1, 4, 6
STABILITY = "stability"
PATH_STREAM = 100  # of a path's second batch; its first is a search like any other
HELD_OUT = 200  # tasks


def start_search(
    experiment: Experiment,
    out: str | Path,
    sinks: Sequence[EventSink] = (),
    ranks: Ranks = ALONE,
    stability: bool = True,
) -> Result:
    """Run an experiment in a new run folder.

    Parameters
    ----------
    ranks : Ranks
        Processes that share the search, each of which calls this; the first writes the folder.
    stability : bool
        Also search on halves of the tasks, if the experiment says so; or leave that to
        :func:`resume_search`, for a run that may turn out not to be worth it.

    Raises
    ------
    ConfigError
        If the experiment's device is not here.
    RunError
        If the folder holds anything, or cannot be written.
    KeyboardInterrupt
        After a checkpoint: the run resumes where it was.
    """
    device = device_here(experiment.device, ranks.size)

    def create() -> RunFolder:
        return RunFolder.create(out, experiment.to_yaml(), manifest_of(experiment))

    with ranks.folder(create) as folder:
        if ranks.rank:  # another machine's files and data
            check_same(folder.manifest, experiment, str(out))
        chosen = experiment.settings.stability if stability else None
        return _Search(experiment, folder, tuple(sinks), None, ranks, device, chosen).run()


def resume_search(
    run: str | Path,
    sinks: Sequence[EventSink] = (),
    experiment: Experiment | None = None,
    ranks: Ranks = ALONE,
    stability: bool = True,
    lam: float | None = None,
    device: str | None = None,
) -> Result:
    """Continue a run from its newest whole checkpoint; it ends in the same bits.

    Parameters
    ----------
    experiment : Experiment, optional
        Needed only where the tasks are a family of one's own, which no file can describe.
    ranks : Ranks
        As in :func:`start_search`; how many need not be what the run began with.
    stability : bool
        As in :func:`start_search`.
    lam : float, optional
        The lambda to pick, of several, where that is not for this search to decide.
    device : str, optional
        By default that which the run was on; on another it ends the same to rounding.

    Raises
    ------
    ConfigError
        If the device is not here.
    RunError
        If it is no run, is being written, or began with something else.
    """
    with ranks.folder(lambda: RunFolder.open(run)) as folder:
        if experiment is None:
            experiment = begun_with(folder.path, folder.manifest)
        else:
            check_same(folder.manifest, experiment, str(run))
        chosen = experiment.settings.stability if stability else None
        here = device_here(device or folder.on(None), ranks.size)
        experiment = replace(experiment, device=folder.on(device))
        search = _Search(
            experiment, folder, tuple(sinks), folder.restore(), ranks, here, chosen, lam
        )
        return search.run()


@dataclass
class _Search:
    experiment: Experiment
    folder: RunFolder
    sinks: tuple[EventSink, ...]
    checkpoint: Checkpoint | None
    ranks: Ranks
    device: torch.device
    stability: StabilitySpec | None
    lam: float | None = None  # the pick, decided elsewhere

    @cached_property
    def scales(self) -> Tensor:
        return torch.tensor(self.folder.manifest["scales"], dtype=torch.float64)

    @cached_property
    def outcome(self) -> Outcome:
        settings = self.experiment.settings
        outcome = Outcome(self.experiment.pool, settings, self.scales.numpy(), self.lam)
        for event in self.folder.events():
            if event["event"] == "update":
                outcome.history(event["phase"]).add(event)
        return outcome

    def run(self) -> Result:
        settings, notes = self.experiment.settings, self.folder.manifest.get("notes", [])
        for note in notes:
            self._tell({"event": "note", "text": note})
        start = torch.tensor(self.experiment.pool.init, dtype=torch.float64) / self.scales
        state = OptimiserState.start(start.repeat(settings.seeds, 1))
        for batch, lams in enumerate(settings.batches):
            # Adam's moments go along: without them the first steps, and with them the
            # thresholds of a whole penalty, would follow from a single noisy gradient.
            begun = state.last(settings.seeds, len(lams))
            state = self._run_phase(self._pool_phase(batch, begun.t), begun)
        updates = settings.refit_episodes
        updates = settings.episodes // 2 if updates is None else updates
        if updates and self.outcome.supports():
            self._run_phase(self._refit_phase(updates))
        held_out = self._held_out_losses()
        if self.stability is not None:
            lam = self.outcome.pick(held_out)
            self._run_phase(self._stability_phase(self.stability, lam))
        for name in controls(self.experiment.network) if settings.controls else ():
            self._run_phase(self._control_phase(name))
        result = self.outcome.result(held_out)
        learner = PlasticityLearner(self.experiment.network, self.experiment.pool)
        path, reason = learner.path(device=self.device)
        result["notes"] = notes
        result["engine"] = {"path": path, "reason": reason}
        if self.device.type != "cpu":
            result["engine"]["device"] = self.experiment.device
        if self.stability is not None:
            result["stability"] = self._stability(self.stability).to_json()
            rejected = self.outcome.end(self._halved, "rejected")
            result["rejected"][STABILITY] = self.outcome.rejected_share(rejected)
        with self.folder.writing():
            Rule.from_json(result["rule"]).save(self.folder.path / "rule.json")
            content = json.dumps(sealed(result), indent=1) + "\n"
            write_atomically(self.folder.path / "result.json", content)
        self._tell({"event": "done"})
        return Result.load(self.folder.path)

    def _run_phase(self, phase: Phase, start: OptimiserState | None = None) -> OptimiserState:
        history = self.outcome.history(phase.name)
        every, last = self.experiment.settings.checkpoint_every, phase.optimiser.updates
        state = start
        if self.checkpoint is not None and self.checkpoint.phase == phase.name:
            state = OptimiserState(**self.checkpoint.tensors)
        begun = {
            "event": "phase",
            "phase": phase.name,
            "updates": last,
            "done": len(history.loss),
            "terms": list(phase.pool.names),
            "rows": len(phase.seeds),
            "scales": phase.scales.tolist(),
        }
        if not history.loss:  # whoever reads the events later is told once
            self.folder.append(begun)
        self._tell(begun)

        def emit(event: dict[str, Any]) -> None:
            self.folder.append(event)
            self._tell(event)

        with self.folder.keeping(every, last) as keep:

            def checkpoint(update: int, state: OptimiserState) -> None:
                keep(Checkpoint(phase.name, update, self.folder.size, state.tensors()))

            return phase.run(history, state, emit, checkpoint)

    def _tell(self, event: Mapping[str, Any]) -> None:
        for sink in self.sinks:
            sink(event)

    def _held_out_losses(self) -> list[Floats]:
        """What the rule of each lambda loses on tasks of its own; nothing where none is picked."""
        rules = self.outcome.rules()
        if len(rules) < 2:
            return []
        experiment, network = self.experiment, self.experiment.network
        distinct = {json.dumps(rule.to_json()): (rule, network) for rule in rules}
        seed, stream = experiment.settings.seed, HELD_OUT_STREAM
        scores = evaluate_rules(distinct, experiment.tasks, HELD_OUT, seed, stream, self.device)
        losses = {score.name: group_losses(score.loss) for score in scores}
        return [losses[json.dumps(rule.to_json())] for rule in rules]

    # -- what each phase does --

    def _phase(self, name: str, pool: TermPool, t: Tensor, **fields: Any) -> Phase:
        settings = self.experiment.settings
        defaults: dict[str, Any] = {
            "network": self.experiment.network,
            "tasks": self.experiment.tasks,
            "seeds": tuple(range(settings.seeds)),
            "scales": torch.ones(len(pool), dtype=torch.float64),
            "meta_batch": settings.optimiser.meta_batch,
            "seed": settings.seed,
            "probe_every": settings.probe_every,
            "ranks": self.ranks,
            "device": self.device,
        }
        return Phase(name=name, pool=pool, t=t, **{**defaults, **fields})

    def _optimiser(self, updates: int, **changes: Any) -> MetaOptimiser:
        o = self.experiment.settings.optimiser
        return replace(
            MetaOptimiser(o.rate, updates, decay=o.decay, clip=o.clip, reject=o.reject), **changes
        )

    def _pool_phase(self, batch: int, t: Tensor) -> Phase:
        """Every term, one row for each lambda of a batch and seed, with the penalty.

        A path's later batches have the penalty whole from their first update on: the ramp is for
        terms that have not had a chance to show their use, and those had one.
        """
        settings = self.experiment.settings
        lams = torch.tensor(settings.batches[batch], dtype=torch.float64)
        return self._phase(
            search_phase(batch),
            self.experiment.pool,
            t,
            seeds=tuple(range(settings.seeds)) * len(lams),
            scales=self.scales,
            optimiser=self._optimiser(
                settings.later_episodes if batch else settings.episodes,
                penalty=settings.penalty.name,
                lam=lams.repeat_interleave(settings.seeds).unsqueeze(1),
                ramp=(0, 0) if batch else settings.ramp,
            ),
            stream=PATH_STREAM + batch if batch else 0,
        )

    def _refit_phase(self, updates: int) -> Phase:
        """Every set of survivors, without penalty, from where the search left them.

        Half-way each seed drops the terms that came to nothing now that none is taxed.
        """
        outcome, seeds = self.outcome, self.experiment.settings.seeds
        pool, found = outcome.refit_pool(), outcome.candidates()
        index = [self.experiment.pool.index(name) for name in pool.names]
        scales = self.scales[index]
        ends = torch.from_numpy(outcome.search_end("theta"))[..., index] / scales
        starts, masks = [], []
        for support in outcome.supports():
            lam = next(k for k, c in enumerate(found) if c.terms == support)
            mask = torch.tensor([[float(name in support) for name in pool.names]]).double()
            starts.append(ends[lam] * mask)
            masks.append(mask.expand(seeds, -1))
        return self._phase(
            "refit",
            pool,
            torch.cat(starts),
            seeds=tuple(range(seeds)) * len(starts),
            scales=scales,
            optimiser=self._optimiser(
                updates, drop_at=updates // 2, keep=self.experiment.settings.keep
            ),
            alive=torch.cat(masks),
            stream=REFIT_STREAM,
        )

    def _stability_phase(self, chosen: StabilitySpec, lam: float) -> Phase:
        """Every term, one row for each half of the tasks, at the penalty that was picked."""
        settings = self.experiment.settings
        families = halves(self.experiment.tasks, chosen.pairs, settings.seed)
        start = torch.tensor(self.experiment.pool.init, dtype=torch.float64) / self.scales
        return self._phase(
            self._halved,
            self.experiment.pool,
            start.repeat(len(families), 1),
            seeds=tuple(range(len(families))),
            halves=dict(enumerate(families)) if families[0] is not self.experiment.tasks else {},
            scales=self.scales,
            optimiser=self._optimiser(
                settings.episodes, penalty=settings.penalty.name, lam=lam, ramp=settings.ramp
            ),
            stream=STABILITY_STREAM,
        )

    @property
    def _halved(self) -> str:
        """The phase of the halves; another pick has one of its own."""
        return STABILITY if self.lam is None else f"{STABILITY}-{self.lam}"

    def _stability(self, chosen: StabilitySpec) -> Stability:
        pool, settings = self.experiment.pool, self.experiment.settings
        t = self.outcome.end(self._halved, "theta") / self.scales.numpy()
        rejected = np.array(self.outcome.history(self._halved).rejected)
        learnt = (2 * rejected < settings.optimiser.meta_batch).any(0)  # an update was taken
        groups = collinear_groups(correlations(self.experiment).numpy(), chosen.collinear)
        return Stability(
            pool.names,
            kept_terms(t, settings.keep)[learnt],
            chosen.threshold,
            groups,
            chosen.false_terms,
            left_out=int((~learnt).sum()),
        )

    def _control_phase(self, name: str) -> Phase:
        """The rate of the gradient alone, with W's transpose or the network's own feedback."""
        settings = self.experiment.settings
        pool, network = control(name, self.experiment.network)
        return self._phase(
            name,
            pool,
            torch.tensor([pool.init] * settings.seeds, dtype=torch.float64),
            network=network,
            optimiser=self._optimiser(settings.episodes),
        )
