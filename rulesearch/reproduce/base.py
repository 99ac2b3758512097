"""What a reproduction is: a paper's table, and the jobs whose figures stand beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn

from rulesearch.outer.fit import usable_device
from rulesearch.outer.outer_loop import OuterLoop
from rulesearch.outer.seeds import members
from rulesearch.search.settings import Count, Device, Spec

__all__ = [
    "Job",
    "Measured",
    "Published",
    "Reproduction",
    "Row",
    "RunSettings",
    "Trained",
    "Training",
    "portions",
]

Measured = Mapping[str, Tensor]
"""What a job measures: ``error`` (seeds, lifetimes), and whatever a figure is drawn from."""

Training = OuterLoop[nn.Module]
"""What a job trains by, of whatever model."""

Trained = Mapping[str, Mapping[str, Tensor]]
"""Meta-parameters (``state_dict``) of finished jobs, by the names of these."""


class RunSettings(Spec):
    """What every reproduction can be told.

    What is random is drawn on the CPU, so that tasks and networks are the same on every device.

    Attributes
    ----------
    updates : int
        Meta-updates of each job.
    seeds : int
        Independent meta-trainings of each job, run as one batch.
    episodes : int
        Lifetimes of a seed in an update.
    lifetimes : int
        Test lifetimes of each seed.
    seed : int
        Everything random follows from it.
    checkpoint_every : int
        Updates between checkpoints.
    device : str
        Where networks are trained and tested: ``cpu``, or ``cuda`` for a GPU, or one of several
        as ``cuda:1``.
    """

    updates: Count
    seeds: Count
    episodes: Count = 1
    lifetimes: Count = 50
    seed: Annotated[int, Field(ge=0)] = 0
    checkpoint_every: Count = 20
    device: Device = "cpu"

    @property
    def torch_device(self) -> torch.device:
        """The device itself.

        Raises
        ------
        ConfigError
            If it is not here.
        """
        return usable_device(self.device)


@dataclass(frozen=True)
class Job:
    """One row under one condition: a meta-training, and what is measured after it.

    Attributes
    ----------
    row, condition : str
        Where in the table its error stands.
    updates : int
    begin : callable
        Makes the training at its start, from what the jobs in `needs` have trained, and this one
        itself in another run.
    measure : callable
        On tasks that the training never met.
    needs : tuple of str
        Names of jobs to be finished before.
    lengths : tuple of (int, int)
        Updates, and the steps of their lifetimes, in turn, where they are not all alike: from
        them the time left is told.
    untrained : int
        Last updates that train nothing, as those of a life after training: what another run has
        trained goes through them too, and `begin` has to see to it that it begins there.
    trains : str, optional
        Name of what it trains, where that is the same under other conditions too; by default its
        own.
    """

    row: str
    condition: str
    updates: int
    begin: Callable[[Trained], Training]
    measure: Callable[[Training], Measured]
    needs: tuple[str, ...] = ()
    lengths: tuple[tuple[int, int], ...] = ()
    untrained: int = 0
    trains: str = ""

    @property
    def name(self) -> str:
        """As ``flp-3-iid``."""
        return f"{self.row}-{self.condition}"

    @property
    def network(self) -> str:
        """What it trains: jobs of which this is the same can take each other's."""
        return self.trains or self.name

    @property
    def learns(self) -> bool:
        """Whether it trains anything itself."""
        return self.updates > self.untrained

    def again(self, condition: str, measure: Callable[[Training], Measured]) -> Job:
        """What this job, which needs no other, has trained, measured under another condition."""

        def begin(trained: Trained) -> Training:
            training = self.begin({})
            training.model.load_state_dict(dict(trained[self.name]))
            return training

        return replace(
            self,
            condition=condition,
            updates=0,
            begin=begin,
            measure=measure,
            needs=(self.name,),
            lengths=(),
            trains=self.network,
        )


def portions(seeds: int, lifetimes: int, each: int) -> Iterator[list[tuple[int, int]]]:
    """Test lifetimes by seed and number, as many of each seed side by side as is said."""
    for first in range(0, lifetimes, each):
        yield members(seeds, min(each, lifetimes - first), first)


class Published(NamedTuple):
    """A figure of the paper, with its standard error where one is told."""

    value: float
    sem: float | None = None


@dataclass(frozen=True)
class Row:
    """A row of the table: its key, its title, and the paper's figures by condition."""

    key: str
    title: str
    published: Mapping[str, Published] = field(default_factory=dict)


S = TypeVar("S", bound=RunSettings)


@dataclass(frozen=True)
class Reproduction(Generic[S]):
    """A paper's table or figure, and how to run it.

    Attributes
    ----------
    name : str
        What it is asked for by, as ``flp-table1``.
    title : str
    source : str
        Paper and table, where the published figures stand.
    unit : str
        What the figures are.
    rows : tuple of Row
    conditions : mapping
        Key and title of each pair of columns.
    settings : type
        Of its settings, whose defaults are the paper's.
    scales : mapping
        ``small`` and ``full``: named sets of settings.
    jobs : callable
        The jobs that settings ask for, each after those that it needs. Loads data, so that
        what is missing is told before anything runs.
    notes : tuple of str
        What a reader of the table should know.
    draw : callable, optional
        Writes figures and their numbers into the run folder, from what every job measured under
        the settings.
    quoted : tuple of str
        Keys of rows without jobs: the paper's figures stand there alone.
    trained_by : str, optional
        Name of the reproduction, which may be this one, whose jobs of the same names train the
        same networks, so that a run can take those of a run of it.
    """

    name: str
    title: str
    source: str
    unit: str
    rows: tuple[Row, ...]
    conditions: Mapping[str, str]
    settings: type[S]
    scales: Mapping[str, Mapping[str, Any]]
    jobs: Callable[[S], Sequence[Job]]
    notes: tuple[str, ...] = ()
    draw: Callable[[Mapping[str, Measured], Path, S], None] | None = None
    quoted: tuple[str, ...] = ()
    trained_by: str | None = None
