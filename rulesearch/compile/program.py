r"""From terms to one low-rank update: the program that every backend runs.

A pool of terms with coefficients theta is one change of the weights,

.. math:: \Delta W = s\, W + (P Q^T) \circ W + U V^T + \sum_i (p_i q_i^T) \circ E_i(W, B),

where the columns of U, V, P and Q are linear combinations of few vectors. Terms are edges
between a left and a right vector; a minimum vertex cover of that bipartite graph (Koenig's
theorem, through a maximum matching) is the smallest number of outer products that holds
them all: three for the ten terms of the rule-discovery paper, two for the rule it found.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from itertools import chain

import networkx as nx

from rulesearch.grammar.algebra import (
    Applied,
    Atom,
    Base,
    Contraction,
    Factors,
    Image,
    Monomial,
    NormalForm,
    equal_contractions,
)

__all__ = ["Instruction", "Product", "Program", "lower"]

Value = int  # the index of the instruction that computes it


@dataclass(frozen=True)
class Instruction:
    """One vector or scalar of the program, computed from earlier ones.

    ``kind`` and what its fields mean:

    ============ ==================================================================
    input        the signal ``name``
    ones         a vector of ones
    matvec       ``M x``, or ``M^T x`` if ``transposed``; M the product ``matrix``
    multiply     ``a o b``, elementwise
    apply        the function ``name`` of a, elementwise
    dot          the scalar ``a . b``
    sum          the scalar ``1 . a``
    size         the number of units of ``name`` ('post' or 'pre')
    coefficient  the scalar ``sum_i number_i theta_(term_i) prod(scalars_i)``
    combine      ``sum_i scalar_i vector_i``
    ============ ==================================================================
    """

    kind: str
    side: str  # 'post', 'pre' or 'one'
    name: str = ""
    arguments: tuple[Value, ...] = ()
    matrix: Factors = ()
    transposed: bool = False
    numbers: tuple[Fraction, ...] = ()
    terms: tuple[int | None, ...] = ()
    groups: tuple[tuple[Value, ...], ...] = ()


@dataclass(frozen=True)
class Product:
    """``(left right^T) o core``; no core is a plain outer product."""

    left: Value
    right: Value
    core: Factors = ()


@dataclass(frozen=True)
class Program:
    """One update of one connection.

    Attributes
    ----------
    instructions : tuple of Instruction
        In the order of computation; a value is an index into it.
    scale : Value or None
        The scalar s of ``s W``.
    masks, outers, others : tuple of Product
        ``(p q^T) o W``, ``u v^T`` and products with other elementwise functions of weights.
    terms : tuple of str
        Names, in the order of theta.
    """

    terms: tuple[str, ...]
    instructions: tuple[Instruction, ...]
    scale: Value | None
    masks: tuple[Product, ...]
    outers: tuple[Product, ...]
    others: tuple[Product, ...]

    @property
    def rank(self) -> int:
        """Number of outer products that one update costs."""
        return len(self.outers)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Signals that the program reads: vectors, then matrices."""
        vectors = {i.name for i in self.instructions if i.kind == "input"}
        return tuple(sorted(vectors)) + self.matrices

    @cached_property
    def matrices(self) -> tuple[str, ...]:
        """Weight matrices that the program reads."""
        found = _weights([i.matrix for i in self.instructions] + [o.core for o in self.others])
        counted = {i.side for i in self.instructions if i.kind == "ones"}
        counted |= {i.name for i in self.instructions if i.kind == "size"}
        no_vector = counted - {i.side for i in self.instructions if i.kind == "input"}
        if self.scale is not None or self.masks or no_vector:  # W tells the number of units
            found.add("W")
        return tuple(sorted(found))

    def invertible(self, plastic: Collection[str] = ("W",)) -> bool:
        """Whether W before an update follows from W after it.

        ``plastic`` are the matrices that an update changes: B too where it is W itself.
        """
        return not _weights(o.core for o in self.others) & set(plastic)


def _weights(groups: Iterable[Factors]) -> set[str]:
    """Names of the weight matrices in elementwise products of them."""
    found: set[str] = set()
    for atom, _ in chain.from_iterable(groups):
        found |= atom.argument.symbols if isinstance(atom, Applied) else {str(atom)}
    return found


_WEIGHT: Factors = ((Base("W"), 1),)


def lower(terms: Sequence[tuple[str, NormalForm]]) -> Program:
    """Compile terms into one program.

    Parameters
    ----------
    terms : sequence of (name, NormalForm)
        In the order of theta.
    """
    builder = _Builder()
    cores: dict[Factors, dict[tuple[Factors, Factors], list[_Edge]]] = {}
    for index, (_, form) in enumerate(terms):
        for monomial, number in form.monomials:
            edges = cores.setdefault(monomial.matrix, {})
            edge = _Edge(number, index, monomial)
            edges.setdefault((monomial.post, monomial.pre), []).append(edge)
    # vectors before contractions, so that a contraction can reuse a matrix-vector product
    for edges in cores.values():
        for post, pre in edges:
            builder.vector(post, "post")
            builder.vector(pre, "pre")
    scale: Value | None = None
    masks: list[Product] = []
    outers: list[Product] = []
    others: list[Product] = []
    for core, edges in sorted(cores.items(), key=lambda item: str(item[0])):
        if core == _WEIGHT and ((), ()) in edges:
            scale = builder.coefficient(edges.pop(((), ())))
        target = masks if core == _WEIGHT else others if core else outers
        target += [Product(left, right, core) for left, right in _cover(edges, builder)]
    program = Program(
        tuple(name for name, _ in terms),
        tuple(builder.instructions),
        scale,
        tuple(masks),
        tuple(outers),
        tuple(others),
    )
    return _without_dead_code(program)


@dataclass(frozen=True)
class _Edge:
    """One monomial of one term: an edge between its left and its right vector."""

    number: Fraction
    term: int
    monomial: Monomial


def _cover(
    edges: dict[tuple[Factors, Factors], list[_Edge]], builder: _Builder
) -> list[tuple[Value, Value]]:
    """Gather edges into the fewest outer products: a minimum vertex cover."""
    graph = nx.Graph()
    for post, pre in edges:
        graph.add_edge(("post", post), ("pre", pre))
    chosen: set[tuple[str, Factors]] = set()
    # sorted by text: the same program for the same pool in every process
    for part in sorted(nx.connected_components(graph), key=lambda p: sorted(map(str, p))):
        component = nx.Graph()
        component.add_edges_from(
            sorted((e for e in graph.edges(part)), key=lambda e: sorted(map(str, e)))
        )
        top = sorted((n for n in part if n[0] == "post"), key=str)
        matching = nx.bipartite.hopcroft_karp_matching(component, top)
        chosen |= set(nx.bipartite.to_vertex_cover(component, matching, top))
    products: list[tuple[Value, Value]] = []
    rest = dict(edges)
    for vertex in sorted(chosen, key=lambda v: (v[0], str(v))):
        side, factors = vertex
        mine = [key for key in rest if key[0 if side == "post" else 1] == factors]
        if not mine:
            continue
        other = "pre" if side == "post" else "post"
        parts = [
            (builder.coefficient(rest.pop(key)), builder.vector(key[side == "post"], other))
            for key in sorted(mine, key=str)
        ]
        here, there = builder.vector(factors, side), builder.combine(parts, other)
        products.append((here, there) if side == "post" else (there, here))
    return products


@dataclass
class _Builder:
    """Appends instructions, each at most once."""

    instructions: list[Instruction] = field(default_factory=list)
    known: dict[Instruction, Value] = field(default_factory=dict)

    def add(self, instruction: Instruction) -> Value:
        if instruction not in self.known:
            self.known[instruction] = len(self.instructions)
            self.instructions.append(instruction)
        return self.known[instruction]

    def vector(self, factors: Factors, side: str) -> Value:
        """The elementwise product of atoms; of none, ones."""
        if not factors:
            return self.add(Instruction("ones", side))
        value: Value | None = None
        for atom, power in factors:
            one = self.atom(atom, side)
            for _ in range(power):
                value = one if value is None else self._multiply(value, one, side)
        assert value is not None
        return value

    def _multiply(self, a: Value, b: Value, side: str) -> Value:
        return self.add(Instruction("multiply", side, arguments=(min(a, b), max(a, b))))

    def atom(self, atom: Atom, side: str) -> Value:
        match atom:
            case Base(name=name):
                return self.add(Instruction("input", side, name))
            case Image(matrix=matrix, transposed=transposed, argument=argument):
                x = self.vector(argument, "post" if transposed else "pre")
                return self.add(
                    Instruction(
                        "matvec", side, arguments=(x,), matrix=matrix, transposed=transposed
                    )
                )
            case Applied(function=function, argument=form):
                x = self.polynomial(form, side)
                return self.add(Instruction("apply", side, function, (x,)))

    def polynomial(self, form: NormalForm, side: str) -> Value:
        """A vector that is a sum of monomials with numbers only."""
        parts = [
            (self._coefficient([(number, None, m)]), self.vector(m.post, side))
            for m, number in form.monomials
        ]
        return self.combine(parts, side)

    def coefficient(self, edges: Iterable[_Edge]) -> Value:
        """``sum number * theta * scalars`` over the edges."""
        return self._coefficient([(e.number, e.term, e.monomial) for e in edges])

    def _coefficient(self, entries: list[tuple[Fraction, int | None, Monomial]]) -> Value:
        groups = tuple(
            tuple(self.contraction(s) for s, power in m.scalars for _ in range(power))
            for _, _, m in entries
        )
        return self.add(
            Instruction(
                "coefficient",
                "one",
                numbers=tuple(number for number, _, _ in entries),
                terms=tuple(term for _, term, _ in entries),
                groups=groups,
            )
        )

    def combine(self, parts: list[tuple[Value, Value]], side: str) -> Value:
        return self.add(Instruction("combine", side, groups=tuple(parts)))

    def contraction(self, c: Contraction) -> Value:
        """A scalar, in the spelling that needs the fewest new matrix-vector products."""

        def new_products(other: Contraction) -> int:
            return sum(self._new_products(atom) for atom, _ in other.factors)

        best = min(equal_contractions(c), key=lambda o: (new_products(o), o != c, str(o)))
        side = best.side
        if not best.factors:
            return self.add(Instruction("size", "one", side))
        (first, power), rest = best.factors[0], best.factors[1:]
        remaining: Factors = (((first, power - 1),) if power > 1 else ()) + rest
        a = self.vector(((first, 1),), side)
        if not remaining:
            return self.add(Instruction("sum", "one", arguments=(a,)))
        return self.add(Instruction("dot", "one", arguments=(a, self.vector(remaining, side))))

    def _new_products(self, atom: Atom) -> int:
        if not isinstance(atom, Image):
            return 0
        probe = _Builder(list(self.instructions), dict(self.known))
        before = len(probe.instructions)
        probe.atom(atom, "pre" if atom.transposed else "post")
        return sum(i.kind == "matvec" for i in probe.instructions[before:])


def _without_dead_code(program: Program) -> Program:
    """Drop the instructions that nothing reads, and number the rest anew."""
    products = (*program.masks, *program.outers, *program.others)
    needed = {p.left for p in products} | {p.right for p in products}
    needed |= {program.scale} if program.scale is not None else set()
    for index in reversed(range(len(program.instructions))):
        if index in needed:
            i = program.instructions[index]
            needed |= set(i.arguments) | {v for group in i.groups for v in group}
    number = {old: new for new, old in enumerate(sorted(needed))}

    def renumbered(i: Instruction) -> Instruction:
        return replace(
            i,
            arguments=tuple(number[a] for a in i.arguments),
            groups=tuple(tuple(number[v] for v in group) for group in i.groups),
        )

    def moved(group: tuple[Product, ...]) -> tuple[Product, ...]:
        return tuple(replace(p, left=number[p.left], right=number[p.right]) for p in group)

    return replace(
        program,
        instructions=tuple(renumbered(program.instructions[old]) for old in sorted(needed)),
        scale=None if program.scale is None else number[program.scale],
        masks=moved(program.masks),
        outers=moved(program.outers),
        others=moved(program.others),
    )
