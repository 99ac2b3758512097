"""CML on wheel bandits: what learns, what is meta-learnt, and how, in each row of Table 5."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
from pydantic import BeforeValidator, Field

from rulesearch.named import copied
from rulesearch.networks.modulated import ModulatedNetwork
from rulesearch.outer.bandit import ChosenArm
from rulesearch.outer.bilevel import (
    SGD,
    Adam,
    Bilevel,
    BilevelLearner,
    ComplexSynapse,
    Contrastive,
    Descent,
    LossProblem,
    Named,
    Optimiser,
    UnrolledDescent,
    fast_and_slow,
)
from rulesearch.reproduce.base import RunSettings
from rulesearch.reproduce.cml_settings import Tolerance
from rulesearch.reproduce.cml_tasks import births
from rulesearch.search.settings import Count, Size
from rulesearch.tasks.wheel import ARMS, Experience

__all__ = ["CONDITIONS", "METHODS", "Method", "Source", "WheelSettings"]

EPS_ROOT = float(np.finfo(np.float32).eps)
PENALTY = 1000.0  # on the mean of squared distances from the anchor


Delta = Literal["0.5", "0.7", "0.9", "0.95", "0.99"]
"""Where the rim of a wheel begins, as the table calls it."""

CONDITIONS: tuple[Delta, ...] = get_args(Delta)


def _called(delta: object) -> object:
    """What the table calls a number."""
    return f"{delta:g}" if isinstance(delta, float) else delta


class WheelSettings(RunSettings):
    """Settings of the bandits; the defaults are the released code's.

    Attributes
    ----------
    updates, episodes : int
        Of CML (synaptic), and tasks of a seed in an update. CML (modulatory) has twice as many
        tasks and MAML four times, and so many updates fewer.
    lifetimes : int
        Online lives of a seed for each delta.
    hidden : int
        Units of both hidden layers.
    tasks : int
        Wheels that a seed's meta-training draws from, with replacement.
    learnt, judged : int
        Logged choices of each, of the learning and of the evaluation loss.
    conditions : tuple of {0.5, 0.7, 0.9, 0.95, 0.99}
        Delta of the wheels to live on.
    horizon : int
        Choices of an online life.
    batch : int
        Choices of a step when learning online.
    shorter : int
        Divides all numbers of learning steps but MAML's ten and NeuralLinear's.
    validate_every : int, optional
        Updates between two looks at the validation wheels; lives begin with the meta-parameters
        that do best there. By default, as in the released code, with those of the last update.
    validation : int
        Validation wheels of each seed.
    tolerance : float, optional
        The largest residual of learning that an update of CML accepts; by default any.
    eps_root : float
        What Adam on the meta-parameters adds inside of its root, by default float32's spacing at
        one as Adam of learning and online does.
    """

    updates: Count = 800
    episodes: Count = 8
    lifetimes: Count = 1
    hidden: Count = 100
    tasks: Count = 64
    learnt: Count = 512
    judged: Count = 50
    conditions: Annotated[
        tuple[Annotated[Delta, BeforeValidator(_called)], ...], Field(min_length=1)
    ] = CONDITIONS
    horizon: Count = 80_000
    batch: Count = 512
    shorter: Count = 1
    validate_every: Count | None = None
    validation: Count = 10
    tolerance: Tolerance = None
    eps_root: Size = EPS_ROOT


Source = Callable[[int | None], Experience]


@dataclass(frozen=True)
class Method:
    """A row: what learns, what is meta-learnt, and how it learns online.

    Attributes
    ----------
    fast, anchored : tuple of str, bool
        The weights that learn, by the ends of their names; and whether they are complex synapses.
    tanh : bool
        Units are modulated hyperbolic tangents rather than rectified ones.
    share : int
        Times as many tasks in an update, and so many updates fewer, as the first row.
    rate : float
        Of Adam on the meta-parameters.
    meta_gradient : callable
        Of the divisor of steps, and of the tolerance.
    online : Optimiser
    every, steps : int
        Choices between two times of learning, and steps of each.
    """

    fast: tuple[str, ...]
    anchored: bool
    tanh: bool
    share: int
    rate: float
    meta_gradient: Callable[[int, float | None], Contrastive[Any] | UnrolledDescent]
    online: Optimiser
    every: int
    steps: int

    def learner(self, settings: WheelSettings) -> BilevelLearner[Any]:
        """What meta-training lets learn, undisturbed."""
        found = self.meta_gradient(settings.shorter, settings.tolerance)
        return found.free if isinstance(found, Contrastive) else found.learner

    def network(self, settings: WheelSettings) -> ModulatedNetwork:
        """A network of rewards. Rectified units of gain 1 are the usual ones."""
        sizes = (2, settings.hidden, settings.hidden, ARMS)
        return ModulatedNetwork(sizes, "tanh" if self.tanh else "linear-threshold")

    def born(self, settings: WheelSettings) -> tuple[Named, Named]:
        """Draw weights of all seeds: those that learn, and those that do not."""
        born = self.network(settings).init(births(settings), settings.torch_device)
        return fast_and_slow(born, self.fast)

    def theta(self, settings: WheelSettings) -> Named:
        """Meta-parameters at first: anchors, slow weights, or where learning starts."""
        fast, slow = self.born(settings)
        if self.anchored:
            return {f"omega.{name}": w for name, w in fast.items()}
        return slow if self.tanh else fast

    def problem(
        self, settings: WheelSettings, copies: int, learn: Source, judge: Source
    ) -> Bilevel:
        """Regressions, so many of each seed."""
        fast, slow = (copied(part, copies) for part in self.born(settings))
        constant = {} if self.tanh else slow
        network = self.network(settings)

        def start(theta: Named) -> Named:
            return {name: theta.get(name, w) for name, w in fast.items()}

        inner = LossProblem(
            ChosenArm(network, learn, constant), ChosenArm(network, judge, constant), start
        )
        if not self.anchored:
            return inner
        count = sum(w[0].numel() for w in fast.values())
        strength = torch.tensor(2 * PENALTY / count, device=settings.torch_device)
        return ComplexSynapse(inner, {f"lambda.{name}": strength for name in fast})


def _contrast(
    free: tuple[int, Optimiser],
    nudged: tuple[int, Optimiser],
    beta: float,
    shorter: int,
    tolerance: float | None,
) -> Contrastive[Any]:
    first, second = (Descent(max(1, n // shorter), opt) for n, opt in (free, nudged))
    return Contrastive(first, second, beta, tolerance=tolerance)


def _adam(rate: float) -> Adam:
    return Adam(rate, eps_root=EPS_ROOT)


PLAIN = ("W", "shift", "bias")
METHODS = {
    "cml-synaptic": Method(
        PLAIN,
        True,
        False,
        1,
        0.03,
        partial(_contrast, (250, _adam(1e-4)), (100, _adam(3e-2)), 0.3),
        _adam(1e-4),
        50,
        250,
    ),
    "cml-modulatory": Method(
        ("gain", "shift", "head"),
        False,
        True,
        2,
        0.03,
        partial(_contrast, (1000, SGD(3e-4)), (100, SGD(1e-4)), 10.0),
        SGD(1e-4, 0.9, nesterov=True),
        100,
        500,
    ),
    "maml": Method(
        PLAIN,
        False,
        False,
        4,
        0.1,
        lambda shorter, tolerance: UnrolledDescent(Descent(10, SGD(1e-2))),
        SGD(1e-3),
        100,
        100,
    ),
}
