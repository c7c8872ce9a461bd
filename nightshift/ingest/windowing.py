"""Pixels of any kind as eight-bit grey, always in the same way.

uint8 is taken as it is. All else (10 to 16 bits, floats) is a straight line from a window's black to its white, what
lies outside is cut. Without a window it is the lowest and the highest value of the whole cine (of the picture, where
there is no cine): so viewers show a series that says nothing of its window. Nothing is cut then, and the frames of a
cine keep their brightness among each other.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.console.errors import UserError

if TYPE_CHECKING:  # numpy is imported where a file is read: `inventory` lists files at every `dvc repro`
    import numpy as np

Window = tuple[float, float] | None


def grey(frame: np.ndarray, window: Window, path: Path, cine: np.ndarray | None = None) -> np.ndarray:
    """`frame` (H, W) or (H, W, C) of the file `path` as (H, W), uint8; `cine`: all that it is of, (T, H, W[, C]).

    C is 1 (grey), 3 (RGB, to luma) or 4 (alpha is ignored). Raises UserError: another C, no real numbers, not finite.
    """
    import numpy as np

    if frame.ndim == 3 and frame.shape[2] not in (1, 3, 4):
        raise UserError(f"{path}: {frame.shape[2]} channels in a frame of {frame.shape}; expected 1, 3 or 4 at the end")
    if frame.dtype.kind not in "uif":
        raise UserError(f"{path}: pixels of type {frame.dtype}; expected uint8, uint16 or float")
    if frame.ndim == 3:
        frame, cine = _opaque(frame), None if cine is None else _opaque(cine)
    if frame.dtype != np.uint8:
        whole = frame if cine is None or window else cine
        low, high = window or (float(whole.min()), float(whole.max()))
        if not np.isfinite([low, high]).all() or not np.isfinite(frame).all():
            raise UserError(f"{path}: pixels that are not finite numbers (NaN or infinite)")
        scaled = (frame.astype(np.float64) - low) * (255 / (high - low)) if high > low else np.zeros(frame.shape)
        frame = np.clip(np.round(scaled), 0, 255).astype(np.uint8)
    return frame if frame.ndim == 2 else _luma(frame)


def _opaque(pixels: np.ndarray) -> np.ndarray:
    """(..., C) without alpha, and without the axis where C is 1."""
    return pixels[..., :3] if pixels.shape[-1] > 1 else pixels[..., 0]


def _luma(frame: np.ndarray) -> np.ndarray:
    """ITU-R 601, rounded as Pillow does: a PNG and an array of the same colours give the same grey."""
    import numpy as np

    red, green, blue = np.moveaxis(frame.astype(np.uint32), 2, 0)
    return ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(np.uint8)
