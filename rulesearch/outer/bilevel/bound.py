"""How wrong the contrastive meta-gradient can be, and the best nudging strength."""

from __future__ import annotations

import math

from rulesearch.arguments import number
from rulesearch.errors import ConfigError

__all__ = ["best_beta", "error_bound"]


def error_bound(delta: float, beta: float) -> float:
    r"""Bound of the error up to a constant of the problem.

    .. math:: \mathcal B(\delta, \beta) = \frac{1 + \beta}{\beta} \delta + \frac{\beta}{1 + \beta}

    (CML, Theorem 1).

    Parameters
    ----------
    delta : float
        How far both solutions may be from the true ones.
    beta : float
        Nudging strength.

    Raises
    ------
    ConfigError
        If beta is not a positive number, or delta negative.
    """
    if not (0 < number(beta) < math.inf and number(delta) >= 0):
        raise ConfigError(
            f"beta must be positive and finite, and delta not negative: {beta!r}, {delta!r}"
        )
    return (1 + beta) / beta * delta + beta / (1 + beta)


def best_beta(delta: float) -> float:
    r"""Where the bound is least: :math:`\sqrt{\delta} / (1 - \sqrt{\delta})`.

    It is 2 sqrt(delta) there. From delta = 1 on no strength is too large.

    Raises
    ------
    ConfigError
        If delta is negative.
    """
    if not number(delta) >= 0:
        raise ConfigError(f"delta must not be negative: {delta!r}")
    root = math.sqrt(delta)
    return root / (1 - root) if root < 1 else math.inf
