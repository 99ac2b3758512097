"""What the phases of a search have found, and the result they add up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rulesearch.analysis import Floats, bootstrap_interval
from rulesearch.grammar import TermPool
from rulesearch.rules import Rule
from rulesearch.search.phase import History
from rulesearch.search.selection import Candidate, candidates, pick, standard_error
from rulesearch.search.settings import Settings

__all__ = ["CONTROLS", "Outcome", "search_phase"]

CONTROLS = ("backprop", "feedback_alignment")
MEASURES = ("accuracy", "loss", "rejected")


def search_phase(batch: int) -> str:
    """What the phase of a batch of lambdas is called; a path has several."""
    return f"search-{batch + 1}" if batch else "search"


@dataclass(frozen=True)
class Outcome:
    """The histories so far, and what follows from them.

    Attributes
    ----------
    pool : TermPool
    settings : Settings
    scales : array (terms,)
        c of ``theta = c t``.
    lam : float or None
        The pick, where it was decided elsewhere.
    done : dict of str to History
        By phase.
    """

    pool: TermPool
    settings: Settings
    scales: Floats
    lam: float | None = None
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
        batches = range(len(self.settings.batches))
        values = np.concatenate([self.end(search_phase(batch), name) for batch in batches])
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

    def rules(self) -> list[Rule]:
        """The rule of each lambda, its coefficients averaged over the seeds."""
        return [self._rule(end) for end in self._ends()]

    def _rule(self, end: _Refit) -> Rule:
        mean = dict(zip(self.pool.names, map(float, end.theta.mean(0)), strict=True))
        return Rule(self.pool, {name: mean[name] for name in end.terms})

    def _ends(self) -> list[_Refit]:
        """Where each lambda ended: after the refit of what it left, if there was one."""
        refits = self._refits()
        searched = (self.search_end(name) for name in ("theta", *MEASURES))
        return [
            refits.get(c.terms) or _Refit(c.terms, c.share, *values)
            for c, *values in zip(self.candidates(), *searched, strict=True)
        ]

    def pick(self, held_out: Sequence[Floats]) -> float:
        """The lambda whose rule has the fewest terms of those that lose no more than chance."""
        return self.settings.lams[self._chosen(held_out)]

    def _chosen(self, held_out: Sequence[Floats]) -> int:
        if self.lam is not None:
            return self.settings.lams.index(self.lam)
        return pick([len(end.terms) for end in self._ends()], held_out) if held_out else 0

    def result(self, held_out: Sequence[Floats]) -> dict[str, Any]:
        """Return what ``result.json`` holds.

        Parameters
        ----------
        held_out : sequence of array
            What the rule of each lambda loses on held-out tasks, see :func:`group_losses`; the
            pick follows from it. Empty where there is one lambda alone.
        """
        found, refits, ends = self.candidates(), self._refits(), self._ends()
        searched = {name: self.search_end(name) for name in MEASURES}
        chosen = self._chosen(held_out)
        picked, final = found[chosen], ends[chosen]
        refit = refits.get(picked.terms)
        phases = {"search": {name: values[chosen] for name, values in searched.items()}}
        if refit is not None:
            phases["refit"] = {name: getattr(refit, name) for name in MEASURES}
        for control in CONTROLS:
            if control in self.done:
                phases[control] = {name: self.end(control, name) for name in MEASURES}
        content: dict[str, Any] = {
            "schema": 1,
            "pick": {"lam": picked.lam, "terms": list(final.terms)},
            "front": [
                _front(c, refits.get(c.terms)) | {"coefficients": self._rule(end).coefficients}
                for c, end in zip(found, ends, strict=True)
            ],
            "table": self._table(picked, final, refitted=refit is not None),
            "accuracy": {name: _listed(values["accuracy"]) for name, values in phases.items()},
            "loss": {name: _listed(values["loss"]) for name, values in phases.items()},
            "rejected": {name: self.rejected_share(v["rejected"]) for name, v in phases.items()},
            "rule": self._rule(final).to_json(),
        }
        for entry, loss in zip(content["front"], held_out, strict=False):
            entry["held_out_loss"] = _mean(loss) if np.isfinite(loss).all() else None
            entry["held_out_error"] = standard_error(loss) if np.isfinite(loss).all() else None
        return content

    def _table(self, picked: Candidate, final: _Refit, refitted: bool) -> list[dict[str, Any]]:
        """What is told of each term; a term that no seed kept has a share and no coefficient.

        Of a single seed there is no spread and no interval.
        """
        _, low, high = bootstrap_interval(final.theta)
        columns = (final.theta.mean(0), final.theta.std(0), np.stack([low, high], 1))
        rows = []
        for term, *numbers in zip(self.pool, *(c.tolist() for c in columns), strict=True):
            share = final.share[term.name]
            coefficient, spread, interval = numbers if share else (None, None, None)
            if len(final.theta) < 2:
                spread = interval = None
            rows.append(
                {
                    "name": term.name,
                    "latex": term.latex(),
                    "coefficient": coefficient,
                    "spread": spread,
                    "interval": interval,
                    "share": picked.share[term.name],
                    "refit_share": share if refitted else None,
                    "locality": term.locality,
                    "kept": term.name in final.terms,
                }
            )
        return rows

    def rejected_share(self, rejected: Floats) -> float:
        """Share of the lifetimes that diverged, of so many rejected of each row's meta-batch."""
        return float(rejected.mean()) / self.settings.optimiser.meta_batch

    def _refits(self) -> dict[tuple[str, ...], _Refit]:
        """What became of each set of survivors."""
        if "refit" not in self.done:
            return {}
        names, n = self.refit_pool().names, self.settings.seeds
        ends = {name: self.end("refit", name) for name in ("theta", *MEASURES)}
        columns = [self.pool.index(name) for name in names]
        found = {}
        for k, support in enumerate(self.supports()):
            rows = slice(k * n, (k + 1) * n)
            theta = np.zeros((n, len(self.pool)))
            theta[:, columns] = ends["theta"][rows]
            share = dict(zip(self.pool.names, map(float, (theta != 0).mean(0)), strict=True))
            terms = tuple(name for name in self.pool.names if share[name] > 0.5)
            of_seeds = [ends[name][rows] for name in MEASURES]
            found[support] = _Refit(terms, share, theta, *of_seeds)
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
    accuracy, loss, rejected : array (seeds,)
        Lifetimes rejected, of a meta-batch.
    """

    terms: tuple[str, ...]
    share: dict[str, float]
    theta: Floats
    accuracy: Floats
    loss: Floats
    rejected: Floats


def _front(c: Candidate, refit: _Refit | None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "lam": c.lam,
        "terms": list(c.terms),
        "share": c.share,
        "accuracy": _mean(c.accuracy),
        "loss": _median(c.loss),
        "diverged": _diverged(c.loss),
    }
    if refit is not None:
        entry["refit_terms"] = list(refit.terms)
        entry["refit_diverged"] = _diverged(refit.loss)
        entry["refit_accuracy"] = _mean(refit.accuracy)
        entry["refit_loss"] = _median(refit.loss)
    return entry


def _mean(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None


def _median(values: Floats) -> float | None:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else None


def _diverged(values: Floats) -> int:
    return int((~np.isfinite(values)).sum())


def _listed(values: Floats) -> Sequence[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]
