r"""The algebra of plasticity terms: polynomials in local signals.

Whatever way a term is spelled, it is a sum of monomials

.. math:: c \; s_1 \cdots s_k \; (u\, v^T) \circ M_1^{p_1} \circ M_2^{p_2} \cdots

with a rational c, scalars s (contractions of a vector), an elementwise product u of
postsynaptic vectors, one v of presynaptic vectors, and elementwise powers of weights.
Two spellings of one term have one canonical form; the compiler, the locality and the
degree are all read off it.

A product of two weight matrices would cost n x n x n and has no such form; it is refused,
while ``W * W.T * v`` (matrix-vector products, right to left) is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, reduce
from typing import TypeAlias, TypeVar

from rulesearch.errors import GrammarError

__all__ = [
    "MAX_MONOMIALS",
    "Applied",
    "Atom",
    "Base",
    "Contraction",
    "Factors",
    "Image",
    "Monomial",
    "NormalForm",
    "equal_contractions",
    "multiply",
]

T = TypeVar("T")
MAX_MONOMIALS = 512
MAX_BITS = 128  # of a coefficient's numerator or denominator, so that floats can hold it
MAX_TEXT = 20_000  # of all monomials together
Shape: TypeAlias = tuple[str, str]  # sides of rows and columns: 'post', 'pre' or 'one'


@dataclass(frozen=True)
class Base:
    """A signal of the vocabulary: a vector, or a weight matrix."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Image:
    """A matrix-vector product: ``M v``, or ``M^T v``.

    ``matrix`` is an elementwise product of weights, ``argument`` one of vectors.
    """

    matrix: Factors
    transposed: bool
    argument: Factors

    def __str__(self) -> str:
        return f"({_text(self.matrix)}{'.T' if self.transposed else ''} @ {_text(self.argument)})"


@dataclass(frozen=True)
class Applied:
    """A function applied elementwise to a vector or a matrix."""

    function: str
    argument: NormalForm

    def __str__(self) -> str:
        return f"{self.function}[{self.argument}]"


Atom: TypeAlias = Base | Image | Applied
Factors = tuple[tuple[Atom, int], ...]  # an elementwise product: (atom, power), sorted


@dataclass(frozen=True)
class Contraction:
    """A scalar: the sum over one side ('post' or 'pre') of an elementwise product."""

    side: str
    factors: Factors

    def __str__(self) -> str:
        return f"sum_{self.side}({_text(self.factors)})"


Scalars = tuple[tuple[Contraction, int], ...]


@dataclass(frozen=True)
class Monomial:
    """``scalars * (post pre^T) o matrix``; a diagonal matrix keeps its vector in ``post``."""

    scalars: Scalars = ()
    post: Factors = ()
    pre: Factors = ()
    matrix: Factors = ()
    diagonal: bool = False

    def __str__(self) -> str:
        parts = [_text(self.scalars), _text(self.post), _text(self.pre), _text(self.matrix)]
        return ("diag " if self.diagonal else "") + " | ".join(parts)

    @property
    def degree(self) -> int:
        """How many signals are multiplied (those of ones count nothing)."""
        return _degree(self.scalars) + sum(map(_degree, (self.post, self.pre, self.matrix)))


def _text(factors: Iterable[tuple[object, int]]) -> str:
    return " ".join(f"{a}^{p}" if p > 1 else f"{a}" for a, p in factors) or "1"


def _degree(factors: Iterable[tuple[object, int]]) -> int:
    return sum(power * _atom_degree(atom) for atom, power in factors)


def _atom_degree(atom: object) -> int:
    match atom:
        case Image(matrix=matrix, argument=argument):
            return _degree(matrix) + _degree(argument)
        case Applied(argument=form):
            return form.degree
        case Contraction(factors=factors):
            return _degree(factors)
    return 1


def multiply(
    a: tuple[tuple[T, int], ...], b: tuple[tuple[T, int], ...]
) -> tuple[tuple[T, int], ...]:
    """Multiply two products of atoms; sorted, so that equal products are equal tuples."""
    powers = dict(a)
    for atom, power in b:
        powers[atom] = powers.get(atom, 0) + power
    return tuple(sorted(powers.items(), key=lambda item: str(item[0])))


@dataclass(frozen=True)
class NormalForm:
    """A polynomial of a given shape: monomials with rational coefficients, sorted.

    Equality is equality of the mathematics. ``shape`` is ``('post', 'pre')`` for a term.
    """

    shape: Shape
    monomials: tuple[tuple[Monomial, Fraction], ...]

    @staticmethod
    def of(shape: Shape, terms: Mapping[Monomial, Fraction]) -> NormalForm:
        """Collect monomials, dropping those that cancelled."""
        if len(terms) > MAX_MONOMIALS:
            raise GrammarError(
                f"the expression expands to more than {MAX_MONOMIALS} monomials; split it"
            )
        if any(_bits(c) > MAX_BITS for c in terms.values()):
            raise GrammarError("a coefficient of the expanded expression is out of range")
        kept = sorted((str(m), m, c) for m, c in terms.items() if c)
        # Functions of functions repeat one another's text, which could double at each level.
        if sum(len(text) for text, _, _ in kept) > MAX_TEXT:
            raise GrammarError(
                f"the expression expands to more than {MAX_TEXT} characters; split it"
            )
        return NormalForm(shape, tuple((m, c) for _, m, c in kept))

    def __str__(self) -> str:
        return " + ".join(f"{c} {m}" for m, c in self.monomials) or "0"

    @property
    def is_zero(self) -> bool:
        """Whether everything cancelled."""
        return not self.monomials

    @cached_property
    def degree(self) -> int:
        """The largest number of signals multiplied in a monomial."""
        return max((m.degree for m, _ in self.monomials), default=0)

    @cached_property
    def symbols(self) -> frozenset[str]:
        """Names of the vocabulary that the term needs (ones need nothing)."""
        found: set[str] = set()
        for monomial, _ in self.monomials:
            for group in (monomial.post, monomial.pre, monomial.matrix):
                _collect(group, found)
            _collect(monomial.scalars, found)
        return frozenset(found)

    def scaled(self, factor: Fraction | int) -> NormalForm:
        """Return the form times a number."""
        return NormalForm.of(self.shape, {m: c * factor for m, c in self.monomials})

    def direction(self) -> NormalForm:
        """The form divided by its first coefficient: equal for proportional terms."""
        return self.scaled(1 / self.monomials[0][1]) if self.monomials else self

    def __add__(self, other: NormalForm) -> NormalForm:
        terms = dict(self.monomials)
        for monomial, c in other.monomials:
            terms[monomial] = terms.get(monomial, Fraction(0)) + c
        return NormalForm.of(self.shape, terms)

    def transposed(self) -> NormalForm:
        """Return the transpose."""
        terms = {
            m if m.diagonal else Monomial(m.scalars, m.pre, m.post, m.matrix): c
            for m, c in self.monomials
        }
        return NormalForm.of((self.shape[1], self.shape[0]), terms)

    def _combined(
        self, other: NormalForm, shape: Shape, combine: Callable[[Monomial, Monomial], Monomial]
    ) -> NormalForm:
        if len(self.monomials) * len(other.monomials) > 16 * MAX_MONOMIALS:
            raise GrammarError(
                f"the expression expands to more than {MAX_MONOMIALS} monomials; split it"
            )
        terms: dict[Monomial, Fraction] = {}
        for a, ca in self.monomials:
            for b, cb in other.monomials:
                product = combine(a, b)
                terms[product] = terms.get(product, Fraction(0)) + ca * cb
        return NormalForm.of(shape, terms)

    def times(self, scalar: NormalForm) -> NormalForm:
        """Multiply with a form of shape ``('one', 'one')``."""
        return self._combined(scalar, self.shape, _rescaled)

    def hadamard(self, other: NormalForm) -> NormalForm:
        """Elementwise product of two forms of one shape."""
        return self._combined(other, self.shape, _hadamard)

    def __matmul__(self, other: NormalForm) -> NormalForm:
        rows, inner = self.shape
        shape = (rows, other.shape[1])
        return self._combined(other, shape, lambda a, b: _matmul(a, b, inner))


def _bits(c: Fraction) -> int:
    return max(c.numerator.bit_length(), c.denominator.bit_length())


def _collect(factors: Iterable[tuple[object, int]], found: set[str]) -> None:
    for atom, _ in factors:
        match atom:
            case Base(name=name):
                found.add(name)
            case Image(matrix=matrix, argument=argument):
                _collect(matrix, found)
                _collect(argument, found)
            case Applied(argument=form):
                found |= form.symbols
            case Contraction(factors=inner):
                _collect(inner, found)


def _rescaled(a: Monomial, scalar: Monomial) -> Monomial:
    scalars = multiply(a.scalars, scalar.scalars)
    return Monomial(scalars, a.post, a.pre, a.matrix, a.diagonal)


def _hadamard(a: Monomial, b: Monomial) -> Monomial:
    scalars = multiply(a.scalars, b.scalars)
    if a.diagonal or b.diagonal:
        everything = reduce(multiply, (a.post, a.pre, b.post, b.pre))
        return Monomial(scalars, everything, diagonal=True)
    return Monomial(
        scalars, multiply(a.post, b.post), multiply(a.pre, b.pre), multiply(a.matrix, b.matrix)
    )


def _matmul(a: Monomial, b: Monomial, inner: str) -> Monomial:
    scalars = multiply(a.scalars, b.scalars)
    if a.diagonal:
        post = multiply(a.post, b.post)
        return Monomial(scalars, post, b.pre, b.matrix, b.diagonal)
    if b.diagonal:
        return Monomial(scalars, a.post, multiply(a.pre, b.post), a.matrix)
    if inner == "one":
        return Monomial(scalars, a.post, b.pre)
    middle = multiply(a.pre, b.post)
    if a.matrix and b.matrix:
        raise GrammarError(
            "a product of two weight matrices costs n x n x n and is not taken; "
            "multiply a matrix with a vector, as in W * W.T * y_post * y_pre.T"
        )
    if a.matrix:
        atom = _image(a.matrix, inner == "post", middle)
        return Monomial(scalars, multiply(a.post, ((atom, 1),)), b.pre)
    if b.matrix:
        atom = _image(b.matrix, inner == "post", middle)
        return Monomial(scalars, a.post, multiply(b.pre, ((atom, 1),)))
    return Monomial(multiply(scalars, ((_contraction(inner, middle), 1),)), a.post, b.pre)


_W: Factors = ((Base("W"), 1),)
_Y_PRE: Factors = ((Base("y_pre"), 1),)


def _image(matrix: Factors, transposed: bool, argument: Factors) -> Atom:
    """``M v``; W y_pre is z_post."""
    if not transposed and matrix == _W and argument == _Y_PRE:
        return Base("z_post")
    return Image(matrix, transposed, argument)


def equal_contractions(contraction: Contraction) -> list[Contraction]:
    """All spellings of one scalar, since u^T (M v) = v^T (M^T u)."""
    found = {contraction: None}  # a dict keeps the order
    frontier = [contraction]
    while frontier:
        for other in _carried_over(frontier.pop()):
            if other not in found:
                found[other] = None
                frontier.append(other)
    return list(found)


def _contraction(side: str, factors: Factors) -> Contraction:
    """The canonical one of the equal contractions: fewest products, then 'post', then text."""
    return min(
        equal_contractions(Contraction(side, factors)),
        key=lambda c: (str(c).count("@"), c.side == "pre", str(c)),
    )


def _carried_over(c: Contraction) -> Iterable[Contraction]:
    other = "pre" if c.side == "post" else "post"
    for atom, power in c.factors:
        image = Image(_W, False, _Y_PRE) if atom == Base("z_post") else atom
        if isinstance(image, Image) and power == 1:
            rest = tuple(item for item in c.factors if item[0] != atom)
            carried = _image(image.matrix, not image.transposed, rest)
            yield Contraction(other, multiply(image.argument, ((carried, 1),)))
