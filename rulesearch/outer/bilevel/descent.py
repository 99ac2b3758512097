"""Learning by descent: so many steps of an optimiser, which unrolling can follow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rulesearch.arguments import check_kind, check_positive, number, whole
from rulesearch.errors import ConfigError
from rulesearch.named import Named
from rulesearch.outer.bilevel.given import check_names
from rulesearch.outer.bilevel.problem import Bilevel

__all__ = ["SGD", "Adam", "Descent", "Memory", "Optimiser"]

Memory = tuple[Tensor, ...]
"""What an optimiser keeps of a tensor."""


@runtime_checkable
class Optimiser(Protocol):
    """What a step does with a slope, for each tensor by itself."""

    def update(self, slope: Tensor, memory: Memory, step: int) -> tuple[Tensor, Memory]:
        """Return the change and the next memory; it is empty before step 0."""
        ...


@dataclass(frozen=True)
class SGD:
    """Gradient descent, with momentum as in :class:`torch.optim.SGD`.

    Raises
    ------
    ConfigError
        For a rate that is not positive, or momentum outside of [0, 1).
    """

    rate: float
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        check_positive("rate", self.rate)
        if not 0 <= number(self.momentum) < 1:
            raise ConfigError(f"momentum is from 0 to below 1, not {self.momentum!r}")
        check_kind("nesterov", self.nesterov, bool, "True or False")

    def update(self, slope: Tensor, memory: Memory, step: int) -> tuple[Tensor, Memory]:
        """Return the change and the velocity."""
        if self.momentum == 0:
            return -self.rate * slope, ()
        velocity = self.momentum * memory[0] + slope if memory else slope
        ahead = slope + self.momentum * velocity if self.nesterov else velocity
        return -self.rate * ahead, (velocity,)


@dataclass(frozen=True)
class Adam:
    """Adam as in :class:`torch.optim.Adam`; ``eps_root`` is added inside of the root.

    The root has no derivative at zero: unrolling needs ``eps_root`` where slopes can vanish.

    Raises
    ------
    ConfigError
        For a rate that is not positive, betas outside of [0, 1), or eps or eps_root below zero.
    """

    rate: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    eps_root: float = 0.0

    def __post_init__(self) -> None:
        check_positive("rate", self.rate)
        check_kind("betas", self.betas, Sequence, "two numbers, as (0.9, 0.999)")
        if len(self.betas) != 2 or not all(0 <= number(beta) < 1 for beta in self.betas):
            raise ConfigError(f"betas are from 0 to below 1, two of them, not {self.betas!r}")
        for name, value in (("eps", self.eps), ("eps_root", self.eps_root)):
            if not 0 <= number(value) < math.inf:
                raise ConfigError(f"{name} must be a number not below zero, not {value!r}")

    def update(self, slope: Tensor, memory: Memory, step: int | Tensor) -> tuple[Tensor, Memory]:
        """Return the change and the two moments; the step may be a number for each row."""
        first, second = memory or (torch.zeros_like(slope), torch.zeros_like(slope))
        b1, b2 = self.betas
        first = b1 * first + (1 - b1) * slope
        second = b2 * second + (1 - b2) * slope**2
        known1, known2 = _known(b1, step, slope), _known(b2, step, slope)
        scale = (second / known2 + self.eps_root).sqrt() + self.eps
        return -self.rate / known1 * first / scale, (first, second)


@dataclass(frozen=True)
class Descent:
    """Descends a problem's slope.

    Where autograd records, what is learnt is differentiable in theta and in the start.

    Parameters
    ----------
    steps : int
    optimiser : Optimiser
    tracked : int, optional
        Only so many last steps are recorded, by default all.

    Raises
    ------
    ConfigError
        For a negative number of steps.
    """

    steps: int
    optimiser: Optimiser = field(default_factory=lambda: SGD(1e-2))
    tracked: int | None = None

    def __post_init__(self) -> None:
        whole("steps", self.steps, least=0)
        check_kind("optimiser", self.optimiser, Optimiser, "an optimiser, as SGD(0.01)")
        if self.tracked is not None:
            whole("tracked", self.tracked, least=0)

    def __call__(
        self, problem: Bilevel, theta: Named, phi: Named, beta: float = 0.0, first: int = 0
    ) -> Named:
        """Return what was learnt after all steps."""
        recording = torch.is_grad_enabled()
        begin = 0 if self.tracked is None else self.steps - self.tracked
        memory: dict[str, Memory] = dict.fromkeys(phi, ())
        for step in range(self.steps):
            with torch.set_grad_enabled(recording and step >= begin):
                slope = problem.slope(phi, theta, beta, first + step)
                check_names("what the problem's slope returns", slope, phi)
                moved = {}
                for name, value in phi.items():
                    change, memory[name] = self.optimiser.update(slope[name], memory[name], step)
                    moved[name] = value + change
                phi = moved
        return phi


def _known(decay: float, step: int | Tensor, like: Tensor) -> float | Tensor:
    """Weight that a moment has gathered, the rest being of its zero at first."""
    if isinstance(step, Tensor):
        weight: Tensor = 1 - decay ** (step.double() + 1)
        return weight.to(like.dtype)
    return 1.0 - decay ** (step + 1)
