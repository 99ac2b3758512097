"""A bilevel problem that is told by its two losses; all else follows by autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Size, Tensor

from rulesearch.arguments import check_kind, check_takes
from rulesearch.errors import LearnerError
from rulesearch.named import Named, gradient_at
from rulesearch.outer.bilevel.given import check_depends
from rulesearch.outer.bilevel.synapse import KINDS

__all__ = ["Loss", "LossProblem"]


class Loss(Protocol):
    """A loss of parameters and meta-parameters."""

    def __call__(self, phi: Named, theta: Named, step: int | None) -> Tensor:
        """Return the loss, ``lead``: of the examples of a step, or of all where step is None."""
        ...


@dataclass(frozen=True)
class LossProblem:
    """Learning by gradient descent on a loss.

    Parameters
    ----------
    learn, evaluate : Loss
        L_learn and L_eval, differentiable in both of their arguments; twice in phi where
        unrolling or the Hessian is asked for.
    born : callable
        From theta to the parameters before learning.

    Examples
    --------
    >>> def learn(phi, theta, step):
    ...     return (functional_call(module, phi, x) - y).square().mean()
    >>> problem = LossProblem(learn, evaluate, lambda theta: dict(module.named_parameters()))

    Raises
    ------
    ConfigError
        If one of them is no function, or takes other arguments.
    """

    learn: Loss
    evaluate: Loss
    born: Callable[[Named], Named]

    def __post_init__(self) -> None:
        for name in ("learn", "evaluate", "born"):
            value = getattr(self, name)
            check_kind(name, value, Callable, "a function")  # type: ignore[arg-type]
        for name in ("learn", "evaluate"):
            check_takes(name, getattr(self, name), "phi", "theta", "step")
        check_takes("born", self.born, "theta")

    @property
    def whole(self) -> LossProblem:
        """The same, of which every step sees all examples."""
        learn, evaluate = self.learn, self.evaluate
        return LossProblem(
            lambda phi, theta, step: learn(phi, theta, None),
            lambda phi, theta, step: evaluate(phi, theta, None),
            self.born,
        )

    def start(self, theta: Named) -> Named:
        """Parameters before learning."""
        born = self.born(theta)
        check_kind("what born returns", born, Mapping, "tensors by name", LearnerError)
        return born

    @torch.no_grad()
    def check_lead(self, phi: Named, theta: Named, lead: Size) -> None:
        """Refuse a learning loss that is not one a problem, as that of the evaluation is.

        Raises
        ------
        LearnerError
            If it has another shape than `lead`, or a meta-parameter is part of a complex synapse
            (``omega.W``) that nothing here depends on.
        """
        self._check_anchors(phi, theta)
        _check_shape("learn", _tensor("learn", self.learn(phi, theta, 0)), lead)

    def _check_anchors(self, phi: Named, theta: Named) -> None:
        """Refuse anchors without a synapse, of which evolution would make a slope of noise."""
        anchors = [k for k in theta if k.startswith(KINDS) and k.partition(".")[2] in phi]
        if not anchors:
            return
        away = {name: w + 1 for name, w in phi.items()}  # from an anchor, which may be the start
        before = self._told(away, theta)
        for key in anchors:
            after = self._told(away, {**theta, key: theta[key] + 1})
            if all(map(torch.equal, before, after)):
                raise LearnerError(
                    f"theta: neither a loss nor born depends on '{key}', which is of a complex "
                    "synapse; put a ComplexSynapse around the problem, or leave it out"
                )

    def _told(self, phi: Named, theta: Named) -> list[Tensor]:
        """All that meta-parameters may have a part in."""
        learn = _tensor("learn", self.learn(phi, theta, 0))
        evaluate = _tensor("evaluate", self.evaluate(phi, theta, 0))
        return [learn, evaluate, *self.start(theta).values()]

    def slope(self, phi: Named, theta: Named, beta: float, step: int) -> Named:
        """dL/dphi by backprop.

        Raises
        ------
        LearnerError
            If a loss does not depend on phi, or the two have different shapes.
        """
        recorded = torch.is_grad_enabled()

        def loss(at: Named) -> Tensor:
            learnt = _tensor("learn", self.learn(at, theta, step))
            check_depends("what learn returns", learnt, at)
            if beta == 0:
                return learnt
            judged = _tensor("evaluate", self.evaluate(at, theta, step))
            check_depends("what evaluate returns", judged, at)
            _check_shape("learn", learnt, judged.shape)
            return learnt + beta * judged

        return gradient_at(phi, loss, create_graph=recorded)

    def partial(self, phi: Named, theta: Named, beta: float) -> Named:
        """dL/dtheta by autograd."""

        def loss(at: Named) -> Tensor:
            learnt = _tensor("learn", self.learn(phi, at, None))
            if beta == 0:
                return learnt
            return learnt + beta * _tensor("evaluate", self.evaluate(phi, at, None))

        return gradient_at(theta, loss)

    def learn_loss(self, phi: Named, theta: Named) -> Tensor:
        """L_learn of all examples."""
        return _tensor("learn", self.learn(phi, theta, None))

    def eval_loss(self, phi: Named, theta: Named) -> Tensor:
        """L_eval of all examples."""
        return _tensor("evaluate", self.evaluate(phi, theta, None))


def _tensor(name: str, loss: object) -> Tensor:
    """Refuse a loss that autograd could not differentiate: a float has no graph."""
    check_kind(f"what {name} returns", loss, Tensor, "a torch tensor, a loss", LearnerError)
    assert isinstance(loss, Tensor)
    return loss


def _check_shape(name: str, loss: Tensor, lead: Size) -> None:
    """Refuse losses that are not one a problem."""
    if loss.shape != lead:
        raise LearnerError(
            f"what {name} returns has shape {tuple(loss.shape)}, and what evaluate returns "
            f"{tuple(lead)}: give one loss for each problem, a mean over its examples alone"
        )
