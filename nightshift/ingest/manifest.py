"""A manifest: a CSV with one row per case, in the user's own schema."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.ingest.contours import drawn, has_edges, read_contours, view_of
from nightshift.console.errors import UserError
from nightshift.ingest.windowing import Window, grey
from nightshift.ingest.paths import resolved
from nightshift.ingest.images import SUFFIXES, mask_picture
from nightshift.ingest.record import Problems, RawCase, checked
from nightshift.ingest.user_table import Row, at, check_width, groups, read_rows, spacing
from nightshift.config.params import Manifest

if TYPE_CHECKING:
    import numpy as np

COLUMNS = (
    "patient_id", "case_id", "cine_path", "frame_index", "vessel_mask_actual_path", "contours_path", "split",
)  # fmt: skip
FILLED = ("patient_id", "case_id", "cine_path", "frame_index", "contours_path")


def manifest_cases(data: Manifest, root: Path, problems: Problems) -> list[RawCase]:
    """A case per row; rows with mistakes in them go to `problems`. The preset's paths are relative to `root`.

    Raises UserError where the file is no manifest.
    """
    path, cases = root / data.path, []
    needed = dict.fromkeys(data.mask if name == "vessel_mask_actual_path" else name for name in COLUMNS)
    moved = {old: root / new for old, new in data.rewrite.items()}
    for where, row in read_rows(path, list(needed), "manifest"):
        with problems.kept(), at(where):
            cases.append(_case(data, path.parent, moved, where, row))
    return cases


def _case(data: Manifest, folder: Path, moved: dict[str, Path], where: str, row: Row) -> RawCase:
    check_width(row)
    for column in FILLED:
        if not row[column]:
            raise UserError(f"{column} is empty")
    if not (row["frame_index"].isascii() and row["frame_index"].isdecimal()) or len(row["frame_index"]) > 9:
        raise UserError(f"frame_index '{row['frame_index']:.20}' is not a whole number from 0")
    index = int(row["frame_index"])
    cine, contours = (resolved(row[column], folder, moved) for column in ("cine_path", "contours_path"))
    mask = resolved(row[data.mask], folder, moved) if row[data.mask] else None
    content = read_contours(contours, edges=mask is None)
    if mask is None and not has_edges(content):
        raise UserError(f"{data.mask} is empty, and {contours} has no left_edge and right_edge to draw a mask from")
    window = None if data.window == "own" else data.window

    def read() -> tuple[np.ndarray, np.ndarray]:
        with at(where):
            frame = _frame(cine, index, window)
            if mask is None:
                return frame, drawn(read_contours(contours), frame.shape, contours)
            return checked(frame, _mask(mask), mask)

    return RawCase(
        case_id=row["case_id"],
        patient_id=row["patient_id"],
        angles=view_of(content, contours),
        split=row["split"],
        files=(cine, contours) if mask is None else (cine, mask, contours),
        read=read,
        where=where,
        spacing=spacing(row.get("spacing", "")),
        groups=groups(row, {*COLUMNS, data.mask, "spacing"}),
    )


def _frame(path: Path, index: int, window: Window) -> np.ndarray:
    cine = _array(path)
    if cine.ndim not in (3, 4):
        raise UserError(f"{path}: {cine.dtype} of shape {cine.shape}; expected (T, H, W), or (T, H, W, C) with colours")
    if cine.dtype.kind == "b" or (cine.ndim == 3 and cine.shape[2] <= 4):
        raise UserError(f"{path}: {cine.dtype} of shape {cine.shape} is a mask or one frame in colour; expected a cine")
    if index >= len(cine):
        raise UserError(f"frame_index {index} but {path} has {len(cine)} frames")
    return grey(cine[index], window, path, cine)


def _mask(path: Path) -> np.ndarray:
    """(H, W), of any values yet."""
    import numpy as np

    if path.suffix.lower() in SUFFIXES:
        return mask_picture(path)
    mask = _array(path)
    if mask.ndim != 2 or mask.dtype.kind not in "buif" or not np.isfinite(mask).all():
        raise UserError(f"{path}: {mask.dtype} of shape {mask.shape}; expected numbers with 2 dimensions (H, W)")
    return mask


def _array(path: Path) -> np.ndarray:
    import numpy as np

    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged head makes NumPy raise almost anything
        raise UserError(f"{path}: not readable as a NumPy array: {error}") from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: an archive of arrays; expected one array, saved with numpy.save")
    return array
