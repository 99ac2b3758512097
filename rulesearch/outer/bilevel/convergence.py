r"""Whether learning settled, or went astray: what explodes teaches nothing, finite or not.

A phase of learning is accepted where its solution has stayed within a bound c of where learning
started, :math:`\phi_s`,

.. math:: \mathrm{rms}(\phi - \phi_s) \le c \max(1, \mathrm{rms}(\phi_s))
          \quad\text{and}\quad
          L^{\mathrm{eval}}(\phi) \le c \max(1, L^{\mathrm{eval}}(\phi_s)),

with root mean squares over all parameters of a problem. Both parts are needed: units that
saturate hide weights of any size from the loss, and many layers make a loss explode whose
weights are still moderate. The one is the order of a network's weights and of its loss. A negative
nudge makes the loss worse on purpose, by as much as it can: of its solution the size alone is
asked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rulesearch.arguments import number
from rulesearch.errors import ConfigError, LearnerError
from rulesearch.named import Named
from rulesearch.outer.bilevel.problem import Bilevel

__all__ = ["BOUND", "Settled", "check_bound"]

BOUND = 100.0
"""What meta-gradients allow by default; infinity rejects only what is not finite."""


def check_bound(bound: float) -> None:
    """Raise ConfigError unless the bound is a positive number."""
    if not number(bound) > 0:
        raise ConfigError(f"bound, how far learning may go astray, must be positive, not {bound!r}")


class Settled:
    """Watches the phases of one estimate.

    Parameters
    ----------
    problem : Bilevel
    theta, start : Named
        Parameters before learning, from which `start` begins.
    bound : float

    Raises
    ------
    LearnerError
        If problems side by side share parameters, which they would learn together, or losses
        are not one a problem.
    """

    @torch.no_grad()
    def __init__(self, problem: Bilevel, theta: Named, start: Named, bound: float) -> None:
        self.problem, self.theta, self.bound = problem, theta, bound
        self.start = {name: tensor.detach() for name, tensor in start.items()}
        before = problem.eval_loss(start, theta).detach()
        self._lead = before.shape
        self._check_own()
        check = getattr(problem, "check_lead", None)
        if check is not None:
            check(self.start, theta, self._lead)
        self._loss = bound * before.clamp(min=1)
        self._size = bound * self._rms(self.start).clamp(min=1)

    @torch.no_grad()
    def __call__(self, phi: Named, loss: Tensor | None = None, beta: float = 0.0) -> Tensor:
        """Which problems a solution is one of, ``lead`` bool.

        Parameters
        ----------
        loss : Tensor, optional
            That of the solution, if it is known.
        beta : float
            What the phase was nudged by.
        """
        away = {name: tensor - self.start[name] for name, tensor in phi.items()}
        near = self._rms(away) <= self._size
        if beta < 0:
            return near
        loss = self.problem.eval_loss(phi, self.theta) if loss is None else loss
        return near & (loss.detach() <= self._loss)

    def _check_own(self) -> None:
        count = self._lead.numel()
        for name, tensor in self.start.items():
            if tensor.shape[: len(self._lead)] != self._lead:
                raise LearnerError(
                    f"{name} has shape {tuple(tensor.shape)} at birth, for {count} problems; each "
                    f"should have its own, as {name}.repeat_interleave({count}, 0)"
                )

    def _rms(self, named: Named) -> Tensor:
        """Over all parameters of a problem; in double precision, whose squares do not overflow."""
        parts = [t.detach().reshape(*self._lead, -1) for t in named.values()]
        squares = torch.stack([part.double().square().sum(-1) for part in parts]).sum(0)
        return (squares / sum(part.shape[-1] for part in parts)).sqrt()
