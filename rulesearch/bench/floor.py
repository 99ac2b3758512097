r"""The floor: what any method has to move and to compute that takes every step by itself.

Counted for a connection of n weights, a step, a lifetime. **A pass for each product**:

======================================== ============================= ==================
forward                                  reads and writes of n numbers operations
======================================== ============================= ==================
:math:`z = W y`                          1                             2 n E
:math:`e = B^T e`                        1                             2 n E
m more products with W, as W^T y         m                             2 n E m
W <- W + low rank                        2                             2 n E r
backward
W rebuilt                                2                             2 n E r
:math:`\bar{W} v,\ \bar{W}^T u`          2                             4 n E r
W^T z-bar, and the m others transposed   1 + m                         2 n E (1 + m)
:math:`B \bar{e}`                        1                             2 n E
W-bar <- W-bar + z-bar y^T, m others     2                             2 n E (1 + m)
======================================== ============================= ==================

With the paper's terms r = 3 and m = 1: fourteen. The input needs no adjoint, so the first
connection saves W^T z-bar; and its B is read only where a term asks for its e_pre.

**With passes fused** W is read and written once forward (z and W^T y row by row, and the last
step's update on the way), and W and its adjoint once backward, B once each: eight.

Vectors, inputs and queries are left out. The floor is the larger of bytes / copy bandwidth and
operations / matrix rate, as the two may overlap. The bandwidth is that of the fastest copy of
arrays at least as large as the weights of one lifetime: where a lifetime fits into cache, the
cache's. A method that takes several steps in one pass can go below either floor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rulesearch.bench.problem import Problem
from rulesearch.compile.program import Program, lower

__all__ = ["Floor", "floor"]

BYTES = 4  # of a float32


@dataclass(frozen=True)
class Floor:
    """Necessary work of a whole problem.

    Attributes
    ----------
    bytes, fused_bytes : int
        Read and written, with a pass for each product and with passes fused.
    operations : int
        Additions and multiplications.
    weight_bytes : int
        The weights of one lifetime.
    """

    bytes: int
    fused_bytes: int
    operations: int

    weight_bytes: int

    def seconds(self, machine: Mapping[str, Any], *, fused: bool = False) -> float:
        """Least time on a machine as :func:`rulesearch.bench.machine.describe` gives it."""
        copies = machine["copies"]
        fitting = [rate for rate in copies if rate["bytes"] >= self.weight_bytes] or copies[-1:]
        bandwidth: float = 1e9 * max(rate["gb_per_s"] for rate in fitting)
        moved = self.fused_bytes if fused else self.bytes
        rate_of_products: float = 1e9 * machine["matrix_gflop_per_s"]
        return max(moved / bandwidth, self.operations / rate_of_products)


def floor(problem: Problem) -> Floor:
    """Count the passes and the operations of a problem."""
    program = lower([(term.name, term.normal_form) for term in problem.terms])
    totals = [
        _connection(program, post * pre, problem.examples, first=k == 0)
        for k, (post, pre) in enumerate(problem.network.connections)
    ]
    times = problem.steps * problem.lifetimes
    passes, fused, operations = (times * sum(column) for column in zip(*totals, strict=True))
    return Floor(BYTES * passes, BYTES * fused, operations, BYTES * problem.weights)


def _connection(program: Program, n: int, examples: int, *, first: bool) -> tuple[int, int, int]:
    """Numbers moved, numbers moved with fused passes, and operations, of one step."""
    rank = program.rank + len(program.masks)
    more = sum(i.kind == "matvec" for i in program.instructions)
    carried = int(not first or "e_pre" in program.inputs)  # whether e_pre is wanted
    returned = int(not first)  # whether the adjoint of y_pre is
    forward = 1 + carried + more + 2
    backward = 2 + 2 + returned + more + carried + 2
    products = (1 + carried + more) + (returned + more + carried) + (1 + more)
    return (
        n * (forward + backward),
        n * (6 + 2 * carried),
        2 * n * examples * (products + 4 * rank),
    )
