"""Whether an attention rotates its queries by the right positions, which the meta device cannot tell.

Real forwards of a shallow trunk, compared with the right answer in float64; the cause is read from the table it holds.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from nightshift.backbone import encoder
from nightshift.backbone.rope import Attention, RealAttention, attentions, rope_table, scale_of
from nightshift.backbone.rope_error import patch_of

TOLERANCE = 0.02  # relative: bfloat16 queries differ by 0.004, a table without its imaginary part by 0.4


@dataclass(frozen=True)
class Wrong:
    """The first block whose queries are turned wrongly: relative error (2-norm), and the cause."""

    block: int
    error: float
    cause: str


def first_wrong(trunk: encoder.ViT, images: Tensor) -> Wrong | None:
    """Run `images` (B, 3, H, W) and check what every attention makes of its queries; None if all is right.

    Causes: `imaginary_lost` (a table that was complex is real), `unscaled` (positions not interpolated), `positions`
    (made for another grid with as many tokens), `values` (anything else), `pixels_dropped` (see `drops_pixels`).
    """
    patch = patch_of(trunk)
    rows, columns = images.shape[-2] // patch, images.shape[-1] // patch
    with torch.no_grad(), _recorded(trunk) as queries:
        trunk(images)
    for block, attention, windowed in attentions(trunk):
        window = attention.input_size[0]
        grid: tuple[int, int] = (window, window) if windowed else (rows, columns)
        before, after = queries[block]
        right = _turned(before.double(), rope_table(*grid, attention.head_dim, attention.rope_theta,
                                                    scale_of(attention, *grid)))  # fmt: skip
        error = float((after.double() - right).norm() / right.norm())
        if not error <= TOLERANCE:
            return Wrong(block, error, _cause(attention, grid))
    return Wrong(0, 0.0, "pixels_dropped") if drops_pixels(trunk, images) else None


def drops_pixels(trunk: encoder.ViT, images: Tensor) -> bool:
    """Whether the last row and column of pixels make no difference to the tokens."""
    changed = images.clone()
    changed[..., -1, :] += 1
    changed[..., :, -1] += 1
    with torch.no_grad():
        return torch.equal(trunk.patch_embed(images), trunk.patch_embed(changed))


@contextmanager
def _recorded(trunk: encoder.ViT) -> Iterator[dict[int, tuple[Tensor, Tensor]]]:
    """Queries (heads of the last window only) before and after the rotation, by block; the trunk is left as it was."""
    queries: dict[int, tuple[Tensor, Tensor]] = {}

    def record(block: int, attention: Attention) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
        def apply(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
            turned: tuple[Tensor, Tensor] = type(attention)._apply_rope(attention, q, k)
            queries[block] = q[-1:], turned[0][-1:]
            return turned

        return apply

    for block, attention, _ in attentions(trunk):
        attention._apply_rope = record(block, attention)
    try:
        yield queries
    finally:
        for _, attention, _ in attentions(trunk):
            del attention._apply_rope


def _turned(x: Tensor, table: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2).contiguous())
    return torch.view_as_real(pairs * table).flatten(-2)


def _cause(attention: Attention, grid: tuple[int, int]) -> str:
    if isinstance(attention, RealAttention):
        held = torch.view_as_complex(attention.rope.double())
    elif getattr(attention, "use_rope_real", False):
        held = torch.complex(attention.freqs_cis_real.double(), attention.freqs_cis_imag.double())
    elif not attention.freqs_cis.is_complex():
        return "imaginary_lost"
    else:
        held = attention.freqs_cis.to(torch.complex128)
    make: tuple[int, float] = (attention.head_dim, attention.rope_theta)
    if _close(held, rope_table(*grid, *make, 1.0)):
        return "unscaled"
    tokens = grid[0] * grid[1]
    for rows in (n for n in range(1, tokens + 1) if tokens % n == 0):
        other = rows, tokens // rows
        if other != grid and _close(held, rope_table(*other, *make, scale_of(attention, *other))):
            return "positions"
    return "values"


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool((a - b).abs().max() < 1e-3)
