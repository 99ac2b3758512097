"""What the phases of a search have found, and the result they add up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rulesearch.grammar import TermPool
from rulesearch.rules import Rule
from rulesearch.search.phase import History
from rulesearch.search.selection import Candidate, candidates, pick
from rulesearch.search.settings import Settings

__all__ = ["CONTROLS", "Outcome"]

CONTROLS = ("backprop", "feedback_alignment")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """The histories so far, and what follows from them.

    Attributes
    ----------
    pool : TermPool
    settings : Settings
    scales : array (terms,)
        c of ``theta = c t``.
    done : dict of str to History
        By phase.
    """

    pool: TermPool
    settings: Settings
    scales: Floats
    done: dict[str, History] = field(default_factory=dict)

    def history(self, phase: str) -> History:
        """What a phase has logged; empty before it begins."""
        return self.done.setdefault(phase, History())

    def end(self, phase: str, name: str) -> Floats:
        """Where a phase ended: ``(rows,)`` or ``(rows, terms)``, averaged over its last updates."""
        history = self.done[phase]
        window = min(self.settings.window, max(1, len(history.loss) // 4))
        return history.end(name, window)

    def search_end(self, name: str) -> Floats:
        """The end of the search by lambda and seed: ``(lams, seeds, ...)``."""
        values = self.end("search", name)
        return values.reshape(len(self.settings.lams), self.settings.seeds, *values.shape[1:])

    def candidates(self) -> list[Candidate]:
        """What each lambda left."""
        return candidates(
            self.pool.names,
            self.settings.lams,
            self.search_end("theta") / self.scales,
            self.search_end("accuracy"),
            self.search_end("loss"),
            self.settings.keep,
        )

    def supports(self) -> list[tuple[str, ...]]:
        """The sets of terms to refit, each once: those that the lambdas left."""
        return sorted({c.terms for c in self.candidates() if c.terms}, key=lambda s: (len(s), s))

    def refit_pool(self) -> TermPool:
        """The terms of all supports."""
        return self.pool.subset({name for support in self.supports() for name in support})

    def result(self) -> dict[str, Any]:
        """Return what ``result.json`` holds."""
        found, refits = self.candidates(), self._refits()
        searched = {name: self.search_end(name) for name in ("theta", "accuracy", "loss")}
        rules = [
            refits.get(c.terms) or _Refit(c.terms, c.share, theta, accuracy, loss)
            for c, theta, accuracy, loss in zip(found, *searched.values(), strict=True)
        ]
        chosen = pick([len(rule.terms) for rule in rules], [rule.loss for rule in rules])
        picked, final = found[chosen], rules[chosen]
        refit = refits.get(picked.terms)
        mean = dict(zip(self.pool.names, map(float, final.theta.mean(0)), strict=True))
        spread = dict(zip(self.pool.names, map(float, final.theta.std(0)), strict=True))
        phases = {"search": {name: values[chosen] for name, values in searched.items()}}
        if refit is not None:
            phases["refit"] = {"accuracy": refit.accuracy, "loss": refit.loss}
        for control in CONTROLS:
            if control in self.done:
                phases[control] = {n: self.end(control, n) for n in ("accuracy", "loss")}
        return {
            "schema": 1,
            "pick": {"lam": picked.lam, "terms": list(final.terms)},
            "front": [_front(c, refits.get(c.terms)) for c in found],
            "table": [
                {
                    "name": t.name,
                    "latex": t.latex(),
                    "coefficient": mean[t.name] if final.share[t.name] else None,
                    "spread": spread[t.name] if final.share[t.name] else None,
                    "share": picked.share[t.name],
                    "refit_share": final.share[t.name] if refit is not None else None,
                    "locality": t.locality,
                    "kept": t.name in final.terms,
                }
                for t in self.pool
            ],
            "accuracy": {name: _listed(values["accuracy"]) for name, values in phases.items()},
            "loss": {name: _listed(values["loss"]) for name, values in phases.items()},
            "rejected": {name: self._rejected(name) for name in phases},
            "rule": Rule(self.pool, {name: mean[name] for name in final.terms}).to_json(),
        }

    def _rejected(self, phase: str) -> float:
        """Share of the lifetimes of a phase's last updates that diverged."""
        return float(self.end(phase, "rejected").mean()) / self.settings.optimiser.meta_batch

    def _refits(self) -> dict[tuple[str, ...], _Refit]:
        """What became of each set of survivors."""
        if "refit" not in self.done:
            return {}
        names, n = self.refit_pool().names, self.settings.seeds
        ends = {name: self.end("refit", name) for name in ("theta", "accuracy", "loss")}
        columns = [self.pool.index(name) for name in names]
        found = {}
        for k, support in enumerate(self.supports()):
            rows = slice(k * n, (k + 1) * n)
            theta = np.zeros((n, len(self.pool)))
            theta[:, columns] = ends["theta"][rows]
            share = dict(zip(self.pool.names, map(float, (theta != 0).mean(0)), strict=True))
            terms = tuple(name for name in self.pool.names if share[name] > 0.5)
            found[support] = _Refit(terms, share, theta, ends["accuracy"][rows], ends["loss"][rows])
        return found


@dataclass(frozen=True, eq=False)
class _Refit:
    """Survivors without penalty.

    Attributes
    ----------
    terms : tuple of str
        Kept by more than half of the seeds to the end.
    share : dict of str to float
        Share of the seeds that kept each term of the pool.
    theta : array (seeds, terms of the pool)
        Exactly zero where a seed dropped a term.
    accuracy, loss : array (seeds,)
    """

    terms: tuple[str, ...]
    share: dict[str, float]
    theta: Floats
    accuracy: Floats
    loss: Floats


def _front(c: Candidate, refit: _Refit | None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "lam": c.lam,
        "terms": list(c.terms),
        "share": c.share,
        "accuracy": _mean(c.accuracy),
        "loss": _median(c.loss),
    }
    if refit is not None:
        entry["refit_terms"] = list(refit.terms)
        entry["refit_accuracy"] = _mean(refit.accuracy)
        entry["refit_loss"] = _median(refit.loss)
    return entry


def _mean(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None


def _median(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else None


def _listed(values: Floats) -> Sequence[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]
