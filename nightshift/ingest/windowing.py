"""Maps pixels of any type to eight-bit grey values.

uint8 is taken as it is. Other types (10 to 16 bits, floats) are mapped linearly from the black and the white of a
window to 0 and 255, and clipped. Without a window, black and white are the lowest and the highest value of the whole
cine (of the picture, where there is no cine), as viewers show a series without a window of its own: nothing is clipped
then, and the frames of a cine keep their brightness relative to each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nightshift.console.errors import UserError

if TYPE_CHECKING:  # numpy is imported where a file is read: `inputs` lists files at every `dvc repro`
    import numpy as np

    from nightshift.ingest.record import Pixels

    Array = np.ndarray[tuple[int, ...], np.dtype[Any]]

Window = tuple[float, float] | None  # grey values of black and white; None: of the cine itself


def window_of(setting: Literal["own"] | Sequence[float]) -> Window:
    """The `window` of a data preset."""
    return None if isinstance(setting, str) else (setting[0], setting[1])


def to_uint8(frame: Array, window: Window, path: Path, cine: Array | None = None) -> Pixels:
    """Grey values (H, W), uint8.

    Args:
        frame: (H, W) or (H, W, C), with C of 1 (grey), 3 (RGB, converted to luma) or 4 (alpha is ignored).
        window: grey values of black and white, where the frame is not uint8.
        path: the frame's file, for messages.
        cine: all frames of the file, (T, H, W) or (T, H, W, C), for the range where there is no window.

    Raises:
        UserError: another C, pixels that are no real numbers, pixels that are not finite.
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


def _opaque(pixels: Array) -> Array:
    """(..., C) -> (..., 3) without alpha, or (...) where C is 1."""
    return pixels[..., :3] if pixels.shape[-1] > 1 else pixels[..., 0]


def _luma(frame: Array) -> Pixels:
    """(H, W, 3) -> (H, W): ITU-R 601, rounded as Pillow does, so that a PNG and an array of its colours agree."""
    import numpy as np

    red, green, blue = np.moveaxis(frame.astype(np.uint32), 2, 0)
    luma: Pixels = ((19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16).astype(np.uint8)
    return luma
