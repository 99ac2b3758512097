r"""A common scale for terms: :math:`\theta_r = c_r t_r`.

A unit of one term moves the weights many times as far as a unit of another. So the optimiser
and the penalty act on t, where a unit of any term moves them about as far as one of the
reference term: :math:`c_r = \mathrm{RMS}(F_{ref}) / \mathrm{RMS}(F_r)`, but at most a cap,
since terms that hardly move at birth can explode later in a life.

The ratio is taken in each connection and averaged geometrically over them. Taken over all
weights at once, the widest connection speaks for all: on 784-170-130-100-70-47 Oja's rule would
get a fifth of this scale, and enter a search five times as late.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rulesearch.compile.naive import evaluate
from rulesearch.grammar import TermPool
from rulesearch.learners.examples import Indexed, check_examples
from rulesearch.learners.signals import connection_signals
from rulesearch.networks import NetworkState, PlasticNetwork

__all__ = ["term_scales"]


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
    """
    wanted = pool.symbols | {"W", "B", "y_pre", "y_post", "z_post", "e_pre", "e_post"}
    total = torch.zeros(len(network.connections), len(pool), dtype=torch.float64)
    x, label = check_examples(network, state.W[0], x, label)
    with torch.no_grad():
        for t in range(x.shape[0]):
            connections = connection_signals(network, state, x[t], label[t], wanted)
            for k, signals in enumerate(connections):
                for r, term in enumerate(pool):
                    change = evaluate(term.expr, signals).mean(1)  # of a step's examples
                    total[k, r] += change.double().square().sum()
    reference = next((r for r, init in enumerate(pool.init) if init), 0)
    logs = 0.5 * (total[:, reference : reference + 1].log() - total.log())
    logs = torch.where(logs.isfinite(), logs, torch.zeros_like(logs))
    return logs.mean(0).exp().clamp_max(cap)
