"""What can be chosen, as a context manager around a model's steps: blocks that are compiled."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from nightshift.backbone.encoder import compile_blocks


@contextmanager
def compiled(trunk: nn.Module) -> Iterator[None]:
    """Every block by torch.compile, in a few graphs that all share; drop-path, which is never active, is left out.

    On a CPU blocks are traced in the same way, and no code is generated for them.
    """
    torch._dynamo.reset()
    blocks: list[Any] = list(trunk.blocks)
    paths = [block.drop_path for block in blocks]
    compile_blocks(trunk, "inductor" if next(trunk.parameters()).is_cuda else "aot_eager")
    try:
        yield
    finally:
        for block, path in zip(blocks, paths, strict=True):
            block.drop_path, block._compiled_call_impl = path, None
        torch._dynamo.reset()
