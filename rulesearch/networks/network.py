r"""Fully connected networks with a separate feedback pathway.

.. math:: z_\ell = W_\ell y_{\ell-1}, \quad y_\ell = \sigma(z_\ell), \quad
          e_{\ell-1} = (B_\ell^T e_\ell) \circ \sigma'(z_{\ell-1})

(rule-discovery paper, Eqs. 1 to 3). Many networks run at once along a leading dimension.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional

from rulesearch.arguments import check_choice, check_kind, real, whole
from rulesearch.errors import ConfigError, LearnerError
from rulesearch.machine import check_memory
from rulesearch.networks.activations import ACTIVATIONS, Activation
from rulesearch.networks.drawing import INITIALISATIONS, draw_into
from rulesearch.networks.fit import Shapes, as_classes, check_input, check_label, check_state
from rulesearch.networks.learnt_feedback import LearntFeedback
from rulesearch.networks.state import NetworkState
from rulesearch.torch_arguments import check_dense, check_floating, check_generators, device_at_hand

__all__ = ["FEEDBACKS", "PlasticNetwork"]

FEEDBACKS = ("random", "symmetric", "direct", "flp")
OUTPUTS = ("softmax", "linear")


@dataclass(frozen=True)
class PlasticNetwork:
    r"""A fully connected network whose weights a plasticity rule moves.

    Parameters
    ----------
    sizes : sequence of int
        Units per layer, input first.
    activation : {'softplus', 'tanh', 'relu'}
        Of the hidden layers. Softplus is :math:`\log(1 + e^{\beta z}) / \beta` (Eq. 11).
        Relu cannot be differentiated twice, so no meta-gradient goes through errors that hold
        its derivative.
    beta : float
        Sharpness of softplus, from 1e-6 to 1e6.
    output : {'softmax', 'linear'}
        Softmax with cross-entropy, or linear with half the squared error; either way the
        output's error is ``y - target``.
    feedback : {'random', 'symmetric', 'direct', 'flp'}
        ``random``: fixed B of each connection, layer after layer; ``symmetric``: the transpose
        of W at every step, which is backprop; ``direct``: fixed B from the output to each layer;
        ``flp``: feedback with B, bias and mixing that an outer loop learns, see
        :class:`LearntFeedback`.
    feedback_init, weight_init : {'uniform', 'normal', 'kaiming'}
        Distribution of B and of W: Xavier's variance (Eqs. S.4 and S.5), or normal with variance
        2 / (number of units that a unit listens to).
    detach_feedback : bool
        Keep the meta-gradient from flowing through W where it serves as symmetric feedback, as
        the paper's released code does. Off by default: the exact gradient.
    bias : bool
        Whether units have biases.
    learnt_feedback : LearntFeedback
        How learnt feedback acts, under ``flp`` alone.

    Raises
    ------
    ConfigError
        For an unknown choice, sizes that are no network, a beta out of range, or choices of learnt
        feedback where another is used.
    """

    sizes: Sequence[int]
    activation: str = "softplus"
    beta: float = 10.0
    output: str = "softmax"
    feedback: str = "random"
    feedback_init: str = "uniform"
    weight_init: str = "uniform"
    detach_feedback: bool = False
    bias: bool = False
    learnt_feedback: LearntFeedback = field(default_factory=LearntFeedback)

    def __post_init__(self) -> None:
        check_kind("sizes", self.sizes, Iterable, "units per layer, as [784, 100, 10]")
        sizes = tuple(whole(f"sizes[{i}]", n, least=1) for i, n in enumerate(self.sizes))
        if len(sizes) < 2:
            raise ConfigError(f"sizes needs two layers or more, not {sizes}")
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "beta", real("beta", self.beta))
        if not 1e-6 <= self.beta <= 1e6:  # float32 has to hold exp(beta z)
            raise ConfigError(f"beta must be from 1e-6 to 1e6, not {self.beta:g}").about("beta")
        for name in ("detach_feedback", "bias"):
            check_kind(name, getattr(self, name), bool, "True or False")
        check_kind("learnt_feedback", self.learnt_feedback, LearntFeedback, "a LearntFeedback")
        for name, known in (
            ("activation", tuple(ACTIVATIONS)),
            ("output", OUTPUTS),
            ("feedback", FEEDBACKS),
            ("feedback_init", INITIALISATIONS),
            ("weight_init", INITIALISATIONS),
        ):
            check_choice(name, getattr(self, name), known)
        if not self.learns_feedback and self.learnt_feedback != LearntFeedback():
            raise ConfigError(
                f"learnt_feedback is for feedback='flp', and this network has '{self.feedback}'; "
                "set feedback='flp', or leave learnt_feedback out"
            )

    def with_feedback(self, feedback: str) -> PlasticNetwork:
        """Return the same network with another feedback; choices of a learnt one stay behind."""
        how = self.learnt_feedback if feedback == "flp" else LearntFeedback()
        return replace(self, feedback=feedback, learnt_feedback=how)

    @property
    def connections(self) -> list[tuple[int, int]]:
        """``(n_post, n_pre)`` of each connection, first to last."""
        return [(post, pre) for pre, post in zip(self.sizes, self.sizes[1:], strict=False)]

    @property
    def feedback_shapes(self) -> list[tuple[int, int]]:
        """Shape of the feedback weight of each connection."""
        if self.feedback == "direct":
            return [(self.sizes[-1], pre) for _, pre in self.connections]
        if self.feedback == "flp":
            posts, last = self.sizes[1:], self.sizes[-1]
            layered = self.learnt_feedback.pathway == "layered"
            above = (*posts[1:], last) if layered else (last,) * len(posts)
            return list(zip(above, posts, strict=True))
        return self.connections

    @property
    def _shapes(self) -> Shapes:
        """Of each part that it reads; W comes first."""
        posts = [(post,) for post, _ in self.connections]
        return {
            "W": self.connections,
            **({} if self.feedback == "symmetric" else {"B": self.feedback_shapes}),
            "bias": posts if self.bias else [],
            "feedback_bias": posts if self.learns_feedback else [],
            "mixing": [()] * len(posts) if self.learns_feedback else [],
            "rate": self.connections,
            "bias_rate": posts if self.bias else [],
            "feedback_rate": self.feedback_shapes if self.plastic_feedback else [],
            "Omega": self.connections,
        }

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
            "weight_init": self.weight_init,
            "detach_feedback": self.detach_feedback,
            "bias": self.bias,
            **({"learnt_feedback": asdict(self.learnt_feedback)} if self.learns_feedback else {}),
        }

    @property
    def learns_feedback(self) -> bool:
        """Whether feedback is an outer loop's to learn, and changes what units do."""
        return self.feedback == "flp"

    @property
    def plastic_feedback(self) -> bool:
        """Whether a rule moves B as it moves W."""
        return self.learns_feedback and self.learnt_feedback.plastic

    @property
    def has_own_feedback(self) -> bool:
        """Whether each connection has a B of its own shape."""
        return self.feedback in ("random", "symmetric")

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

        Raises
        ------
        ConfigError
            If these are none, there is no such type or device, or the machine cannot hold them.
        """
        check_generators(generators, "network")
        check_floating(dtype)
        device = device_at_hand(device)
        self.check_room(len(generators), dtype)
        lists: list[list[Tensor]] = []
        for shapes, rule, inwards in (
            (self.connections, self.weight_init, 1),
            (self.feedback_shapes, self.feedback_init, 0),
        ):
            stacks = [torch.empty(len(generators), *shape, dtype=dtype) for shape in shapes]
            draw_into(stacks, rule, inwards, generators)
            lists.append([stack.to(device) for stack in stacks])

        def units(value: float, *size: int) -> Tensor:
            return torch.full((len(generators), *size), value, dtype=dtype, device=device)

        zeros = [units(0, n) for n, _ in self.connections]
        weights, feedback = lists
        return NetworkState(
            weights,
            feedback,
            bias=zeros if self.bias else [],
            feedback_bias=[zero.clone() for zero in zeros] if self.learns_feedback else [],
            mixing=[units(0.5) for _ in zeros] if self.learns_feedback else [],
        )

    def check_room(self, networks: int, dtype: torch.dtype = torch.float32) -> None:
        """Raise ConfigError where W and B of so many take more memory than the machine has."""
        numbers = sum(map(math.prod, (*self.connections, *self.feedback_shapes)))
        units = " x ".join(map(str, self.sizes))
        what = f"W and B of {networks:,} networks of {units} units"
        check_memory(what, networks * numbers * dtype.itemsize)

    def check(self, state: NetworkState) -> None:
        """Raise LearnerError where shapes are not the network's, types differ, or a rate is none.

        Mixing and rates have to be finite: no lifetime could make them so again.
        """
        check_state(state, self._shapes)

    def activations(self, state: NetworkState, x: Tensor) -> list[Tensor]:
        """All layers' activations.

        Parameters
        ----------
        x : Tensor (lifetimes, examples, n_in)

        Returns
        -------
        list of Tensor (lifetimes, examples, n_l)
            y_0 = x to y_L; y_L after softmax where the output is one.

        Raises
        ------
        LearnerError
            As from calling the network.
        """
        check_input(state, x, self._shapes)
        layers, last = [x], len(state.W) - 1
        for k in range(last):
            layers.append(self.sigma.value(self._drive(state, k, layers[-1]), self.beta))
        z = self._drive(state, last, layers[-1])
        layers.append(z.softmax(-1) if self.output == "softmax" else z)
        return layers

    def _drive(self, state: NetworkState, k: int, y: Tensor) -> Tensor:
        """Pre-activations of connection k, ``W y`` and the bias where there is one."""
        z = y @ state.W[k].mT
        return z + state.bias[k].unsqueeze(-2) if state.bias else z

    def __call__(self, state: NetworkState, x: Tensor) -> Tensor:
        """Logits, or the linear output: ``(lifetimes, examples, n_out)``.

        Raises
        ------
        LearnerError
            If the weights are not those of the network, or x is not ``(lifetimes, examples,
            n_in)``, of the type of the weights and with them.
        """
        check_input(state, x, self._shapes)
        for k in range(len(state.W) - 1):
            x = self.sigma.value(self._drive(state, k, x), self.beta)
        return self._drive(state, -1, x)

    def target(self, label: Tensor, dtype: torch.dtype) -> Tensor:
        """Integer labels as one-hot vectors; floating-point targets as they are."""
        check_dense("label", label)
        if label.is_floating_point():
            return label.to(dtype)
        return functional.one_hot(as_classes(label, self.sizes[-1]), self.sizes[-1]).to(dtype)

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

        Raises
        ------
        LearnerError
            If there is not a label for each example, or not one that the output can have.
        """
        check_dense("output", output)
        check_label(label, output, self.output)
        if self.output == "softmax":
            picked = output.log_softmax(-1)
            if label.is_floating_point():
                return -(picked * label).sum(-1).mean(-1)
            own = as_classes(label, self.sizes[-1]).unsqueeze(-1)
            return -picked.gather(-1, own).squeeze(-1).mean(-1)
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
        label : Tensor (lifetimes, examples) or (lifetimes, examples, n_out)
        feedback : str, optional
            Another pathway than the network's: 'symmetric' gives backprop's errors.

        Returns
        -------
        list of Tensor (lifetimes, examples, n_l)
            e_0 to e_L; e_L = dLoss/dz_L, e_0 the synthetic error. Where feedback is learnt,
            what it carries to each layer, and zero for the input.

        Raises
        ------
        LearnerError
            If there is not a label for each example.
        """
        check_kind("state", state, NetworkState, "a NetworkState, as of init()", LearnerError)
        check_kind("activations", activations, Sequence, "a list of tensors", LearnerError)
        pathway = feedback or self.feedback
        check_choice("feedback", pathway, FEEDBACKS)
        check_label(label, activations[-1])
        target = self.target(label, activations[-1].dtype)
        if pathway == "flp":
            arrived = self.learnt_feedback.carried(state, activations[-1], target)
            return [torch.zeros_like(activations[0]), *arrived]
        errors = [activations[-1] - target]
        weights = state.W if pathway == "symmetric" else state.B
        for y, weight in zip(reversed(activations[:-1]), reversed(weights), strict=True):
            cut = self.detach_feedback and pathway == "symmetric"
            carried = weight.detach() if cut else weight
            source = errors[0] if pathway == "direct" else errors[-1]
            errors.append((source @ carried) * self.sigma.derivative(y, self.beta))
        return errors[::-1]

    def activations_after_feedback(
        self, state: NetworkState, activations: Sequence[Tensor], errors: Sequence[Tensor]
    ) -> list[Tensor]:
        """What a rule sees of the layers: other than their activations where feedback is learnt.

        Parameters
        ----------
        activations, errors : sequence of Tensor (lifetimes, examples, n_l)
            From the methods of those names.
        """
        if not self.learns_feedback:
            return list(activations)
        return self.learnt_feedback.mixed(state, activations, errors[1:])

    def feedback_sources(
        self, activations: Sequence[Tensor], errors: Sequence[Tensor], label: Tensor
    ) -> list[Tensor]:
        """What plastic feedback weights carry, their presynaptic activity; one a connection.

        Parameters
        ----------
        activations, errors : sequence of Tensor (lifetimes, examples, n_l)
            From the methods of those names.
        label : Tensor
        """
        target = self.target(label, activations[-1].dtype)
        return self.learnt_feedback.sources(activations[-1], target, errors[1:])
