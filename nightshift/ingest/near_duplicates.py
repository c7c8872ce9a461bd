"""Is it the same picture? Frames are told apart by a sketch that saving anew, brightness and size do not change.

A sketch is the middle of the frame, where no collimator's edge is, at 32 x 32, without what is coarser than 2 of these
pixels. Correlations of sketches, measured on 1,050 simulated and 40 real frames: of different patients at most 0.46; of
a frame with itself at least 0.93 as a JPEG of quality 30, 0.94 at half the size, 0.98 at 102 %, and 0.86 where the
picture is 2 % larger on the same field.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SIDE, MARGIN, BLUR = 32, 0.15, 2.0  # pixels of a sketch, share of the frame on each side, pixels of a sketch
ALIKE = 0.7  # correlation from which two frames are one
BLOCK = 1024  # rows of a product: it takes BLOCK x cases x 4 bytes


def digest(array: np.ndarray) -> bytes:
    """The same for two arrays (H, W) of the same size and pixels, and for no others."""
    return hashlib.sha256(f"{array.shape}".encode() + array.tobytes()).digest()


def sketch(frame: np.ndarray) -> np.ndarray:
    """(H, W) uint8 -> (1024,) float32 of mean 0 and length 1, so that a product of two is their correlation."""
    import numpy as np
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    height, width = frame.shape
    box = (width * MARGIN, height * MARGIN, width * (1 - MARGIN), height * (1 - MARGIN))
    small = Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BOX, box=box)
    fine = np.asarray(small, dtype=np.float32)
    fine = (fine - gaussian_filter(fine, BLUR)).ravel()
    fine -= fine.mean()
    return fine / max(float(np.linalg.norm(fine)), 1e-6)


def nearest(
    some: np.ndarray, others: np.ndarray, units: np.ndarray, other_units: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of each of `some` sketches (M, 1024): which of the `others` (N, 1024) is most like it, and their correlation.

    Two of one unit, numbers (M,) and (N,), are not compared: their correlation is -1. None of the two is empty.
    """
    import numpy as np

    which, how = np.zeros(len(some), int), np.full(len(some), -1.0, np.float32)
    for start in range(0, len(some), BLOCK):
        part = slice(start, start + BLOCK)
        alike = some[part] @ others.T
        alike[units[part, None] == other_units[None]] = -1
        which[part], how[part] = alike.argmax(axis=1), alike.max(axis=1)
    return which, how
