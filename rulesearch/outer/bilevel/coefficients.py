r"""Coefficients of a rule as meta-parameters, where every term descends an energy.

A rule whose terms are slopes, :math:`F_r = -\partial E_r / \partial W`, descends

.. math:: L^{\mathrm{learn}}(W, \theta) = \sum_r \theta_r E_r(W), \qquad
          \frac{\partial L}{\partial \theta_r} = E_r(W),

so that contrasting the energies of two solutions gives the meta-gradient of the coefficients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rulesearch.arguments import check_kind
from rulesearch.errors import LearnerError, did_you_mean
from rulesearch.grammar import Term, TermPool
from rulesearch.learners import PlasticityLearner
from rulesearch.named import Named
from rulesearch.networks import NetworkState, PlasticNetwork
from rulesearch.outer.bilevel.given import check_sources
from rulesearch.outer.bilevel.networks import Source, forward_weights, network_loss
from rulesearch.outer.bilevel.plasticity import CONSOLIDATION, wanted

__all__ = ["ENERGIES", "THETA", "CoefficientProblem"]

THETA = "theta"
GRADIENT, DECAY = (Term.from_text("term", text) for text in ("-e_post * y_pre.T", "-W"))

Energy = Callable[[PlasticNetwork, NetworkState, Source], Tensor]


def _length(network: PlasticNetwork, state: NetworkState, source: Source) -> Tensor:
    """Half the sum of squares of all weights."""
    squares = torch.stack([w.square().sum((1, 2)) for w in state.W])
    return squares.sum(0) / 2


def _distance(network: PlasticNetwork, state: NetworkState, source: Source) -> Tensor:
    """Half the sum of squared distances from the consolidated weights."""
    pairs = zip(state.W, state.Omega, strict=True)
    return torch.stack([(omega - w).square().sum((1, 2)) for w, omega in pairs]).sum(0) / 2


ENERGIES: Mapping[Term, Energy] = {GRADIENT: network_loss, DECAY: _length, CONSOLIDATION: _distance}
"""Of the terms that descend one: the pseudo-gradient, if feedback is symmetric, decay, and
consolidation."""


@dataclass(frozen=True, eq=False)
class CoefficientProblem:
    """Plasticity whose coefficients ``theta`` (lifetimes, n_terms) are the meta-parameters.

    The parameters are ``W0``, ``W1``, ...; a nudge is the pseudo-gradient of the evaluation
    loss, with the coefficient beta. ``SGD(rate=1)`` is the rule itself.

    Parameters
    ----------
    network : PlasticNetwork
        With symmetric feedback.
    pool : TermPool
    born : NetworkState
        Its consolidated weights, if it has none, are the weights.
    learn, evaluate : Source

    Raises
    ------
    LearnerError
        If feedback is not symmetric, or a term descends nothing that is known.
    """

    network: PlasticNetwork
    pool: TermPool
    born: NetworkState
    learn: Source
    evaluate: Source
    _learner: PlasticityLearner = field(init=False)
    _nudge: PlasticityLearner = field(init=False)

    def __post_init__(self) -> None:
        check_kind("network", self.network, PlasticNetwork, "a PlasticNetwork")
        check_kind("pool", self.pool, TermPool, "a TermPool, as grammar.enumerate()")
        self.network.check(self.born)
        check_sources(learn=self.learn, evaluate=self.evaluate)
        if self.network.feedback != "symmetric":
            raise LearnerError(
                f"with {self.network.feedback} feedback errors are no gradient, and the rule "
                "descends no energy: use feedback='symmetric'"
            )
        for term in self.pool:
            if term not in ENERGIES:
                known = ", ".join(str(each) for each in ENERGIES)
                raise LearnerError(f"term {term.name}: '{term}' descends no known energy ({known})")
        object.__setattr__(self, "_learner", PlasticityLearner(self.network, self.pool))
        object.__setattr__(self, "_nudge", PlasticityLearner(self.network, TermPool([GRADIENT])))

    def start(self, theta: Named) -> Named:
        """Forward weights at birth.

        Raises
        ------
        LearnerError
            If the coefficients are not among the meta-parameters.
        """
        if THETA not in theta:
            hint = did_you_mean(next(iter(theta), ""), [THETA])
            raise LearnerError(
                f"'{THETA}', the coefficients (lifetimes, n_terms), is not among the "
                f"meta-parameters ({', '.join(theta)}){hint}"
            )
        return forward_weights(self.born)

    def slope(self, phi: Named, theta: Named, beta: float, step: int) -> Named:
        """The negative of what the rule wants, differentiable in theta."""
        state = self._state(phi)
        found = wanted(self._learner, state, theta[THETA], self.learn, step)
        if beta:
            one = torch.full_like(theta[THETA][:, :1], beta)
            nudge = wanted(self._nudge, state, one, self.evaluate, step)
            found = {name: w + nudge[name] for name, w in found.items()}
        return {name: -w for name, w in found.items()}

    def partial(self, phi: Named, theta: Named, beta: float) -> Named:
        """The energies on what is learnt."""
        return {THETA: self._energies(phi).detach()}

    def learn_loss(self, phi: Named, theta: Named) -> Tensor:
        """The energies, each times its coefficient."""
        return (theta[THETA] * self._energies(phi)).sum(-1)

    def eval_loss(self, phi: Named, theta: Named) -> Tensor:
        """The network's loss on all examples that judge, ``(lifetimes,)``."""
        return network_loss(self.network, self._state(phi), self.evaluate)

    def _energies(self, phi: Named) -> Tensor:
        """Of every term, ``(lifetimes, n_terms)``."""
        state = self._state(phi)
        found = [ENERGIES[term](self.network, state, self.learn) for term in self.pool]
        return torch.stack(found, -1)

    def _state(self, phi: Named) -> NetworkState:
        omega = self.born.Omega or self.born.W
        return replace(self.born, W=list(phi.values()), Omega=list(omega))
