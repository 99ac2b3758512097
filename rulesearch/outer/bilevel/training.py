"""Meta-training on bilevel problems: Adam on the meta-parameters, by any meta-gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from rulesearch.errors import ConfigError
from rulesearch.outer.bilevel.named import Named, detached, spread
from rulesearch.outer.bilevel.problem import Bilevel, BilevelGradient
from rulesearch.outer.bilevel.synapse import LAMBDA
from rulesearch.outer.meta_training import UpdateRecord

__all__ = ["BilevelTraining", "MetaParameters"]

P = TypeVar("P", bound=Bilevel)


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
    diverged teaches nothing: a seed none of whose problems is finite stays as it was.

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

    def update(self) -> UpdateRecord:
        """Estimate the meta-gradient of a meta-batch, and take one step."""
        theta = self.model.theta()
        each = {k: t.repeat_interleave(self.episodes, 0) for k, t in detached(theta).items()}
        estimate = self.meta_gradient(self.problems(self.updates), each)
        alive = estimate.finite.reshape(-1, self.episodes)
        count = alive.sum(1)
        rejected = count == 0

        def mean(values: Tensor) -> Tensor:
            rows = values.reshape(*alive.shape, *values.shape[1:])
            rows = torch.where(spread(alive, rows), rows, 0.0).sum(1)
            return rows / spread(count.clamp(min=1), rows)

        for name, parameter in theta.items():
            parameter.grad = mean(estimate.gradient[name])
        before = {name: parameter.detach().clone() for name, parameter in theta.items()}
        self._adam.step()
        with torch.no_grad():
            for name, parameter in theta.items():
                if name.startswith(LAMBDA):
                    parameter.clamp_(min=0.0)
                parameter[rejected] = before[name][rejected]
        self.updates += 1
        return UpdateRecord(torch.where(rejected, torch.nan, mean(estimate.loss)), rejected)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next update needs, for a checkpoint."""
        found = {f"model.{k}": v.detach() for k, v in self.model.named_parameters()}
        names = {id(p): k for k, p in self.model.named_parameters()}
        for parameter, moments in self._adam.state.items():
            for key, value in moments.items():
                found[f"adam.{key}.{names[id(parameter)]}"] = torch.as_tensor(value)
        return found

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
                        for moment in ("step", "exp_avg", "exp_avg_sq")
                    }
        self.updates = updates
