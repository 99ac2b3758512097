"""Penalties on the coefficients: what makes a rule short."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rulesearch.arguments import check_choice, real
from rulesearch.errors import ConfigError

__all__ = ["L1", "L2", "PENALTIES", "NoPenalty", "Penalty", "ProximalL1", "penalty_named"]


@runtime_checkable
class Penalty(Protocol):
    r"""A penalty on the scaled coefficients t of each row.

    ``lam`` may be a number, or a tensor ``(rows, 1)`` that gives each row its own.
    """

    @property
    def name(self) -> str:
        """What a configuration calls it."""
        ...

    @property
    def lam(self) -> float | Tensor:
        """Its weight in the meta-loss."""
        ...

    def value(self, t: Tensor) -> Tensor:
        """The penalty's share of the meta-loss, ``(rows,)``."""
        ...

    def gradient(self, t: Tensor) -> Tensor:
        """What is added to the meta-gradient, ``(rows, terms)``."""
        ...

    def proximal(self, t: Tensor, step: Tensor) -> Tensor:
        """What is done after a step; ``step`` is each coordinate's step per unit gradient."""
        ...


@dataclass(frozen=True)
class NoPenalty:
    """None: the meta-loss is the loss on the queries."""

    lam: float | Tensor = 0.0
    name: str = "none"

    def __post_init__(self) -> None:
        if isinstance(self.lam, Tensor):
            return
        if real("a penalty's lambda", self.lam) < 0:
            raise ConfigError(
                f"a penalty's lambda is a number that is not negative, not {self.lam}"
            )
        object.__setattr__(self, "lam", float(self.lam))

    def value(self, t: Tensor) -> Tensor:
        """Zero."""
        return t.new_zeros(t.shape[0])

    def gradient(self, t: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(t)

    def proximal(self, t: Tensor, step: Tensor) -> Tensor:
        """Nothing."""
        return t


@dataclass(frozen=True)
class L1(NoPenalty):
    r""":math:`\lambda \|t\|_1` by its subgradient, zero at zero.

    Eq. 6 of the rule-discovery paper. Coefficients hover about zero without reaching it;
    :class:`ProximalL1` reaches it.
    """

    lam: float | Tensor = 10.0
    name: str = "l1"

    def value(self, t: Tensor) -> Tensor:
        """``lam * sum |t|``."""
        return (self.lam * t.abs()).sum(-1)

    def gradient(self, t: Tensor) -> Tensor:
        """``lam * sign(t)``."""
        return self.lam * t.sign()


@dataclass(frozen=True)
class L2(NoPenalty):
    r""":math:`\lambda \|t\|_2`, which makes coefficients small, none of them zero.

    Eq. S.3 of the rule-discovery paper.
    """

    lam: float | Tensor = 10.0
    name: str = "l2"

    def value(self, t: Tensor) -> Tensor:
        """``lam * sqrt(sum t^2)``."""
        return (self.lam * t.square().sum(-1, keepdim=True).sqrt()).squeeze(-1)

    def gradient(self, t: Tensor) -> Tensor:
        """``lam * t / |t|``, zero at zero."""
        norm = t.square().sum(-1, keepdim=True).sqrt()
        return torch.where(norm > 0, self.lam * t / norm, torch.zeros_like(t))


@dataclass(frozen=True)
class ProximalL1(NoPenalty):
    r""":math:`\lambda \|t\|_1` by its proximal map, so that coefficients become exactly zero.

    After an Adam step, which moves coordinate r by ``step_r`` per unit of gradient, t is
    soft-thresholded by ``lam * step_r``: the proximal map in the metric of that step, whose
    fixed points are those of the penalised meta-loss (Parikh & Boyd 2014, section 4.2).
    """

    lam: float | Tensor = 10.0
    name: str = "proximal-l1"

    def value(self, t: Tensor) -> Tensor:
        """``lam * sum |t|``."""
        return (self.lam * t.abs()).sum(-1)

    def proximal(self, t: Tensor, step: Tensor) -> Tensor:
        """``sign(t) * max(|t| - lam * step, 0)``."""
        return t.sign() * (t.abs() - self.lam * step).clamp_min(0)


PENALTIES: dict[str, type[NoPenalty]] = {p.name: p for p in (NoPenalty, L1, L2, ProximalL1)}


def penalty_named(name: str, lam: float | Tensor) -> Penalty:
    """Return the penalty of a name with a lambda, or one a row as ``(rows, 1)``."""
    check_choice("penalty", name, PENALTIES)
    return PENALTIES[name](lam)
