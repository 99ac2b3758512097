"""The reversible meta-gradient in torch, for all lifetimes at once and on any device.

The algorithm is that of the compiled engine (``compile/engine/``), file by file: operations on
values in ``values``, matrices and what is pending in ``matrices``, chunks of steps in
``chunk`` and ``backward``, segments here. No step goes through autograd.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch
from torch import Tensor

from rulesearch.compile.native import Examples
from rulesearch.compile.tape import Tape
from rulesearch.learners.eager.backward import Backward
from rulesearch.learners.eager.chunk import Chosen, Forward
from rulesearch.learners.eager.plan import Plan, plan_of
from rulesearch.learners.matrices import relative_distance
from rulesearch.learners.memory import limit

__all__ = ["in_step", "live_backward", "live_forward"]

WORKING_MEMORY = 2**28
"""Bytes that the frames of lifetimes in step, or a history of their weights, may take, about;
on a GPU it is what it has free that counts."""
FEW_STEPS = 64
"""Of whose weights a history is kept, where they cannot be rebuilt backwards."""


def live_forward(
    tape: Tape,
    examples: Examples,
    theta: Tensor,
    matrices: Sequence[Tensor],
    keep: bool,
    store: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Live, as :func:`rulesearch.compile.native.live_forward`."""
    (steps, lifetimes, per_step), plan = examples.shape, plan_of(tape)
    stored = checkpoints = None
    if keep:
        checkpoints = theta.new_empty(lifetimes, examples.segments - 1, tape.plastic_size)
        if store:
            stored = theta.new_empty(lifetimes, steps, per_step, tape.stored)

    def live(group: slice) -> None:
        mine = [m[group] for m in matrices]
        run = Forward(Chosen(plan, examples, _numbers(group, theta)), theta[group], mine)
        for segment, begin, end in _segments(examples):
            if checkpoints is not None and segment:
                kept = _split(tape, checkpoints[group, segment - 1])
                torch._foreach_copy_(kept, mine[: tape.n_plastic])
            _live(run, begin, end, None if stored is None else stored[group, begin:end])

    _each(live, _groups(plan, examples, theta, 1), theta.device)
    return stored, checkpoints


def live_backward(
    tape: Tape,
    examples: Examples,
    theta: Tensor,
    born: Sequence[Tensor],
    matrices: Sequence[Tensor],
    adjoints: Sequence[Tensor | None],
    stored: Tensor | None,
    checkpoints: Tensor,
    tolerance: float,
    reversible: bool,
    inputs_bar: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Carry adjoints back, as :func:`rulesearch.compile.native.live_backward`."""
    plan, lifetimes = plan_of(tape), examples.shape[1]
    theta_bar = torch.zeros_like(theta)
    drift = theta.new_zeros(lifetimes, dtype=torch.float64)
    recomputed = torch.zeros(lifetimes, dtype=torch.int64)

    def live(group: slice) -> None:
        back = _Group(
            plan, examples, _numbers(group, theta), theta[group], [m[group] for m in matrices],
            [None if g is None else g[group] for g in adjoints], theta_bar[group], reversible,
            tolerance,
        )  # fmt: skip
        for segment, begin, end in reversed(list(_segments(examples))):
            kept = [m[group] for m in born]
            if segment:
                kept = _split(tape, checkpoints[group, segment - 1])
            of_segment = None if stored is None else stored[group, begin:end]
            distance, again = back.segment(begin, end, kept, of_segment)
            drift[group] = torch.maximum(drift[group], distance)
            recomputed[group] += again.cpu()

    _each(live, _groups(plan, examples, theta, 3), theta.device)
    return theta_bar, drift.cpu(), recomputed


class _Group:
    """Some lifetimes on their way back."""

    def __init__(
        self,
        plan: Plan,
        examples: Examples,
        numbers: Tensor,
        theta: Tensor,
        matrices: Sequence[Tensor],
        adjoints: Sequence[Tensor | None],
        theta_bar: Tensor,
        reversible: bool,
        tolerance: float,
    ) -> None:
        n = plan.tape.n_plastic
        self.plan, self.examples, self.numbers, self.theta = plan, examples, numbers, theta
        self.weights, self.feedback = _clones(matrices[:n]), list(matrices[n:])
        self.adjoints, self.theta_bar, self.tolerance = adjoints, theta_bar, tolerance
        self.carried = [theta_bar, *(g for g in adjoints if g is not None)]
        self.source = Chosen(plan, examples, numbers)
        self.reverse = self._backward(reverse=True) if reversible else None

    def segment(
        self, begin: int, end: int, kept: Sequence[Tensor], stored: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Carry adjoints over a segment.

        Parameters
        ----------
        kept : sequence of Tensor
            The weights at its beginning, which they are set to.
        stored : Tensor (lifetimes, end - begin, examples, numbers), optional
            Products with matrices, where they need not be computed again.

        Returns
        -------
        distance : Tensor (lifetimes,)
            Of the rebuilt weights from those kept.
        again : Tensor (lifetimes,) of bool
            Whose weights were recomputed instead.
        """
        if stored is None:
            stored = self._stored_again(begin, end, kept)
        distance = self.theta.new_zeros(len(self.theta), dtype=torch.float64)
        again = torch.ones_like(distance, dtype=torch.bool)
        last, saved = _clones(self.weights), _clones(self.carried)
        if self.reverse is not None:
            for t in reversed(range(begin, end, self.reverse.steps)):
                until = min(t + self.reverse.steps, end)
                self.reverse.run(t, until, stored[:, t - begin : until - begin])
            distance = relative_distance(self.weights, kept)
            again = ~(distance <= self.tolerance)  # of what is not a number too
        size = FEW_STEPS * self.plan.tape.plastic_size * self.theta.itemsize
        several = max(1, limit(again.device, WORKING_MEMORY) // size)
        for some in again.nonzero().split(several) if again.any() else ():
            chosen = some[:, 0]
            alone = self._alone(chosen, last, saved)
            alone._halves(begin, end, [k[chosen] for k in kept], stored[chosen])
            for whole, part in zip(self.carried, alone.carried, strict=True):
                whole[chosen] = part
        torch._foreach_copy_(self.weights, list(kept))
        return distance, again

    def _backward(self, reverse: bool) -> Backward:
        matrices = [*self.weights, *self.feedback]
        return Backward(self.source, self.theta, matrices, self.adjoints, self.theta_bar, reverse)

    def _stored_again(self, begin: int, end: int, kept: Sequence[Tensor]) -> Tensor:
        run = Forward(self.source, self.theta, [*_clones(kept), *self.feedback])
        shape = len(self.theta), end - begin, run.examples, self.plan.tape.stored
        stored = self.theta.new_empty(shape)
        _live(run, begin, end, stored)
        return stored

    def _alone(self, some: Tensor, weights: Sequence[Tensor], carried: Sequence[Tensor]) -> _Group:
        """Some of the lifetimes, with weights and adjoints as they were."""
        before = iter([t[some] for t in carried])
        theta_bar = next(before)
        adjoints = [None if g is None else next(before) for g in self.adjoints]
        matrices = [m[some] for m in (*weights, *self.feedback)]
        return _Group(
            self.plan, self.examples, self.numbers[some], self.theta[some], matrices, adjoints,
            theta_bar, self.reverse is not None, self.tolerance,
        )  # fmt: skip

    def _halves(self, begin: int, end: int, first: Sequence[Tensor], stored: Tensor) -> None:
        """Take a segment again: weights are recomputed half-way, or for few steps at each."""
        half = (end - begin) // 2
        matrices = [*_clones(first), *self.feedback]
        if end - begin > FEW_STEPS:
            run = Forward(self.source, self.theta, matrices)
            _live(run, begin, begin + half, None)
            self.segment(begin + half, end, matrices[: len(first)], stored[:, half:])
            self.segment(begin, begin + half, first, stored[:, :half])
            return
        run, history = Forward(self.source, self.theta, matrices, steps=1), []
        for t in range(begin, end):
            history.append(_clones(matrices[: len(first)]))
            run.run(t, t + 1)
        back = self._backward(reverse=False)
        for t in reversed(range(begin, end)):
            torch._foreach_copy_(self.weights, history[t - begin])
            back.run(t, t + 1, stored[:, t - begin : t - begin + 1])


def in_step(tape: Tape, examples: int) -> int:
    """Numbers that a lifetime on its way back takes while it is in step with others, about.

    The frames of a chunk with their adjoints and slopes; and vectors of the outer products that
    it changes weights and adjoints by, as they are and times matrices.
    """
    plan = plan_of(tape)
    frames = 3 * tape.frame + 2 * plan.wide_width
    vectors = (4 * plan.rank + max(1, *map(len, plan.uses))) * (plan.post.width + plan.pre.width)
    return plan.steps(examples) * examples * (frames + vectors)


def _clones(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.clone() for t in tensors]


def _live(run: Forward, begin: int, end: int, stored: Tensor | None) -> None:
    """Live a segment, chunk by chunk."""
    for t in range(begin, end, run.steps):
        last = min(t + run.steps, end)
        run.run(t, last, None if stored is None else stored[:, t - begin : last - begin])


def _segments(examples: Examples) -> Iterator[tuple[int, int, int]]:
    """Number, beginning and end of each stretch between checkpoints."""
    steps = examples.shape[0]
    for segment in range(examples.segments):
        begin = segment * examples.every
        yield segment, begin, min(begin + examples.every, steps)


def _groups(plan: Plan, examples: Examples, theta: Tensor, frames: int) -> list[slice]:
    """Lifetimes that run in step: a group a thread, or more where their frames take too much."""
    _, lifetimes, per_step = examples.shape
    size = frames * plan.steps(per_step) * per_step * plan.tape.frame * theta.itemsize
    fitting = limit(theta.device, WORKING_MEMORY) // size
    several = max(1, min(fitting, -(-lifetimes // _threads(theta.device))))
    return [slice(n, min(n + several, lifetimes)) for n in range(0, lifetimes, several)]


def _threads(device: torch.device) -> int:
    return torch.get_num_threads() if device.type == "cpu" else 1


def _each(live: Callable[[slice], None], groups: list[slice], device: torch.device) -> None:
    """Run groups of lifetimes on as many threads as torch may use.

    Threads inside its operations would gain little, which are short, and wait for one another.
    """
    threads, live = _threads(device), torch.inference_mode()(live)  # its calls are shorter
    if min(threads, len(groups)) == 1:
        for group in groups:
            live(group)
    else:
        list(_workers(threads, os.getpid()).map(live, groups))
        torch.set_num_threads(threads)  # a worker has set its own, and that of threads to come


@lru_cache(maxsize=4)
def _workers(threads: int, process: int) -> ThreadPoolExecutor:
    """A pool of this process: after a fork, threads of the parent are not there."""
    return ThreadPoolExecutor(threads, "rulesearch", torch.set_num_threads, (1,))


def _numbers(group: slice, like: Tensor) -> Tensor:
    return torch.arange(group.start, group.stop, device=like.device)


def _split(tape: Tape, block: Tensor) -> list[Tensor]:
    """The plastic matrices in a block ``(lifetimes, numbers)``."""
    shapes = [tuple(map(int, shape)) for shape in tape.shapes[: tape.n_plastic]]
    parts = block.split([rows * columns for rows, columns in shapes], 1)
    return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
