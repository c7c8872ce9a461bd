"""What people wrap around SAM 3: adapters by hand or by peft, and DataParallel replicas."""

import copy
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parallel import comm

from nightshift.backbone import encoder

# The module: `torch.nn.parallel.replicate` and an import statement give its function of the same name.
replication = importlib.import_module("torch.nn.parallel.replicate")
RANK = 4


class LoraByHand(nn.Module):
    """The layer that users write: y + s * B A x around a frozen Linear, with or without `.contiguous()`."""

    def __init__(self, linear: nn.Linear, contiguous: bool) -> None:
        super().__init__()
        weight = linear.weight
        self.linear, self.contiguous = linear, contiguous
        self.a = nn.Parameter(torch.randn(RANK, linear.in_features, device=weight.device) * 0.01)
        self.b = nn.Parameter(torch.zeros(linear.out_features, RANK, device=weight.device))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x) + 2.0 * (x @ self.a.mT.to(x.dtype)) @ self.b.mT.to(x.dtype)
        return y.contiguous() if self.contiguous else y


def adapt(trunk: encoder.ViT, adapter: str) -> encoder.ViT:
    """Put one of `names.ADAPTERS` on every block, in place."""
    if adapter.startswith("lora_by_hand"):
        for block in trunk.blocks:
            block.attn.qkv = LoraByHand(block.attn.qkv, adapter.endswith("contiguous"))
            block.attn.proj = LoraByHand(block.attn.proj, adapter.endswith("contiguous"))
    elif adapter != "none":
        from peft import LoraConfig, get_peft_model  # not there beside torch and sam3 alone

        targets = ["attn.qkv", "attn.proj"] + (["mlp.fc1", "mlp.fc2"] if adapter.endswith("mlp") else [])
        blocks = list(range(len(trunk.blocks)))
        get_peft_model(
            trunk, LoraConfig(r=RANK, target_modules=targets, layers_to_transform=blocks, layers_pattern="blocks")
        )
    return trunk


@contextmanager
def _broadcast_without_cuda() -> Iterator[None]:
    """Let torch's `replicate` run on one CPU, by standing in for the two functions of its that need CUDA.

    The rest is torch's own code, which is what the probe asks about: `broadcast_coalesced` sends complex tensors as
    real views in every torch, and whether `replicate` turns them back is what differs between versions (pytorch issue
    55375). Neither function can be given to `replicate` as an argument, so they are replaced in its modules meanwhile.
    """

    def copies(tensors: Sequence[Tensor], devices: Sequence[int]) -> list[list[Tensor]]:
        real = [torch.view_as_real(t) if t.is_complex() else t for t in tensors]
        return [[t.clone() for t in real] for _ in devices]

    def first_device(device: int, optional: bool) -> int:
        return 0

    kept = comm.broadcast_coalesced, replication._get_device_index
    comm.broadcast_coalesced, replication._get_device_index = copies, first_device  # type: ignore[assignment, attr-defined]
    try:
        yield
    finally:
        comm.broadcast_coalesced, replication._get_device_index = kept  # type: ignore[attr-defined]


def installed_replica(module: nn.Module) -> nn.Module:
    """A DataParallel replica as the installed torch's own `replicate` makes it; on CUDA tensors, without a stand-in."""
    replicate: Callable[..., list[nn.Module]] = replication.replicate
    if next(module.parameters()).is_cuda:
        return replicate(module, [0])[0]
    with _broadcast_without_cuda():
        return replicate(module, [0], detach=True)[0]


def legacy_replica(module: nn.Module) -> nn.Module:
    """A replica under the rules of torch <= 2.10: complex buffers arrive as real views, everything else as it is."""
    replica = copy.deepcopy(module)
    for child in replica.modules():
        for name, buffer in child._buffers.items():
            if buffer is not None and buffer.is_complex():
                child._buffers[name] = torch.view_as_real(buffer)
    return replica


WRAP: dict[str, Callable[[encoder.ViT], encoder.ViT]] = {
    "none": lambda trunk: trunk,
    "replica_installed": installed_replica,
    "replica_legacy": legacy_replica,
    "head_only": lambda trunk: trunk,
}
