"""A lifetime by plain autograd, each term evaluated as it is written: the oracle."""

from __future__ import annotations

import torch
from torch import Tensor

from rulesearch.compile.naive import evaluate
from rulesearch.grammar import TermPool
from rulesearch.learners.signals import connection_signals
from rulesearch.networks import NetworkState, PlasticNetwork

__all__ = ["live_unrolled"]


def live_unrolled(
    network: PlasticNetwork,
    pool: TermPool,
    state: NetworkState,
    theta: Tensor,
    x: Tensor,
    label: Tensor,
) -> NetworkState:
    """``W <- W + sum_r theta_r F_r`` at every step, the whole history kept (Algorithm 1).

    Parameters
    ----------
    theta : Tensor (lifetimes, n_terms)
    x : Tensor (steps, lifetimes, n_in)
    label : Tensor (steps, lifetimes) or (steps, lifetimes, n_out)
    """
    wanted = set().union(*(term.normal_form.symbols for term in pool)) | _named(pool)
    for x_t, label_t in zip(x, label, strict=True):
        new = []
        for signals in connection_signals(network, state, x_t, label_t, wanted):
            weight = signals["W"]
            change = torch.zeros_like(weight)
            for r, term in enumerate(pool):
                change = change + theta[:, r, None, None] * evaluate(term.expr, signals)
            new.append(weight + change)
        state = NetworkState(new, state.B)
    return state


def _named(pool: TermPool) -> set[str]:
    """Names as the terms are spelled; W always."""
    spelled = {str(symbol) for term in pool for symbol in term.expr.atoms()}
    return spelled | {"W", "y_pre"}
