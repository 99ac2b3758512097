"""A tape holds what the updates of a step depend on, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from lives import LOCAL, MIXED, NETWORKS, OJA, terms

from rulesearch.compile.tape import KINDS, LANES, Tape, stride
from rulesearch.learners import PlasticityLearner
from rulesearch.learners.tape import Form, _Step, build_tape
from rulesearch.networks import PlasticNetwork

VALUES = {
    "matvec": "a", "matvec_t": "a", "multiply": "ab", "subtract": "ab", "apply": "a", "dot": "ab",
    "coefficient": "", "combine": "", "column": "", "update": "",
}  # fmt: skip
COUNTS = {"first": "count", "rows": "row_count", "masks": "mask_count", "others": "other_count"}


def tape_of(network: PlasticNetwork, *rules: str, **form: bool) -> Tape:
    return build_tape(network, PlasticityLearner(network, terms(*rules)).program, Form(**form))


def test_a_tape_is_made_once() -> None:
    network = PlasticNetwork([4, 3, 2])
    program = PlasticityLearner(network, terms(*OJA)).program
    assert build_tape(network, program) is build_tape(network, program, Form())


def kind(op: Any) -> str:
    return KINDS[op["kind"]]


def reads(tape: Tape, op: Any) -> set[int]:
    """Offsets of what an operation reads, from the tables alone."""
    found = {int(op[name]) for name in VALUES[kind(op)]}
    spans = {"coefficient": ["first"], "combine": ["first"]}.get(kind(op), [])
    if kind(op) == "update":
        spans = ["first", "rows", "masks", "others"]
        found.add(int(op["scale"]))
    for first in spans:
        entries = tape.entries[op[first] : op[first] + op[COUNTS[first]]]
        found |= {int(o) for e in entries for o in (e["scalar"], e["vector"])}
    return found - {-1}


@pytest.mark.parametrize("rules", [OJA, LOCAL, MIXED], ids=["Oja", "local", "mixed"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_operation_is_read(name: str, rules: tuple[str, ...]) -> None:
    network = NETWORKS[name]
    if network.plastic_feedback and rules is MIXED:
        rules = LOCAL  # feedback has no feedback of its own
    tape = tape_of(network, *rules)
    later: set[int] = set()
    for op in tape.ops[::-1]:
        assert kind(op) == "update" or int(op["out"]) in later, op
        later |= reads(tape, op)
    assert sum(int(op[count]) for op in tape.ops for count in COUNTS.values()) == len(tape.entries)


def test_errors_below_the_first_layer_are_there_where_a_term_reads_them() -> None:
    """Zero, one a unit of the input; and ones of a layer, where they are added up."""
    network = PlasticNetwork(
        (70, 6, 5), activation="relu", output="linear", feedback="flp", bias=True
    )

    def zeros(tape: Tape) -> int:
        return sum(kind(op) == "subtract" and op["n"] == 70 for op in tape.ops)

    without, with_them = tape_of(network, *OJA), tape_of(network, *OJA, "y_post * e_pre.T")
    assert (zeros(without), zeros(with_them)) == (0, 1)
    _, _, _, _, _, ones = without.filled
    assert ones == LANES  # a single one, for biases
    assert with_them.frame - without.frame >= 2 * stride(70)


class Counted(list[int]):
    """A list that counts how often it is gone through."""

    passes = 0

    def __iter__(self) -> Iterator[int]:
        self.passes += 1
        return super().__iter__()


@pytest.mark.parametrize("depth", [3, 300])
def test_products_are_gone_through_as_often_in_a_deep_network(depth: int) -> None:
    """Or a tape of many layers would be made in the square of their number."""
    network = PlasticNetwork([2] * depth)
    step = _Step(network, PlasticityLearner(network, terms(*OJA)).program, Form())
    step.builder.products = found = Counted(step.builder.products)
    assert len(step.tape().ops) > depth
    assert found.passes == 1
