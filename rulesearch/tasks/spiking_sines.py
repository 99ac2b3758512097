"""Few-shot regression of a sine whose argument comes as spikes of a population."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rulesearch.arguments import real, whole
from rulesearch.errors import ConfigError
from rulesearch.torch_arguments import check_floating, check_generators

__all__ = ["SpikingExamples", "SpikingSines", "SpikingTasks", "firing_probability"]


class SpikingExamples(NamedTuple):
    """Examples of tasks side by side.

    Attributes
    ----------
    x : Tensor (lifetimes, time, examples, n_in)
        Spikes, 0 or 1, drawn once and for all.
    target : Tensor (lifetimes, examples, 1)
    """

    x: Tensor
    target: Tensor

    def to(self, device: torch.device | str) -> SpikingExamples:
        """Return the same examples on a device."""
        return SpikingExamples(self.x.to(device), self.target.to(device))


class SpikingTasks(NamedTuple):
    """Tasks side by side: what is learnt, and what is judged."""

    learn: SpikingExamples
    evaluate: SpikingExamples

    def to(self, device: torch.device | str) -> SpikingTasks:
        """Return the same tasks on a device."""
        return SpikingTasks(self.learn.to(device), self.evaluate.to(device))


def firing_probability(place: Tensor, neurons: int, width: float) -> Tensor:
    r"""Probability of a spike in a step, :math:`\exp(-(c - x)^2 / 2 w^2)`.

    Parameters
    ----------
    place : Tensor (...)
        x, in [0, 1].
    neurons : int
        Their centres c are evenly spaced from 0 to 1.
    width : float
        w.

    Returns
    -------
    Tensor (..., neurons)
    """
    centres = torch.linspace(0, 1, neurons, dtype=place.dtype, device=place.device)
    return torch.exp(-((centres - place[..., None]) ** 2) / (2 * width**2))


@dataclass(frozen=True)
class SpikingSines:
    r"""Tasks :math:`y = A \sin(x + \varphi)`, to be learnt from a few points (CML, section 5.4).

    A is uniform in [0.1, 5), :math:`\varphi` in [0, pi), x in [-5, 5); x, scaled to [0, 1], is
    told by spikes that are independent from step to step.

    Parameters
    ----------
    examples, queries : int
        Points to learn from, and to be judged on.
    neurons, time : int
        That tell a point, and for how many steps.
    width : float
        Of a neuron's tuning, on the scale of [0, 1].

    Raises
    ------
    ConfigError
        If a size is not positive.
    """

    examples: int = 10
    queries: int = 10
    neurons: int = 100
    time: int = 20
    width: float = math.sqrt(2e-4)

    def __post_init__(self) -> None:
        for name in ("examples", "queries", "neurons", "time"):
            whole(f"spiking sines: {name}", getattr(self, name), least=1)
        if real("spiking sines: width", self.width) <= 0:
            raise ConfigError(f"spiking sines: width must be positive, not {self.width}")

    def sample(
        self, generators: Sequence[torch.Generator], dtype: torch.dtype = torch.float32
    ) -> SpikingTasks:
        """Draw one task a generator; it depends on that generator alone.

        Raises
        ------
        ConfigError
            If there is no generator.
        """
        check_generators(generators, "task", "spiking sines")
        check_floating(dtype)
        drawn = [self._draw(generator) for generator in generators]
        x = torch.stack([spikes for spikes, _ in drawn]).to(dtype)
        target = torch.stack([values for _, values in drawn]).to(dtype)
        n = self.examples
        return SpikingTasks(
            SpikingExamples(x[:, :, :n].contiguous(), target[:, :n]),
            SpikingExamples(x[:, :, n:].contiguous(), target[:, n:]),
        )

    def _draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return spikes (time, points, neurons) and targets (points, 1)."""
        uniform = torch.rand(
            self.examples + self.queries + 2, generator=generator, dtype=torch.float64
        )
        amplitude, phase, place = 0.1 + 4.9 * uniform[0], math.pi * uniform[1], uniform[2:]
        probability = firing_probability(place, self.neurons, self.width)
        spikes = torch.bernoulli(
            probability.expand(self.time, *probability.shape), generator=generator
        )
        return spikes, (amplitude * torch.sin(10 * place - 5 + phase))[:, None]
