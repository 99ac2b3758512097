r"""The wheel bandit: five arms, and a rim where one of them is worth fifty times the others.

A context x is uniform in the unit disc. Arms 0 to 3 give 1 on average and arm 4 gives 1.2, with
a standard deviation of 0.05; where :math:`|x| \ge \delta` the arm of the quadrant that x is in
gives 50 instead, with 0.01 (Riquelme, Tucker and Snoek 2018; CML, section 5.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rulesearch.arguments import check_kind, number, whole
from rulesearch.errors import ConfigError, RuleSearchError
from rulesearch.torch_arguments import check_floating, check_generators

__all__ = ["ARMS", "Experience", "Wheel", "WheelLogs", "check_arms", "uniform_regret"]

ARMS = 5
USUAL, LAST, RIM = 1.0, 1.2, 50.0
USUAL_NOISE, RIM_NOISE = 0.05, 0.01


class Experience(NamedTuple):
    """What was seen, done and got.

    Attributes
    ----------
    context : Tensor (lifetimes, steps, 2)
    action : Tensor of int64 (lifetimes, steps)
    reward : Tensor (lifetimes, steps)
    """

    context: Tensor
    action: Tensor
    reward: Tensor

    def to(self, device: torch.device | str) -> Experience:
        """Return the same on a device."""
        return Experience(*(part.to(device) for part in self))

    def at(self, steps: Tensor) -> Experience:
        """Return some of the steps, ``(lifetimes, n)``, of each lifetime its own."""
        rows = torch.arange(len(steps), device=steps.device)[:, None]
        return Experience(*(part[rows, steps] for part in self))


def check_arms(name: str, chosen: Tensor, error: type[RuleSearchError]) -> None:
    """Refuse what are no arms."""
    if chosen.is_floating_point() or chosen.dtype == torch.bool:
        raise error(f"{name} is {chosen.dtype}; give arms, whole numbers, as .long()")
    if chosen.numel():
        low, high = (int(bound) for bound in torch.aminmax(chosen))
        if low < 0 or high >= ARMS:
            raise error(f"{name} runs from {low} to {high}; arms are 0 to {ARMS - 1}")


def uniform_regret(delta: float) -> float:
    r"""Regret of a step, on average, of choosing arms at random.

    .. math:: \delta^2 \cdot 0.8 \cdot 0.2 + (1 - \delta^2)(0.2 \cdot 48.8 + 0.6 \cdot 49)

    Raises
    ------
    ConfigError
        If delta is not from 0 to 1.
    """
    within = torch.as_tensor(delta if hasattr(delta, "shape") else number(delta))
    if not ((within >= 0) & (within <= 1)).all():
        raise ConfigError(f"uniform_regret: delta is from 0 to 1, not {delta!r}")
    inside = 0.8 * (LAST - USUAL)
    rim = 0.2 * (RIM - LAST) + 0.6 * (RIM - USUAL)
    return delta**2 * inside + (1 - delta**2) * rim


@dataclass(frozen=True, eq=False)
class Wheel:
    """Wheels side by side.

    Parameters
    ----------
    delta : Tensor (lifetimes,)
        Where the rim begins, in [0, 1]. All else is on its device; what is random is drawn on
        the CPU, and moved.

    Raises
    ------
    ConfigError
        If it does so elsewhere, or is no real number.
    """

    delta: Tensor

    def __post_init__(self) -> None:
        check_kind("wheel: delta", self.delta, Tensor, "a torch tensor, one number a lifetime")
        if self.delta.ndim != 1:
            raise ConfigError(
                f"wheel: delta has shape {tuple(self.delta.shape)}; give one number a lifetime, as "
                "torch.tensor([0.5])"
            )
        if not self.delta.is_floating_point():  # contexts would be whole numbers too
            raise ConfigError(
                f"wheel: delta is {self.delta.dtype}; give real numbers, as torch.tensor([0.5])"
            )
        if not ((self.delta >= 0) & (self.delta <= 1)).all():
            raise ConfigError(f"wheel: delta is from 0 to 1, not {self.delta.tolist()}")

    def contexts(self, generators: Sequence[torch.Generator], steps: int) -> Tensor:
        """Draw contexts, ``(lifetimes, steps, 2)``, each lifetime's from its own generator.

        Raises
        ------
        ConfigError
            If there is not one generator a wheel.
        """
        check_generators(generators, "lifetime")
        whole("wheel: steps", steps, least=1)
        if len(generators) != len(self.delta):
            raise ConfigError(
                f"wheel: {len(self.delta)} wheels need as many generators, not {len(generators)}"
            )
        u = torch.stack(
            [torch.rand(steps, 2, generator=g, dtype=torch.float64) for g in generators]
        )
        radius, angle = u[..., 0].sqrt(), 2 * math.pi * u[..., 1]
        context = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
        return context.to(self.delta)

    def means(self, context: Tensor) -> Tensor:
        """Mean reward of every arm, ``(lifetimes, steps, ARMS)``."""
        mean = context.new_full((*context.shape[:-1], ARMS), USUAL)
        mean[..., -1] = LAST
        return torch.where(self._golden(context), RIM, mean)

    def rewards(self, context: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Draw what every arm would give, ``(lifetimes, steps, ARMS)``, of a generator a wheel.

        Wheels that are given a single one have the same noise.

        Raises
        ------
        ConfigError
            If there is neither one generator nor one a lifetime.
        """
        check_generators(generators, "lifetime")
        means = self.means(context)
        if len(generators) not in (1, len(means)):
            raise ConfigError(
                f"wheel: rewards of {len(means)} lifetimes need as many generators, or one for "
                f"all, not {len(generators)}"
            )
        shape = (context.shape[1], ARMS)
        noise = torch.stack([torch.randn(shape, generator=g) for g in generators])
        deviation = torch.where(self._golden(context), RIM_NOISE, USUAL_NOISE)
        return means + deviation * noise.to(context)

    def regret(self, context: Tensor, action: Tensor) -> Tensor:
        """How much less the mean reward is than the best arm's, ``(lifetimes, steps)``.

        Actions ``(1, steps)`` are those of all wheels.

        Raises
        ------
        ConfigError
            If there is not an arm for each context.
        """
        means = self.means(context)
        check_kind("wheel: action", action, Tensor, "a torch tensor, an arm for each context")
        try:
            chosen = action.expand(means.shape[:-1])[..., None]
        except RuntimeError:
            raise ConfigError(
                f"wheel: action has shape {tuple(action.shape)}; give one for each context, "
                f"{tuple(means.shape[:-1])}"
            ) from None
        check_arms("wheel: action", chosen, ConfigError)
        return means.amax(-1) - means.gather(-1, chosen.long()).squeeze(-1)

    def _golden(self, context: Tensor) -> Tensor:
        """Which arm is that of the quadrant, on the rim alone; ``(lifetimes, steps, ARMS)``."""
        wheels = len(self.delta)
        lives = len(context) if context.ndim == 3 else 1
        if context.shape[-1:] != (2,) or (lives != wheels and 1 not in (lives, wheels)):
            raise ConfigError(
                f"wheel: context has shape {tuple(context.shape)}; it should be ({wheels}, steps, "
                "2), of a lifetime a wheel"
            )
        quadrant = 2 * (context[..., 0] <= 0).long() + (context[..., 1] <= 0).long()
        rim = context.norm(dim=-1) >= self.delta[:, None]
        arm = torch.arange(ARMS, device=context.device)
        golden: Tensor = (arm == quadrant[..., None]) & rim[..., None]
        return golden


@dataclass(frozen=True)
class WheelLogs:
    """What others did at random on wheels with delta uniform in [0, 1), to learn from.

    Parameters
    ----------
    steps : int
        That are logged of each wheel.

    Raises
    ------
    ConfigError
        If there are none.
    """

    steps: int = 562

    def __post_init__(self) -> None:
        whole("wheel: steps", self.steps, least=1)

    def sample(
        self, generators: Sequence[torch.Generator], dtype: torch.dtype = torch.float32
    ) -> Experience:
        """Draw the log of one wheel a generator, which depends on that generator alone.

        Raises
        ------
        ConfigError
            If there is no generator.
        """
        check_generators(generators, "lifetime", "wheel")
        check_floating(dtype)
        delta = torch.cat([torch.rand(1, generator=g, dtype=torch.float64) for g in generators])
        wheel = Wheel(delta.to(dtype))
        context = wheel.contexts(generators, self.steps)
        reward = wheel.rewards(context, generators)
        action = torch.stack([torch.randint(ARMS, (self.steps,), generator=g) for g in generators])
        return Experience(context, action, reward.gather(-1, action[..., None]).squeeze(-1))
