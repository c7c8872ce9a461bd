"""Reads a manifest: a CSV with one row per case, in the user's own schema, that names cines, masks and contours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from nightshift.config.presets import Manifest
from nightshift.console.errors import UserError
from nightshift.data.locations import SPLITS
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
    needed = dict.fromkeys((*FILLED, *mask_columns(data), *(["split"] if data.split == "given" else [])))
    moved = {old: root / new for old, new in data.rewrite.items()}
    for where, row in read_rows(path, list(needed), "manifest"):
        with problems.collecting(), error_prefix(where):
            cases.append(_case(data, path.parent, moved, where, row))
    return cases


def mask_columns(data: Manifest) -> list[str]:
    """The columns of masks, each once."""
    return [data.mask] if isinstance(data.mask, str) else list(dict.fromkeys(data.mask.model_dump().values()))


def _case(data: Manifest, folder: Path, moved: dict[str, Path], where: str, row: Row) -> SourceCase:
    check_width(row)
    for column in FILLED:
        if not row[column]:
            raise UserError(f"{column} is empty")
    index, window = frame_index(row["frame_index"]), window_of(data.window)
    resolve = partial(resolved, folder=folder, moved=moved)
    cine, contours = resolve(row["cine_path"]), resolve(row["contours_path"])

    def in_part(part: str) -> SourceCase:
        with error_prefix(where):
            mask = _mask_file(data, row, part, contours, resolve)

        def read() -> tuple[Pixels, Pixels]:
            with error_prefix(where):
                frame = _frame(cine, index, window)
                if mask == contours:
                    return frame, draw_mask(read_contours(contours), frame.shape, contours)
                return checked(frame, _mask(mask), mask)

        return replace(case, split=part, files=_once(cine, mask, contours), read=read, in_part=None)

    case = SourceCase(
        case_id=row["case_id"],
        patient_id=row["patient_id"],
        angles=view_of(read_contours(contours, edges=False), contours),
        split="",
        files=_once(cine, contours),
        read=_in_no_part,
        where=where,
        spacing=spacing(row.get("spacing", "")),
        groups=groups(row, {*COLUMNS, *mask_columns(data), "spacing"}),
        in_part=in_part,
    )
    if data.split == "given":
        return in_part(row["split"])
    if isinstance(data.mask, str):
        return in_part("")
    masks = [resolve(row[column]) for column in mask_columns(data) if row[column]]
    return replace(case, files=_once(*case.files, *masks))


def _mask_file(data: Manifest, row: Row, part: str, contours: Path, resolve: Callable[[str], Path]) -> Path:
    """The mask of a row in a part of the split; its contours, where the mask is to be drawn from them.

    Raises:
        UserError: no such part, no mask in the part's column, nothing to draw one from.
    """
    one = isinstance(data.mask, str)
    if not one and part not in SPLITS:
        raise UserError(f"split '{part}'; expected {', '.join(SPLITS)}")
    column = data.mask if isinstance(data.mask, str) else getattr(data.mask, part)
    if not one and not row[column]:
        raise UserError(f"{column} is empty, and the case is in {part}; fill it in, no other mask is taken for {part}")
    mask = resolve(row[column]) if row[column] else contours
    if mask == contours and not has_edges(read_contours(contours)):
        empty = "" if row[column] else f"{column} is empty, and "
        raise UserError(f"{empty}{contours} has no left_edge and right_edge to draw a mask from")
    return mask


def _in_no_part() -> NoReturn:
    raise RuntimeError("which mask a case has depends on its part: call in_part first")


def _once(*files: Path) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(files))


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
