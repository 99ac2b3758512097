r"""The first-order meta-gradient: what a rule asks for is taken as a constant.

.. math:: W_T = W_0 + \alpha \circ \sum_t \Delta_t, \qquad
          \frac{\partial W_T}{\partial W_0} \approx 1, \quad
          \frac{\partial W_T}{\partial \alpha} \approx \sum_t \Delta_t

It costs a forward pass, and tells nothing of how weights change what is learnt later, of the
feedback or of the inputs. First-order MAML and OML are this with gradient descent as the rule.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rulesearch.compile.program import Program
from rulesearch.compile.torch_source import compile_torch
from rulesearch.learners.examples import Indexed
from rulesearch.learners.matrices import plastic_matrices, rates, with_matrices
from rulesearch.learners.signals import connection_signals
from rulesearch.learners.update import contract
from rulesearch.networks import NetworkState, PlasticNetwork

__all__ = ["live_first_order"]


def live_first_order(
    network: PlasticNetwork,
    program: Program,
    state: NetworkState,
    theta: Tensor,
    x: Tensor | Indexed,
    label: Tensor,
    share: float,
) -> NetworkState:
    """Live; shapes as in :func:`rulesearch.learners.unrolled.live_unrolled`."""
    born, rate = plastic_matrices(network, state), rates(network, state)
    with torch.no_grad():
        asked = [torch.zeros_like(w) for w in born]
        current = state.detach()
        factors, wanted = compile_torch(program), program.inputs
        for t in range(x.shape[0]):
            weights = plastic_matrices(network, current)
            signals_of = connection_signals(network, current, x[t], label[t], wanted)
            new = []
            for k, signals in enumerate(signals_of):
                f = factors(theta.unsqueeze(1), **{name: signals[name] for name in wanted})
                change = contract(f, (x.shape[1], label.shape[2]), share).change(weights[k])
                asked[k] += change
                new.append(weights[k] + _scaled(change, rate[k]))
            current = with_matrices(network, current, new)
    final = [w + _scaled(sum_, a) for w, sum_, a in zip(born, asked, rate, strict=True)]
    return with_matrices(network, state, final)


def _scaled(change: Tensor, rate: Tensor | None) -> Tensor:
    return change if rate is None else rate * change
