"""Searches on complementary halves of the tasks: which terms do not depend on either half."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rulesearch.analysis.stability import expected_false, threshold_for
from rulesearch.errors import ConfigError
from rulesearch.tasks import FewShot, TaskFamily

__all__ = ["CHOICES", "Stability", "halves"]

CHOICES = ("ways", "shots", "queries", "replacement", "fixed_images")


def halves(tasks: TaskFamily, pairs: int, seed: int) -> list[TaskFamily]:
    """Return complementary halves of the tasks, those of a pair one after the other.

    Few-shot tasks are halved by their classes, at random. Others have no end of tasks: whatever
    two searches draw of them has nothing in common already, and each gets the family whole.

    Raises
    ------
    ConfigError
        If a half has fewer classes than a task needs.
    """
    if not isinstance(tasks, FewShot):
        return [tasks] * (2 * pairs)
    described = tasks.describe()
    choices: dict[str, Any] = {name: described[name] for name in CHOICES}
    classes = np.array(tasks.classes)
    if len(classes) // 2 < choices["ways"]:
        raise ConfigError(
            f"stability: half of {len(classes)} classes is too few for {choices['ways']}-way "
            "tasks; use fewer ways, hold out fewer classes, or leave stability out"
        )
    rng = np.random.default_rng([seed, pairs])
    found: list[TaskFamily] = []
    for _ in range(pairs):
        order = rng.permutation(classes)
        for half in np.array_split(order, 2):
            others = sorted(set(range(tasks.n_classes)) - set(half.tolist()))
            found.append(FewShot(tasks.data, hold_out=others, **choices))
    return found


@dataclass(frozen=True, eq=False)
class Stability:
    """What the searches on halves kept.

    Attributes
    ----------
    names : sequence of str
        Of the terms.
    kept : array (searches, terms)
        Of the searches that learnt anything; where lifetimes diverged throughout, what stays is
        where a search began.
    threshold : float
        Share of the searches from which on a term is called stable.
    groups : sequence of sequence of int
        Terms whose updates are collinear: a search keeps one of them where another would do.
    false_terms : float or None
        Raise the threshold until no more useless terms are expected.
    left_out : int
        Searches that took no update.
    """

    names: Sequence[str]
    kept: NDArray[np.bool_]
    threshold: float
    groups: Sequence[Sequence[int]]
    false_terms: float | None = None
    left_out: int = 0

    @property
    def level(self) -> float:
        """The threshold that counts; above 1 nothing can be called stable."""
        if self.false_terms is None:
            return self.threshold
        return max(self.threshold, threshold_for(self.selected, len(self.names), self.false_terms))

    @property
    def selected(self) -> float:
        """Terms that a search keeps on average."""
        return float(self._mean(self.kept.sum(1)))

    def _mean(self, of_searches: ArrayLike) -> Any:
        """The mean over the searches; nothing where there is none."""
        return np.sum(of_searches, axis=0) / max(1, len(self.kept))

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        share, level = self._mean(self.kept), self.level
        groups = {term: list(group) for group in self.groups for term in group}
        together = {k: float(self._mean(self.kept[:, of].any(1))) for k, of in groups.items()}
        rows = [
            {
                "name": name,
                "share": float(share[k]),
                "stable": bool(share[k] >= level),
                "with": [self.names[other] for other in groups[k] if other != k],
                "group_share": together[k],
                # One of them is needed, and it does not matter which.
                "group_stable": bool(together[k] >= level > share[groups[k]].max()),
            }
            for k, name in enumerate(self.names)
        ]
        return {
            "searches": len(self.kept),
            "left_out": self.left_out,
            "threshold": level if level <= 1 else None,
            "selected": self.selected,
            "expected_false": expected_false(self.selected, len(self.names), level)
            if level <= 1
            else 0.0,
            "terms": rows,
        }
