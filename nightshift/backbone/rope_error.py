"""SAM 3's RoPE assertion, read from a traceback: where it failed, why, and what to do about it."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

from torch import Tensor, nn

ASSERTS = "reshape_for_broadcast"  # the function of sam3


class RopeError(RuntimeError):
    """What SAM 3's position tables cannot do, in a sentence: cause and cure."""


@dataclass(frozen=True)
class Call:
    """What the trunk was doing: the block (-1: unknown), height and width of its images, and its patch in pixels."""

    block: int = -1
    pixels: tuple[int, int] | None = None
    patch: int = 0


@dataclass(frozen=True)
class Failure:
    """A failed assertion: the shape of the table there, the shape that the tokens asked for, and the call."""

    table_shape: tuple[int, ...]
    expected_shape: tuple[int, ...]
    call: Call = Call()

    @property
    def block(self) -> int:
        """The block that failed, -1 where the model is not run by sam3's own `ViT.forward`."""
        return self.call.block

    @property
    def cause(self) -> str:
        """Read from the shapes: a real view of a complex table ends in (channels, 2); else the token counts differ."""
        if self.table_shape == (*self.expected_shape, 2):
            return "replica_real_view"
        return "grid"

    def __str__(self) -> str:
        where = f"block {self.block}: " if self.block >= 0 else ""
        shapes = f"(table {self.table_shape}, tokens {self.expected_shape})"
        if self.cause == "replica_real_view":
            return (
                f"{where}a DataParallel replica holds the complex position table as a real view {shapes}; "
                f"{REPLICA_CURE}"
            )
        rows, tokens = self.table_shape[0], self.expected_shape[0]
        return (
            f"{where}the position table has {rows} rows, made for another frame size, and meets {tokens} tokens "
            f"{shapes}; {grid_cure(self.call, tokens, rows)}"
        )


REPLICA_CURE = (
    "call nightshift.rope.make_real(trunk) before DataParallel, or wrap only the trained head, or use torch >= 2.11"
)
REPLICA = (
    "the position table of a DataParallel replica does not fit its tokens (its shapes are lost between threads): call "
    "nightshift.rope.make_real(trunk) and set_grid(trunk, pixels=images.shape[-2:]) before DataParallel"
)


def grid_cure(call: Call, tokens: int, table_rows: int) -> str:
    """What to do about tables of `table_rows` rows that met `tokens` tokens: the sizes that are right, and the call."""
    if call.pixels is None:
        side = math.isqrt(tokens)
        grid = side if side**2 == tokens else "(rows, columns)"
        return f"call nightshift.rope.set_grid(trunk, {grid}), or feed the size that the tables were made for"
    right = nearest_sizes(call.pixels, call.patch)
    cure = f"call nightshift.rope.set_grid(trunk, pixels={_argument(right)})"
    if right != call.pixels:
        cure = (
            f"{size(call.pixels)} px is no multiple of the patch, {call.patch} px: resize or pad the frames to "
            f"{size(right)} px and {cure}"
        )
    side = math.isqrt(table_rows)
    made_for = f"{side * call.patch} px" if side**2 == table_rows else "the size"
    return f"{cure}, or feed {made_for}, which the tables were made for"


def patch_of(trunk: nn.Module) -> int:
    """Side of the trunk's patches in pixels."""
    embedding: Any = trunk.patch_embed
    return int(embedding.proj.stride[0])


def nearest_sizes(pixels: tuple[int, int], patch: int) -> tuple[int, int]:
    """Height and width, each the nearest multiple of the patch, one patch at least."""
    height, width = (max(patch, round(side / patch) * patch) for side in pixels)
    return height, width


def size(pixels: tuple[int, int]) -> str:
    """`1008` for a square, else `504 x 2016`."""
    return str(pixels[0]) if pixels[0] == pixels[1] else f"{pixels[0]} x {pixels[1]}"


def dropped(pixels: tuple[int, int], patch: int) -> str:
    """A clause on frames whose sides are no multiples of the patch, empty where they are.

    The patch embedding is a convolution without padding: what its stride does not reach is in no token.
    """
    rows, columns = (side % patch for side in pixels)
    if not rows and not columns:
        return ""
    return (
        f"of frames of {size(pixels)} px the last {rows} rows and {columns} columns of pixels are dropped, as a patch "
        f"is {patch} px; resize or pad them to {size(nearest_sizes(pixels, patch))} px"
    )


def failure_of(error: AssertionError) -> Failure | None:
    """Shapes and call from the stack frames that the error passed, None if it is not SAM 3's RoPE assertion.

    By the names of functions, never by lines, which move between versions of sam3.
    """
    frames = list(_frames(error.__traceback__))
    if not frames or frames[-1].f_code.co_name != ASSERTS:
        return None
    tensors = frames[-1].f_locals
    return Failure(tuple(tensors["freqs_cis"].shape), tuple(tensors["x"].shape[-2:]), call_of(frames))


def call_of(frames: Iterable[FrameType]) -> Call:
    """The call of the trunk among stack frames: block from the loop of `ViT.forward`, images from `Module.__call__`."""
    block, pixels, patch = -1, None, 0
    for frame in frames:
        trunk, name = frame.f_locals.get("self"), frame.f_code.co_name
        if not isinstance(trunk, nn.Module) or not hasattr(trunk, "blocks") or not hasattr(trunk, "patch_embed"):
            continue
        patch = patch_of(trunk)
        if name == "forward":
            block = frame.f_locals.get("i", -1)
        elif name == "_call_impl":
            given = (*frame.f_locals.get("args", ()), *frame.f_locals.get("kwargs", {}).values())
            images = given[0] if given else None
            if isinstance(images, Tensor) and images.ndim == 4:
                pixels = images.shape[-2], images.shape[-1]
    return Call(block, pixels, patch)


def _frames(trace: TracebackType | None) -> Iterator[FrameType]:
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _argument(pixels: tuple[int, int]) -> str:
    return str(pixels[0]) if pixels[0] == pixels[1] else str(pixels)
