"""The memory that a step will take, without taking it: the very same code, run on fake tensors, and counted.

torch's FakeTensorMode runs shapes through the real operators and autograd; a dispatch mode sees every tensor that comes
to life and, by a weak reference to its storage, when it goes. What kernels use inside themselves is not seen.
"""

import weakref
from collections.abc import Callable

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Counter(TorchDispatchMode):
    """Bytes of the storages alive, now and at most. Storages are what memory is: views count once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self.add(value)
        return result

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self._seen:
            return
        size = storage.nbytes()
        self._seen[storage] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, size)

    def _forget(self, size: int) -> None:
        self.now -= size


def peak_bytes(build: Callable[[], nn.Module], step: Callable[[nn.Module], object]) -> int:
    """Peak size, in bytes, of all tensors while `step(build())` runs; `build` makes its module on the meta device."""
    module = build()
    with FakeTensorMode(allow_non_fake_inputs=True), Counter() as counter:
        module.to_empty(device="cpu")
        for tensor in (*module.parameters(), *module.buffers()):
            counter.add(tensor)
        step(module)
    return counter.peak
