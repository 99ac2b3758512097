"""What a peer is: something that makes a loss and its meta-gradient out of a problem."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["Answer", "Peer", "Prepared", "nothing"]


class Answer(NamedTuple):
    """The summed query loss, and its gradient in theta; of an episode, sums that tell it."""

    loss: float
    gradient: list[float]


def as_it_is(found: Answer) -> Answer:
    """What a run gave is its answer."""
    return found


def nothing() -> dict[str, Any]:
    """No remarks."""
    return {}


@dataclass(frozen=True)
class Prepared:
    """A problem in a peer's own terms, compiled where the peer compiles.

    Attributes
    ----------
    run : callable
        The lives and the gradient once; returns when they are done. This is what is timed.
    tell : callable
        The answer, from what ``run`` gave.
    compile_seconds : float or None
        What compilation took; None where there is none.
    remarks : callable
        What is worth noting after a run, as plain numbers and texts.
    """

    run: Callable[[], Any]
    compile_seconds: float | None = None
    remarks: Callable[[], dict[str, Any]] = nothing
    tell: Callable[[Any], Answer] = as_it_is

    def answer(self) -> Answer:
        """Run once."""
        return self.tell(self.run())


@dataclass(frozen=True)
class Peer:
    """One way to get the meta-gradient.

    Attributes
    ----------
    ways : mapping of type to callable
        For each kind of problem it is written for: takes the problem and its data, in the type
        and on the device that are to be used.
    memory_growth : float
        Memory grows as steps to this power.
    needs : str
        The extra of rulesearch that it needs, or nothing.
    ours : bool
        Whether it is this library; never skipped for its size.
    """

    name: str
    about: str
    ways: Mapping[type, Callable[[Any, Any], Prepared]]
    memory_growth: float = 1.0
    needs: str = ""
    ours: bool = False

    def prepare(self, problem: Any, data: Any) -> Prepared:
        """The problem made ready, not yet run."""
        return self.ways[type(problem)](problem, data)
