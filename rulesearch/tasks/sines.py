"""Regression on one sine after another, which is learnt only if the earlier ones are kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rulesearch.arguments import check_choice, whole
from rulesearch.errors import ConfigError
from rulesearch.tasks.base import TaskBatch
from rulesearch.torch_arguments import check_floating, check_generators

__all__ = ["IncrementalSines", "SineLifetimes"]

_ORDERS = ("continual", "iid", "mixed")


@dataclass(frozen=True, eq=False)
class SineLifetimes:
    """The sines of some lifetimes and what each trains on: more examples of them can be had.

    Attributes
    ----------
    amplitude, phase : Tensor, (lifetimes, functions)
        Of the sine in every slot; the phase in radians.
    slot : Tensor of int64, (steps, lifetimes, examples)
        Slot of every training example.
    points : Tensor, (steps, lifetimes, examples)
        Where on the line it lies.
    slots : int
        Of the one-hot code, at least as many as there are sines.
    """

    amplitude: Tensor
    phase: Tensor
    slot: Tensor
    points: Tensor
    slots: int

    def examples(self, slot: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a network sees of points on the sines, and should answer.

        Parameters
        ----------
        slot : Tensor of int64, (..., lifetimes, n)
            Whose sine each point is on.
        points : Tensor, (..., lifetimes, n)
            Where.

        Returns
        -------
        x : Tensor, (..., lifetimes, n, slots + 1)
            One-hot code of the slot, then the point itself.
        target : Tensor, (..., lifetimes, n, 1)
            ``amplitude * sin(point + phase)``.
        """
        lifetime = torch.arange(len(self.amplitude))[:, None]
        target = self.amplitude[lifetime, slot] * torch.sin(points + self.phase[lifetime, slot])
        x = points.new_zeros(*points.shape, self.slots + 1)
        x.scatter_(-1, slot[..., None], 1)
        x[..., -1] = points
        return x, target[..., None]

    def fresh(self, generators: Sequence[torch.Generator], count: int) -> tuple[Tensor, Tensor]:
        """Draw examples anew, `count` of every sine, slot after slot.

        Parameters
        ----------
        generators : sequence of torch.Generator
            One a lifetime, on the CPU.
        count : int
            Examples of each sine.

        Returns
        -------
        x : Tensor, (lifetimes, functions * count, slots + 1)
        target : Tensor, (lifetimes, functions * count, 1)

        Raises
        ------
        ConfigError
            If there is not one generator a lifetime.
        """
        lifetimes, functions = self.amplitude.shape
        if len(generators) != lifetimes:
            raise ConfigError(
                f"sines: {lifetimes} lifetimes need as many generators, not {len(generators)}"
            )
        drawn = [_points(generator, functions * count) for generator in generators]
        points = torch.stack(drawn).to(self.points.dtype)
        slot = torch.arange(functions).repeat_interleave(count).expand_as(points)
        return self.examples(slot, points)

    def batch(self, generators: Sequence[torch.Generator], queries: int) -> TaskBatch:
        """Return the training examples with fresh queries, that many of every sine."""
        return TaskBatch(*self.examples(self.slot, self.points), *self.fresh(generators, queries))


@dataclass(frozen=True)
class IncrementalSines:
    r"""Regression on sines that come one after another.

    A lifetime has `functions` sines :math:`y = A \sin(x + \varphi)` with
    :math:`A = 5 (u + 0.02)`, u uniform in [0, 1), :math:`\varphi` uniform in [0, pi) and x
    uniform in [-5, 5). The input is a one-hot code of the slot that the sine has in this
    lifetime, and x: the regression task of Lindsey and Litwin-Kumar (2020), section 5.

    Parameters
    ----------
    functions : int
        Sines in a lifetime.
    batches : int
        Steps on each of them.
    examples : int
        Examples of a step.
    queries : int
        Query examples of each sine.
    order : {"continual", "iid", "mixed"}
        One sine after another; the same steps, each of one sine, in random order; or every
        example of a step from any sine, all sines equally often in a lifetime.
    pool : int, optional
        Sines drawn once and for all, of which a lifetime has some; by default fresh ones.
    pool_seed : int
        What the pool is drawn from.
    slots : int, optional
        Of the one-hot code, by default one a sine. Where there are more, a network of more sines
        can live with these: they have the first slots.

    Raises
    ------
    ConfigError
        If a size is not positive, the pool is too small, there are fewer slots than sines, or
        there is no such order.
    """

    functions: int = 10
    batches: int = 40
    examples: int = 32
    queries: int = 32
    order: Literal["continual", "iid", "mixed"] = "continual"
    pool: int | None = None
    pool_seed: int = 0
    slots: int | None = None

    def __post_init__(self) -> None:
        for name in ("functions", "batches", "examples", "queries"):
            whole(f"sines: {name}", getattr(self, name), least=1)
        check_choice("sines: order", self.order, _ORDERS)
        if self.pool is not None and whole("sines: pool", self.pool, least=1) < self.functions:
            raise ConfigError(
                f"sines: a lifetime has {self.functions} sines, but the pool {self.pool};"
                " enlarge the pool or use fewer functions"
            )
        if self.slots is not None:
            whole("sines: slots", self.slots, least=self.functions)

    @property
    def n_in(self) -> int:
        """Width of an example."""
        return (self.slots or self.functions) + 1

    @property
    def n_out(self) -> int:
        """Width of a target."""
        return 1

    @property
    def steps(self) -> int:
        """Training steps in a lifetime."""
        return self.functions * self.batches

    @property
    def name(self) -> str:
        """Short name, as ``sines-10-continual``."""
        return f"sines-{self.functions}-{self.order}"

    def describe(self) -> dict[str, object]:
        """Return what a manifest needs to tell these tasks from any other, as JSON values."""
        return {"family": "incremental-sines", **self.arguments}

    @property
    def arguments(self) -> dict[str, object]:
        """Arguments that make these tasks again."""
        return dict(vars(self))

    def sample(
        self, generators: Sequence[torch.Generator], dtype: torch.dtype = torch.float32
    ) -> TaskBatch:
        """Draw one lifetime per generator; lifetime i depends on generator i alone.

        Labels are targets, (steps, lifetimes, examples, 1), and the queries come slot after
        slot, (lifetimes, functions * queries, n_in).

        Raises
        ------
        ConfigError
            If there is no generator.
        """
        return self.draw(generators, dtype).batch(generators, self.queries)

    def draw(
        self, generators: Sequence[torch.Generator], dtype: torch.dtype = torch.float32
    ) -> SineLifetimes:
        """Draw the sines and the training examples of the lifetimes that `sample` draws.

        In either precision, and in every order, generators of one seed draw the same sines
        and points.

        Raises
        ------
        ConfigError
            If there is no generator.
        """
        check_generators(generators, "lifetime", "sines")
        check_floating(dtype)
        drawn = zip(*(self._draw(generator) for generator in generators), strict=True)
        amplitude, phase, slot, points = drawn
        return SineLifetimes(
            torch.stack(amplitude).to(dtype),
            torch.stack(phase).to(dtype),
            torch.stack(slot, dim=1),
            torch.stack(points, dim=1).to(dtype),
            self.n_in - 1,
        )

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return amplitude and phase (functions,), slot and points (steps, examples)."""
        if self.pool is None:
            amplitude, phase = _sines(generator, self.functions)
        else:
            amplitude, phase = _sines(torch.Generator().manual_seed(self.pool_seed), self.pool)
            chosen = torch.randperm(self.pool, generator=generator)[: self.functions]
            amplitude, phase = amplitude[chosen], phase[chosen]
        points = _points(generator, self.steps, self.examples)
        slot = torch.arange(self.functions).repeat_interleave(self.batches)
        if self.order == "iid":
            slot = slot[torch.randperm(self.steps, generator=generator)]
        slot = slot[:, None].expand_as(points)
        if self.order == "mixed":
            order = torch.randperm(slot.numel(), generator=generator)
            slot = slot.flatten()[order].view_as(points)
        return amplitude, phase, slot, points


def _sines(generator: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Return the amplitude and the phase of that many sines."""
    amplitude, phase = torch.rand(2, count, generator=generator, dtype=torch.float64)
    return 5 * (amplitude + 0.02), math.pi * phase


def _points(generator: torch.Generator, *shape: int) -> Tensor:
    """Return points in [-5, 5), in double precision so that every precision gets the same."""
    return 10 * torch.rand(shape, generator=generator, dtype=torch.float64) - 5
