"""The pools of the benchmark: the paper's ten terms, and generated ones by the dozen."""

from __future__ import annotations

from functools import lru_cache
from itertools import product

from rulesearch.errors import ConfigError
from rulesearch.grammar import Grammar, TermPool

__all__ = ["GENERATED", "benchmark_pool", "coefficients", "generated_sides"]

# Exponents (a, b) of the monomials y^a e^b, in the order in which pools take them up.
POWERS = (
    (1, 0), (0, 1), (2, 0), (0, 2), (1, 1), (3, 0), (0, 3), (2, 1), (1, 2), (4, 0), (0, 4), (3, 1),
    (2, 2), (1, 3), (5, 0), (0, 5), (4, 1), (1, 4), (3, 2), (2, 3),
)  # fmt: skip
# Number of terms: postsynaptic times presynaptic vectors.
GENERATED = {10: (2, 5), 50: (5, 10), 200: (10, 20)}
DENSE = "-dense"  # at the end of a generated pool's name: no coefficient is zero
PAPER_THETA = {"F0": 1e-3, "F2": -1e-3, "F9": 1e-3}


def generated_sides(terms: int) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
    """Exponents (of y, of e) of the postsynaptic and of the presynaptic vectors.

    The terms are all outer products ``-u v^T``, the presynaptic vector changing fastest.
    """
    post, pre = GENERATED[terms]
    return POWERS[:post], POWERS[:pre]


@lru_cache(maxsize=8)
def benchmark_pool(name: str) -> TermPool:
    """Enumerate ``pool10``, ``generated-N`` or ``generated-N-dense``.

    Raises
    ------
    ConfigError
        For another name.
    """
    if name == "pool10":
        return Grammar.from_yaml(name).enumerate()
    known = {f"generated-{terms}": terms for terms in GENERATED}
    name = name.removesuffix(DENSE)
    if name not in known:
        raise ConfigError(
            f"a benchmark's pool is pool10 or one of {', '.join(known)}, not '{name}'"
        )
    return Grammar.from_string(_yaml(known[name]), name).enumerate()


def coefficients(name: str) -> list[float]:
    """Theta of a benchmark's pool: a rule that learns, the other terms at zero, or near it.

    Zero is where a penalty leaves most terms; their derivatives are wanted all the same. In a pool
    whose name ends in ``-dense`` they are at 1e-7 and -1e-7.
    """
    terms = benchmark_pool(name)
    if name == "pool10":
        return [PAPER_THETA.get(term.name, 0.0) for term in terms]
    post, pre = generated_sides(len(terms))
    rest = 1e-7 if name.endswith(DENSE) else 0.0
    theta = {(u, v): rest * (-1) ** k for k, (u, v) in enumerate(product(post, pre))}
    y, e = (1, 0), (0, 1)
    theta[e, y], theta[e, e] = 1e-3, -1e-3
    return list(theta.values())


def _yaml(terms: int) -> str:
    post, pre = generated_sides(terms)
    lists = ("[" + ", ".join(_vector(p, side) for p in powers) + "]"
             for powers, side in ((post, "post"), (pre, "pre")))  # fmt: skip
    return "generate:\n  - outer: {{post: {}, pre: {}}}\n".format(*lists)


def _vector(powers: tuple[int, int], side: str) -> str:
    """``y**a`` times ``e**b``, elementwise, as a grammar spells it."""
    factors = [
        f"{name}_{side}" + (f"**{power}" if power > 1 else "")
        for name, power in zip("ye", powers, strict=True)
        if power
    ]
    return factors[0] if len(factors) == 1 else f'"hadamard({", ".join(factors)})"'
