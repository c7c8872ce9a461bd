"""SAM 3's rotary position tables: why its attention asserts, what is wrong without a word, and the repair.

`sam3.model.vitdet.Attention.freqs_cis` is a table of one complex rotation per token and pair of channels, made for one
grid: (window^2, head_dim / 2) in windowed blocks, (grid^2, head_dim / 2) in global ones. `reshape_for_broadcast`
asserts that the table is as long as the tokens it meets. The repair, for any SAM 3 model, in three lines:

    from nightshift.backbone.rope import make_real, set_grid
    make_real(trunk)                  # real, non-persistent tables: DataParallel, DDP, bfloat16, state_dict
    set_grid(trunk, pixels // 14)     # tables for the grid that the frames will have
"""

import math
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

from nightshift.console.errors import UserError
from nightshift.backbone.state_dict import open_weights

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # sam3 imports its video code, which warns about CUDA and torch.jit
    import sam3
    from sam3.model.vitdet import Attention

SAM3 = sam3.__file__  # which sam3 this is: the package, or a clone of its repository

CURES = {
    "grid": "call nightshift.backbone.rope.set_grid(trunk, pixels // 14), or feed the size that the tables were made for",
    "replica_real_view": "call nightshift.backbone.rope.make_real(trunk) before DataParallel, or wrap only the trained head, or "
    "use torch >= 2.11",
}


class RealAttention(Attention):
    """SAM 3's attention with its table as two real float32 buffers, `rope_cos` and `rope_sin` (tokens, head_dim / 2).

    Real, so that no replica, collective or cast takes the complex table apart; not persistent, so that a state_dict
    neither carries nor demands tables of one size; float32 whatever the module is cast to, as SAM 3 rotates in float32.
    """

    rope_grid: tuple[int, int]

    def set_tables(self, rows: int, columns: int) -> None:
        """Tables for a grid of rows x columns tokens, on the device of the weights."""
        self.rope_grid = rows, columns
        table = table_of(self, rows, columns)
        device = next(self.parameters()).device
        for name, part in (("rope_cos", table.real), ("rope_sin", table.imag)):
            self.register_buffer(name, part.float().to(device), persistent=False)

    def _apply_rope(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        if self.rope_cos.shape != (q.shape[-2], q.shape[-1] // 2):
            raise RopeError(
                f"tables for {self.rope_grid[0]} x {self.rope_grid[1]} tokens met {q.shape[-2]} tokens; {CURES['grid']}"
            )
        return self._rotate(q), self._rotate(k)

    def _rotate(self, x: Tensor) -> Tensor:
        """x (B, heads, tokens, head_dim): channels 2i and 2i + 1 are one complex number, turned by the table."""
        real, imaginary = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        turned = (
            real * self.rope_cos - imaginary * self.rope_sin,
            real * self.rope_sin + imaginary * self.rope_cos,
        )
        return torch.stack(turned, dim=-1).flatten(-2).type_as(x)

    def _apply(self, fn, recurse: bool = True) -> "RealAttention":
        """Moves go along, casts do not; from the meta device the tables are computed, not left empty."""
        super()._apply(fn, recurse)
        self.set_tables(*self.rope_grid)
        return self

    def _load_from_state_dict(self, state_dict, prefix, *arguments) -> None:
        """SAM 3's files carry tables made at 1008 pixels; they are no weights, and ours follow the grid."""
        state_dict.pop(prefix + "freqs_cis", None)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class RopeError(RuntimeError):
    """SAM 3's bare assertion, in a sentence: cause and cure."""


def table_of(attention: Attention, rows: int, columns: int) -> Tensor:
    """The table (rows * columns, head_dim / 2), complex64, by sam3's own function: x runs along the columns.

    In float32 like a trunk built for that grid, so that the two are the same bit for bit.
    """
    return attention.compute_cis(end_x=columns, end_y=rows, scale_pos=scale_of(attention, rows, columns))


def rope_table(rows: int, columns: int, head_dim: int, theta: float, scale: float) -> Tensor:
    """The right table in complex128, (rows * columns, head_dim / 2): x turns the first half of the pairs, y the second.

    Axial RoPE (Heo et al., ECCV 2024, as in sam3's `compute_axial_cis`): angle = position * scale * theta^(-4i / dim),
    tokens row by row. `scale` is window / grid: SAM 3 interpolates positions to the window that it was pretrained with.
    """
    frequencies = theta ** (-torch.arange(0, head_dim, 4, dtype=torch.float64)[: head_dim // 4] / head_dim)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [torch.outer(t.flatten().double() * scale, frequencies) for t in (x, y)]
    angle = torch.cat(angles, dim=-1)
    return torch.polar(torch.ones_like(angle), angle)


def scale_of(attention: Attention, rows: int, columns: int) -> float:
    """window / grid for interpolated RoPE, else 1. A grid that is not square is scaled by its longer side."""
    return attention.rope_pt_size[0] / max(rows, columns) if attention.rope_interp else 1.0


def attentions(trunk: nn.Module) -> list[tuple[int, Attention, bool]]:
    """(block index, its attention, whether it is windowed) for each block of the trunk."""
    return [(i, block.attn, block.window_size > 0) for i, block in enumerate(trunk.blocks)]


def set_grid(trunk: nn.Module, grid: int) -> None:
    """Regenerate the tables of the global blocks in place for grid x grid tokens, with the right scale.

    Windowed blocks see windows, whatever the grid: their tables stay. Works before and after `make_real`.
    """
    for _, attention, windowed in attentions(trunk):
        attention.input_size = attention.input_size if windowed else (grid, grid)
        if windowed:
            continue
        if isinstance(attention, RealAttention):
            attention.set_tables(grid, grid)
        else:
            attention.freqs_cis = table_of(attention, grid, grid).to(attention.freqs_cis.device)


def make_tables(trunk: nn.Module) -> None:
    """Compute the tables of a trunk that was built on the meta device, for the grids that it was built for."""
    for _, attention, _ in attentions(trunk):
        attention.freqs_cis = table_of(attention, *attention.input_size).to(next(attention.parameters()).device)


def make_real(trunk: nn.Module) -> None:
    """Swap every attention of the trunk for `RealAttention`, in place; weights, names and adapters stay as they are."""
    for _, attention, _ in attentions(trunk):
        if not isinstance(attention, RealAttention):
            del attention.freqs_cis
            attention.__class__ = RealAttention
            attention.set_tables(*attention.input_size)


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

    def __str__(self) -> str:
        why = {
            "grid": f"the position table has {self.table_shape[0]} rows, made for another frame size, and meets "
            f"{self.expected_shape[0]} tokens",
            "replica_real_view": "a DataParallel replica holds the complex position table as a real view",
        }
        where = f"block {self.block}: " if self.block >= 0 else ""
        shapes = f"table {self.table_shape}, tokens {self.expected_shape}"
        return f"{where}{why[self.cause]} ({shapes}); {CURES[self.cause]}"


@contextmanager
def explain() -> Iterator[None]:
    """Turn SAM 3's bare assertion, raised anywhere inside the block, into one sentence of cause and cure.

    Raises RopeError instead of that AssertionError; every other exception passes through untouched.
    """
    try:
        yield
    except AssertionError as error:
        failure = failure_of(error)
        if failure is None:
            raise
        raise RopeError(str(failure)) from error


def first_failure(trunk: nn.Module, images: Tensor) -> Failure | None:
    """Run `images` (B, 3, H, W) through the trunk, on any device, meta too; the RoPE assertion it ends in, or None.

    Any other exception is passed on.
    """
    try:
        with torch.no_grad():
            trunk(images)
    except AssertionError as error:
        failure = failure_of(error)
        if failure is None:
            raise
        return failure
    return None


def failure_of(error: AssertionError) -> Failure | None:
    """Block and shapes from the frames that the error passed, None if it is not SAM 3's RoPE assertion.

    By the names of functions, never by lines, which move between versions of sam3. The block is the trunk's loop
    variable, -1 where the model is not run by sam3's own `ViT.forward`.
    """
    block, trace = -1, error.__traceback__
    while trace.tb_next is not None:
        frame: FrameType = trace.tb_frame
        if frame.f_code.co_name == "forward" and hasattr(frame.f_locals.get("self"), "blocks"):
            block = frame.f_locals.get("i", -1)
        trace = trace.tb_next
    if trace.tb_frame.f_code.co_name != "reshape_for_broadcast":
        return None
    tensors = trace.tb_frame.f_locals
    return Failure(block, tuple(tensors["freqs_cis"].shape), tuple(tensors["x"].shape[-2:]))


def grids_of_file(path: Path) -> dict[int, int]:
    """What the tables in a weights file are made for: {side of the grid or window in tokens: number of blocks}.

    Raises UserError as `open_weights` does, or for a file without `freqs_cis` (the transformers layout keeps none).
    """
    shapes = {name: value.shape for name, value in open_weights(path).items()}
    tokens = Counter(shape[0] for name, shape in shapes.items() if name.endswith("freqs_cis"))
    if not tokens:
        raise UserError(f"{path}: no freqs_cis among its {len(shapes)} tensors")
    return {math.isqrt(length): blocks for length, blocks in sorted(tokens.items())}
