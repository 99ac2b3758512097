"""A search from start to end: pool, survivors, controls, rule."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rulesearch import __version__
from rulesearch.errors import RunError
from rulesearch.files import write_atomically
from rulesearch.grammar import Term, TermPool
from rulesearch.outer import MetaOptimiser, OptimiserState, term_scales
from rulesearch.report.result import Result
from rulesearch.rules import Rule
from rulesearch.search.config import Experiment, load_config
from rulesearch.search.events import EventSink
from rulesearch.search.folder import Checkpoint, RunFolder
from rulesearch.search.phase import NETWORK, TASK, History, Phase, generators
from rulesearch.search.selection import Candidate, candidates, pick

__all__ = ["resume_search", "start_search"]

Floats = NDArray[np.float64]
PROBE_NETWORKS, PROBE_STEPS = 8, 4
PROBE_STREAM, REFIT_STREAM = 2, 1


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
    manifest = _manifest(experiment)
    with RunFolder.create(out, experiment.to_yaml(), manifest) as folder:
        return _Search(experiment, folder, tuple(sinks)).run(None)


def resume_search(
    run: str | Path, sinks: Sequence[EventSink] = (), experiment: Experiment | None = None
) -> Result:
    """Continue a run from its newest whole checkpoint; it ends in the same bits.

    Parameters
    ----------
    experiment : Experiment, optional
        Needed only where the tasks are a family of one's own, which no file can describe.
    """
    with RunFolder.open(run) as folder:
        experiment = experiment or load_config(folder.path / "config.yaml")
        described = json.loads((folder.path / "manifest.json").read_text())
        for name in ("tasks", "network"):
            now = _manifest(experiment)[name]
            if json.loads(json.dumps(now)) != described[name]:
                raise RunError(
                    f"{folder.path}: the {name} are not those that the run began with; "
                    "give back the same data, or start a new run"
                )
        return _Search(experiment, folder, tuple(sinks)).run(folder.restore())


def _manifest(experiment: Experiment) -> dict[str, Any]:
    settings = experiment.settings
    return {
        "schema": 1,
        "rulesearch": __version__,
        "name": experiment.name,
        "grammar": experiment.grammar,
        "terms": [
            {
                "name": t.name,
                "latex": t.latex(),
                "locality": t.locality,
                "about": t.about,
                "text": str(t),
            }
            for t in experiment.pool
        ],
        "rows": [
            {"seed": seed, "lam": lam} for lam in settings.lams for seed in range(settings.seeds)
        ],
        "network": experiment.network.describe(),
        "tasks": experiment.tasks.describe(),
        "episodes": settings.episodes,
        "scales": _scales(experiment).tolist(),
        "seed": settings.seed,
        "software": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
        "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _scales(experiment: Experiment) -> Tensor:
    """c of ``theta = c t``, from a probe batch of its own."""
    settings = experiment.settings
    if not settings.optimiser.scaling:
        return torch.ones(len(experiment.pool), dtype=torch.float64)
    some = range(PROBE_NETWORKS)
    task = experiment.tasks.sample(generators(settings.seed, PROBE_STREAM, TASK, some, 0, 1))
    state = experiment.network.init(generators(settings.seed, PROBE_STREAM, NETWORK, some, 0, 1))
    x, label = task.x[:PROBE_STEPS], task.label[:PROBE_STEPS]
    cap = settings.optimiser.scale_cap
    return term_scales(experiment.pool, experiment.network, state, x, label, cap)


@dataclass
class _Search:
    experiment: Experiment
    folder: RunFolder
    sinks: tuple[EventSink, ...]
    done: dict[str, History] = field(default_factory=dict)

    @cached_property
    def scales(self) -> Tensor:
        manifest = json.loads((self.folder.path / "manifest.json").read_text())
        return torch.tensor(manifest["scales"], dtype=torch.float64)

    def run(self, checkpoint: Checkpoint | None) -> Result:
        for event in self.folder.events():
            if event["event"] == "update":
                self.done.setdefault(event["phase"], History()).add(event)
        settings = self.experiment.settings
        self._run_phase(self._pool_phase(), checkpoint)
        found = self._candidates()
        refit = self._refit_phase(found)
        if refit is not None:
            self._run_phase(refit[0], checkpoint)
        if settings.controls:
            for name in ("backprop", "feedback_alignment"):
                self._run_phase(self._control_phase(name), checkpoint)
        result = self._result(found, refit[1] if refit is not None else [])
        rule = Rule.from_json(result["rule"])
        rule.save(self.folder.path / "rule.json")
        write_atomically(self.folder.path / "result.json", json.dumps(result, indent=1) + "\n")
        self._emit_outside({"event": "done"})
        return Result.load(self.folder.path)

    # -- phases --

    def _run_phase(self, phase: Phase, checkpoint: Checkpoint | None) -> None:
        history = self.done.setdefault(phase.name, History())
        state = None
        if checkpoint is not None and checkpoint.phase == phase.name:
            state = OptimiserState(**checkpoint.tensors)
        last = phase.optimiser.updates
        every = self.experiment.settings.checkpoint_every
        latest: list[tuple[int, OptimiserState]] = []
        saved = len(history.loss)
        self._emit_outside(
            {
                "event": "phase",
                "phase": phase.name,
                "updates": last,
                "done": saved,
                "terms": list(phase.pool.names),
                "rows": len(phase.seeds),
                "scales": phase.scales.tolist(),
            }
        )

        def emit(event: dict[str, Any]) -> None:
            self.folder.append(event)
            self._emit_outside(event)

        def keep(update: int, state: OptimiserState) -> None:
            nonlocal saved
            latest[:] = [(update, state)]
            if update % every == 0 or update == last:
                self.folder.save(Checkpoint(phase.name, update, state.tensors()))
                saved = update

        try:
            phase.run(history, state, emit, keep)
        except KeyboardInterrupt:
            if latest and latest[0][0] != saved:
                update, reached = latest[0]
                self.folder.save(Checkpoint(phase.name, update, reached.tensors()))
            raise

    def _emit_outside(self, event: Mapping[str, Any]) -> None:
        for sink in self.sinks:
            sink(event)

    def _optimiser(self, updates: int, **changes: Any) -> MetaOptimiser:
        o = self.experiment.settings.optimiser
        return replace(
            MetaOptimiser(o.rate, updates, decay=o.decay, clip=o.clip, reject=o.reject), **changes
        )

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

    def _pool_phase(self) -> Phase:
        settings, pool = self.experiment.settings, self.experiment.pool
        lams = torch.tensor(settings.lams, dtype=torch.float64)
        seeds = tuple(range(settings.seeds)) * len(lams)
        begin, end = settings.optimiser.ramp
        optimiser = self._optimiser(
            settings.episodes,
            penalty=settings.penalty.name,
            lam=lams.repeat_interleave(settings.seeds).unsqueeze(1),
            ramp=(begin, end),
        )
        start = torch.tensor(pool.init, dtype=torch.float64) / self.scales
        return self._phase(
            "search", pool, start.repeat(len(seeds), 1), seeds=seeds, scales=self.scales,
            optimiser=optimiser,
        )  # fmt: skip

    def _row_lams(self) -> list[float]:
        settings = self.experiment.settings
        return [lam for lam in settings.lams for _ in range(settings.seeds)]

    def _end(self, phase: str, name: str) -> Floats:
        history = self.done[phase]
        window = min(self.experiment.settings.window, max(1, len(history.loss) // 4))
        return history.end(name, window)

    def _candidates(self) -> list[Candidate]:
        return candidates(
            self.experiment.pool.names,
            self.experiment.settings.lams,
            self._row_lams(),
            self._end("search", "theta") / self.scales.numpy(),
            self._end("search", "accuracy"),
            self._end("search", "loss"),
            self.experiment.settings.keep,
        )

    def _refit_phase(self, found: Sequence[Candidate]) -> tuple[Phase, list[tuple[str, ...]]] | None:
        """Survivors of every lambda, without penalty, each set of them once."""
        settings = self.experiment.settings
        updates = settings.refit_episodes
        updates = settings.episodes // 2 if updates is None else updates
        supports = sorted({c.terms for c in found if c.terms}, key=lambda s: (len(s), s))
        if not supports or not updates:
            return None
        pool = self.experiment.pool.subset({name for s in supports for name in s})
        index = [self.experiment.pool.index(name) for name in pool.names]
        scales = self.scales[index]
        ends = self._end("search", "theta").reshape(len(settings.lams), settings.seeds, -1)
        starts, masks = [], []
        for support in supports:
            lam = next(k for k, c in enumerate(found) if c.terms == support)
            mask = torch.tensor([float(name in support) for name in pool.names]).double()
            starts.append(torch.tensor(ends[lam][:, index]) / scales * mask)
            masks.append(mask.expand(settings.seeds, -1))
        phase = self._phase(
            "refit",
            pool,
            torch.cat(starts),
            seeds=tuple(range(settings.seeds)) * len(supports),
            scales=scales,
            optimiser=self._optimiser(updates, mask=torch.cat(masks)),
            stream=REFIT_STREAM,
        )
        return phase, supports

    def _control_phase(self, name: str) -> Phase:
        settings = self.experiment.settings
        gradient = Term.from_text("F0", "-e_post * y_pre.T", 1e-3, "pseudo-gradient")
        pool = TermPool([gradient])
        feedback = "symmetric" if name == "backprop" else self.experiment.network.feedback
        return self._phase(
            name,
            pool,
            torch.full((settings.seeds, 1), gradient.init, dtype=torch.float64),
            network=replace(self.experiment.network, feedback=feedback),
            optimiser=self._optimiser(settings.episodes),
        )

    # -- the result --

    def _result(
        self, found: Sequence[Candidate], supports: Sequence[tuple[str, ...]]
    ) -> dict[str, Any]:
        settings, pool = self.experiment.settings, self.experiment.pool
        refits = self._refits(supports)
        search_loss = self._end("search", "loss").reshape(len(settings.lams), -1)
        search_accuracy = self._end("search", "accuracy").reshape(len(settings.lams), -1)
        losses = [
            refits[c.terms]["loss"] if c.terms in refits else loss
            for c, loss in zip(found, search_loss, strict=True)
        ]
        chosen = pick([len(c.terms) for c in found], losses)
        picked = found[chosen]
        ends = self._end("search", "theta").reshape(len(settings.lams), settings.seeds, -1)[chosen]
        refit = refits.get(picked.terms)
        mean = {name: float(ends[:, pool.index(name)].mean()) for name in pool.names}
        spread = {name: float(ends[:, pool.index(name)].std()) for name in pool.names}
        if refit is not None:
            mean.update(zip(picked.terms, refit["theta"].mean(0).tolist(), strict=True))
            spread.update(zip(picked.terms, refit["theta"].std(0).tolist(), strict=True))
        accuracy = {"search": _listed(search_accuracy[chosen])}
        loss = {"search": _listed(search_loss[chosen])}
        if refit is not None:
            accuracy["refit"], loss["refit"] = _listed(refit["accuracy"]), _listed(refit["loss"])
        for control in ("backprop", "feedback_alignment"):
            if control in self.done:
                accuracy[control] = _listed(self._end(control, "accuracy"))
                loss[control] = _listed(self._end(control, "loss"))
        return {
            "schema": 1,
            "pick": {"lam": picked.lam, "terms": list(picked.terms)},
            "front": [self._front(c, refits.get(c.terms)) for c in found],
            "table": [
                {
                    "name": t.name,
                    "latex": t.latex(),
                    "coefficient": mean[t.name] if picked.share[t.name] else None,
                    "spread": spread[t.name] if picked.share[t.name] else None,
                    "share": picked.share[t.name],
                    "locality": t.locality,
                    "kept": t.name in picked.terms,
                }
                for t in pool
            ],
            "accuracy": accuracy,
            "loss": loss,
            "rule": Rule(pool, {name: mean[name] for name in picked.terms}).to_json(),
        }

    def _refits(self, supports: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], dict[str, Floats]]:
        if not supports:
            return {}
        pool = self.experiment.pool.subset({name for s in supports for name in s})
        rows = {name: self._end("refit", name) for name in ("theta", "accuracy", "loss")}
        found = {}
        for k, support in enumerate(supports):
            some = slice(k * self.experiment.settings.seeds, (k + 1) * self.experiment.settings.seeds)
            columns = [pool.index(name) for name in support]
            found[support] = {
                "theta": rows["theta"][some][:, columns],
                "accuracy": rows["accuracy"][some],
                "loss": rows["loss"][some],
            }
        return found

    def _front(self, c: Candidate, refit: Mapping[str, Floats] | None) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "lam": c.lam,
            "terms": list(c.terms),
            "share": c.share,
            "accuracy": _number(c.accuracy),
            "loss": _number(c.loss),
        }
        if refit is not None:
            entry["refit_accuracy"] = _number(float(np.nanmean(refit["accuracy"]))) if np.isfinite(refit["accuracy"]).any() else None
            entry["refit_loss"] = _number(float(refit["loss"].mean()))
        return entry


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _listed(values: Floats) -> list[float | None]:
    return [_number(float(v)) for v in values]


