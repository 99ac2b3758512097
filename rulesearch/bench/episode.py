"""An episode of FLP, the same for every peer: meta-parameters, what is seen, what is asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from rulesearch.outer import SINES, MetaModel, flp_model
from rulesearch.tasks import IncrementalSines
from rulesearch.tasks.base import TaskBatch

__all__ = ["SUMS", "Episode", "EpisodeData", "sketch", "told"]

RATE = 2e-7  # at most, of a weight: ten times that diverges within 400 steps
SUMS = 1024  # numbers by which a gradient is told


@dataclass(frozen=True, eq=False)
class EpisodeData:
    """What a peer is given.

    Attributes
    ----------
    model : MetaModel
        The meta-parameters; the rule's coefficient is none of them.
    task : TaskBatch
        Of ``lifetimes`` episodes.
    """

    model: MetaModel
    task: TaskBatch

    def to(self, where: torch.dtype | torch.device | str) -> EpisodeData:
        """The same numbers in another type, or on another device; the model itself moves."""
        task = TaskBatch(**{name: part.to(where) for name, part in vars(self.task).items()})
        return EpisodeData(self.model.to(where), task)

    @property
    def learnt(self) -> list[Tensor]:
        """The meta-parameters: W and b of all layers, B, its bias, the mixing, the rates."""
        return [p for p in self.model.parameters() if p.requires_grad]


@dataclass(frozen=True)
class Episode:
    """Incremental sines under FLP, and the gradient of the query loss in all meta-parameters.

    Parameters
    ----------
    sizes : tuple of int
        Units per layer; relu, linear output. The input is one unit a sine, and the point.
    plastic : int
        How many of the last layers learn.
    steps, lifetimes, examples : int
        Of a lifetime, lifetimes of a meta-batch, and examples a step.
    queries : int
        Of each sine; the loss is their mean squared error, summed over lifetimes.
    """

    sizes: tuple[int, ...] = SINES.widths
    plastic: int = SINES.plastic_layers
    steps: int = 400
    lifetimes: int = 1
    examples: int = 32
    queries: int = 32
    seed: int = 0

    @property
    def about(self) -> str:
        """What learns."""
        return f"FLP({self.plastic})"

    @property
    def weights(self) -> int:
        """Weights of all layers."""
        return sum(pre * post for pre, post in pairwise(self.sizes))

    @property
    def numbers(self) -> int:
        """What plain autograd may keep of a step: about four matrices a plastic layer."""
        plastic = self.sizes[-self.plastic - 1 :]
        return 4 * sum(pre * post for pre, post in pairwise(plastic))

    def make(self) -> EpisodeData:
        """Draw everything, in float32."""
        settings = replace(SINES, widths=self.sizes, plastic_layers=self.plastic)
        model = flp_model(settings, seed=self.seed)
        g = torch.Generator().manual_seed(self.seed)
        model.theta.requires_grad_(False)
        with torch.no_grad():
            for rate in model.rate:
                rate.uniform_(0, RATE, generator=g)
        functions = self.sizes[0] - 1
        batches = -(-self.steps // functions)
        sines = IncrementalSines(functions, batches, self.examples, self.queries)
        seeds = range(self.seed, self.seed + self.lifetimes)
        task = sines.sample([torch.Generator().manual_seed(s) for s in seeds])
        cut = replace(task, x=task.x[: self.steps], label=task.label[: self.steps])
        return EpisodeData(model, cut)


def told(learnt: Sequence[Tensor], gradient: Sequence[Tensor]) -> list[float]:
    """A gradient of a million numbers as a thousand sums of them with random signs.

    Each is taken in units of its meta-parameter's root mean square, or of 1 where that is zero,
    so that rates of 1e-7 and weights of 0.1 count alike.
    """
    units = (parameter.detach().square().mean().sqrt() for parameter in learnt)
    return sketch(
        slope * torch.where(unit > 0, unit, 1.0)
        for unit, slope in zip(units, gradient, strict=True)
    )


def sketch(parts: Iterable[Tensor]) -> list[float]:
    """Sums of many numbers with random signs, which keep distances but for a few percent.

    A count sketch (Charikar, Chen & Farach-Colton 2002).
    """
    g = torch.Generator().manual_seed(0)
    sums = torch.zeros(SUMS, dtype=torch.float64)
    for part in parts:
        numbers = part.flatten().double().cpu()
        place = torch.randint(SUMS, numbers.shape, generator=g)
        sign = 2 * torch.randint(2, numbers.shape, generator=g) - 1
        sums.index_add_(0, place, numbers * sign)
    return sums.tolist()
