r"""Fully connected networks with a separate feedback pathway.

.. math:: z_\ell = W_\ell y_{\ell-1}, \quad y_\ell = \sigma(z_\ell), \quad
          e_{\ell-1} = (B_\ell^T e_\ell) \circ \sigma'(z_{\ell-1})

(rule-discovery paper, Eqs. 1 to 3). Many networks run at once along a leading dimension.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from rulesearch.errors import ConfigError, LearnerError, did_you_mean
from rulesearch.networks.activations import ACTIVATIONS, Activation

__all__ = ["FEEDBACKS", "NetworkState", "PlasticNetwork"]

FEEDBACKS = ("random", "symmetric", "direct")
OUTPUTS = ("softmax", "linear")
INITIALISATIONS = ("uniform", "normal")


@dataclass(frozen=True)
class NetworkState:
    """The weights of many networks.

    Attributes
    ----------
    W : list of Tensor (lifetimes, n_post, n_pre)
        Forward weights, one per connection.
    B : list of Tensor
        Feedback weights: ``(lifetimes, n_post, n_pre)``, or ``(lifetimes, n_out, n_pre)``
        where feedback is direct. With symmetric feedback W itself carries the errors and B is
        not read.
    """

    W: list[Tensor]
    B: list[Tensor] = field(repr=False)

    @property
    def lifetimes(self) -> int:
        """How many networks there are."""
        return self.W[0].shape[0]

    def detach(self) -> NetworkState:
        """The same weights, cut from the graph that made them."""
        return NetworkState([w.detach() for w in self.W], [b.detach() for b in self.B])


@dataclass(frozen=True)
class PlasticNetwork:
    r"""A fully connected network whose weights a plasticity rule moves; no biases.

    Parameters
    ----------
    sizes : sequence of int
        Units per layer, input first.
    activation : {'softplus', 'tanh', 'relu'}
        Of the hidden layers. Softplus is :math:`\log(1 + e^{\beta z}) / \beta` (Eq. 11).
        Relu cannot be differentiated twice, so no meta-gradient goes through it.
    beta : float
        Sharpness of softplus.
    output : {'softmax', 'linear'}
        Softmax with cross-entropy, or linear with half the squared error; either way the
        output's error is ``y - target``.
    feedback : {'random', 'symmetric', 'direct'}
        ``random``: fixed B of each connection, layer after layer; ``symmetric``: the transpose
        of W at every step, which is backprop; ``direct``: fixed B from the output to each layer.
    feedback_init : {'uniform', 'normal'}
        Distribution of B, both with Xavier's variance (Eqs. S.4 and S.5); W is uniform.
    detach_feedback : bool
        Keep the meta-gradient from flowing through W where it serves as symmetric feedback, as
        the paper's released code does. Off by default: the exact gradient.

    Raises
    ------
    ConfigError
        For an unknown choice or sizes that are no network.
    """

    sizes: Sequence[int]
    activation: str = "softplus"
    beta: float = 10.0
    output: str = "softmax"
    feedback: str = "random"
    feedback_init: str = "uniform"
    detach_feedback: bool = False

    def __post_init__(self) -> None:
        sizes = tuple(int(n) for n in self.sizes)
        if len(sizes) < 2 or min(sizes) < 1:
            raise ConfigError(f"sizes needs two layers or more of one unit or more, not {sizes}")
        object.__setattr__(self, "sizes", sizes)
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise ConfigError(f"beta must be a positive number, not {self.beta}")
        for name, known in (
            ("activation", tuple(ACTIVATIONS)),
            ("output", OUTPUTS),
            ("feedback", FEEDBACKS),
            ("feedback_init", INITIALISATIONS),
        ):
            value = getattr(self, name)
            if value not in known:
                hint = did_you_mean(str(value), known)
                raise ConfigError(f"{name} is one of {', '.join(known)}, not '{value}'{hint}")

    @property
    def connections(self) -> list[tuple[int, int]]:
        """``(n_post, n_pre)`` of each connection, first to last."""
        return [(post, pre) for pre, post in zip(self.sizes, self.sizes[1:], strict=False)]

    @property
    def feedback_shapes(self) -> list[tuple[int, int]]:
        """Shape of the feedback weight of each connection."""
        if self.feedback == "direct":
            return [(self.sizes[-1], pre) for _, pre in self.connections]
        return self.connections

    @property
    def plastic(self) -> frozenset[str]:
        """Names of the vocabulary that are the weights which a rule moves."""
        return frozenset({"W", "B"} if self.feedback == "symmetric" else {"W"})

    @property
    def sigma(self) -> Activation:
        """The activation function of the hidden layers."""
        return ACTIVATIONS[self.activation]

    def describe(self) -> dict[str, object]:
        """What the manifest says of the network."""
        return {
            "sizes": list(self.sizes),
            "activation": self.activation,
            "beta": self.beta,
            "output": self.output,
            "feedback": self.feedback,
            "feedback_init": self.feedback_init,
            "detach_feedback": self.detach_feedback,
        }

    def init(
        self,
        generators: Sequence[torch.Generator],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> NetworkState:
        """Draw W and B anew; network i depends on generator i alone.

        Parameters
        ----------
        generators : sequence of torch.Generator
            One per network.
        """

        def draw(shape: tuple[int, int], g: torch.Generator, distribution: str) -> Tensor:
            if distribution == "normal":
                return torch.randn(shape, generator=g, dtype=dtype) * math.sqrt(2 / sum(shape))
            bound = math.sqrt(6 / sum(shape))
            return torch.empty(shape, dtype=dtype).uniform_(-bound, bound, generator=g)

        lists: list[list[Tensor]] = []
        for shapes, distribution in (
            (self.connections, "uniform"),
            (self.feedback_shapes, self.feedback_init),
        ):
            stacks = [torch.empty(len(generators), *shape, dtype=dtype) for shape in shapes]
            for i, g in enumerate(generators):
                for stack, shape in zip(stacks, shapes, strict=True):
                    stack[i] = draw(shape, g, distribution)
            lists.append([stack.to(device) for stack in stacks])
        return NetworkState(*lists)

    def check(self, state: NetworkState) -> None:
        """Raise LearnerError where shapes are not the network's, or types differ."""
        lifetimes, like = state.lifetimes, state.W[0]
        pairs = [("W", state.W, self.connections)]
        if self.feedback != "symmetric":
            pairs.append(("B", state.B, self.feedback_shapes))
        for name, tensors, shapes in pairs:
            if len(tensors) != len(shapes):
                raise LearnerError(
                    f"state.{name} has {len(tensors)} matrices, "
                    f"the network {len(shapes)} connections"
                )
            for k, (tensor, shape) in enumerate(zip(tensors, shapes, strict=True)):
                if tuple(tensor.shape) != (lifetimes, *shape):
                    raise LearnerError(
                        f"state.{name}[{k}] has shape {tuple(tensor.shape)}, "
                        f"the network needs {(lifetimes, *shape)}"
                    )
                if tensor.dtype != like.dtype or tensor.device != like.device:
                    raise LearnerError(
                        f"state.{name}[{k}] is {tensor.dtype} on {tensor.device}, "
                        f"state.W[0] {like.dtype} on {like.device}; they should be alike"
                    )

    def activations(self, state: NetworkState, x: Tensor) -> list[Tensor]:
        """All layers' activations.

        Parameters
        ----------
        x : Tensor (lifetimes, examples, n_in)

        Returns
        -------
        list of Tensor (lifetimes, examples, n_l)
            y_0 = x to y_L; y_L after softmax where the output is one.
        """
        layers = [x]
        for weight in state.W[:-1]:
            layers.append(self.sigma.value(layers[-1] @ weight.mT, self.beta))
        z = layers[-1] @ state.W[-1].mT
        layers.append(z.softmax(-1) if self.output == "softmax" else z)
        return layers

    def __call__(self, state: NetworkState, x: Tensor) -> Tensor:
        """Logits, or the linear output: ``(lifetimes, examples, n_out)``."""
        for weight in state.W[:-1]:
            x = self.sigma.value(x @ weight.mT, self.beta)
        return x @ state.W[-1].mT

    def target(self, label: Tensor, dtype: torch.dtype) -> Tensor:
        """Integer labels as one-hot vectors; floating-point targets as they are."""
        if label.is_floating_point():
            return label.to(dtype)
        return functional.one_hot(label, self.sizes[-1]).to(dtype)

    def loss(self, output: Tensor, label: Tensor) -> Tensor:
        """Cross-entropy, or half the squared error, averaged over examples.

        Parameters
        ----------
        output : Tensor (lifetimes, examples, n_out)
            What calling the network returns.
        label : Tensor (lifetimes, examples) or (lifetimes, examples, n_out)

        Returns
        -------
        Tensor (lifetimes,)
        """
        if self.output == "softmax":
            picked = output.log_softmax(-1)
            if label.is_floating_point():
                return -(picked * label).sum(-1).mean(-1)
            return -picked.gather(-1, label.unsqueeze(-1)).squeeze(-1).mean(-1)
        return 0.5 * (output - self.target(label, output.dtype)).square().sum(-1).mean(-1)

    def errors(
        self,
        state: NetworkState,
        activations: Sequence[Tensor],
        label: Tensor,
        feedback: str | None = None,
    ) -> list[Tensor]:
        """Errors carried back by the feedback pathway.

        Parameters
        ----------
        activations : sequence of Tensor (lifetimes, examples, n_l)
        label : Tensor
        feedback : str, optional
            Another pathway than the network's: 'symmetric' gives backprop's errors.

        Returns
        -------
        list of Tensor (lifetimes, examples, n_l)
            e_0 to e_L; e_L = dLoss/dz_L, e_0 the synthetic error.
        """
        pathway = feedback or self.feedback
        last = activations[-1] - self.target(label, activations[-1].dtype)
        errors = [last]
        weights = state.W if pathway == "symmetric" else state.B
        for y, weight in zip(reversed(activations[:-1]), reversed(weights), strict=True):
            cut = self.detach_feedback and pathway == "symmetric"
            carried = weight.detach() if cut else weight
            source = last if pathway == "direct" else errors[-1]
            errors.append((source @ carried) * self.sigma.derivative(y, self.beta))
        return errors[::-1]
