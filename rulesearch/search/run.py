"""A search from start to end: pool, survivors, controls, rule."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rulesearch.files import write_atomically
from rulesearch.grammar import Term, TermPool
from rulesearch.outer import MetaOptimiser, OptimiserState
from rulesearch.report.result import Result
from rulesearch.rules import Rule
from rulesearch.search.config import Experiment, load_config
from rulesearch.search.events import EventSink
from rulesearch.search.folder import Checkpoint, RunFolder
from rulesearch.search.manifest import check_same, manifest_of
from rulesearch.search.outcome import CONTROLS, Outcome
from rulesearch.search.phase import Phase

__all__ = ["resume_search", "start_search"]

REFIT_STREAM = 1


def start_search(
    experiment: Experiment, out: str | Path, sinks: Sequence[EventSink] = ()
) -> Result:
    """Run an experiment in a new run folder.

    Raises
    ------
    RunError
        If the folder holds anything, or cannot be written.
    KeyboardInterrupt
        After a checkpoint: the run resumes where it was.
    """
    with RunFolder.create(out, experiment.to_yaml(), manifest_of(experiment)) as folder:
        return _Search(experiment, folder, tuple(sinks), None).run()


def resume_search(
    run: str | Path, sinks: Sequence[EventSink] = (), experiment: Experiment | None = None
) -> Result:
    """Continue a run from its newest whole checkpoint; it ends in the same bits.

    Parameters
    ----------
    experiment : Experiment, optional
        Needed only where the tasks are a family of one's own, which no file can describe.

    Raises
    ------
    RunError
        If it is no run, is being written, or began with something else.
    """
    with RunFolder.open(run) as folder:
        experiment = experiment or load_config(folder.path / "config.yaml")
        check_same(folder.manifest, experiment, str(run))
        return _Search(experiment, folder, tuple(sinks), folder.restore()).run()


@dataclass
class _Search:
    experiment: Experiment
    folder: RunFolder
    sinks: tuple[EventSink, ...]
    checkpoint: Checkpoint | None

    @cached_property
    def scales(self) -> Tensor:
        return torch.tensor(self.folder.manifest["scales"], dtype=torch.float64)

    @cached_property
    def outcome(self) -> Outcome:
        settings = self.experiment.settings
        outcome = Outcome(self.experiment.pool, settings, self.scales.numpy())
        for event in self.folder.events():
            if event["event"] == "update":
                outcome.history(event["phase"]).add(event)
        return outcome

    def run(self) -> Result:
        settings = self.experiment.settings
        self._run_phase(self._pool_phase())
        updates = settings.refit_episodes
        updates = settings.episodes // 2 if updates is None else updates
        if updates and self.outcome.supports():
            self._run_phase(self._refit_phase(updates))
        for name in CONTROLS if settings.controls else ():
            self._run_phase(self._control_phase(name))
        result = self.outcome.result()
        Rule.from_json(result["rule"]).save(self.folder.path / "rule.json")
        write_atomically(self.folder.path / "result.json", json.dumps(result, indent=1) + "\n")
        self._tell({"event": "done"})
        return Result.load(self.folder.path)

    def _run_phase(self, phase: Phase) -> None:
        history = self.outcome.history(phase.name)
        every, last = self.experiment.settings.checkpoint_every, phase.optimiser.updates
        state = None
        if self.checkpoint is not None and self.checkpoint.phase == phase.name:
            state = OptimiserState(**self.checkpoint.tensors)
        reached: Checkpoint | None = None  # and not yet saved
        self._tell(
            {
                "event": "phase",
                "phase": phase.name,
                "updates": last,
                "done": len(history.loss),
                "terms": list(phase.pool.names),
                "rows": len(phase.seeds),
                "scales": phase.scales.tolist(),
            }
        )

        def emit(event: dict[str, Any]) -> None:
            self.folder.append(event)
            self._tell(event)

        def keep(update: int, state: OptimiserState) -> None:
            nonlocal reached
            reached = Checkpoint(phase.name, update, self.folder.size, state.tensors())
            if update % every == 0 or update == last:
                self.folder.save(reached)
                reached = None

        try:
            phase.run(history, state, emit, keep)
        except KeyboardInterrupt:
            if reached is not None:
                self.folder.save(reached)
            raise

    def _tell(self, event: Mapping[str, Any]) -> None:
        for sink in self.sinks:
            sink(event)

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
        }
        return Phase(name=name, pool=pool, t=t, **{**defaults, **fields})

    def _optimiser(self, updates: int, **changes: Any) -> MetaOptimiser:
        o = self.experiment.settings.optimiser
        return replace(
            MetaOptimiser(o.rate, updates, decay=o.decay, clip=o.clip, reject=o.reject), **changes
        )

    def _pool_phase(self) -> Phase:
        """Every term, one row for each lambda and seed, with the penalty."""
        settings, pool = self.experiment.settings, self.experiment.pool
        lams = torch.tensor(settings.lams, dtype=torch.float64)
        start = torch.tensor(pool.init, dtype=torch.float64) / self.scales
        return self._phase(
            "search",
            pool,
            start.repeat(len(lams) * settings.seeds, 1),
            seeds=tuple(range(settings.seeds)) * len(lams),
            scales=self.scales,
            optimiser=self._optimiser(
                settings.episodes,
                penalty=settings.penalty.name,
                lam=lams.repeat_interleave(settings.seeds).unsqueeze(1),
                ramp=settings.ramp,
            ),
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

    def _control_phase(self, name: str) -> Phase:
        """The rate of the gradient alone, with W's transpose or the network's own feedback."""
        settings, network = self.experiment.settings, self.experiment.network
        gradient = Term.from_text("F0", "-e_post * y_pre.T", 1e-3, "pseudo-gradient")
        feedback = "symmetric" if name == "backprop" else network.feedback
        return self._phase(
            name,
            TermPool([gradient]),
            torch.full((settings.seeds, 1), gradient.init, dtype=torch.float64),
            network=replace(network, feedback=feedback),
            optimiser=self._optimiser(settings.episodes),
        )
