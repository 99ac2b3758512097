"""From the ends of many searches to one rule: which terms, which lambda."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rulesearch.analysis import Floats

__all__ = [
    "Candidate",
    "candidates",
    "group_losses",
    "kept_terms",
    "pick",
    "standard_error",
]

GROUPS = 20
MEMBERS = 5  # of a group, at least: the median of one or two values stands no outlier


@dataclass(frozen=True)
class Candidate:
    """What one lambda left.

    Attributes
    ----------
    lam : float
    terms : tuple of str
        Kept by more than half of the seeds.
    share : dict of str to float
        Share of the seeds that kept each term.
    accuracy, loss : array (seeds,)
        With the penalty, at the end.
    """

    lam: float
    terms: tuple[str, ...]
    share: dict[str, float]
    accuracy: Floats
    loss: Floats


def kept_terms(t: Floats, keep: float) -> NDArray[np.bool_]:
    """Which scaled coefficients count, ``(..., terms)``: above ``keep`` of the row's largest."""
    size = np.abs(t)
    kept: NDArray[np.bool_] = size > keep * size.max(axis=-1, keepdims=True)
    return kept


def candidates(
    names: Sequence[str],
    lams: Sequence[float],
    t: Floats,
    accuracy: Floats,
    loss: Floats,
    keep: float,
) -> list[Candidate]:
    """Return what each lambda left, in the order of ``lams``.

    Parameters
    ----------
    t : array (lams, seeds, terms)
        Scaled coefficients at the end.
    accuracy, loss : array (lams, seeds)
    keep : float
        Share of a row's largest coefficient above which one counts.
    """
    shares = kept_terms(t, keep).mean(1)
    return [
        Candidate(
            lam,
            tuple(n for n, s in zip(names, share, strict=True) if s > 0.5),
            dict(zip(names, map(float, share), strict=True)),
            *of_seeds,
        )
        for lam, share, *of_seeds in zip(lams, shares, accuracy, loss, strict=True)
    ]


def pick(n_terms: Sequence[int], losses: Sequence[Floats]) -> int:
    """The one-standard-error rule: the fewest terms that lose no more than chance explains.

    Parameters
    ----------
    n_terms : sequence of int
        Of each candidate.
    losses : sequence of array
        Of each candidate, one a sample; NaN is left out, infinity is a loss of everything.

    Returns
    -------
    int
        Index of the candidate with the fewest terms whose mean loss is within one standard
        error of the best; of several, the one that loses least.
    """
    means = [float(known.mean()) if (known := v[~np.isnan(v)]).size else np.nan for v in losses]
    if not np.isfinite(means).any():
        return 0
    best = int(np.nanargmin(means))
    limit = means[best] + standard_error(losses[best])
    within = [k for k, mean in enumerate(means) if mean <= limit]
    return min(within, key=lambda k: (n_terms[k], means[k]))


def standard_error(values: Floats) -> float:
    """Standard error of the mean, NaN left out; zero of a single value."""
    known = values[~np.isnan(values)]
    return float(known.std(ddof=1) / np.sqrt(known.size)) if known.size > 1 else 0.0


def group_losses(loss: Floats, groups: int = GROUPS) -> Floats:
    """Medians of the losses of groups of lifetimes, ``(groups,)``; fewer of few lifetimes.

    A single lifetime on the edge of stability can lose millions, so a mean over lifetimes has no
    useful error; over the medians of groups of five or more it has. One that diverged lost
    everything.
    """
    groups = max(1, min(groups, len(loss) // MEMBERS))
    lost = np.where(np.isfinite(loss), loss, np.inf)
    return np.array([np.median(part) for part in np.array_split(lost, groups)])
