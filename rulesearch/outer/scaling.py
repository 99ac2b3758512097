r"""A common scale for terms: :math:`\theta_r = c_r t_r`.

A unit of one term moves the weights many times as far as a unit of another. So the optimiser
and the penalty act on t, where a unit of any term moves them about as far as one of the
reference term: :math:`c_r = \mathrm{RMS}(F_{ref}) / \mathrm{RMS}(F_r)`, but at most a cap,
since terms that hardly move at birth can explode later in a life.

The ratio is taken in each connection and averaged geometrically over those where both terms move
something; a term that moves nothing anywhere has scale one. Taken over all
weights at once, the widest connection speaks for all: on 784-170-130-100-70-47 Oja's rule would
get a fifth of this scale, and enter a search five times as late.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rulesearch.arguments import check_kind
from rulesearch.compile.naive import evaluate
from rulesearch.grammar import TermPool
from rulesearch.learners.examples import Indexed, check_examples
from rulesearch.learners.signals import connection_signals
from rulesearch.networks import NetworkState, PlasticNetwork

__all__ = ["term_correlations", "term_scales"]


def term_scales(
    pool: TermPool,
    network: PlasticNetwork,
    state: NetworkState,
    x: Tensor | Indexed,
    label: Tensor,
    cap: float = 3.0,
) -> Tensor:
    """Return c, ``(n_terms,)``, measured on networks at birth.

    Parameters
    ----------
    x : Tensor or Indexed, (steps, lifetimes[, examples], n_in)
        Probe examples, each step's seen by the networks as they are.
    label : Tensor (steps, lifetimes[, examples]), or floating point (..., n_out)
    cap : float
        Largest scale. The reference, the first term that starts off zero (else the first), has
        scale one.

    Raises
    ------
    ConfigError, LearnerError
        If one of them is of another kind, or they do not fit together.
    """
    check_kind("pool", pool, TermPool, "a TermPool, as grammar.enumerate()")
    check_kind("network", network, PlasticNetwork, "a PlasticNetwork")
    network.check(state)
    total = torch.zeros(len(network.connections), len(pool), dtype=torch.float64)
    for k, r, change in _changes(pool, network, state, x, label):
        total[k, r] += change.square().sum()
    reference = next((r for r, init in enumerate(pool.init) if init), 0)
    logs = 0.5 * (total[:, reference : reference + 1].log() - total.log())
    known = logs.isfinite()
    logs = torch.where(known, logs, torch.zeros_like(logs))
    return (logs.sum(0) / known.sum(0).clamp_min(1)).exp().clamp_max(cap)


def term_correlations(
    pool: TermPool,
    network: PlasticNetwork,
    state: NetworkState,
    x: Tensor | Indexed,
    label: Tensor,
) -> Tensor:
    r"""Return how alike the updates of terms are, ``(n_terms, n_terms)``, on networks at birth.

    The cosine of the angle between two updates, over all weights of a connection, examples and
    lifetimes, averaged over the connections; zero where a term moves nothing.

    Parameters
    ----------
    x, label
        As for :func:`term_scales`.
    """
    products = torch.zeros(len(network.connections), len(pool), len(pool), dtype=torch.float64)
    of_connection: list[Tensor] = []
    for k, r, change in _changes(pool, network, state, x, label):
        of_connection.append(change.flatten())
        if r == len(pool) - 1:
            stacked = torch.stack(of_connection)
            products[k] += stacked @ stacked.T
            of_connection.clear()
    size = products.diagonal(dim1=1, dim2=2).sqrt()
    size = torch.where(size > 0, size, torch.full_like(size, torch.inf))
    return (products / size[:, :, None] / size[:, None, :]).mean(0)


def _changes(
    pool: TermPool,
    network: PlasticNetwork,
    state: NetworkState,
    x: Tensor | Indexed,
    label: Tensor,
) -> Iterator[tuple[int, int, Tensor]]:
    """Connection, term, and what one step of a unit of it changes there, term after term."""
    wanted = pool.symbols | {"W", "B", "y_pre", "y_post", "z_post", "e_pre", "e_post"}
    x, label = check_examples(network, state.W[0], x, label)
    with torch.no_grad():
        for t in range(x.shape[0]):
            connections = connection_signals(network, state, x[t], label[t], wanted)
            for k, signals in enumerate(connections):
                for r, term in enumerate(pool):
                    change = evaluate(term.expr, signals).mean(1)  # of a step's examples
                    yield k, r, change.double()
