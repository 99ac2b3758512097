"""A meta-training that ends with other meta-parameters than those of its last update."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic

from rulesearch.outer.outer_loop import ModelT, OuterLoop

__all__ = ["Choice"]


@dataclass(eq=False)
class Choice(ABC, Generic[ModelT]):
    """What goes around a meta-training, and at its end chooses what the model shall be.

    Parameters
    ----------
    training : BilevelTraining or MetaTraining
    """

    training: OuterLoop[ModelT]

    @property
    def model(self) -> ModelT:
        """The meta-parameters, of the last update until :meth:`choose` is called."""
        return self.training.model

    @property
    def updates(self) -> int:
        """How many there were."""
        return self.training.updates

    @abstractmethod
    def choose(self) -> None:
        """Give the model what is chosen."""
