"""What all meta-trainings have in common: an outer loop that is under way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

from torch import Tensor, nn

from rulesearch.outer.record import UpdateRecord

__all__ = ["ModelT", "OuterLoop"]

ModelT = TypeVar("ModelT", bound=nn.Module)
ModelT_co = TypeVar("ModelT_co", bound=nn.Module, covariant=True)


class OuterLoop(Protocol[ModelT_co]):
    """An outer loop under way: see :class:`rulesearch.outer.MetaTraining`."""

    @property
    def updates(self) -> int:
        """Steps taken."""

    @property
    def model(self) -> ModelT_co:
        """The meta-parameters."""

    def update(self) -> UpdateRecord:
        """Take one step."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next step needs."""

    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Go on from what ``tensors`` gave after so many updates."""
