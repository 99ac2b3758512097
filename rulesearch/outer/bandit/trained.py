"""Meta-training and the life after it, as one outer loop that resumes anywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rulesearch.named import under
from rulesearch.outer.bandit.online import Life
from rulesearch.outer.bilevel import MetaParameters
from rulesearch.outer.outer_loop import OuterLoop
from rulesearch.outer.record import UpdateRecord

__all__ = ["TrainedLife"]


@dataclass(eq=False)
class TrainedLife:
    """So many updates of meta-training, then a block of life in each.

    Parameters
    ----------
    training : BilevelTraining or BestOnValidation
    trained : int
        Updates of meta-training; none where its meta-parameters are another's.
    begin : callable
        From the training, at its end, to a life.
    scale : float
        What regrets are divided by in the record of an update.
    """

    training: OuterLoop[MetaParameters]
    trained: int
    begin: Callable[[OuterLoop[MetaParameters]], Life]
    scale: float
    updates: int = 0
    _life: Life | None = field(init=False, default=None)

    @property
    def model(self) -> MetaParameters:
        """The meta-parameters."""
        return self.training.model

    @property
    def life(self) -> Life:
        """The life, which begins when it is first asked for."""
        if self._life is None:
            self._life = self.begin(self.training)
        return self._life

    def update(self) -> UpdateRecord:
        """Meta-train, or live on; what is lost by choices is the mean over a seed's lifetimes."""
        self.updates += 1
        if self.updates <= self.trained:
            return self.training.update()
        regret = self.life.go_on().double().mean(1).cpu() / self.scale
        alive = self.life.alive.cpu().reshape(len(next(self.model.parameters())), -1)
        loss = torch.where(alive, regret.reshape(alive.shape), 0.0).sum(1) / alive.sum(1)
        nothing = torch.zeros(len(alive), dtype=torch.int64)  # of meta-training was lost
        return UpdateRecord(loss, ~alive.any(1), nothing)

    def tensors(self) -> dict[str, Tensor]:
        """Of the training, and of the life once it has begun."""
        found = {f"training.{name}": value for name, value in self.training.tensors().items()}
        if self._life is not None:
            found |= {f"life.{name}": value for name, value in self._life.tensors().items()}
        return found

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from a checkpoint made after so many updates."""
        self.training.load(under("training.", tensors), min(updates, self.trained))
        if updates > self.trained:
            self.life.load(under("life.", tensors))
        self.updates = updates
