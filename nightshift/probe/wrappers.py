"""What people wrap around SAM 3: adapters by hand or by peft, DataParallel replicas, DDP over real processes."""

import copy
import importlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import comm

from nightshift.backbone import encoder
from nightshift.backbone.full_size import EncoderSize
from nightshift.backbone.rope import make_real

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


def ddp_over_gloo(size: EncoderSize, processes: int = 2) -> dict[str, str]:
    """A forward and backward of a small trunk with LoRA under DDP, in real processes.

    Returns the first error, or an empty string, for tables `as_shipped` and `repaired`.
    """
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(  # type: ignore[attr-defined, no-untyped-call]
            _ddp_process, (size, processes, folder), nprocs=processes
        )
        return {
            table: "".join(path.read_text(encoding="utf-8") for path in sorted(Path(folder).glob(f"{table}-*")))
            for table in ("as_shipped", "repaired")
        }


def _ddp_process(rank: int, size: EncoderSize, processes: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(  # type: ignore[attr-defined]
        str(Path(folder) / "store"), processes
    )
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=processes)
    for table in ("as_shipped", "repaired"):
        trunk = encoder.build(size).trunk
        if table == "repaired":
            make_real(trunk)
        try:
            model = nn.parallel.DistributedDataParallel(adapt(trunk, "lora_by_hand"))
            model(torch.zeros(1, 3, size.img_size, size.img_size))[-1].sum().backward()
        except (RuntimeError, AssertionError) as error:
            message = f"{type(error).__name__}: {error}\n"
            Path(folder, f"{table}-{rank}").write_text(message, encoding="utf-8")
    torch.distributed.destroy_process_group()


WRAP: dict[str, Callable[[encoder.ViT], encoder.ViT]] = {
    "none": lambda trunk: trunk,
    "replica_installed": installed_replica,
    "replica_legacy": legacy_replica,
    "head_only": lambda trunk: trunk,
}
