"""Bands, running means and a rank test: what the figures and tables say about chance."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Floats",
    "Interval",
    "RankTest",
    "Statistic",
    "bootstrap_interval",
    "finite_mean",
    "holm",
    "mann_whitney",
    "running_mean",
    "running_median",
]

Floats = NDArray[np.float64]
Statistic = Literal["mean", "median"]


class Interval(NamedTuple):
    """A mean or median and its confidence band; three arrays of one shape."""

    centre: Floats
    low: Floats
    high: Floats


class RankTest(NamedTuple):
    """Mann-Whitney's U of the first sample and its p-value."""

    u: float
    p: float


def bootstrap_interval(
    values: ArrayLike,
    level: float = 0.98,
    samples: int = 500,
    generator: np.random.Generator | None = None,
    statistic: Statistic = "mean",
) -> Interval:
    """Mean or median over the first axis with its percentile-bootstrap band.

    A resample draws as many rows as there are, with replacement, and the same rows for
    every column: a curve is resampled whole. NaN entries are left out; where a column has
    none but NaN, so has the result.

    Parameters
    ----------
    values : array_like, shape (rows, ...)
        Independent repetitions along the first axis, for instance seeds.
    level : float
        Mass of the band; the rule-discovery paper's figures use 0.98.
    samples : int
        Resamples; 500 in the paper.
    generator : numpy.random.Generator, optional
        Source of the resamples; a generator seeded with 0 if absent, so that a figure
        drawn twice is the same figure.
    statistic : {'mean', 'median'}
        The median for what is heavy in the tail, as losses are.

    Raises
    ------
    ValueError
        If there are no rows, `level` lies outside (0, 1), or there is no such statistic.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim == 0 or data.shape[0] == 0:
        raise ValueError("bootstrap_interval needs at least one row")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    if statistic not in ("mean", "median"):
        raise ValueError(f"statistic is mean or median, not {statistic!r}")
    rng = np.random.default_rng(0) if generator is None else generator
    rows = data.shape[0]
    flat = data.reshape(rows, -1)
    flat = np.where(np.isfinite(flat), flat, np.nan)
    counts = rng.multinomial(rows, np.full(rows, 1.0 / rows), size=samples)
    centre, drawn = (_means if statistic == "mean" else _medians)(flat, counts)
    low, high = np.full_like(centre, np.nan), np.full_like(centre, np.nan)
    seen = np.isfinite(centre)
    tail = 0.5 * (1.0 - level)
    # nanquantile is many times slower, and gaps are rare.
    quantile = np.nanquantile if np.isnan(drawn[:, seen]).any() else np.quantile
    low[seen], high[seen] = quantile(drawn[:, seen], [tail, 1.0 - tail], axis=0)
    shape = data.shape[1:]
    return Interval(centre.reshape(shape), low.reshape(shape), high.reshape(shape))


def _means(flat: Floats, counts: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Mean of the columns, and of each resample of them, ``(columns,), (samples, columns)``.

    A resample's mean is a weighted mean whose weights are multinomial counts: one matrix
    product instead of samples x rows x columns gathered numbers.
    """
    known = np.isfinite(flat)
    weights = np.vstack([np.ones(len(flat)), counts])
    total = weights @ known.astype(np.float64)
    sums = weights @ np.where(known, flat, 0.0)
    means = np.divide(sums, total, out=np.full(total.shape, np.nan), where=total > 0)
    return means[0], means[1:]


def _medians(flat: Floats, counts: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Like :func:`_means`; a resample repeats each row as often as its count says."""
    drawn = np.repeat(np.tile(np.arange(len(flat)), len(counts)), counts.ravel())
    return _median(flat), _median(flat[drawn.reshape(counts.shape)])


def _median(values: Floats) -> Floats:
    """Median over the last axis but one, NaN left out; all NaN gives NaN, without a warning."""
    ordered = np.sort(values, axis=-2)  # NaN last
    known = np.isfinite(ordered).sum(axis=-2, keepdims=True)
    middle = (np.maximum(known - 1, 0) // 2, np.minimum(known // 2, values.shape[-2] - 1))
    below, above = (np.take_along_axis(ordered, place, axis=-2) for place in middle)
    return np.asarray(0.5 * (below + above)).squeeze(-2)


def finite_mean(values: ArrayLike) -> Floats:
    """Mean over the first axis of what is finite; NaN where nothing is."""
    data = np.asarray(values, dtype=np.float64)
    known = np.isfinite(data)
    total, count = np.where(known, data, 0).sum(0), known.sum(0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def running_mean(values: ArrayLike, window: int) -> Floats:
    """Mean of the last `window` entries along the last axis, fewer at the start.

    NaN entries are left out of the mean; a window with no other entry gives NaN.

    Raises
    ------
    ValueError
        If `window` is not positive.
    """
    windows = _windows(values, window)
    known = np.isfinite(windows)
    sums, counts = np.where(known, windows, 0.0).sum(-1), known.sum(-1)
    means = np.full(sums.shape, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


def running_median(values: ArrayLike, window: int) -> Floats:
    """Median of the last `window` entries along the last axis, as :func:`running_mean`."""
    return _median(np.swapaxes(_windows(values, window), -1, -2))


def _windows(values: ArrayLike, window: int) -> Floats:
    """The last `window` entries up to each, ``(..., window)``; NaN where there are none yet."""
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    data = np.asarray(values, dtype=np.float64)
    data = np.where(np.isfinite(data), data, np.nan)
    before = np.full((*data.shape[:-1], window - 1), np.nan)
    return np.lib.stride_tricks.sliding_window_view(
        np.concatenate([before, data], axis=-1), window, axis=-1
    )


def mann_whitney(
    first: ArrayLike,
    second: ArrayLike,
    alternative: Literal["greater", "less"] = "greater",
) -> RankTest:
    """Test one-sidedly whether `first` tends to be greater (less) than `second`.

    Mann-Whitney's U, as in figure S7 of the rule-discovery paper, 20 trials against 20.

    Raises
    ------
    ValueError
        If a sample is empty.
    """
    from scipy import stats  # slow to load, and a search that only measures has no use for it

    a, b = np.ravel(np.asarray(first, float)), np.ravel(np.asarray(second, float))
    if a.size == 0 or b.size == 0:
        raise ValueError("mann_whitney needs at least one value in each sample")
    test = stats.mannwhitneyu(a, b, alternative=alternative)
    return RankTest(float(test.statistic), float(test.pvalue))


def holm(chances: ArrayLike) -> Floats:
    """Adjust p-values that are told together, so that all of them hold at once.

    Holm's step-down method (Holm 1979), which needs no independence: with the m p-values in
    ascending order, the k-th becomes ``max over j <= k of (m - j + 1) p_j``, at most 1. Calling
    significant what lies below 0.05 then errs anywhere with a probability of at most 0.05.

    Parameters
    ----------
    chances : array_like, shape (tests,)

    Returns
    -------
    array, shape (tests,)
        In the order given.
    """
    p = np.asarray(chances, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate((p.size - np.arange(p.size)) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted
