"""A meta-training that ends with other meta-parameters than those of its last update."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from rulesearch.outer.bilevel.training import BilevelTraining, MetaParameters

__all__ = ["Choice"]


@dataclass(eq=False)
class Choice(ABC):
    """What goes around a meta-training, and at its end chooses what the model shall be.

    Parameters
    ----------
    training : BilevelTraining
    """

    training: BilevelTraining[Any]

    @property
    def model(self) -> MetaParameters:
        """The meta-parameters, of the last update until :meth:`choose` is called."""
        return self.training.model

    @property
    def updates(self) -> int:
        """How many there were."""
        return self.training.updates

    @abstractmethod
    def choose(self) -> None:
        """Give the model what is chosen."""
