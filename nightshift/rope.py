"""SAM 3's rotary position tables, and why its attention asserts.

`sam3.model.vitdet.Attention.freqs_cis` is a table of one complex rotation per token and pair of channels, made for one
grid: (window^2, head_dim / 2) in windowed blocks, (grid^2, head_dim / 2) in global ones. `reshape_for_broadcast`
asserts that the table is as long as the tokens it meets.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nightshift import encoder


@dataclass(frozen=True)
class Failure:
    """A failed assertion: the block, the shape of the table there, and the shape that the tokens asked for."""

    block: int
    table_shape: tuple[int, ...]
    expected_shape: tuple[int, ...]

    @property
    def cause(self) -> str:
        """Read from the shapes: a real view of a complex table ends in (channels, 2); else the token counts differ."""
        if self.table_shape == (*self.expected_shape, 2):
            return "replica_real_view"
        return "grid"


def first_failure(trunk: encoder.ViT, images: Tensor) -> Failure | None:
    """Run `images` (B, 3, H, W) block by block, on any device, meta too; the first failed RoPE assertion, or None.

    Any other exception is passed on.
    """
    with torch.no_grad():
        tokens = encoder.run_prefix(trunk, images, 0)
        for i, block in enumerate(trunk.blocks):
            try:
                tokens = block(tokens)
            except AssertionError as error:
                shapes = _failing_shapes(error)
                if shapes is None:
                    raise
                return Failure(i, *shapes)
    return None


def _failing_shapes(error: AssertionError) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Shapes of table and tokens from the frame that raised, if that is SAM 3's. Lines move between versions."""
    frame = error.__traceback__
    while frame.tb_next is not None:
        frame = frame.tb_next
    if frame.tb_frame.f_code.co_name != "reshape_for_broadcast":
        return None
    tensors = frame.tb_frame.f_locals
    return tuple(tensors["freqs_cis"].shape), tuple(tensors["x"].shape[-2:])
