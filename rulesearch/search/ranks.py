"""One search in several processes: each lives its share of the lifetimes, and all take each step.

Lifetimes share nothing, so what processes exchange is what came of them: a loss, an accuracy and a
meta-gradient each. With those of all, every process clips, rejects, averages and steps as one
process alone would, to the bit on machines of one kind; no coefficients are ever sent. A launcher
such as torchrun says in the environment who is who.

What is exchanged goes from where it is: by gloo from the memory of the CPU, by NCCL from that of
GPUs, where lifetimes are lived on them.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch import distributed as dist

from rulesearch.errors import RuleSearchError, RunError
from rulesearch.search.folder import RunFolder

__all__ = ["ALONE", "Ranks", "joined"]

SENT = ("config.yaml", "manifest.json", "events.jsonl", "checkpoint-*")


@dataclass(frozen=True)
class Ranks:
    """Process ``rank`` of ``size``; the first writes the run folder."""

    rank: int = 0
    size: int = 1

    def share(self, count: int) -> slice:
        """Which of so many lifetimes are this process's: the members of a seed are dealt out.

        Where there are fewer than processes, the idle ones live the first, for nothing.
        """
        return slice(self.rank, None, self.size) if self.rank < count else slice(1)

    def gather(self, mine: Sequence[Tensor], count: int) -> list[Tensor]:
        """Return what came of all lifetimes, in their order.

        Parameters
        ----------
        mine : sequence of Tensor (share, columns)
            What came of this process's share; on its GPU where all have one.

        Raises
        ------
        RunError
            If another process is gone.
        """
        if self.size == 1:
            return list(mine)
        packed = torch.cat([part.double() for part in mine], 1)
        each = -(-count // self.size)
        sent = packed.new_zeros(each, packed.shape[1])
        sent[: len(packed)] = packed[:each]
        found = [torch.empty_like(sent) for _ in range(self.size)]
        with self._others():
            dist.all_gather(found, sent)
        whole = torch.stack(found, 1).reshape(each * self.size, -1)[:count]
        parts = whole.split([part.shape[1] for part in mine], 1)
        return [one.to(part.dtype) for one, part in zip(parts, mine, strict=True)]

    def check(self, checked: Callable[[], None]) -> None:
        """Check something in the first process alone; what it refuses, all refuse.

        Raises
        ------
        RunError
            If the first process refuses it, or another process is gone.
        """
        if self.rank:
            self._heard()
            return
        with self._refusing():
            checked()
        self._told(b"nothing is in the way")

    @contextmanager
    def folder(self, opened: Callable[[], RunFolder]) -> Iterator[RunFolder]:
        """Open the run folder in the first process, and a copy of it that is not kept in others.

        Raises
        ------
        RunError
            If the first process cannot open it, or another process is gone.
        """
        if self.rank:
            with TemporaryDirectory(prefix="rulesearch-") as copy:
                with tarfile.open(fileobj=io.BytesIO(self._heard())) as files:
                    files.extractall(copy, filter="data")
                with RunFolder.open(copy) as folder:
                    yield folder
            return
        with self._refusing():
            folder = opened()
        with folder:
            self._told(_packed(folder.path) if self.size > 1 else b"")
            yield folder

    def _heard(self) -> bytes:
        """What the first process says, which is nothing where it refuses."""
        content = self._told(b"")
        if not content:
            raise RunError(f"process {self.rank}: the first process refused the run")
        return content

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        """Tell the others what the first process refuses."""
        try:
            yield
        except RuleSearchError:
            self._told(b"")
            raise

    def _told(self, content: bytes) -> bytes:
        """What the first process says to all."""
        if self.size == 1:
            return content
        with self._others():
            size = torch.tensor([len(content)])
            dist.broadcast(size, 0)
            data = torch.zeros(int(size), dtype=torch.uint8)
            if content and not self.rank:
                data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            if int(size):
                dist.broadcast(data, 0)
        return data.numpy().tobytes()

    @contextmanager
    def _others(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError:  # torch's own message is of sockets, in several lines
            raise RunError(
                f"process {self.rank} of {self.size}: another one is gone; start all again with "
                "'-m rulesearch resume RUN', which goes on from the last checkpoint"
            ) from None


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Meet the other processes that a launcher started; alone where there was none.

    The group speaks gloo for what is in the memory of the CPU, as the run's files, and NCCL too
    where there are GPUs. It connects them with the first tensor that is sent from one, so that a
    search on the CPU has nothing to do with it.

    Raises
    ------
    RunError
        If they cannot be met.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ALONE
        return
    try:
        dist.init_process_group(_backends())
    except (RuntimeError, ValueError) as error:
        line = str(error).strip().splitlines()[0]
        raise RunError(f"the other processes cannot be met ({line}); start them all") from None
    try:
        yield Ranks(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()


def _backends() -> str:
    if not (torch.cuda.is_available() and dist.is_nccl_available()):
        return "gloo"
    # Else a lost process would be noticed by a thread of NCCL, which ends this one without a word.
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    return "cpu:gloo,cuda:nccl"


def _packed(run: Path) -> bytes:
    """The files that a search goes on from."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as files:
        for pattern in SENT:
            for path in sorted(run.glob(pattern)):
                files.add(path, path.name)
    return content.getvalue()
