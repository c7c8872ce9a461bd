"""Peak memory of a training step without taking it: the same code runs on fake tensors, and their bytes are counted.

torch's FakeTensorMode runs shapes through the real operators and autograd; a dispatch mode sees every tensor that is
made and, by a weak reference to its storage, when it is freed. What kernels use internally is not seen.
torch.distributed._tools.mem_tracker does the same for modules on a device; it is private, too.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

M = TypeVar("M", bound=nn.Module)


class Counter(TorchDispatchMode):
    """Bytes of the storages that are alive: `now`, and `peak`. Views share a storage, which counts once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._counted: weakref.WeakKeyDictionary[torch.UntypedStorage, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operator and count what it returns."""
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self.add(value)
        return result

    def add(self, tensor: torch.Tensor) -> None:
        """Count the storage of a tensor until it is freed."""
        storage = tensor.untyped_storage()
        if storage in self._counted:
            return
        size = storage.nbytes()
        self._counted[storage] = size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, size)

    def _remove(self, size: int) -> None:
        self.now -= size


class GroupNormAsOnGpu(TorchFunctionMode):
    """Group norm makes float32 of its input, as in CUDA's autocast; in the CPU's it keeps half precision.

    It is the one operator here in which their rules differ; fake CUDA tensors, which know them, have no backward pass.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.group_norm:
            args = (args[0].float(), *args[1:])
        return func(*args, **(kwargs or {}))


def peak_bytes(build: Callable[[], M], step: Callable[[M], object], device: torch.device) -> int:
    """Peak size, in bytes, of all tensors while `step(build())` runs on the CPU, with the precisions of `device`.

    `build` makes its module on the meta device.
    """
    module = build()
    rules = GroupNormAsOnGpu() if device.type == "cuda" else nullcontext()
    with FakeTensorMode(allow_non_fake_inputs=True), rules, Counter() as counter:
        module.to_empty(device="cpu")
        for tensor in (*module.parameters(), *module.buffers()):
            counter.add(tensor)
        step(module)
    return int(counter.peak)
