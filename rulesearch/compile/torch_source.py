"""A program as readable torch source, and that source as a function."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

from rulesearch.compile.program import Instruction, Product, Program
from rulesearch.grammar.algebra import Applied, Base, Factors, NormalForm

__all__ = ["Factored", "compile_torch", "matvec", "torch_source"]


@dataclass(frozen=True)
class Factored:
    """One update in factored form: ``s W + (p q^T) o W + u v^T + (p q^T) o E``.

    Attributes
    ----------
    scale : Tensor (..., 1) or None
    masks, outers : pairs of Tensor (..., n_post) and (..., n_pre)
    others : triples, with the elementwise factor E (..., n_post, n_pre) last
    """

    scale: Tensor | None
    masks: tuple[tuple[Tensor, Tensor], ...]
    outers: tuple[tuple[Tensor, Tensor], ...]
    others: tuple[tuple[Tensor, Tensor, Tensor], ...]

    def growth(self) -> Tensor | float:
        """What W is multiplied with by the update, less one: ``s + P Q^T``."""
        growth: Tensor | float = 0.0 if self.scale is None else self.scale.unsqueeze(-1)
        for p, q in self.masks:
            growth = growth + _outer(p, q)
        return growth

    def shift(self) -> Tensor | float:
        """What is added to W besides: ``U V^T + sum (p q^T) o E``."""
        shift: Tensor | float = 0.0
        for u, v in self.outers:
            shift = shift + _outer(u, v)
        for p, q, elementwise in self.others:
            shift = shift + _outer(p, q) * elementwise
        return shift

    def delta(self, weight: Tensor) -> Tensor:
        """The change of ``weight``."""
        return self.growth() * weight + self.shift()


def _outer(u: Tensor, v: Tensor) -> Tensor:
    return u.unsqueeze(-1) * v.unsqueeze(-2)


def matvec(matrix: Tensor, vector: Tensor) -> Tensor:
    """``(..., n, m)`` times ``(..., m)``, leading dimensions broadcast."""
    if matrix.ndim > 2 and vector.ndim > 1 and matrix.shape[-3] == 1:
        # one matrix and many vectors: broadcast, it would be copied for each of them
        return vector @ matrix.squeeze(-3).mT
    return (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def torch_source(program: Program) -> str:
    """Return the source of ``factors(theta, <signals>) -> (scale, masks, outers, others)``.

    Vectors are ``(..., n)``, scalars ``(..., 1)``, theta ``(n_terms,)`` or ``(..., n_terms)``.
    """
    writer = _Writer(program)
    arguments = ", ".join(("theta", *program.inputs))
    lines = [f"def factors({arguments}):"]
    lines += [f"    # rank {program.rank}; theta: {', '.join(program.terms)}"]
    lines += [f"    {line}" for line in writer.lines()]
    lines += [f"    scale = {writer.name(program.scale)}"]
    for group in ("masks", "outers", "others"):
        pairs = ", ".join(writer.product(p) for p in getattr(program, group))
        lines += [f"    {group} = ({pairs}{',' if pairs else ''})"]
    lines += ["    return scale, masks, outers, others"]
    return "\n".join(lines) + "\n"


_FUNCTIONS = {"tanh": "torch.tanh", "exp": "torch.exp", "abs": "torch.abs", "sign": "torch.sign"}
_PREFIX = {
    "matvec": "m",
    "multiply": "h",
    "apply": "f",
    "dot": "s",
    "sum": "s",
    "size": "n",
    "coefficient": "k",
    "combine": "v",
}


class _Writer:
    """Names each value and writes the line that computes it."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.names: dict[int, str] = {}
        counts: dict[str, int] = {}
        for value, i in enumerate(program.instructions):
            if i.kind == "input":
                self.names[value] = i.name
            elif i.kind == "ones":
                self.names[value] = f"ones_{i.side}"
            else:
                prefix = _PREFIX[i.kind]
                counts[prefix] = counts.get(prefix, 0) + 1
                self.names[value] = f"{prefix}{counts[prefix]}"

    def name(self, value: int | None) -> str:
        return "None" if value is None else self.names[value]

    def lines(self) -> list[str]:
        return [
            f"{self.names[value]} = {self.right_hand_side(i)}"
            for value, i in enumerate(self.program.instructions)
            if i.kind != "input"
        ]

    def product(self, p: Product) -> str:
        pair = f"{self.name(p.left)}, {self.name(p.right)}"
        is_mask = p in self.program.masks
        return f"({pair}, {_elementwise(p.core)})" if p.core and not is_mask else f"({pair})"

    def right_hand_side(self, i: Instruction) -> str:
        a = [self.name(v) for v in i.arguments]
        match i.kind:
            case "ones":
                return self._ones(i.side)
            case "matvec":
                matrix = _elementwise(i.matrix)
                matrix = f"({matrix})" if len(i.matrix) > 1 or i.matrix[0][1] > 1 else matrix
                return f"matvec({matrix}{'.mT' if i.transposed else ''}, {a[0]})"
            case "multiply":
                return f"{a[0]} * {a[1]}"
            case "apply":
                return f"{_FUNCTIONS[i.name]}({a[0]})"
            case "dot":
                return f"({a[0]} * {a[1]}).sum(-1, keepdim=True)"
            case "sum":
                return f"{a[0]}.sum(-1, keepdim=True)"
            case "size":
                return f"{self._ones(i.name)}.sum(-1, keepdim=True)"
            case "coefficient":
                return self._coefficient(i)
            case _:
                parts = (f"{self.name(k)} * {self.name(v)}" for k, v in i.groups)
                return " + ".join(parts)

    def _ones(self, side: str) -> str:
        """Ones of the right length, from any signal of that side."""
        for i in self.program.instructions:
            if i.kind == "input" and i.side == side:
                return f"torch.ones_like({i.name})"
        matrix = self.program.matrices[0]  # the program reads W where no vector has this side
        index = "[..., :, 0]" if side == "post" else "[..., 0, :]"
        return f"torch.ones_like({matrix}{index})"

    def _coefficient(self, i: Instruction) -> str:
        parts = []
        for number, term, scalars in zip(i.numbers, i.terms, i.groups, strict=True):
            theta = [] if term is None else [f"theta[..., {term}:{term + 1}]"]
            factors = theta + [self.name(s) for s in scalars]
            parts.append(_signed(number, factors))
        text = " ".join(parts)
        text = text[2:] if text.startswith("+ ") else text.replace("- ", "-", 1)
        return text if any(t is not None for t in i.terms) or any(i.groups) else f"({text})"


def _signed(number: Fraction, factors: list[str]) -> str:
    size = abs(number)
    shown = [] if size == 1 and factors else [repr(float(size))]
    return f"{'-' if number < 0 else '+'} {' * '.join(shown + factors)}"


def _elementwise(core: Factors) -> str:
    """An elementwise product of weights as an expression."""
    parts = []
    for atom, power in core:
        match atom:
            case Base(name=name):
                text = name
            case Applied(function=function, argument=form):
                text = f"{_FUNCTIONS[function]}({_weights(form)})"
            case _:
                raise AssertionError(atom)
        parts.append(text if power == 1 else f"{text}**{power}")
    return " * ".join(parts)


def _weights(form: NormalForm) -> str:
    """A sum of elementwise products of weights and numbers."""
    parts = (_signed(c, [_elementwise(m.matrix)] if m.matrix else []) for m, c in form.monomials)
    return " ".join(parts).lstrip("+ ")


@lru_cache(maxsize=256)
def compile_torch(program: Program) -> Callable[..., Factored]:
    """Return ``factors(theta, **signals) -> Factored``.

    The text that is executed is ours, written from the program; nothing of a user's is.
    """
    source = torch_source(program)
    filename = f"<rulesearch {abs(hash(program)):x}>"
    linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
    namespace: dict[str, object] = {"torch": torch, "matvec": matvec}
    exec(compile(source, filename, "exec"), namespace)  # noqa: S102
    function = namespace["factors"]

    def factors(theta: Tensor, **signals: Tensor) -> Factored:
        return Factored(*function(theta, *(signals[name] for name in program.inputs)))  # type: ignore[operator]

    return factors
