"""Reads a manifest: a CSV with one row per case, in the user's own schema, that names cines, masks and contours."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.config.presets import Manifest
from nightshift.console.errors import UserError
from nightshift.ingest.contours import draw_mask, has_edges, read_contours, view_of
from nightshift.ingest.images import SUFFIXES, mask_picture, read_array
from nightshift.ingest.paths import resolved
from nightshift.ingest.record import Problems, SourceCase, checked, error_prefix
from nightshift.ingest.user_table import Row, check_width, frame_index, groups, read_rows, spacing
from nightshift.ingest.windowing import Window, to_uint8, window_of

if TYPE_CHECKING:
    from nightshift.ingest.record import Pixels

COLUMNS = (
    "patient_id", "case_id", "cine_path", "frame_index", "vessel_mask_actual_path", "contours_path", "split",
)  # fmt: skip
FILLED = ("patient_id", "case_id", "cine_path", "frame_index", "contours_path")


def manifest_cases(data: Manifest, root: Path, problems: Problems) -> list[SourceCase]:
    """A case per row of the manifest, in its order; no pixel is read.

    Args:
        data: the preset.
        root: the folder that the preset's paths are relative to.
        problems: gets a line for each row with a mistake in it, which is left out.

    Raises:
        UserError: the file is not a manifest.
    """
    path, cases = root / data.path, []
    needed = dict.fromkeys(data.mask if name == "vessel_mask_actual_path" else name for name in COLUMNS)
    moved = {old: root / new for old, new in data.rewrite.items()}
    for where, row in read_rows(path, list(needed), "manifest"):
        with problems.collecting(), error_prefix(where):
            cases.append(_case(data, path.parent, moved, where, row))
    return cases


def _case(data: Manifest, folder: Path, moved: dict[str, Path], where: str, row: Row) -> SourceCase:
    check_width(row)
    for column in FILLED:
        if not row[column]:
            raise UserError(f"{column} is empty")
    index = frame_index(row["frame_index"])
    cine, contours = (resolved(row[column], folder, moved) for column in ("cine_path", "contours_path"))
    mask = resolved(row[data.mask], folder, moved) if row[data.mask] else None
    content = read_contours(contours, edges=mask is None)
    if mask is None and not has_edges(content):
        raise UserError(f"{data.mask} is empty, and {contours} has no left_edge and right_edge to draw a mask from")
    window = window_of(data.window)

    def read() -> tuple[Pixels, Pixels]:
        with error_prefix(where):
            frame = _frame(cine, index, window)
            if mask is None:
                return frame, draw_mask(read_contours(contours), frame.shape, contours)
            return checked(frame, _mask(mask), mask)

    return SourceCase(
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


def _frame(path: Path, index: int, window: Window) -> Pixels:
    cine = read_array(path)
    if cine.ndim not in (3, 4):
        raise UserError(f"{path}: {cine.dtype} of shape {cine.shape}; expected (T, H, W), or (T, H, W, C) with colours")
    if cine.dtype.kind == "b" or (cine.ndim == 3 and cine.shape[2] <= 4):
        raise UserError(f"{path}: {cine.dtype} of shape {cine.shape} is a mask or one frame in colour; expected a cine")
    if index >= len(cine):
        raise UserError(f"frame_index {index} but {path} has {len(cine)} frames")
    return to_uint8(cine[index], window, path, cine)


def _mask(path: Path) -> Pixels:
    """(H, W), numbers of any type and value; `checked` makes them 0 and 1."""
    import numpy as np

    if path.suffix.lower() in SUFFIXES:
        return mask_picture(path)
    mask = read_array(path)
    if mask.ndim != 2 or mask.dtype.kind not in "buif" or not np.isfinite(mask).all():
        raise UserError(f"{path}: {mask.dtype} of shape {mask.shape}; expected numbers with 2 dimensions (H, W)")
    return mask
