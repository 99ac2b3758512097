"""Types of settings that reproductions of CML share: of learning, consolidation, convergence."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

__all__ = ["Momentum", "Rate", "Strength", "Tolerance", "Ways"]


Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A step of learning or of meta-learning, or a nudging strength."""

Momentum = Annotated[float, Field(ge=0, lt=1)]


def _pulls(strength: float) -> float:
    if strength == 0:
        raise PydanticCustomError(
            "strength",
            "should be above 0: the meta-gradient of the consolidated states is proportional to "
            "the strength, and nothing would be meta-learnt",
        )
    return strength


Strength = Annotated[float, Field(ge=0, allow_inf_nan=False), AfterValidator(_pulls)]
"""Of consolidation, where consolidated states are what is meta-learnt."""

Tolerance = Rate | None
"""The largest residual of learning that is accepted: see rulesearch.outer.bilevel.residual."""

Ways = Annotated[int, Field(strict=True, ge=2)]
"""Classes of a task: of a single one every answer is right."""
