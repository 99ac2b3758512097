r"""The seam of bilevel problems: what learning minimises, and what judges it.

.. math:: \min_\theta L^{\mathrm{eval}}(\phi^*_\theta, \theta) \quad\text{with}\quad
          \phi^*_\theta = \arg\min_\phi L^{\mathrm{learn}}(\phi, \theta)

(CML, Eq. 1), and between the two the augmented loss of a nudging strength (Eq. 3),

.. math:: L(\phi, \theta, \beta) = L^{\mathrm{learn}} + \beta L^{\mathrm{eval}}.

A *problem* says what the losses are, a *learner* how long and how fast one learns, and a
*meta-gradient* needs both. Parameters have names. Losses have the shape ``lead``: ``()``, or
``(problems,)`` for independent problems side by side, and then every parameter begins with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

from torch import Tensor

from rulesearch.errors import LearnerError
from rulesearch.named import Named

__all__ = [
    "Bilevel",
    "BilevelGradient",
    "BilevelLearner",
    "Estimate",
    "Smooth",
    "learning_loss",
]


@runtime_checkable
class Bilevel(Protocol):
    """A problem, as far as contrasting two solutions needs it: no loss has to be known."""

    def start(self, theta: Named) -> Named:
        """Parameters before learning; they may depend on theta."""
        ...

    def slope(self, phi: Named, theta: Named, beta: float, step: int) -> Named:
        """What learning descends: dL/dphi, or what stands for it in a learning rule.

        Parameters
        ----------
        beta : float
            Of the augmented loss; 0 for learning undisturbed.
        step : int
            Counts on through all phases: what is random follows from it. Where gradients are
            recorded the slope is differentiable, if the problem can be unrolled.
        """
        ...

    def partial(self, phi: Named, theta: Named, beta: float) -> Named:
        """Return dL(phi, theta, beta)/dtheta at fixed phi, detached."""
        ...

    def eval_loss(self, phi: Named, theta: Named) -> Tensor:
        """L_eval, of all its examples, ``lead``."""
        ...


class Smooth(Bilevel, Protocol):
    """A problem whose losses autograd can differentiate twice."""

    def learn_loss(self, phi: Named, theta: Named) -> Tensor:
        """L_learn, of all its examples, ``lead``."""
        ...


def learning_loss(problem: Bilevel) -> Callable[[Named, Named], Tensor]:
    """Return the loss that a problem's learning descends.

    Raises
    ------
    LearnerError
        If there is none.
    """
    found: Callable[[Named, Named], Tensor] | None = getattr(problem, "learn_loss", None)
    if found is None:
        raise LearnerError(
            f"{type(problem).__name__} learns without a loss that could be differentiated; "
            "use the contrastive meta-gradient or evolution"
        )
    return found


P_contra = TypeVar("P_contra", bound=Bilevel, contravariant=True)


@runtime_checkable
class BilevelLearner(Protocol[P_contra]):
    """Minimises the augmented loss from a start; each call begins with a fresh optimiser."""

    @property
    def steps(self) -> int:
        """How many steps it takes."""
        ...

    def __call__(
        self, problem: P_contra, theta: Named, phi: Named, beta: float = 0.0, first: int = 0
    ) -> Named:
        """Return what was learnt; ``first`` is the number of its first step."""
        ...


@dataclass(frozen=True, eq=False)
class Estimate:
    """What came of a problem, detached.

    Attributes
    ----------
    gradient : Named
        Of the meta-objective in theta: to be descended.
    loss : Tensor ``lead``
        The meta-objective at the free solution.
    phi : Named
        The free solution.
    settled : Tensor ``lead`` bool
        Whose learning stayed within bounds, see :mod:`rulesearch.outer.bilevel.convergence`,
        and came as near to a solution as was asked.
    residual : Named
        By what was to be solved, how much of it is left, ``lead`` each: ``learning`` (see
        :mod:`rulesearch.outer.bilevel.residual`) of methods that take the solution for a
        minimum, and ``solver`` of those that invert a Hessian.
    """

    gradient: Named
    loss: Tensor
    phi: Named
    settled: Tensor
    residual: Named = field(default_factory=dict)

    @property
    def accepted(self) -> Tensor:
        """Which problems settled and are finite, ``lead``; the others teach nothing.

        The gradient of a meta-parameter that problems share is finite for all of them or none.
        """
        alive = self.loss.isfinite() & self.settled
        for tensor in (*self.gradient.values(), *self.phi.values()):
            finite = tensor.isfinite()
            own = tensor.shape[: alive.ndim] == alive.shape
            alive = alive & (finite.reshape(*alive.shape, -1).all(-1) if own else finite.all())
        return alive


Q_contra = TypeVar("Q_contra", contravariant=True)


@runtime_checkable
class BilevelGradient(Protocol[Q_contra]):
    """A way to get the meta-gradient, of a problem or of whatever is made of several."""

    def __call__(self, problem: Q_contra, theta: Named) -> Estimate:
        """Learn, and estimate the gradient of the meta-objective in theta."""
        ...
