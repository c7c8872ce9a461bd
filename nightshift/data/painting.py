"""Paints a mask onto a frame in a colour that one can see through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]


def paint_mask(frame: Pixels, mask: Mask, colour: Sequence[float], opacity: float = 0.55) -> Pixels:
    """The frame as (H, W, 3), uint8, with `colour` over the pixels of the mask.

    Args:
        frame: grey (H, W) or colours (H, W, 3), uint8, so that masks can be painted one after the other.
        mask: (H, W), bool.
        colour: red, green, blue, 0 to 255.
        opacity: share of the colour in a painted pixel; 1 covers the frame.
    """
    import numpy as np

    picture = np.repeat(frame[..., None], 3, axis=2) if frame.ndim == 2 else frame
    picture = picture.astype(np.float32)
    picture[mask] = (1 - opacity) * picture[mask] + opacity * np.array(colour, dtype=np.float64)
    return picture.round().astype(np.uint8)
