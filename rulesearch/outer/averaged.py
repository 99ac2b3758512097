"""Averaging: the mean of the meta-parameters of the last updates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rulesearch.arguments import whole
from rulesearch.named import under
from rulesearch.outer.choice import Choice
from rulesearch.outer.outer_loop import ModelT
from rulesearch.outer.record import UpdateRecord

__all__ = ["Averaged"]

MEAN = "averaged."


@dataclass(eq=False)
class Averaged(Choice[ModelT]):
    r"""A meta-training that ends with the mean of where it has been (Polyak & Juditsky 1992).

    .. math:: \bar{\theta} = \frac{1}{U - b} \sum_{u=b+1}^{U} \theta_u

    A meta-gradient of few tasks leaves Adam wandering about what it has found; the mean of the
    way is nearer to it than where the way ends. Updates go on from the last meta-parameters.

    Parameters
    ----------
    training : BilevelTraining or MetaTraining
    begin : int
        Updates b before the first whose meta-parameters count; what comes before is passed over.

    Raises
    ------
    ConfigError
        For a negative number of updates.
    """

    begin: int
    _mean: dict[str, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        whole("updates before those that are averaged", self.begin, least=0)

    def update(self) -> UpdateRecord:
        """Take a step, and count where it led to."""
        record = self.training.update()
        counted = self.updates - self.begin
        if counted > 0:
            for name, now in self.model.named_parameters():
                here = now.detach()
                before = self._mean.get(name, torch.zeros_like(here))
                self._mean[name] = before + (here - before) / counted
        return record

    def choose(self) -> None:
        """Give the model the mean; where nothing was counted it stays as it is."""
        with torch.no_grad():
            for name, mean in self._mean.items():
                self.model.get_parameter(name).copy_(mean)

    def tensors(self) -> dict[str, Tensor]:
        """Of the training, and of the mean so far."""
        return self.training.tensors() | {MEAN + k: v for k, v in self._mean.items()}

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from a checkpoint made after so many updates."""
        self.training.load(tensors, updates)
        self._mean = {
            name: mean.to(self.model.get_parameter(name).device, copy=True)
            for name, mean in under(MEAN, tensors).items()
        }
