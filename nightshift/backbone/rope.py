"""SAM 3's rotary position tables: why its attention asserts, what is wrong without an error, and the repair.

`sam3.model.vitdet.Attention.freqs_cis` is a table of one complex rotation per token and pair of channels, made for one
grid: (window^2, head_dim / 2) in windowed blocks, (grid^2, head_dim / 2) in global ones. `reshape_for_broadcast`
asserts that the table is as long as the tokens it meets. The repair, for any SAM 3 model:

    from nightshift.rope import make_real, set_grid
    make_real(trunk)                              # real, non-persistent tables: DataParallel, DDP, bfloat16, state_dict
    set_grid(trunk, pixels=images.shape[-2:])     # tables for the grid that the frames will have
"""

import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from nightshift.backbone.rope_error import (
    ASSERTS,
    REPLICA,
    Failure,
    RopeError,
    call_of,
    dropped,
    failure_of,
    grid_cure,
    patch_of,
    size,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # sam3 imports its video code, which warns about CUDA and torch.jit
    import sam3
    from sam3.model.vitdet import Attention as Attention
    from sam3.model.vitdet import ViT

SAM3 = str(sam3.__file__)  # which sam3 this is: the package, or a clone of its repository
# Buffers of its Attention: the complex table and, in clones since SAM 3.1 with `use_rope_real`, the two that are used
# instead of it.
TABLES = ("freqs_cis", "freqs_cis_real", "freqs_cis_imag")


class RealAttention(Attention):  # type: ignore[misc]
    """SAM 3's attention with its table as a real float32 buffer, `rope` (tokens, head_dim / 2, 2): cosines and sines.

    Real, so that no replica, collective or cast takes the complex table apart; not persistent, so that a state_dict
    neither carries nor demands tables of one size; float32 whatever the module is cast to, as SAM 3 rotates in float32.
    """

    rope_grid: tuple[int, int]
    rope: Tensor

    def set_tables(self, rows: int, columns: int) -> None:
        """The table for a grid of rows x columns tokens, on the device of the weights."""
        self.rope_grid = rows, columns
        table = torch.view_as_real(table_of(self, rows, columns))
        self.register_buffer("rope", table.to(next(self.parameters()).device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """As sam3's, with v as a tensor of its own: so the backward pass keeps a third of q, k and v, not all.

        x (B, rows, columns, C) -> the same shape.

        Raises RopeError for another grid than the tables', also for one with as many tokens.
        """
        rows, columns = x.shape[1:3]
        if (rows, columns) != self.rope_grid:
            call = call_of(frame for frame, _ in traceback.walk_stack(None))
            cure = grid_cure(call, rows * columns, self.rope_grid[0] * self.rope_grid[1])
            raise RopeError(f"tables for {_grid(self.rope_grid)} tokens met {_grid((rows, columns))}; {cure}")
        qkv = self.qkv(x).reshape(len(x), rows * columns, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, tokens, head_dim)
        y = F.scaled_dot_product_attention(*self._apply_rope(q, k), v.contiguous())
        result: Tensor = self.proj(y.transpose(1, 2).reshape(x.shape))
        return result

    def _apply_rope(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self._rotate(q), self._rotate(k)

    def _rotate(self, x: Tensor) -> Tensor:
        """x (B, heads, tokens, head_dim): channels 2i and 2i + 1 are one complex number, turned by the table.

        As one complex product: nine real kernels take five times as long, unless a compiler makes one of them.
        """
        pairs = x.float().unflatten(-1, (-1, 2))
        if torch.compiler.is_compiling():
            (real, imaginary), (cos, sin) = pairs.unbind(-1), self.rope.unbind(-1)
            turned = torch.stack((real * cos - imaginary * sin, real * sin + imaginary * cos), dim=-1)
        else:
            turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(self.rope))
        return turned.flatten(-2).type_as(x)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RealAttention":
        """Moves go along, casts do not; from the meta device the tables are computed, not left empty."""
        super()._apply(fn, recurse)
        self.set_tables(*self.rope_grid)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *arguments: object) -> None:
        """SAM 3's files carry tables made at 1008 pixels; they are no weights, and ours follow the grid."""
        for name in TABLES:
            state_dict.pop(prefix + name, None)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def table_of(attention: Attention, rows: int, columns: int) -> Tensor:
    """The table (rows * columns, head_dim / 2), complex64, by sam3's own function: x runs along the columns.

    In float32 like a trunk built for that grid, so that the two are the same bit for bit.
    """
    scale = scale_of(attention, rows, columns)
    table: Tensor = attention.compute_cis(end_x=columns, end_y=rows, scale_pos=scale)
    return table


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
    """window / grid for interpolated RoPE, else 1.

    SAM 3 itself makes square tables only. For another grid the longer side counts: both axes keep one scale, and no
    position lies outside the window that the encoder was pretrained with.
    """
    return float(attention.rope_pt_size[0] / max(rows, columns)) if attention.rope_interp else 1.0


def attentions(trunk: nn.Module) -> list[tuple[int, Attention, bool]]:
    """(block index, its attention, whether it is windowed) for each block of the trunk.

    Raises RopeError for a module that is no trunk of SAM 3; it names the trunk inside, where there is one.
    """
    if not _is_trunk(trunk):
        raise RopeError(_not_a_trunk(trunk))
    return [(i, block.attn, block.window_size > 0) for i, block in enumerate(_blocks(trunk))]


def set_grid(
    trunk: nn.Module, grid: int | Sequence[int] | None = None, *, pixels: int | Sequence[int] | None = None
) -> None:
    """Regenerate the tables of the global blocks in place for another grid, with the right scale.

    Windowed blocks see windows, whatever the grid: their tables stay. Works before and after `make_real`.

    Args:
        trunk: sam3's `ViT`, `model.backbone.vision_backbone.trunk` of a whole model.
        grid: (rows, columns) of tokens, or one number for both.
        pixels: instead of `grid`, (height, width) of the frames, `images.shape[-2:]`, or one number for both.

    Raises:
        RopeError: a side in `pixels` that is no multiple of the patch (its last pixels would be dropped), or no trunk.
    """
    if (grid is None) == (pixels is None):
        raise TypeError("set_grid: expected either grid, in tokens, or pixels=")
    blocks = attentions(trunk)
    if pixels is not None:
        frame, patch = _pair(pixels), patch_of(trunk)
        if lost := dropped(frame, patch):
            raise RopeError(lost)
        rows, columns = frame[0] // patch, frame[1] // patch
    else:
        rows, columns = _pair(grid)
    if rows < 1 or columns < 1:
        raise RopeError(f"a grid of {_grid((rows, columns))} tokens: expected one at least")
    for _, attention, windowed in blocks:
        if windowed:
            continue
        attention.input_size = rows, columns
        if isinstance(attention, RealAttention):
            attention.set_tables(rows, columns)
        else:
            _make_table(attention, rows, columns)


def make_tables(trunk: nn.Module) -> None:
    """Compute the tables of a trunk that was built on the meta device, for the grids that it was built for."""
    for _, attention, _ in attentions(trunk):
        _make_table(attention, *attention.input_size)


def make_real(trunk: nn.Module) -> None:
    """Swap every attention of the trunk for `RealAttention`, in place; weights, names and adapters stay as they are.

    Raises RopeError for a module that is no trunk of SAM 3, such as the whole model, and for one whose attention has
    more than RoPE, which SAM 3's never has.
    """
    for i, attention, _ in attentions(trunk):
        if not attention.use_rope or attention.use_rel_pos or attention.cls_token:
            raise RopeError(f"blocks.{i}.attn: expected RoPE alone, without relative positions or a class token")
        if not isinstance(attention, RealAttention):
            for name in TABLES:
                attention._buffers.pop(name, None)
            attention.__class__ = RealAttention
            attention.set_tables(*attention.input_size)


@contextmanager
def explain() -> Iterator[None]:
    """Turn SAM 3's bare assertion, raised anywhere inside the block, into one sentence of cause and cure.

    Warns (UserWarning) where a trunk runs and its output is wrong: frames of which pixels are dropped, and frames whose
    grid has as many tokens as the one that the tables were made for.
    Raises RopeError instead of that AssertionError; every other exception passes through untouched.
    """
    handle = register_module_forward_hook(_warn)
    try:
        yield
    except AssertionError as error:
        failure = failure_of(error)
        if failure is None and ASSERTS not in str(error):  # DataParallel raises a copy that has the traceback as text
            raise
        raise RopeError(str(failure or REPLICA)) from error
    finally:
        handle.remove()


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


def _make_table(attention: Attention, rows: int, columns: int) -> None:
    """Replace sam3's own buffers by those for a grid of rows x columns tokens, on the device of the weights."""
    table = table_of(attention, rows, columns).to(next(attention.parameters()).device)
    for name, values in zip(TABLES, (table, table.real, table.imag), strict=True):
        if name in attention._buffers:
            setattr(attention, name, values)


def _warn(module: nn.Module, inputs: tuple[object, ...], _output: object) -> None:
    """A forward hook of all modules: what a trunk did wrong without an error."""
    if not isinstance(module, ViT) or not inputs or not isinstance(inputs[0], Tensor):
        return
    pixels, patch = (inputs[0].shape[-2], inputs[0].shape[-1]), patch_of(module)
    if lost := dropped(pixels, patch):
        warnings.warn(lost, stacklevel=2)
    grid = pixels[0] // patch, pixels[1] // patch
    made_for = {tuple(attention.input_size) for _, attention, windowed in attentions(module) if not windowed}
    for other in sorted(made_for - {grid}):
        warnings.warn(
            f"frames of {size(pixels)} px are {_grid(grid)} tokens and meet position tables made for {_grid(other)}, "
            f"of as many: positions are wrong; call nightshift.rope.set_grid(trunk, pixels={pixels})",
            stacklevel=2,
        )


def _is_trunk(module: nn.Module) -> bool:
    blocks = _blocks(module)
    return bool(blocks) and all(isinstance(getattr(block, "attn", None), Attention) for block in blocks)


def _blocks(module: nn.Module) -> list[Any]:
    blocks = getattr(module, "blocks", None)
    return list(blocks) if isinstance(blocks, nn.ModuleList) else []


def _not_a_trunk(module: object) -> str:
    name = type(module).__name__
    if isinstance(module, nn.Module):
        inside = next((path for path, part in module.named_modules() if _is_trunk(part)), None)
        if inside:
            return f"{name} is not SAM 3's trunk, but has it inside: give model.{inside}"
    return f"{name} is not SAM 3's trunk: expected a sam3.model.vitdet.ViT, model.backbone.vision_backbone.trunk"


def _pair(sides: int | Sequence[int] | None) -> tuple[int, int]:
    rows, columns = (sides, sides) if isinstance(sides, int) else sides or (0, 0)
    return int(rows), int(columns)


def _grid(grid: tuple[int, int]) -> str:
    return f"{grid[0]} x {grid[1]}"
