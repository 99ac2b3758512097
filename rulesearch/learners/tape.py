"""One step of a network and its rule as a tape for the compiled engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from rulesearch.compile.program import Product, Program
from rulesearch.compile.tape import FUNCTIONS, Tape, TapeBuilder
from rulesearch.grammar.algebra import Base, Factors
from rulesearch.networks import PlasticNetwork

__all__ = ["Form", "build_tape", "not_fusible"]


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


@dataclass(frozen=True)
class Form:
    """What a lifetime's state has, and what is wanted of it, besides network and rule.

    Attributes
    ----------
    rated : bool
        Whether weights have rates.
    plastic_bias : bool
        Whether biases learn, at rates of their own.
    rated_feedback : bool
        Whether plastic feedback has rates.
    input_gradient : bool
        Whether the gradient of the inputs is wanted.
    """

    rated: bool = False
    plastic_bias: bool = False
    rated_feedback: bool = False
    input_gradient: bool = False


def build_tape(network: PlasticNetwork, program: Program, form: Form | None = None) -> Tape:
    """Lay out forward pass, feedback and updates of all connections (Eqs. 1 to 5), once."""
    return _built(network, program, form or Form())


@lru_cache(maxsize=64)
def _built(network: PlasticNetwork, program: Program, form: Form) -> Tape:
    return _Step(network, program, form).tape()


class _Step:
    """One step of a network, part by part.

    Values of a kind are declared layer by layer: they lie side by side, and an executor may
    take them all at once. Matrices come in the order of :mod:`rulesearch.learners.matrices`.
    """

    def __init__(self, network: PlasticNetwork, program: Program, form: Form) -> None:
        self.network, self.program, self.form = network, program, form
        self.builder = builder = TapeBuilder(len(program.terms), network.beta)
        sizes, shapes = network.sizes, network.connections
        columns = [(post, 1) for post, _ in shapes]

        def matrices(shapes: Sequence[tuple[int, int]], there: bool = True) -> list[int]:
            return [builder.matrix(*shape) for shape in shapes] if there else []

        learns, biased = network.learns_feedback, network.bias
        back = network.feedback_shapes
        if network.plastic_feedback:
            back = [(post, source) for source, post in back]  # turned as W is
        self.weights = matrices(shapes)
        self.biases = matrices(columns, biased and form.plastic_bias)
        self.feedback = self.weights if network.feedback == "symmetric" else matrices(back)
        self.plastic = [*self.weights, *self.biases]
        if network.plastic_feedback:
            self.plastic += self.feedback
        self.fixed_biases = matrices(columns, biased and not form.plastic_bias)
        self.feedback_biases = matrices(columns, learns)
        self.mixings = matrices([(1, 1)] * len(shapes), learns)
        none: list[int | None] = [None] * len(shapes)
        self.rates = [*(matrices(shapes, form.rated) or none)]
        self.rates += matrices(columns, form.plastic_bias)
        if network.plastic_feedback:
            self.rates += matrices(back, form.rated_feedback) or none
        self.omegas = matrices(shapes, "Omega" in program.matrices)

        self.target = builder.value(sizes[-1], varies=False)
        self.x = builder.input(sizes[0], form.input_gradient)
        self.ones = [builder.value(n, varies=False) for n in (*sizes, 1)]
        self.one = self.ones[-1]

    def tape(self) -> Tape:
        """Every operation, in order."""
        ys, zs = self._activations()
        if self.network.learns_feedback:
            sources, es, after = self._learnt_feedback(ys)
        else:
            sources, es, after = [], self._errors(ys), ys
        connections = self._connections(ys, zs, es, after)
        if self.network.plastic_feedback:
            connections += self._of_feedback(sources, after)
        for index in range(len(self.program.instructions)):
            for connection in connections:
                connection.compute(self.program, index)
        updates = [connection.update(self.program) for connection in connections]
        pairs = zip(self.plastic, updates, self.rates, strict=True)
        for matrix, parts, rate in pairs:
            self.builder.update(matrix, *parts, rate=rate)
        return self.builder.build(len(self.plastic), self.target, self.ones)

    def _activations(self) -> tuple[list[int], list[int]]:
        """``y_0`` to ``y_L``, and ``W y`` of each connection."""
        builder, network = self.builder, self.network
        ys, zs = [self.x], []
        for k, weight in enumerate(self.weights):
            zs.append(builder.matvec(weight, ys[-1], transposed=False))
            drive = zs[-1]
            if network.bias:
                if self.biases:
                    bias = builder.matvec(self.biases[k], self.one, transposed=False)
                else:
                    bias = builder.column(self.fixed_biases[k])
                drive = builder.combine([(self.one, drive), (self.one, bias)])
            last = "softmax" if network.output == "softmax" else "identity"
            hidden = k < len(self.weights) - 1
            ys.append(builder.apply(network.activation if hidden else last, drive))
        return ys, zs

    def _errors(self, ys: list[int]) -> list[int]:
        """``e_0`` to ``e_L``; ``e_0`` stays empty where no term reads it."""
        builder, network = self.builder, self.network
        first = 0 if "e_pre" in self.program.inputs else 1
        slopes = [builder.apply(f"d_{network.activation}", y) for y in ys[first:-1]]
        carried = [builder.product(n) for n in network.sizes[first:-1]]
        es = [builder.value(n) for n in network.sizes]
        builder.elementwise("subtract", ys[-1], self.target, es[-1])
        cut = network.feedback == "symmetric" and network.detach_feedback
        for k in reversed(range(first, len(self.weights))):
            source = es[-1] if network.feedback == "direct" else es[k + 1]
            out = carried[k - first]
            builder.matvec(self.feedback[k], source, transposed=True, constant=cut, out=out)
            builder.elementwise("multiply", out, slopes[k - first], es[k])
        return es

    def _learnt_feedback(self, ys: list[int]) -> tuple[list[int], list[int], list[int]]:
        """What feedback to each layer carries, what arrives, zero at the input, and ``y'``."""
        builder, settings = self.builder, self.network.learnt_feedback
        signal, top = self.target, len(self.weights) - 1
        if settings.source == "error":
            signal = builder.elementwise("subtract", self.target, ys[-1])
        sources = [signal] * (top + 1)
        es, after = [self._zeros(self.ones[0]), *ys[1:]], [*ys]
        for k in reversed(range(top + 1)):
            if settings.pathway == "layered" and k < top:
                sources[k] = es[k + 2]
            if settings.clamp_output and k == top:
                es[-1] = after[-1] = self.target
                continue
            carried = builder.matvec(self.feedback[k], sources[k], transposed=not settings.plastic)
            bias = builder.column(self.feedback_biases[k])
            drive = builder.combine([(self.one, carried), (self.one, bias)])
            es[k + 1] = builder.apply(settings.activation, drive)
            beta, y = builder.column(self.mixings[k]), ys[k + 1]
            change = builder.elementwise("subtract", es[k + 1], y)
            after[k + 1] = builder.combine([(self.one, y), (beta, change)])
        return sources, es, after

    def _zeros(self, ones: int) -> int:
        return self.builder.elementwise("subtract", ones, ones)

    def _connections(
        self, ys: list[int], zs: list[int], es: list[int], after: list[int]
    ) -> list[_Connection]:
        """Of weights, then of biases that learn: weights from a unit that is always on."""
        found, builder = [], self.builder
        seen_after = self.network.learnt_feedback.presynaptic == "after"
        for k, weight in enumerate(self.weights):
            signals = {
                "y_pre": after[k] if seen_after else ys[k],
                "y_post": after[k + 1],
                "z_post": zs[k],
                "e_pre": es[k],
                "e_post": es[k + 1],
            }
            if seen_after and "z_post" in self.program.inputs:
                signals["z_post"] = builder.matvec(weight, after[k], transposed=False)
            matrices = {"W": weight}
            if self.network.has_own_feedback:
                matrices["B"] = self.feedback[k]
            if self.omegas:
                matrices["Omega"] = self.omegas[k]
            sides = {"post": self.ones[k + 1], "pre": self.ones[k]}
            found.append(_Connection(builder, signals, matrices, sides))
        for k, bias in enumerate(self.biases):
            signals = {
                **found[k].signals,
                "y_pre": self.one,
                "z_post": builder.matvec(bias, self.one, transposed=False),
                "e_pre": self._zeros(self.one),
            }
            sides = {"post": self.ones[k + 1], "pre": self.one}
            found.append(_Connection(builder, signals, {"W": bias}, sides))
        return found

    def _of_feedback(self, sources: list[int], after: list[int]) -> list[_Connection]:
        """Of plastic feedback to each layer: weights from what is carried."""
        found, top = [], self.ones[-2]
        layered = self.network.learnt_feedback.pathway == "layered"
        above = [*self.ones[2:-1], top] if layered else [top] * len(self.feedback)
        for k, weight in enumerate(self.feedback):
            signals = {"y_pre": sources[k], "y_post": after[k + 1]}
            if "z_post" in self.program.inputs:
                signals["z_post"] = self.builder.matvec(weight, sources[k], transposed=False)
            sides = {"post": self.ones[k + 1], "pre": above[k]}
            found.append(_Connection(self.builder, signals, {"W": weight}, sides))
        return found


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
