"""A curriculum: lifetimes that are shorter, or ask for less, come first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rulesearch.arguments import real, whole
from rulesearch.errors import ConfigError
from rulesearch.tasks import TaskFamily
from rulesearch.tasks.family import check_family

__all__ = ["TASKS", "Stage", "stage_at"]

TASKS = "a family of tasks, as rulesearch.tasks.IncrementalSines()"


@dataclass(frozen=True)
class Stage:
    """Tasks of so many updates, before those that meta-training is for.

    Parameters
    ----------
    updates : int
    tasks : TaskFamily
        That fit the same network: as wide, of as many outputs.
    pace : float
        By which every step of Adam is larger than after the stages.

    Raises
    ------
    ConfigError
        If it is no update long, or its pace is not a finite number above 0.
    """

    updates: int
    tasks: TaskFamily
    pace: float = 1.0

    def __post_init__(self) -> None:
        check_family("meta-training: tasks of a stage", self.tasks, TASKS, "generators", "dtype")
        whole("meta-training: updates of a stage", self.updates, least=1)
        if real("meta-training: pace of a stage", self.pace) <= 0:
            raise ConfigError(f"meta-training: pace of a stage must be above 0, not {self.pace}")


def stage_at(update: int, stages: Sequence[Stage]) -> Stage | None:
    """Return the stage of an update, counted from 0; None after the last."""
    for stage in stages:
        if update < stage.updates:
            return stage
        update -= stage.updates
    return None
