"""Families of terms: all outer products of some vectors, and decays."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod

import sympy
from sympy.matrices.expressions.diagonal import DiagMatrix

from rulesearch.errors import GrammarError
from rulesearch.grammar.build import Piece, multiply, negated, shape_of, shape_text, transpose
from rulesearch.grammar.parser import TextPlace, parse_expression
from rulesearch.grammar.reader import Document, Path
from rulesearch.grammar.schema import GeneratorSpec, OuterSpec
from rulesearch.grammar.symbols import N_POST, N_PRE, signal
from rulesearch.grammar.term import MAX_NAME, Term

__all__ = ["count", "generated"]

ONE = sympy.Integer(1)


def count(spec: GeneratorSpec) -> int:
    """Return how many terms a generator would yield, without yielding them."""
    outer = prod((len(spec.outer.post), len(spec.outer.pre))) if spec.outer else 0
    return outer + len(spec.decay or ())


def generated(spec: GeneratorSpec, document: Document, path: Path) -> Iterator[Term]:
    """Yield a generator's terms, with the minus sign that descent gives them.

    ``outer`` yields -u v^T for each u of ``post`` and v of ``pre``; ``decay`` yields -W for a
    number, -diag(p) W for a postsynaptic and -W diag(p) for a presynaptic vector.
    """
    if spec.outer:
        yield from _outer(spec.outer, document, (*path, "outer"))
    for i, text in enumerate(spec.decay or ()):
        where = document.text_place((*path, "decay", i))
        expr, name = _decay(text, where)
        yield Term(name, negated(expr), place=where.place)


def _outer(spec: OuterSpec, document: Document, path: Path) -> Iterator[Term]:
    sides: dict[str, list[tuple[str, sympy.MatrixExpr]]] = {}
    for side, texts, rows in (("post", spec.post, N_POST), ("pre", spec.pre, N_PRE)):
        vectors = []
        for i, text in enumerate(texts):
            where = document.text_place((*path, side, i))
            vector = parse_expression(text, where)
            if shape_of(vector) != (rows, ONE):
                raise GrammarError(
                    f"wrong shape: 'outer: {side}' takes ({rows}, 1) vectors, "
                    f"this is {shape_text(shape_of(vector))}",
                    where.place,
                )
            vectors.append((text, vector))
        sides[side] = vectors
    place = document.key_place(path)
    for post, u in sides["post"]:
        for pre, v in sides["pre"]:
            expr = multiply([Piece(u, 0), Piece(transpose(v), 0)])
            yield Term(_name(post, pre), negated(expr), place=place)


def _decay(text: str, where: TextPlace) -> tuple[sympy.MatrixExpr, str]:
    factor = parse_expression(text, where)
    weight = signal("W")
    if factor.is_Number and factor > 0:
        return weight, "decay"
    if factor.is_Number:
        raise GrammarError(f"a decay shrinks weights: write 1, not {text}", where.place)
    if shape_of(factor) == (N_POST, ONE):
        chain = (DiagMatrix(factor), weight)
    elif shape_of(factor) == (N_PRE, ONE):
        chain = (weight, DiagMatrix(factor))
    else:
        raise GrammarError(
            "wrong shape: a decay is 1 or a vector, one entry for each neuron; "
            f"this is {shape_text(shape_of(factor))}",
            where.place,
        )
    return multiply([Piece(factor, 0) for factor in chain]), _name("decay", text)


def _name(*texts: str) -> str:
    """A name from expressions: 'y_post**2', 'e_pre' to 'y_post2_e_pre'."""
    plain = "_".join(text.replace("**", "") for text in texts)
    name = re.sub(r"[\W_]+", "_", plain, flags=re.ASCII).strip("_")
    return (f"outer_{name}" if name[0].isdigit() else name)[:MAX_NAME]
