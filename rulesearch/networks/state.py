"""What a batch of networks is made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from torch import Tensor

__all__ = ["NetworkState"]


@dataclass(frozen=True)
class NetworkState:
    r"""The weights of many networks, a list entry a connection.

    Attributes
    ----------
    W : list of Tensor (lifetimes, n_post, n_pre)
        Forward weights.
    B : list of Tensor
        Feedback weights: ``(lifetimes, n_post, n_pre)``; ``(lifetimes, n_out, n_pre)`` where
        feedback is direct, ``(lifetimes, n_out, n_post)`` where it is learnt, with the units of
        the layer above n_post for n_out where it goes through layers. With symmetric feedback W
        itself carries the errors and B is not read.
    bias : list of Tensor (lifetimes, n_post)
        Of the postsynaptic units; empty for a network without.
    feedback_bias : list of Tensor (lifetimes, n_post)
        c of learnt feedback; empty for other feedback.
    mixing : list of Tensor (lifetimes,)
        :math:`\beta` of learnt feedback, how much of a unit's activity it replaces; empty for
        other feedback.
    rate : list of Tensor (lifetimes, n_post, n_pre)
        :math:`\alpha`: what a rule wants of a weight is multiplied by it. Empty: by 1.
    bias_rate : list of Tensor (lifetimes, n_post)
        The same for biases, which learn as weights from a unit that is always on. Empty:
        biases do not change.
    feedback_rate : list of Tensor, as B
        :math:`\eta` of plastic feedback: what the rule wants of B is multiplied by it.
        Empty: by 1.
    Omega : list of Tensor (lifetimes, n_post, n_pre)
        Consolidated weights, which a lifetime reads and does not change. Empty: for a rule that
        speaks of them, the forward weights at birth.
    """

    W: list[Tensor]
    B: list[Tensor] = field(repr=False)
    bias: list[Tensor] = field(default_factory=list, repr=False)
    feedback_bias: list[Tensor] = field(default_factory=list, repr=False)
    mixing: list[Tensor] = field(default_factory=list, repr=False)
    rate: list[Tensor] = field(default_factory=list, repr=False)
    bias_rate: list[Tensor] = field(default_factory=list, repr=False)
    feedback_rate: list[Tensor] = field(default_factory=list, repr=False)
    Omega: list[Tensor] = field(default_factory=list, repr=False)

    @property
    def lifetimes(self) -> int:
        """How many networks there are."""
        return self.W[0].shape[0]

    def parts(self) -> Iterator[tuple[str, list[Tensor]]]:
        """Every attribute with its name."""
        for each in fields(self):
            yield each.name, getattr(self, each.name)

    def tensors(self) -> list[Tensor]:
        """All of it."""
        return [tensor for _, part in self.parts() for tensor in part]

    def detach(self) -> NetworkState:
        """The same weights, cut from the graph that made them."""
        return NetworkState(**{name: [t.detach() for t in part] for name, part in self.parts()})
