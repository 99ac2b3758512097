r"""A common scale for terms: :math:`\theta_r = c_r t_r`.

A unit of one term moves the weights many times as far as a unit of another. So the optimiser
and the penalty act on t, where a unit of any term moves them about as far as one of the
reference term: :math:`c_r = \mathrm{RMS}(F_{ref}) / \mathrm{RMS}(F_r)`, but at most a cap,
since terms that hardly move at birth can explode later in a life.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rulesearch.compile.naive import evaluate
from rulesearch.grammar import TermPool
from rulesearch.learners.signals import connection_signals
from rulesearch.networks import NetworkState, PlasticNetwork

__all__ = ["term_scales"]


def term_scales(
    pool: TermPool,
    network: PlasticNetwork,
    state: NetworkState,
    x: Tensor,
    label: Tensor,
    cap: float = 3.0,
) -> Tensor:
    """Return c, ``(n_terms,)``, measured on networks at birth.

    Parameters
    ----------
    x : Tensor (steps, lifetimes, n_in)
        Probe examples, each seen by the networks as they are.
    label : Tensor (steps, lifetimes)
    cap : float
        Largest scale. The reference, the first term that starts off zero (else the first), has
        scale one.
    """
    wanted = pool.symbols | {"W", "B", "y_pre", "y_post", "z_post", "e_pre", "e_post"}
    total = torch.zeros(len(pool), dtype=torch.float64)
    with torch.no_grad():
        for x_t, label_t in zip(x, label, strict=True):
            for signals in connection_signals(network, state, x_t, label_t, wanted):
                for r, term in enumerate(pool):
                    total[r] += evaluate(term.expr, signals).double().square().sum()
    reference = next((r for r, init in enumerate(pool.init) if init), 0)
    rms = total.sqrt()
    return torch.where(rms > 0, rms[reference] / rms, torch.ones_like(rms)).clamp_max(cap)
