"""What people wrap around SAM 3: adapters by hand or by peft, DataParallel replicas, DDP over real processes."""

import copy
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.parallel import replicate
from torch.nn.parallel.replicate import comm

from nightshift.backbone import encoder
from nightshift.backbone.rope import make_real
from nightshift.config.params import Encoder

ADAPTERS = ("none", "lora_by_hand", "lora_by_hand_contiguous", "peft_attention", "peft_attention_mlp")
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
        y = self.linear(x) + 2.0 * (x @ self.a.mT.to(x.dtype)) @ self.b.mT.to(x.dtype)
        return y.contiguous() if self.contiguous else y


def adapt(trunk: encoder.ViT, adapter: str) -> encoder.ViT:
    """Put one of ADAPTERS on every block, in place."""
    if adapter.startswith("lora_by_hand"):
        for block in trunk.blocks:
            block.attn.qkv = LoraByHand(block.attn.qkv, adapter.endswith("contiguous"))
            block.attn.proj = LoraByHand(block.attn.proj, adapter.endswith("contiguous"))
    elif adapter != "none":
        targets = ["attn.qkv", "attn.proj"] + (["mlp.fc1", "mlp.fc2"] if adapter.endswith("mlp") else [])
        blocks = list(range(len(trunk.blocks)))
        get_peft_model(
            trunk, LoraConfig(r=RANK, target_modules=targets, layers_to_transform=blocks, layers_pattern="blocks")
        )
    return trunk


@contextmanager
def _broadcast_without_cuda():
    """Torch's `replicate` on one CPU: only the copy between devices is ours, and does to complex tensors what it does.

    `broadcast_coalesced` sends complex tensors as real views in every torch; what differs between versions, and is
    asked here, is whether `replicate` turns them back (pytorch issue 55375).
    """

    def copies(tensors: Sequence[Tensor], devices: Sequence[int]) -> list[list[Tensor]]:
        real = [torch.view_as_real(t) if t.is_complex() else t for t in tensors]
        return [[t.clone() for t in real] for _ in devices]

    # `torch.nn.parallel.replicate` is the function; its module is reached through the function's globals.
    with (
        patch.object(comm, "broadcast_coalesced", copies),
        patch.dict(replicate.__globals__, {"_get_device_index": lambda device, optional: 0}),
    ):
        yield


def installed_replica(module: nn.Module) -> nn.Module:
    """A DataParallel replica as the installed torch's own `replicate` makes it; on CUDA tensors, without a stand-in."""
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


def ddp_over_gloo(preset: Encoder, processes: int = 2) -> dict[str, str]:
    """A forward and backward of a small trunk with LoRA under DDP, in real processes.

    Returns the first error, or an empty string, for tables `as_shipped` and `repaired`.
    """
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_ddp_process, (preset, processes, folder), nprocs=processes)
        return {
            table: "".join(path.read_text(encoding="utf-8") for path in sorted(Path(folder).glob(f"{table}-*")))
            for table in ("as_shipped", "repaired")
        }


def _ddp_process(rank: int, preset: Encoder, processes: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(Path(folder) / "store"), processes)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=processes)
    for table in ("as_shipped", "repaired"):
        trunk = encoder.build(preset).trunk
        if table == "repaired":
            make_real(trunk)
        try:
            model = nn.parallel.DistributedDataParallel(adapt(trunk, "lora_by_hand"))
            model(torch.zeros(1, 3, preset.img_size, preset.img_size))[-1].sum().backward()
        except (RuntimeError, AssertionError) as error:
            message = f"{type(error).__name__}: {error}\n"
            Path(folder, f"{table}-{rank}").write_text(message, encoding="utf-8")
    torch.distributed.destroy_process_group()
