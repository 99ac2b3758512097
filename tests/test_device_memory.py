"""How many lifetimes a GPU takes at once, and what it does where its memory ends."""

from __future__ import annotations

import pytest
import torch
from pretended_gpu import GPU, pretended_gpu

import rulesearch as rs
from rulesearch.errors import LearnerError
from rulesearch.outer import Unrolled
from rulesearch.search import workers
from rulesearch.tasks import TaskBatch

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("sizes", "steps", "examples"),
    [([64, 8, 10], 12, 1), ([64, 8, 10], 200, 1), ([200, 100, 50, 10], 20, 1), ([30, 9, 4], 9, 3)],
)
def test_what_lifetimes_take_is_known_ahead(sizes: list[int], steps: int, examples: int) -> None:
    """The estimate that batches are made by, beside what a meta-gradient really took."""
    pool, count = rs.Grammar.from_yaml("pool10").enumerate(), 6
    learner, g = rs.PlasticityLearner(rs.PlasticNetwork(sizes), pool), torch.Generator()
    shape = (steps, count, examples) if examples > 1 else (steps, count)
    queries = torch.randint(sizes[-1], (count, 5), generator=g)
    given = TaskBatch(
        torch.rand(*shape, sizes[0], generator=g),
        torch.randint(sizes[-1], shape, generator=g),
        torch.rand(count, 5, sizes[0], generator=g),
        queries,
    )
    with pretended_gpu() as memory:
        born, theta = learner.init(count, device=GPU), torch.tensor([pool.init] * count).to(GPU)
        Unrolled()(learner, born, theta, given.to(GPU))
    each = learner.bytes_per_lifetime(steps, examples=examples, device=GPU)
    assert 0.9 * memory.most < count * each < 1.5 * memory.most


def test_batches_are_as_large_as_memory_and_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, sizes in ((1000, {10: 10, 1: 1}), (40, {10: 4, 8: 4, 9: 3, 3: 3}), (9, {10: 1})):
        monkeypatch.setattr(workers, "limit", lambda device, usual, free=free: free)
        for count, size in sizes.items():
            assert workers.fitting(GPU, count, 10) == size


def test_a_gpu_that_is_full_gets_smaller_batches() -> None:
    tried: list[int] = []

    def live(some: slice) -> tuple[torch.Tensor, ...]:
        tried.append(some.stop - some.start)
        if tried[-1] > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        lives = torch.arange(some.start, some.stop)
        return lives, 2.0 * lives

    one, two = workers.batches(live, 11, 11)
    assert tried == [11, 6, 3, 3, 3, 2]
    assert one.tolist() == list(range(11))
    assert two.tolist() == [2.0 * k for k in range(11)]

    def full(some: slice) -> tuple[torch.Tensor, ...]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(LearnerError, match=r"one lifetime does not fit .* use device=cpu"):
        workers.batches(full, 5, 4)


def test_a_gpus_own_memory_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch keeps ready is free too; half of all may be taken."""
    cuda = torch.device("cuda", 1)
    for name, found in (("mem_get_info", (6000, 9000)), ("memory_reserved", 2000),
                        ("memory_allocated", 500)):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda device, found=found: found)
    assert workers.limit(cuda, 17) == (6000 + 2000 - 500) // 2
    assert workers.limit(CPU, 17) == 17
