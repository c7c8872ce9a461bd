"""Finds frames that are probably of one cine or of one patient, where the source has no patient ids.

A near duplicate (near_duplicates.py) is one frame saved twice. Two frames of one cine differ by the heart's motion and
by the contrast, so they are compared with more tolerance: a pattern is the frame at 32 x 32, its middle frequencies,
clipped so that the edge of a collimator does not dominate. The similarity of two frames is the largest correlation of
the middle of one pattern with the other, over all shifts of up to 4 of these pixels (an eighth of the frame).

Measured on the 40 real angiograms in fercer/Coronary: the four pairs that show one vessel tree in one view (002 and
003, 005 and 006, 009 and 012, 014 and 015) have 0.82 to 0.91, all other 776 pairs at most 0.66. On 180 simulated cases:
neighbouring frames of one cine at least 0.91, frames of different patients at most 0.58. SIMILAR lies between.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from nightshift.ingest.record import Pixels

    Floats = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
    Integers = np.ndarray[tuple[int, ...], np.dtype[np.intp]]
    Flags = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]

SIDE, MARGIN = 32, 0.03  # pixels of a pattern; share of the frame that is left out on each side
FINE, COARSE = 0.7, 3.0  # sigmas of the band-pass, in pixels of a pattern
CLIP = 2.0  # in medians of a pattern's absolute values
SHIFT = 4  # pixels of a pattern
SIMILAR = 0.75
CANDIDATES = 20  # frames that each one is compared with, shifted: those most like it without a shift
BLOCK = 1024  # rows of a product: it takes BLOCK x cases x 4 bytes

Pair = tuple[int, int, float]


def pattern(frame: Pixels) -> Floats:
    """(H, W) uint8 -> (32, 32) float32, what `similar_pairs` compares."""
    import numpy as np
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    height, width = frame.shape
    box = (width * MARGIN, height * MARGIN, width * (1 - MARGIN), height * (1 - MARGIN))
    small = Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.BOX, box=box)
    pixels = np.asarray(small, dtype=np.float32)
    band = gaussian_filter(pixels, FINE) - gaussian_filter(pixels, COARSE)
    clipped: Floats = np.clip(band / max(float(np.median(np.abs(band))), 1e-6), -CLIP, CLIP)
    return clipped


def similar_pairs(patterns: Sequence[Floats], units: Sequence[str], lone: Sequence[bool]) -> list[Pair]:
    """Pairs of frames that may be alike, as (i, j, similarity) with i < j, the most alike first.

    Each frame is compared with the CANDIDATES that are most like it without a shift, so that the time grows with their
    number and not with its square.

    Args:
        patterns: of n frames.
        units: patient, or case without a patient id, of each frame; two of one unit are not compared.
        lone: whether a frame has no patient id; two frames with one are not compared.
    """
    import numpy as np

    if not any(lone) or len(patterns) < 2:
        return []
    stack = np.stack(patterns)
    pairs = _candidates(stack, np.unique(np.array(units), return_inverse=True)[1], np.array(lone))
    partners: dict[int, list[int]] = {}
    for i, j in pairs:
        partners.setdefault(i, []).append(j)
        partners.setdefault(j, []).append(i)
    middles = _normalised(stack[:, SHIFT:-SHIFT, SHIFT:-SHIFT].reshape(len(stack), -1))
    best = dict.fromkeys(pairs, -1.0)
    for i, others in partners.items():
        views = np.lib.stride_tricks.sliding_window_view(stack[i], (SIDE - 2 * SHIFT,) * 2)
        shifted = _normalised(views.reshape(-1, middles.shape[1]))
        for j, value in zip(others, (shifted @ middles[others].T).max(axis=0), strict=True):
            pair = (min(i, j), max(i, j))
            best[pair] = max(best[pair], float(value))
    rounded = [(i, j, round(value, 3)) for (i, j), value in best.items()]
    return sorted(rounded, key=lambda pair: (-pair[2], pair[:2]))


def together(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The name of its group for each unit in `pairs`: units linked by pairs, also through others, are one group."""
    parent: dict[str, str] = {}

    def root_of(unit: str) -> str:
        while parent.setdefault(unit, unit) != unit:
            unit = parent[unit]
        return unit

    for first, second in pairs:
        low, high = sorted((root_of(first), root_of(second)))
        parent[high] = low
    return {unit: root_of(unit) for unit in parent}


def _candidates(
    stack: Floats, units: np.ndarray[tuple[int, ...], np.dtype[np.intp]], lone: Floats
) -> list[tuple[int, int]]:
    import numpy as np

    flat = _normalised(stack.reshape(len(stack), -1))
    count = min(CANDIDATES, len(flat) - 1)
    pairs: set[tuple[int, int]] = set()
    for start in range(0, len(flat), BLOCK):
        rows = slice(start, start + BLOCK)
        alike = flat[rows] @ flat.T
        alike[(units[rows, None] == units[None]) | ~np.logical_or(lone[rows, None], lone[None])] = -2
        which = np.argpartition(-alike, count - 1, axis=1)[:, :count]
        for row, columns in enumerate(which):
            i = start + row
            pairs |= {(min(i, j), max(i, j)) for j in columns.tolist() if alike[row, j] > -2}
    return sorted(pairs)


def _normalised(rows: Floats) -> Floats:
    """(n, m), each row of mean 0 and length 1, so that a product of two is their correlation."""
    import numpy as np

    centred = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    normalised: Floats = centred / np.maximum(lengths, 1e-6)
    return normalised
