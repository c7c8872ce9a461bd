"""Reading what the user has: each kind of source as a list of `RawCase`, and the list of files that it is made of."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.errors import UserError
from nightshift.pictures import mask_picture, paired, picture
from nightshift.settings import SYNTHETIC, Folder, Manifest, Simulated, root

if TYPE_CHECKING:  # numpy and PIL are imported where a file is read: `inventory` lists files at every `dvc repro`
    import numpy as np

COLUMNS = (
    "patient_id", "case_id", "cine_path", "frame_index", "vessel_mask_actual_path", "contours_path", "split",
)  # fmt: skip


@dataclass(frozen=True)
class RawCase:
    """One frame to segment, as the source has it; `read` gives frame and mask (H, W), uint8, the mask 0 or 1.

    `angles`: primary (+ LAO / - RAO) and secondary (+ cranial / - caudal) in degrees, None where the source has none.
    `patient_id` and `split` are empty where the source has none. `files` are all that `read` opens.
    """

    case_id: str
    patient_id: str
    angles: tuple[float, float] | None
    split: str
    files: tuple[Path, ...]
    read: Callable[[], tuple[np.ndarray, np.ndarray]]


def raw_cases(data: Simulated | Manifest | Folder) -> list[RawCase]:
    """All cases of a source, in its own order; a path in a preset is relative to the main checkout (DVC_ROOT).

    Synthetic data is what this very workspace made, so it is looked for here and not there.

    Raises UserError: a file missing or ill-formed, a case id there twice, an image or a mask alone.
    """
    if isinstance(data, Folder):
        cases = _folder(root() / data.images, root() / data.masks)
    elif isinstance(data, Manifest):
        cases = _manifest(root() / data.path)
    else:
        cases = _manifest(SYNTHETIC / "manifest.csv")
    seen: set[str] = set()
    for case in cases:
        if case.case_id in seen:
            raise UserError(f"case '{case.case_id}' is there twice; give every case an id of its own")
        seen.add(case.case_id)
    return cases


def source_files(data: Simulated | Manifest | Folder) -> list[Path]:
    """Every file that the source is made of, once, sorted."""
    own = [root() / data.path] if isinstance(data, Manifest) else []
    return sorted({*own, *(file for case in raw_cases(data) for file in case.files)})


def _folder(images: Path, masks: Path) -> list[RawCase]:
    def case(name: str, image: Path, mask: Path) -> RawCase:
        return RawCase(name, "", None, "", (image, mask), lambda: _checked(picture(image), mask_picture(mask), mask))

    return [case(name, *files) for name, files in paired(images, masks).items()]


def _manifest(path: Path) -> list[RawCase]:
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
    return [_manifest_case(path, number, row) for number, row in enumerate(rows, start=2)]


def _manifest_case(manifest: Path, number: int, row: dict[str, str]) -> RawCase:
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
        return _checked(frames[index], _array(mask, 2), mask)

    files = (cine, mask, contours)
    return RawCase(row["case_id"], row["patient_id"], _angles(contours, where), row["split"] or "", files, read)


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


def _checked(frame: np.ndarray, mask: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    import numpy as np

    if frame.shape != mask.shape:
        raise UserError(f"{path}: mask of {mask.shape} pixels for a frame of {frame.shape}")
    values = np.unique(mask)
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        raise UserError(f"{path}: mask with values {values[:4].tolist()}...; expected 0 and one other")
    return np.array(frame, dtype=np.uint8), (mask > 0).astype(np.uint8)
