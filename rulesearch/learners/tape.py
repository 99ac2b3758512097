"""One step of a network and its rule as a tape for the compiled engine."""

from __future__ import annotations

from functools import lru_cache

from rulesearch.compile.program import Product, Program
from rulesearch.compile.tape import FUNCTIONS, Tape, TapeBuilder
from rulesearch.grammar.algebra import Base, Factors
from rulesearch.networks import PlasticNetwork

__all__ = ["build_tape", "not_fusible"]


def not_fusible(program: Program) -> str:
    """Return why the compiled engine cannot run a program, or ``""``."""
    for i in program.instructions:
        plain = len(i.matrix) == 1 and i.matrix[0][1] == 1 and _is_base(i.matrix)
        if i.kind == "matvec" and not plain:
            return "a term multiplies an elementwise function of weights with a vector"
        if i.kind == "apply" and i.name not in FUNCTIONS:
            return f"the engine has no {i.name}"
    if not all(_is_base(o.core) for o in program.others):
        return "a term applies a function to weights"
    return ""


def _is_base(factors: Factors) -> bool:
    return all(isinstance(atom, Base) for atom, _ in factors)


@lru_cache(maxsize=64)
def build_tape(network: PlasticNetwork, program: Program) -> Tape:
    """Lay out forward pass, feedback and updates of all connections (Eqs. 1 to 5)."""
    n_layers = len(network.connections)
    builder = TapeBuilder(len(program.terms), network.beta)
    weights = [builder.matrix(*shape) for shape in network.connections]
    symmetric = network.feedback == "symmetric"
    feedback = weights if symmetric else [builder.matrix(*s) for s in network.feedback_shapes]

    # Values of a kind are declared layer by layer: they lie side by side, and an executor may
    # take them all at once.
    target = builder.value(network.sizes[-1], varies=False)
    x = builder.input(network.sizes[0])
    ones = [builder.value(n, varies=False) for n in network.sizes]

    ys, zs = [x], []
    for k, weight in enumerate(weights):
        zs.append(builder.matvec(weight, ys[-1], transposed=False))
        last = "softmax" if network.output == "softmax" else "identity"
        ys.append(builder.apply(network.activation if k < n_layers - 1 else last, zs[-1]))

    slopes = [builder.apply(f"d_{network.activation}", y) for y in ys[:-1]]
    carried = [builder.product(n) for n in network.sizes[:-1]]
    es = [builder.value(n) for n in network.sizes]
    builder.elementwise("subtract", ys[-1], target, es[-1])
    cut = symmetric and network.detach_feedback
    for k in reversed(range(n_layers)):
        source = es[-1] if network.feedback == "direct" else es[k + 1]
        builder.matvec(feedback[k], source, transposed=True, constant=cut, out=carried[k])
        builder.elementwise("multiply", carried[k], slopes[k], es[k])

    connections = []
    for k in range(n_layers):
        signals = {
            "y_pre": ys[k],
            "y_post": ys[k + 1],
            "z_post": zs[k],
            "e_pre": es[k],
            "e_post": es[k + 1],
        }
        matrices = {"W": weights[k], "B": feedback[k]}
        sides = {"post": ones[k + 1], "pre": ones[k]}
        connections.append(_Connection(builder, signals, matrices, sides))
    for index in range(len(program.instructions)):
        for connection in connections:
            connection.compute(program, index)
    updates = [connection.update(program) for connection in connections]
    for weight, parts in zip(weights, updates, strict=True):
        builder.update(weight, *parts)
    return builder.build(n_layers, target, ones)


_Pairs = list[tuple[int, int]]


class _Connection:
    """Lowers a program's instructions for one connection."""

    def __init__(
        self,
        builder: TapeBuilder,
        signals: dict[str, int],
        matrices: dict[str, int],
        ones: dict[str, int],
    ) -> None:
        self.builder, self.signals, self.matrices, self.ones = builder, signals, matrices, ones
        self.values: list[int] = []

    def compute(self, program: Program, index: int) -> None:
        """One instruction; those before it have been computed."""
        self.values.append(self._instruction(program, index))

    def update(
        self, program: Program
    ) -> tuple[int | None, list[int], _Pairs, _Pairs, list[tuple[int, int, _Pairs]]]:
        """Scale, rows, masks, outers and others of ``TapeBuilder.update``."""
        scale = None if program.scale is None else self.values[program.scale]
        rows, masks = [], []
        for mask in program.masks:
            row = self._row(program, mask)
            if row is None:
                masks.append(self._pair(mask))
            else:
                rows.append(row)
        others = [(*self._pair(o), self._core(o.core)) for o in program.others]
        return scale, rows, masks, [*map(self._pair, program.outers)], others

    def _row(self, program: Program, mask: Product) -> int | None:
        """Return p of a mask ``(p 1^T) o W``, which scales whole rows, or None."""
        left, right = self._pair(mask)
        ones, i = self.ones["pre"], program.instructions[mask.right]
        if right == ones:
            return left
        if i.kind == "combine" and all(self.values[v] == ones for _, v in i.groups):
            return self.builder.combine([(self.values[k], left) for k, _ in i.groups])
        return None

    def _pair(self, product: Product) -> tuple[int, int]:
        return self.values[product.left], self.values[product.right]

    def _core(self, core: Factors) -> _Pairs:
        return [(self.matrices[str(atom)], power) for atom, power in core]

    def _instruction(self, program: Program, index: int) -> int:
        i = program.instructions[index]
        arguments = [self.values[a] for a in i.arguments]
        builder = self.builder
        match i.kind:
            case "input":
                return self.signals[i.name]
            case "ones":
                return self.ones[i.side]
            case "matvec":
                matrix = self.matrices[str(i.matrix[0][0])]
                return builder.matvec(matrix, arguments[0], i.transposed)
            case "multiply":
                return builder.elementwise("multiply", *arguments)
            case "apply":
                return builder.apply(i.name, arguments[0])
            case "dot" | "sum":
                return builder.dot(*arguments)
            case "size":
                return builder.dot(self.ones[i.name])
            case "coefficient":
                parts = [
                    (float(number), term, self._product(group))
                    for number, term, group in zip(i.numbers, i.terms, i.groups, strict=True)
                ]
                return builder.coefficient(parts)
            case _:
                return builder.combine([(self.values[k], self.values[v]) for k, v in i.groups])

    def _product(self, group: tuple[int, ...]) -> int | None:
        product: int | None = None
        for value in group:
            one = self.values[value]
            product = one if product is None else self.builder.elementwise("multiply", product, one)
        return product
