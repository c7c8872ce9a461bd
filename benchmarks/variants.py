"""What the pipeline does not have yet and may get, if it pays: each as a context manager around a model's steps.

`complex_rotation`, `one_lora_function` and `contiguous_v` move fewer bytes, `compiled` fuses kernels, and `prefetched`
makes the next batch while the GPU computes.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import default_collate

from nightshift.arms.lora import InPlaceLinear
from nightshift.backbone.rope import RealAttention
from nightshift.data.letterbox import mask_to_square
from nightshift.data.samples import TrainingCases, angles_of, flipped_case

Batch = dict[str, Tensor]


@contextmanager
def complex_rotation(trunk: nn.Module) -> Iterator[None]:
    """Position tables as one real tensor (tokens, head_dim / 2, 2), and one complex product instead of nine kernels."""
    for module in trunk.modules():
        if isinstance(module, RealAttention):
            module.rope_pairs = torch.stack((module.rope_cos, module.rope_sin), dim=-1)

    def rotate(self: Any, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * torch.view_as_complex(self.rope_pairs)).flatten(-2).type_as(x)

    with patch.object(RealAttention, "_rotate", rotate):
        yield


@contextmanager
def one_lora_function(_trunk: nn.Module) -> Iterator[None]:
    """W x + s B A x as one autograd function: its input is cast once, its gradients are added inside products."""

    def forward(self: Any, x: Tensor) -> Tensor:
        (name,) = self.active_adapters
        assert not self.lora_dropout[name].training or isinstance(self.lora_dropout[name], nn.Identity)
        base = self.base_layer
        kind = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        tensors = (x.flatten(0, -2), base.weight, base.bias, self.lora_A[name].weight, self.lora_B[name].weight)
        y: Tensor = _Lora.apply(*(tensor.to(kind) for tensor in tensors), self.scaling[name])
        return y.unflatten(0, x.shape[:-1])

    with patch.object(InPlaceLinear, "forward", forward):
        yield


class _Lora(torch.autograd.Function):
    """rows (N, in), weight (out, in), bias (out,), a (rank, in), b (out, rank), all of one type -> (N, out)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        y, inner = torch.addmm(bias, rows, weight.mT), rows @ a.mT
        ctx.save_for_backward(rows, weight, a, b, inner)
        ctx.scale = scale
        return y.addmm_(inner, b.mT, alpha=scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, a, b, inner = ctx.saved_tensors
        narrow, wide = (gradient @ b) * ctx.scale, None
        if ctx.needs_input_grad[0]:
            wide = (gradient @ weight).addmm_(narrow, a)
        return wide, None, None, narrow.mT @ rows, (gradient.mT @ inner) * ctx.scale, None


@contextmanager
def contiguous_v(_trunk: nn.Module) -> Iterator[None]:
    """Values of the attention as a tensor of their own: the backward pass then keeps a third of q, k and v, not all."""
    attend = F.scaled_dot_product_attention

    def attend_copy(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v.contiguous())

    with patch.object(F, "scaled_dot_product_attention", attend_copy):
        yield


@contextmanager
def compiled(trunk: nn.Module) -> Iterator[None]:
    """Every block by torch.compile, in a few graphs that all share; drop-path, which is never active, is left out.

    On a CPU blocks are traced in the same way, and no code is generated for them.
    """
    torch._dynamo.reset()
    backend = "inductor" if next(trunk.parameters()).is_cuda else "aot_eager"
    blocks: list[Any] = list(trunk.blocks)
    paths = [block.drop_path for block in blocks]
    for block in blocks:
        block.drop_path = nn.Identity()
        block.compile(fullgraph=True, backend=backend)
    try:
        yield
    finally:
        for block, path in zip(blocks, paths, strict=True):
            block.drop_path, block._compiled_call_impl = path, None
        torch._dynamo.reset()


@contextmanager
def applied(trunk: nn.Module, *variants: Callable[[nn.Module], Any]) -> Iterator[None]:
    """Several of them at once."""
    with ExitStack() as stack:
        for variant in variants:
            stack.enter_context(variant(trunk))
        yield


def half_item(cases: TrainingCases, i: int) -> dict[str, Tensor | int]:
    """As `cases[i]`, with the kept tokens as they are on disk: half the bytes to collate and to send."""
    case = flipped_case(cases.cases, i)
    assert cases.kept is not None
    return {
        "index": i,
        "angles": torch.tensor(angles_of(case, cases.settings.view.mode)),
        "target": mask_to_square(case.mask, cases.settings.resolution),
        "tokens": cases.kept[f"tokens.{i}"],
    }


def prefetched(
    item: Callable[[int], dict[str, Any]], order: Sequence[Sequence[int]], device: torch.device
) -> Iterator[Batch]:
    """Batches on `device`, made by a thread two ahead of their use: pinned, copied on a stream of their own."""
    ready: queue.Queue[tuple[Batch, Any] | Exception] = queue.Queue(maxsize=2)
    gpu = device.type == "cuda"
    stream = torch.cuda.Stream(device) if gpu else None

    def work() -> None:
        try:
            for indices in order:
                batch = default_collate([item(i) for i in indices])
                if stream is None:
                    ready.put((batch, None))
                    continue
                pinned = {key: value.pin_memory() for key, value in batch.items()}
                with torch.cuda.stream(stream):
                    sent = {key: value.to(device, non_blocking=True) for key, value in pinned.items()}
                ready.put((sent, (stream.record_event(), pinned)))
        except Exception as error:
            ready.put(error)

    threading.Thread(target=work, daemon=True).start()
    for _ in order:
        got = ready.get()
        if isinstance(got, Exception):
            raise got
        batch, copied = got
        if copied:
            torch.cuda.current_stream().wait_event(copied[0])
            for value in batch.values():
                value.record_stream(torch.cuda.current_stream())
        yield {key: value.float() if key == "tokens" else value for key, value in batch.items()}


def resident(everything: Batch, order: Sequence[Sequence[int]], device: torch.device) -> Iterator[Batch]:
    """Batches of cases that are all on `device` already, in one batch."""
    for indices in order:
        which = torch.tensor(indices, device=device)
        batch = {key: value[which] for key, value in everything.items()}
        yield {key: value.float() if key == "tokens" else value for key, value in batch.items()}
