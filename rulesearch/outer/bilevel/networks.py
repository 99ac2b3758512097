"""A fully connected network that learns by gradient descent, as a bilevel problem."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from rulesearch.networks import NetworkState, PlasticNetwork
from rulesearch.outer.bilevel.losses import LossProblem
from rulesearch.outer.bilevel.named import Named

__all__ = ["Examples", "LossOn", "named_weights", "network_problem", "network_state"]


class Examples(NamedTuple):
    """What networks see, and what they should answer.

    Attributes
    ----------
    x : Tensor (lifetimes or 1, examples, n_in)
    label : Tensor (lifetimes, examples) or (lifetimes, examples, n_out)
    """

    x: Tensor
    label: Tensor


def named_weights(state: NetworkState) -> dict[str, Tensor]:
    """Forward weights and biases of networks: ``W0``, ``W1``, ... and ``bias0``, ..."""
    parts = {"W": state.W, "bias": state.bias}
    return {f"{part}{k}": t for part, tensors in parts.items() for k, t in enumerate(tensors)}


def network_state(phi: Named) -> NetworkState:
    """The inverse; errors are not carried back by a pathway, so there is no feedback."""
    weights = [t for name, t in phi.items() if name.startswith("W")]
    return NetworkState(weights, [], [t for name, t in phi.items() if name.startswith("bias")])


class LossOn(NamedTuple):
    """Loss of a network on given examples."""

    network: PlasticNetwork
    examples: Examples

    def __call__(self, phi: Named, theta: Named, step: int | None) -> Tensor:
        """Return the loss of all examples, ``(lifetimes,)``."""
        x, label = self.examples
        return self.network.loss(self.network(network_state(phi), x), label)


def network_problem(
    network: PlasticNetwork, born: NetworkState, learn: Examples, evaluate: Examples
) -> LossProblem:
    """The network's own loss on two sets of examples, whole at every step; no meta-parameters.

    Parameters
    ----------
    born : NetworkState
        Where learning starts.
    """
    start = named_weights(born.detach())
    return LossProblem(LossOn(network, learn), LossOn(network, evaluate), lambda theta: start)
