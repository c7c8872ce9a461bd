"""Draws cases of a data set as the pipeline reads them: a sheet of random cases, and pairs of similar frames."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import binary_dilation

from nightshift.carm import view_name
from nightshift.core.records import SimilarCase, SimilarPair
from nightshift.data.painting import paint_mask
from nightshift.ingest.record import Pixels, SourceCase
from nightshift.reporting.figures import STYLE, short, write_png

ROWS, COLUMNS = 6, 4
SIDE = 300  # pixels of a picture's longer side
GAP = 6  # pixels between the two pictures of a case
COLOUR = (230, 0, 110)  # of the mask: it stands out from any grey


def write_contact_sheet(path: Path, cases: list[SourceCase]) -> int:
    """Draw up to 24 of `cases`, always the same ones, as a PNG; return how many.

    Raises UserError for a case that cannot be read.
    """
    count = min(len(cases), ROWS * COLUMNS)
    chosen = [cases[i] for i in sorted(np.random.default_rng(0).choice(len(cases), count, replace=False))]
    pictures = []
    for case in chosen:
        frame, mask = case.read()
        view = view_name(*case.angles) if case.angles else "angles unknown"
        facts = (case.patient_id and f"patient {short(case.patient_id, 20)}", case.split, view)
        size = f"{frame.shape[1]} x {frame.shape[0]} px, mask {mask.mean():.1%}"
        pictures.append(
            (f"{short(case.case_id, 40)}\n{', '.join(filter(None, facts))}; {size}", beside_mask(frame, mask))
        )
    _write(path, pictures, COLUMNS)
    return count


def write_pairs(path: Path, pairs: list[SimilarPair], cases: list[SourceCase]) -> None:
    """Draw each pair of similar frames side by side, as a PNG. Raises UserError for a case that cannot be read."""
    by_id = {case.case_id: case for case in cases}
    pictures = []
    for pair in pairs:
        both = [enlarged(by_id[case.case_id].read()[0]) for case in (pair.first, pair.second)]
        height = max(frame.shape[0] for frame in both)
        padded = [np.pad(frame, ((0, height - frame.shape[0]), (0, 0)), constant_values=255) for frame in both]
        picture = np.hstack([padded[0], np.full((height, GAP), 255, np.uint8), padded[1]])
        pictures.append((f"correlation {pair.correlation:.2f}\n{_name(pair.first)} and {_name(pair.second)}", picture))
    _write(path, pictures, 2)


def beside_mask(frame: Pixels, mask: Pixels) -> Pixels:
    """The frame, and beside it the frame with the mask and its outline.

    Args:
        frame: (H, W), uint8.
        mask: (H, W), 0 or not.

    Returns:
        (h, 2 w + GAP, 3), uint8, the longer of h and w being SIDE.
    """
    grey = enlarged(frame)
    resized = Image.fromarray(mask).resize((grey.shape[1], grey.shape[0]), Image.Resampling.NEAREST)
    inside = np.asarray(resized) > 0
    plain = np.repeat(grey[..., None], 3, axis=2)
    marked = paint_mask(grey, inside, COLOUR, opacity=0.35)
    marked = paint_mask(marked, binary_dilation(inside) & ~inside, COLOUR, opacity=1)
    return np.hstack([plain, np.full((grey.shape[0], GAP, 3), 255, np.uint8), marked])


def enlarged(frame: Pixels) -> Pixels:
    """(H, W) -> (h, w), uint8, the longer of h and w being SIDE."""
    scale = SIDE / max(frame.shape)
    size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))


def _name(case: SimilarCase) -> str:
    return f"{short(case.case_id, 30)} ({case.split})"


def _write(path: Path, pictures: list[tuple[str, Pixels]], columns: int) -> None:
    rows = -(-len(pictures) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * columns, 2.55 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False)
        for axes in panels.flat:
            axes.set_axis_off()
        for axes, (title, picture) in zip(panels.flat, pictures, strict=False):  # the last row may be short
            axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
            axes.set_title(title, fontsize=8)
        write_png(path, figure)
