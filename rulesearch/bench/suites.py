"""What is measured: cases of the suites, and which peers run in them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rulesearch.bench.consolidation import Consolidation
from rulesearch.bench.episode import Episode
from rulesearch.bench.kinds import AnyProblem
from rulesearch.bench.problem import Problem
from rulesearch.errors import ConfigError, did_you_mean

__all__ = ["SUITES", "Case", "Suite", "find_suites", "quick"]

LEADERS = (
    "plain", "checkpointed", "jax-factored", "jax-factored-segments", "jax-factored-map",
    "jax-factored-map-segments", "rulesearch-torch", "rulesearch",
)  # fmt: skip
QUICK = (
    "plain", "learning", "jax-factored", "jax-factored-map", "rulesearch-torch", "rulesearch",
)  # fmt: skip
SHORT = 50  # steps


@dataclass(frozen=True)
class Case:
    """One problem, as a point on a suite's axis."""

    suite: str
    axis: str
    value: int
    problem: AnyProblem


@dataclass(frozen=True)
class Suite:
    """Problems that differ in one thing.

    Attributes
    ----------
    axis : str
        What differs.
    problems : tuple of (value, problem)
    peers : tuple of str or None
        Who runs; None for all.
    """

    name: str
    title: str
    axis: str
    problems: tuple[tuple[int, AnyProblem], ...]
    peers: tuple[str, ...] | None = LEADERS

    def cases(self) -> Iterator[Case]:
        """Its points, in order."""
        for value, problem in self.problems:
            yield Case(self.name, self.axis, value, problem)


TWENTY = Problem(lifetimes=20)
SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "main", "The paper's network and ten terms, 250 steps", "lifetimes",
            tuple((n, Problem(lifetimes=n)) for n in (1, 20, 64)), None,
        ),
        Suite(
            "steps", "Length of a lifetime, twenty at once", "steps",
            tuple((n, replace(TWENTY, steps=n)) for n in (250, 1000, 5000, 20_000)),
        ),
        Suite(
            "steps-one", "Length of a lifetime, one alone", "steps",
            tuple((n, Problem(steps=n)) for n in (250, 1000, 5000, 20_000)),
        ),
        Suite(
            "width", "Width of two hidden layers, one lifetime", "width",
            tuple((n, Problem((784, n, n, 47))) for n in (256, 512, 1024, 2048, 4096)),
        ),
        Suite(
            "depth", "Layers of 128 units, twenty lifetimes", "hidden layers",
            tuple((n, replace(TWENTY, sizes=(784, *[128] * n, 47))) for n in (2, 5, 10, 20)),
        ),
        Suite(
            "examples", "Examples a step, four lifetimes of 50 steps", "examples",
            tuple(
                (n, Problem(steps=SHORT, lifetimes=4, examples=n)) for n in (1, 4, 16, 64, 256)
            ),
        ),
        Suite(
            "terms", "Generated terms, twenty lifetimes", "terms",
            tuple((n, replace(TWENTY, pool=f"generated-{n}")) for n in (10, 50, 200)),
        ),
        Suite(
            "terms-dense", "Generated terms, none at zero, twenty lifetimes", "terms",
            tuple((n, replace(TWENTY, pool=f"generated-{n}-dense")) for n in (10, 50, 200)),
        ),
        Suite(
            "flp", "An episode of FLP: ten incremental sines, 32 examples a step", "steps",
            tuple((n, Episode(steps=n)) for n in (100, 400)),
            ("plain", "hoisted", "checkpointed", "rulesearch"),
        ),
        Suite(
            "cml", "CML: a strength of consolidation for each weight", "steps",
            tuple((n, Consolidation(steps=n)) for n in (50, 200, 800)),
            ("plain", "truncated", "learning", "rulesearch"),
        ),
    )
}  # fmt: skip
COMPILE = "compile"
FIRST_USE = Suite(COMPILE, "First use of this library", "", (), ())


def find_suites(names: Iterable[str]) -> list[Suite]:
    """Return the suites of these names in their order; ``all`` is every one of them.

    Raises
    ------
    ConfigError
        For a name that no suite has.
    """
    wanted = list(names)
    known = [*SUITES, COMPILE, "all"]
    for name in wanted:
        if name not in known:
            hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
            raise ConfigError(f"no suite is called '{name}'{hint}")
    chosen = [suite for suite in SUITES.values() if suite.name in wanted or "all" in wanted]
    return chosen + [FIRST_USE] * (COMPILE in wanted or "all" in wanted)


def quick(suite: Suite) -> Suite:
    """One small problem and few peers, to see in about a minute that everything runs."""
    if not suite.problems:
        return suite
    value, problem = suite.problems[0]
    small = replace(problem, steps=SHORT, lifetimes=1)
    at = {"lifetimes": 1, "steps": SHORT}.get(suite.axis, value)
    return replace(suite, name=f"{suite.name}, quick", problems=((at, small),), peers=QUICK)
