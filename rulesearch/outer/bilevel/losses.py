"""A bilevel problem that is told by its two losses; all else follows by autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Size, Tensor

from rulesearch.arguments import check_kind, check_takes
from rulesearch.errors import LearnerError
from rulesearch.named import Named, gradient_at, leaves

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

    def start(self, theta: Named) -> Named:
        """Parameters before learning."""
        born = self.born(theta)
        check_kind("what born returns", born, Mapping, "tensors by name", LearnerError)
        return born

    def check_losses(self, phi: Named, theta: Named, lead: Size) -> None:
        """Refuse losses that learning could not descend, or that are not one a problem.

        Raises
        ------
        LearnerError
            If what `learn` returns has another shape than what `evaluate` does, `lead`, or one of
            them does not depend on the parameters.
        """
        at = leaves(phi)
        with torch.enable_grad():
            found = {"learn": self.learn(at, theta, 0), "evaluate": self.evaluate(at, theta, 0)}
        for name, loss in found.items():
            shape = _tensor(name, loss).shape
            if shape != lead:
                raise LearnerError(
                    f"what {name} returns for a step has shape {tuple(shape)}, and what evaluate "
                    f"returns for all examples {tuple(lead)}: give one loss for each problem, a "
                    "mean over its examples alone"
                )
            if not loss.requires_grad:
                raise LearnerError(
                    f"what {name} returns does not depend on phi; compute it from phi, without "
                    "torch.no_grad() and .detach()"
                )

    def slope(self, phi: Named, theta: Named, beta: float, step: int) -> Named:
        """dL/dphi by backprop."""
        recorded = torch.is_grad_enabled()
        return gradient_at(
            phi, lambda at: self._augmented(at, theta, beta, step), create_graph=recorded
        )

    def partial(self, phi: Named, theta: Named, beta: float) -> Named:
        """dL/dtheta by autograd."""
        return gradient_at(theta, lambda at: self._augmented(phi, at, beta, None))

    def learn_loss(self, phi: Named, theta: Named) -> Tensor:
        """L_learn of all examples."""
        return _tensor("learn", self.learn(phi, theta, None))

    def eval_loss(self, phi: Named, theta: Named) -> Tensor:
        """L_eval of all examples."""
        return _tensor("evaluate", self.evaluate(phi, theta, None))

    def _augmented(self, phi: Named, theta: Named, beta: float, step: int | None) -> Tensor:
        loss = _tensor("learn", self.learn(phi, theta, step))
        if beta == 0:
            return loss
        return loss + beta * _tensor("evaluate", self.evaluate(phi, theta, step))


def _tensor(name: str, loss: object) -> Tensor:
    """Refuse a loss that autograd could not differentiate: a float has no graph."""
    check_kind(f"what {name} returns", loss, Tensor, "a torch tensor, a loss", LearnerError)
    assert isinstance(loss, Tensor)
    return loss
