"""A contact sheet: random cases of a data set as the pipeline reads them, the frame beside its mask drawn upon it."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import binary_dilation

from nightshift import carm
from nightshift.reporting.figures import STYLE, short, write_png
from nightshift.ingest.record import RawCase

ROWS, COLUMNS = 6, 4
SIDE = 300  # pixels of a picture's longer side
COLOUR = np.array([230.0, 0.0, 110.0])  # of the mask: seen on any grey


def write_sheet(path: Path, cases: list[RawCase]) -> int:
    """Up to 24 of `cases`, always the same ones -> PNG; how many. Raises UserError for a case that cannot be read."""
    count = min(len(cases), ROWS * COLUMNS)
    chosen = [cases[i] for i in sorted(np.random.default_rng(0).choice(len(cases), count, replace=False))]
    rows = -(-count // COLUMNS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2 * COLUMNS, 2.55 * rows), layout="constrained")
        for axes in (panels := figure.subplots(rows, COLUMNS, squeeze=False)).flat:
            axes.set_axis_off()
        for axes, case in zip(panels.flat, chosen, strict=False):  # a last row may be short
            frame, mask = case.read()
            axes.imshow(drawn(frame, mask))
            view = carm.name(*case.angles) if case.angles else "angles unknown"
            who = (case.patient_id and f"patient {short(case.patient_id, 20)}", case.split, view)
            size = f"{frame.shape[1]} x {frame.shape[0]} px, mask {mask.mean():.1%}"
            axes.set_title(f"{short(case.case_id, 40)}\n{', '.join(filter(None, who))}; {size}", fontsize=8)
        write_png(path, figure)
    return count


def drawn(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Frame and mask (H, W) -> the frame, and beside it the frame with the mask's outline, (h, 2 w + gap, 3) uint8."""
    scale = SIDE / max(frame.shape)
    size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
    grey = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC))
    inside = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)) > 0
    plain = np.repeat(grey[..., None].astype(np.float32), 3, axis=2)
    marked = plain.copy()
    marked[inside] = 0.65 * marked[inside] + 0.35 * COLOUR
    marked[binary_dilation(inside) & ~inside] = COLOUR
    gap = np.full((size[1], 6, 3), 255.0)
    return np.hstack([plain, gap, marked]).round().astype(np.uint8)
