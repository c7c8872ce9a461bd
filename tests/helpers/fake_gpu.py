"""A GPU's rules without a GPU: fake CUDA tensors with CUDA's autocast, and a count of what an operator would cost."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "baddbmm", "convolution", "convolution_backward", "linear")
FREE = ("device", "detach", "detach_", "empty", "empty_like", "empty_strided", "_unsafe_view", "lift_fresh", "alias")


@contextmanager
def fake_gpu(kind: torch.dtype | None = None) -> Iterator[FakeTensorMode]:
    """Fake tensors may be on `cuda`; with a `kind`, products there are of it, as `torch.autocast("cuda")` does.

    torch.autocast itself turns off where there is no GPU, so its switches are set by hand.
    """
    before = torch.get_autocast_dtype("cuda")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        torch.set_autocast_enabled("cuda", kind is not None)
        torch.set_autocast_dtype("cuda", kind or before)
        torch.autocast_increment_nesting()
        try:
            yield mode
        finally:
            if torch.autocast_decrement_nesting() == 0:
                torch.clear_autocast_cache()
            torch.set_autocast_enabled("cuda", False)
            torch.set_autocast_dtype("cuda", before)


class Meter(TorchDispatchMode):
    """Counts operators that would start a kernel, bytes that they read and write, and values that Python waits for.

    `moved` leaves out matrix products and attention, which are bound by arithmetic. Nothing is taken to be cached.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.moved = self.waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense":
            self.waits += 1
        elif not func.is_view and name not in FREE:
            self.kernels += 1
            if name not in PRODUCTS and "attention" not in name:
                tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
                self.moved += sum(one.numel() * one.element_size() for one in tensors)
        return result
