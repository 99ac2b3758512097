"""Rows of CML that learn tasks: meta-trained on those of each update, tested on others."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from rulesearch.named import copied, detached
from rulesearch.outer.bilevel import (
    Bilevel,
    BilevelGradient,
    BilevelLearner,
    BilevelTraining,
    MetaParameters,
    Named,
)
from rulesearch.outer.bilevel.convergence import BOUND, Settled
from rulesearch.outer.seeds import NETWORK, TASK, TEST, generators, members
from rulesearch.reproduce.base import RunSettings, portions

__all__ = ["Draws", "births", "learnt", "meta_training", "on_tests", "synapses"]

Draws = Sequence[torch.Generator]
"""One a lifetime, those of a seed together."""

P = TypeVar("P")
B = TypeVar("B", bound=Bilevel)


def births(run: RunSettings) -> list[torch.Generator]:
    """One a seed, from which its network is drawn."""
    return generators(run.seed, 0, NETWORK, members(run.seeds))


def synapses(born: Named, parts: Collection[str], strength: float) -> dict[str, Tensor]:
    """Meta-parameters at first: states as at birth and one strength for all, where it is learnt.

    Parameters
    ----------
    parts : collection of str
        ``lambda`` for strengths that are learnt as such, ``log_lambda`` for their logarithms.
    """
    theta = {f"omega.{name}": w for name, w in born.items()}
    for part, value in (("lambda", strength), ("log_lambda", math.log(strength))):
        if part in parts:
            theta |= {f"{part}.{name}": torch.full_like(w, value) for name, w in born.items()}
    return theta


def meta_training(
    run: RunSettings,
    theta: Named,
    problem: Callable[[Draws], P],
    meta_gradient: BilevelGradient[P],
    rate: float,
    milestones: Sequence[int] = (),
) -> BilevelTraining[P]:
    """Meta-train on the problems that are made of an update's draws."""
    lifetimes = members(run.seeds, run.episodes)
    return BilevelTraining(
        MetaParameters(theta),
        lambda update: problem(generators(run.seed, 0, TASK, lifetimes, update)),
        meta_gradient,
        rate,
        run.episodes,
        milestones=milestones,
    )


@torch.no_grad()
def learnt(learner: BilevelLearner[B], problem: B, theta: Named) -> tuple[Named, Tensor]:
    """What is learnt of a test, and which lifetimes stayed within the bound of meta-training."""
    start = problem.start(theta)
    phi = learner(problem, theta, start)
    return phi, Settled(problem, theta, start, BOUND)(phi)


@torch.no_grad()
def on_tests(
    run: RunSettings,
    model: torch.nn.Module,
    judge: Callable[[Draws, Named], Tensor],
    each: int,
    lifetimes: int | None = None,
    stream: int = TEST,
) -> Tensor:
    """Judge lifetimes that begin with the meta-parameters found, ``(seeds, lifetimes)``.

    Parameters
    ----------
    judge : callable
        From draws and each lifetime's theta to a number for each, ``(lifetimes,)``.
    each : int
        Lifetimes of a seed side by side.
    lifetimes, stream : int
        Of each seed, and what they are drawn from: by default the run's test lifetimes.
    """
    assert isinstance(model, MetaParameters)
    found = []
    for some in portions(run.seeds, run.lifetimes if lifetimes is None else lifetimes, each):
        theta = copied(detached(model.theta()), len(some) // run.seeds)
        told = judge(generators(run.seed, 0, stream, some), theta)
        found.append(told.reshape(run.seeds, -1))
    return torch.cat(found, 1)
