"""A lifetime by plain autograd, each term evaluated as it is written: the oracle."""

from __future__ import annotations

from torch import Tensor

from rulesearch.compile.naive import evaluate
from rulesearch.grammar import TermPool
from rulesearch.learners.examples import Indexed
from rulesearch.learners.matrices import plastic_matrices, rates, with_matrices
from rulesearch.learners.signals import connection_signals
from rulesearch.networks import NetworkState, PlasticNetwork

__all__ = ["live_unrolled"]


def live_unrolled(
    network: PlasticNetwork,
    pool: TermPool,
    state: NetworkState,
    theta: Tensor,
    x: Tensor | Indexed,
    label: Tensor,
    share: float,
) -> NetworkState:
    """``W <- W + alpha o share sum_e sum_r theta_r F_r(e)`` at every step (Algorithm 1).

    The whole history is kept, and every example has its update by itself.

    Parameters
    ----------
    theta : Tensor (lifetimes, n_terms)
    x : Tensor or Indexed, (steps, lifetimes, examples, n_in)
    label : Tensor (steps, lifetimes, examples) or (steps, lifetimes, examples, n_out)
    share : float
        Weight of each example.
    """
    wanted = set().union(*(term.normal_form.symbols for term in pool)) | _named(pool)
    for t in range(x.shape[0]):
        new = []
        signals_of = connection_signals(network, state, x[t], label[t], wanted)
        plastic, at = plastic_matrices(network, state), rates(network, state)
        connections = zip(plastic, at, signals_of, strict=True)
        for weight, rate, signals in connections:
            changes = weight.new_zeros(*label.shape[1:3], *weight.shape[1:])  # one an example
            for r, term in enumerate(pool):
                changes = changes + theta[:, r, None, None, None] * evaluate(term.expr, signals)
            change = share * changes.sum(1)
            new.append(weight + (change if rate is None else rate * change))
        state = with_matrices(network, state, new)
    return state


def _named(pool: TermPool) -> set[str]:
    """Names as the terms are spelled; W always."""
    spelled = {str(symbol) for term in pool for symbol in term.expr.atoms()}
    return spelled | {"W", "y_pre"}
