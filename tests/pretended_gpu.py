"""A GPU that is not there: tensors that say they are on one, their numbers in the CPU's memory.

``meta`` stands for it, a device that every build of torch knows. What is computed is what torch
computes on the CPU; but tensors that meet in an operation have to be on one device, as on a GPU,
where copies alone go across, and nothing reads the memory of a tensor without bringing it here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch
from weakref import finalize

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("meta")
CPU = torch.device("cpu")
aten, real_tensor = torch.ops.aten, torch.tensor


def _held(t: Any) -> Any:
    return t.held if isinstance(t, There) else t


class There(Tensor):
    """A tensor of the pretended GPU; it holds its numbers."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def of(held: Tensor) -> There:
        with torch.inference_mode(False):  # a view of a tensor and the tensor are of one kind
            there: There = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
                There, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
                dtype=held.dtype, device=GPU,
            )  # fmt: skip
        there.held = held
        return there

    def new_tensor(self, data: Any) -> Tensor:  # type: ignore[override]
        """Numbers of this type, on this device."""
        return real_tensor(data, dtype=self.dtype).to(GPU)

    def tolist(self) -> Any:
        """As of any tensor."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} of a tensor on the GPU, where nobody watches")


class Memory:
    """What tensors of the pretended GPU take.

    Attributes
    ----------
    now, most : int
        Bytes in use, and the most that were.
    """

    def __init__(self) -> None:
        self.now = self.most = 0
        self._sharing: Counter[int] = Counter()

    def take(self, tensor: There) -> There:
        """Count a new tensor's memory, if it is not a view, for as long as anything needs it."""
        storage = tensor.held.untyped_storage()
        at, size = storage.data_ptr(), storage.nbytes()
        self._sharing[at] += 1
        if self._sharing[at] == 1:
            self.now += size
            self.most = max(self.most, self.now)
        finalize(tensor, self._leave, at, size)
        return tensor

    def _leave(self, at: int, size: int) -> None:
        self._sharing[at] -= 1
        if not self._sharing[at]:
            self.now -= size


class _Watched(TorchDispatchMode):
    """Makes every operation, tensors of the GPU unpacked, if they are all there."""

    def __init__(self, used: Memory) -> None:
        super().__init__()
        self.used = used

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        there = [isinstance(t, There) for t in tensors]
        if func is not aten.copy_.default and any(there) and not all(there):
            devices = ", ".join(str(t.device) for t in tensors)
            raise AssertionError(f"{func} of tensors on {devices}")
        asked = kwargs.get("device")
        goes = there[0] if asked is None and there else asked == GPU
        if asked is not None:
            kwargs["device"] = CPU
        with _disable_current_modes():
            found = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        before = {id(_held(t)): t for t in tensors}

        def packed(t: Any) -> Any:
            if not isinstance(t, Tensor):
                return t
            known = before.get(id(t))
            if known is not None and isinstance(known, There) == goes:
                return known  # changed in place, or what it was
            t = t.clone() if known is not None else t
            return self.used.take(There.of(t)) if goes else t

        return tree_map(packed, found)


def _tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
    """``torch.tensor``, which takes numbers below any operation that could be watched."""
    made = real_tensor(data, **options)
    return made if device is None else made.to(device)


@contextmanager
def pretended_gpu() -> Iterator[Memory]:
    """While it lasts, ``meta`` is a device with memory."""
    memory = Memory()
    with patch("torch.tensor", _tensor), _Watched(memory):
        yield memory
