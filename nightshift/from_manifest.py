"""A manifest: a CSV with one row per case, in the user's own schema."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.errors import UserError
from nightshift.raw import Problems, RawCase, checked

if TYPE_CHECKING:
    import numpy as np

COLUMNS = (
    "patient_id", "case_id", "cine_path", "frame_index", "vessel_mask_actual_path", "contours_path", "split",
)  # fmt: skip


def manifest_cases(path: Path, problems: Problems) -> list[RawCase]:
    """A case per row; rows with mistakes in them go to `problems`. Raises UserError where the file is no manifest."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle)
            missing = [c for c in COLUMNS if c not in (reader.fieldnames or [])]
            rows = list(reader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such manifest") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not readable as a UTF-8 CSV: {error}") from None
    if missing:
        raise UserError(f"{path}: column {', '.join(missing)} missing; it needs {', '.join(COLUMNS)}")
    cases = []
    for number, row in enumerate(rows, start=2):
        with problems.kept():
            cases.append(_case(path, number, row))
    return cases


def _case(manifest: Path, number: int, row: dict[str, str]) -> RawCase:
    where = f"{manifest}, line {number}"
    for column in COLUMNS[:-1]:
        if not row[column]:
            raise UserError(f"{where}: {column} is empty")
    if not row["frame_index"].isdecimal():
        raise UserError(f"{where}: frame_index '{row['frame_index']}' is not a whole number from 0")
    index = int(row["frame_index"])
    columns = ("cine_path", "vessel_mask_actual_path", "contours_path")
    cine, mask, contours = (manifest.parent / row[column] for column in columns)

    def read() -> tuple[np.ndarray, np.ndarray]:
        frames = _array(cine, 3)
        if index >= len(frames):
            raise UserError(f"{where}: frame_index {index} but {cine} has {len(frames)} frames")
        return checked(frames[index], _array(mask, 2), mask)

    files = (cine, mask, contours)
    angles = _angles(contours, where)
    return RawCase(row["case_id"], row["patient_id"], angles, row["split"] or "", files, read, where)


def _angles(path: Path, where: str) -> tuple[float, float]:
    try:
        view = json.loads(path.read_text(encoding="utf-8"))["view_angles"]
        primary, secondary = view["primary_angle"], view["secondary_angle"]
    except OSError as error:
        raise UserError(f"{where}: {path}: {(error.strerror or 'not readable').lower()}") from None
    except (ValueError, KeyError, TypeError):
        wanted = '{"view_angles": {"primary_angle": 30.0, "secondary_angle": -20.0}}'
        raise UserError(f"{where}: {path}: no view angles in it; expected {wanted}, in degrees") from None
    for angle in (primary, secondary):
        if isinstance(angle, bool) or not isinstance(angle, int | float) or not math.fabs(angle) <= 180:
            raise UserError(f"{where}: {path}: angle {angle!r} is not a number of degrees from -180 to 180")
    return float(primary), float(secondary)


def _array(path: Path, dimensions: int) -> np.ndarray:
    import numpy as np

    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not readable as a NumPy array: {error}") from None
    if not isinstance(array, np.ndarray):
        raise UserError(f"{path}: an archive of arrays; expected one array, saved with numpy.save")
    if array.ndim != dimensions or array.dtype not in (np.uint8, np.bool_):
        raise UserError(f"{path}: {array.dtype} of shape {array.shape}; expected uint8 with {dimensions} dimensions")
    return array
