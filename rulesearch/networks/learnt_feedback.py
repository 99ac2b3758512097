r"""Feedback that an outer loop learns, and that changes what the units do.

A signal s at the output, the target or the error :math:`y^* - \hat{y}`, drives the units of each
layer, whose activity is then partly the feedback's:

.. math:: f_\ell = \varphi(B_\ell^T s + c_\ell), \qquad
          y'_\ell = (1 - \beta_\ell)\, y_\ell + \beta_\ell f_\ell

(FLP, section 4.1; a bias is added where the paper subtracts it). A local rule sees
:math:`y'_\ell` as ``y_post`` and :math:`f_\ell` as ``e_post``.

Two things that the paper's discussion leaves to the future are settings. Feedback may go through
all layers, :math:`f_\ell = \varphi(B_\ell^T f_{\ell+1} + c_\ell)`, with s in the place of
:math:`f_{L+1}`. And it may be plastic: B then changes within the lifetime by the rule that W
changes by. To a feedback synapse, what it carries is ``y_pre``, :math:`B_\ell^T` is ``W`` and
:math:`y'_\ell` is ``y_post``, so that Oja's rule of a single neuron is

.. math:: \Delta B_\ell = \eta_\ell \circ \sum_e
          \left(s\, {y'_\ell}^T - B_\ell \operatorname{diag}({y'_\ell}^2)\right),

with the rates :math:`\eta` of :class:`NetworkState`, and :math:`f_{\ell+1}` for s in layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rulesearch.arguments import check_choice, check_kind
from rulesearch.networks.state import NetworkState

__all__ = ["LearntFeedback"]

_CHOICES = {
    "source": ("error", "target"),
    "activation": ("relu", "identity"),
    "presynaptic": ("before", "after"),
    "pathway": ("direct", "layered"),
}


@dataclass(frozen=True)
class LearntFeedback:
    """How learnt feedback acts.

    Parameters
    ----------
    source : {'error', 'target'}
        What it carries: target minus output, or the target itself.
    activation : {'relu', 'identity'}
        Of the fed-back signal.
    clamp_output : bool
        Set the output to the target, in place of feedback to it.
    presynaptic : {'before', 'after'}
        Whether a rule sees its presynaptic units as they were before feedback or after it.
    pathway : {'direct', 'layered'}
        From the output to each layer, or from each layer to the one below it.
    plastic : bool
        Whether B changes within a lifetime, by the rule that moves W.

    Raises
    ------
    ConfigError
        For an unknown choice.
    """

    source: str = "error"
    activation: str = "relu"
    clamp_output: bool = False
    presynaptic: str = "before"
    pathway: str = "direct"
    plastic: bool = False

    def __post_init__(self) -> None:
        for name in ("clamp_output", "plastic"):
            check_kind(f"learnt feedback: {name}", getattr(self, name), bool, "True or False")
        for name, known in _CHOICES.items():
            check_choice(f"learnt feedback: {name}", getattr(self, name), known)

    def carried(self, state: NetworkState, output: Tensor, target: Tensor) -> list[Tensor]:
        """What arrives at each layer but the input.

        Parameters
        ----------
        output, target : Tensor (lifetimes, examples, n_out)

        Returns
        -------
        list of Tensor (lifetimes, examples, n_l)
            f_1 to f_L.
        """
        signal = self._signal(output, target)
        found = [target] if self.clamp_output else []
        for k in reversed(range(len(state.B) - len(found))):
            source = found[-1] if self.pathway == "layered" and found else signal
            drive = source @ state.B[k] + state.feedback_bias[k].unsqueeze(-2)
            found.append(drive.relu() if self.activation == "relu" else drive)
        return found[::-1]

    def sources(self, output: Tensor, target: Tensor, carried: Sequence[Tensor]) -> list[Tensor]:
        """What the feedback weights of each layer are given to carry.

        Parameters
        ----------
        output, target : Tensor (lifetimes, examples, n_out)
        carried : sequence of Tensor
            f_1 to f_L.

        Returns
        -------
        list of Tensor (lifetimes, examples, rows of B)
            One a layer but the input.
        """
        signal = self._signal(output, target)
        layered = self.pathway == "layered"
        return [*carried[1:], signal] if layered else [signal] * len(carried)

    def _signal(self, output: Tensor, target: Tensor) -> Tensor:
        return target - output if self.source == "error" else target

    def mixed(
        self, state: NetworkState, activations: Sequence[Tensor], carried: Sequence[Tensor]
    ) -> list[Tensor]:
        """Activity after feedback.

        Parameters
        ----------
        activations : sequence of Tensor (lifetimes, examples, n_l)
            y_0 to y_L.
        carried : sequence of Tensor
            f_1 to f_L.

        Returns
        -------
        list of Tensor (lifetimes, examples, n_l)
            The input as it is, and y'_1 to y'_L.
        """
        found = [activations[0]]
        for y, f, beta in zip(activations[1:], carried, state.mixing, strict=True):
            found.append(torch.lerp(y, f, beta[:, None, None]))
        return [*found[:-1], carried[-1]] if self.clamp_output else found
