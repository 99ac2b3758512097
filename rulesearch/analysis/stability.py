"""Stability selection: what survives in halves of the tasks, and how much of it is chance."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["collinear_groups", "expected_false", "threshold_for"]


def expected_false(selected: float, terms: int, threshold: float) -> float:
    r"""Bound on the expected number of terms called stable that have no use.

    .. math:: E[V] \le \frac{q^2}{(2\pi - 1)\,p}

    (Meinshausen & Buehlmann 2010, Theorem 1), for terms kept in a share of at least
    :math:`\pi` of searches on random halves. It assumes that useless terms are as likely as one
    another to be kept, and that keeping terms is no worse than guessing.

    Parameters
    ----------
    selected : float
        q, terms that a search on a half keeps on average.
    terms : int
        p, candidate terms.
    threshold : float
        :math:`\pi`, above 1/2 and at most 1.

    Raises
    ------
    ValueError
        If the threshold is out of range, or there is no term.
    """
    if not 0.5 < threshold <= 1.0:
        raise ValueError(f"threshold must be above 1/2 and at most 1, got {threshold}")
    if terms < 1:
        raise ValueError("expected_false needs at least one term")
    return selected**2 / ((2.0 * threshold - 1.0) * terms)


def threshold_for(selected: float, terms: int, false: float) -> float:
    r"""Share of searches from which on no more than so many useless terms are expected.

    .. math:: \pi = \frac{1}{2}\left(1 + \frac{q^2}{p\,E[V]}\right),

    the bound of :func:`expected_false` solved for the threshold. Above 1 there is none.

    Parameters
    ----------
    selected, terms
        As there.
    false : float
        E[V].
    """
    return 0.5 * (1.0 + selected**2 / (terms * false))


def collinear_groups(correlation: ArrayLike, level: float = 0.9) -> list[list[int]]:
    """Put terms together whose updates can stand for one another.

    Two belong together if the size of their correlation is at least `level`, and so do those
    that a chain of such pairs joins.

    Parameters
    ----------
    correlation : array_like, shape (terms, terms)
        Symmetric; the sign does not matter, for a coefficient can have either.
    level : float

    Returns
    -------
    list of list of int
        Every term in one group; groups by their first term.
    """
    near: NDArray[np.bool_] = np.abs(np.asarray(correlation, dtype=np.float64)) >= level
    groups: list[list[int]] = []
    left = list(range(len(near)))
    while left:
        group, reached = [], [left[0]]
        while reached:
            term = reached.pop()
            if term in left:
                left.remove(term)
                group.append(term)
                reached += [other for other in left if near[term, other]]
        groups.append(sorted(group))
    return groups
