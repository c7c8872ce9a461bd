"""What the pipeline does not have yet and may get, if it pays: blocks that are compiled."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


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
