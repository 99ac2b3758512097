"""Meta-training on bilevel problems: Adam on the meta-parameters, by any meta-gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from rulesearch.errors import ConfigError
from rulesearch.outer.bilevel.named import Named, detached, spread
from rulesearch.outer.bilevel.problem import Bilevel, BilevelGradient
from rulesearch.outer.bilevel.synapse import allowed
from rulesearch.outer.meta_training import UpdateRecord

__all__ = ["BilevelTraining", "MetaParameters"]

P = TypeVar("P", bound=Bilevel)
MOMENTS = ("exp_avg", "exp_avg_sq")


@runtime_checkable
class _Drawing(Protocol):
    """A meta-gradient that draws random numbers: where it stands is part of the state."""

    generator: torch.Generator


class MetaParameters(nn.Module):
    """Theta of several seeds, ``(seeds, ...)`` each, as a module."""

    def __init__(self, theta: Named) -> None:
        super().__init__()
        self.named = nn.ParameterDict(
            {name.replace(".", "/"): nn.Parameter(t.clone()) for name, t in theta.items()}
        )

    def theta(self) -> dict[str, nn.Parameter]:
        """By the names that problems know them by."""
        return {name.replace("/", "."): p for name, p in self.named.items()}


@dataclass(eq=False)
class BilevelTraining(Generic[P]):
    """Meta-parameters and their optimiser; resumable after any update.

    Strengths of complex synapses, where they are learnt as such, are kept from below zero. What
    diverged or went astray teaches nothing (see :mod:`rulesearch.outer.bilevel.convergence`): the
    mean over a seed's problems is that of the others. A seed without any keeps its moments, and
    goes half-way back to where it was last accepted, for to stay could be to diverge for ever.

    Parameters
    ----------
    model : MetaParameters
    problems : callable
        From an update's number to its problems, ``seeds * episodes`` of them, those of a seed
        together.
    meta_gradient : BilevelGradient
    rate : float
        Adam's step.
    episodes : int
        Problems of a seed in an update.

    Raises
    ------
    ConfigError
        For a rate that is not positive.
    """

    model: MetaParameters
    problems: Callable[[int], P]
    meta_gradient: BilevelGradient[P]
    rate: float
    episodes: int = 1
    updates: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.rate < float("inf"):
            raise ConfigError(f"rate must be a positive number, not {self.rate}")
        self._adam = torch.optim.Adam(self.model.parameters(), lr=self.rate)
        self._good: dict[str, Tensor] = {}  # where each seed was last accepted

    def update(self) -> UpdateRecord:
        """Estimate the meta-gradient of a meta-batch, and take one step."""
        theta = self.model.theta()
        each = {k: t.repeat_interleave(self.episodes, 0) for k, t in detached(theta).items()}
        estimate = self.meta_gradient(self.problems(self.updates), each)
        alive = estimate.accepted.reshape(-1, self.episodes)
        count = alive.sum(1)
        rejected = count == 0

        def mean(values: Tensor) -> Tensor:
            rows = values.reshape(*alive.shape, *values.shape[1:])
            rows = torch.where(spread(alive, rows), rows, 0.0).sum(1)
            return rows / spread(count.clamp(min=1), rows)

        for name, parameter in theta.items():
            parameter.grad = mean(estimate.gradient[name])
        with torch.no_grad():
            for name, parameter in theta.items():
                accepted = spread(~rejected, parameter)
                self._good[name] = torch.where(accepted, parameter, self._good.get(name, parameter))
        back = {k: (t.detach() + self._good[k])[rejected] / 2 for k, t in theta.items()}
        kept = [(moment, moment[rejected]) for moment in self._moments()]
        self._adam.step()
        with torch.no_grad():
            for moment, value in kept:
                moment[rejected] = value
            for name, value in allowed(theta).items():
                theta[name].copy_(value)
                theta[name][rejected] = back[name]
        self.updates += 1
        loss = torch.where(rejected, torch.nan, mean(estimate.loss))
        return UpdateRecord(loss, rejected, self.episodes - count)

    def _moments(self) -> list[Tensor]:
        """Adam's, ``(seeds, ...)`` each; made here, as Adam would at its first step."""
        for parameter in self.model.parameters():
            state = self._adam.state[parameter]
            if not state:
                state["step"] = torch.zeros(())
                state |= {name: torch.zeros_like(parameter) for name in MOMENTS}
        return [self._adam.state[p][name] for p in self.model.parameters() for name in MOMENTS]

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next update needs, for a checkpoint."""
        found = {f"model.{k}": v.detach() for k, v in self.model.named_parameters()}
        names = {id(p): k for k, p in self.model.named_parameters()}
        for parameter, moments in self._adam.state.items():
            for key, value in moments.items():
                found[f"adam.{key}.{names[id(parameter)]}"] = torch.as_tensor(value)
        if isinstance(self.meta_gradient, _Drawing):
            found["generator"] = self.meta_gradient.generator.get_state()
        return found | {f"good.{name}": value for name, value in self._good.items()}

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from a checkpoint made after so many updates.

        Raises
        ------
        ConfigError
            If it is of other meta-parameters.
        """
        parameters = dict(self.model.named_parameters())
        if {k for k in tensors if k.startswith("model.")} != {f"model.{k}" for k in parameters}:
            raise ConfigError("the checkpoint is of other meta-parameters")
        with torch.no_grad():
            for key, parameter in parameters.items():
                parameter.copy_(tensors[f"model.{key}"])
                if updates:
                    self._adam.state[parameter] = {
                        moment: tensors[f"adam.{moment}.{key}"].clone()
                        for moment in ("step", *MOMENTS)
                    }
        if isinstance(self.meta_gradient, _Drawing):
            self.meta_gradient.generator.set_state(tensors["generator"].clone())
        part = "good."
        self._good = {
            k.removeprefix(part): v.clone() for k, v in tensors.items() if k.startswith(part)
        }
        self.updates = updates
