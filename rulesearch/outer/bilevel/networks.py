"""A fully connected network that learns by gradient descent, as a bilevel problem."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from rulesearch.arguments import check_kind
from rulesearch.errors import LearnerError
from rulesearch.named import Named
from rulesearch.networks import NetworkState, PlasticNetwork
from rulesearch.outer.bilevel.losses import LossProblem

__all__ = [
    "Examples",
    "LossOn",
    "Source",
    "always",
    "forward_weights",
    "named_weights",
    "network_loss",
    "network_problem",
    "network_state",
    "seen",
]


class Examples(NamedTuple):
    """What networks see, and what they should answer.

    Attributes
    ----------
    x : Tensor (lifetimes or 1, examples, n_in)
    label : Tensor (lifetimes, examples) or (lifetimes, examples, n_out)
    """

    x: Tensor
    label: Tensor


Source = Callable[[int | None], Examples]
"""The examples of a step; of None, all."""


def always(examples: Examples) -> Source:
    """The same examples at every step.

    Raises
    ------
    LearnerError
        If they are not two tensors, what is seen and what is answered.
    """
    pair = isinstance(examples, tuple) and len(examples) == 2
    if not pair or not all(isinstance(part, Tensor) for part in examples):
        raise LearnerError("examples should be two tensors, as Examples(x, label)")
    return lambda step: examples


def seen(source: Source, step: int | None, weights: Tensor) -> Examples:
    """Return the examples of a step, for lifetimes that have such weights.

    Parameters
    ----------
    weights : Tensor (lifetimes, ...)

    Raises
    ------
    LearnerError
        If their first axes are other ones, as the steps that come first in a batch of tasks.
    """
    x, label = source(step)
    lifetimes, axes = len(weights), tuple(x.shape[:2])
    fits = axes[:1] in ((1,), (lifetimes,)) and tuple(label.shape[:2]) == (lifetimes, *axes[1:])
    if x.ndim > 2 and not fits:
        raise LearnerError(
            f"examples: x has shape {tuple(x.shape)} and label {tuple(label.shape)}; they should "
            f"begin with (lifetimes, examples), of {lifetimes} lifetimes; of a batch of tasks, "
            "where steps come first, give Examples(x.transpose(0, 1), label.transpose(0, 1))"
        )
    return Examples(x, label)


def forward_weights(state: NetworkState) -> dict[str, Tensor]:
    """Of networks: ``W0``, ``W1``, ..."""
    return {f"W{k}": w for k, w in enumerate(state.W)}


def named_weights(state: NetworkState) -> dict[str, Tensor]:
    """Forward weights and biases of networks: ``W0``, ``W1``, ... and ``bias0``, ..."""
    return forward_weights(state) | {f"bias{k}": b for k, b in enumerate(state.bias)}


def network_state(phi: Named) -> NetworkState:
    """The inverse; errors are not carried back by a pathway, so there is no feedback."""
    weights = [t for name, t in phi.items() if name.startswith("W")]
    return NetworkState(weights, [], [t for name, t in phi.items() if name.startswith("bias")])


def network_loss(
    network: PlasticNetwork, state: NetworkState, source: Source, step: int | None = None
) -> Tensor:
    """Loss of networks on the examples of a step, or on all, ``(lifetimes,)``."""
    x, label = seen(source, step, state.W[0])
    return network.loss(network(state, x), label)


class LossOn(NamedTuple):
    """Loss of a network on the examples of a step."""

    network: PlasticNetwork
    source: Source

    def __call__(self, phi: Named, theta: Named, step: int | None) -> Tensor:
        """Return the loss, ``(lifetimes,)``."""
        return network_loss(self.network, network_state(phi), self.source, step)


def network_problem(
    network: PlasticNetwork, born: NetworkState, learn: Examples, evaluate: Examples
) -> LossProblem:
    """The network's own loss on two sets of examples, whole at every step; no meta-parameters.

    Parameters
    ----------
    born : NetworkState
        Where learning starts.

    Raises
    ------
    ConfigError, LearnerError
        If the network is none, the weights are another's, or examples are not two tensors.
    """
    check_kind("network", network, PlasticNetwork, "a PlasticNetwork")
    check_kind("born", born, NetworkState, "a NetworkState, as of init()", LearnerError)
    shapes = [tuple(w.shape[1:]) for w in born.W]
    if shapes != network.connections:
        raise LearnerError(f"born has weights {shapes}, the network needs {network.connections}")
    start = named_weights(born.detach())
    learnt, judged = (LossOn(network, always(examples)) for examples in (learn, evaluate))
    return LossProblem(learnt, judged, lambda theta: start)
