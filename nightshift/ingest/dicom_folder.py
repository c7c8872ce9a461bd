"""A folder of DICOM files and masks of some of their frames, paired by name or by a CSV."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.ingest import dicom
from nightshift.console.errors import UserError
from nightshift.ingest.paths import inside
from nightshift.ingest.images import SUFFIXES, mask_picture
from nightshift.ingest.deidentify import hidden, pseudonym
from nightshift.ingest.record import Problems, RawCase, checked
from nightshift.ingest.user_table import check_width, read_rows

if TYPE_CHECKING:
    import numpy as np
    from pydicom import Dataset

COLUMNS = ("file", "frame_index", "mask", "case_id", "patient_id", "split")
ENDS = (".dcm", ".dicom")


@dataclass(frozen=True)
class _Pair:
    """`frame` counts from 0, None for the only one; `row` is that of the CSV; `problem` says why there is no mask."""

    file: Path
    mask: Path | None
    frame: int | None
    case_id: str
    where: str
    row: dict[str, str] = field(default_factory=dict)
    problem: str = ""


def dicom_files(images: Path, masks: Path, table: Path | None) -> list[Path]:
    """All files that may be of the source, without opening one. Raises UserError where there is no folder or CSV."""
    if table is None:
        return [*_dicoms(images), *_masks(masks)]
    pairs = _rows(images, masks, table, Problems())
    return [table, *(file for pair in pairs for file in (pair.file, pair.mask) if file and file.is_file())]


def dicom_cases(images: Path, masks: Path, table: Path | None, problems: Problems) -> list[RawCase]:
    """A case per mask, or per row of the CSV `table`. Raises UserError where a folder or the CSV is missing.

    Nothing of a header that says who it is gets into a case: the patient is a number in the order of the files, by
    which a split is drawn, and a salted hash; a case's id is a salted hash where the file is named after the patient.
    Only `files` is as the user named it. Problems, which may get into a report, have *** for everybody in the folder.
    """
    before = len(problems)
    pairs = _named(images, masks, problems) if table is None else _rows(images, masks, table, problems)
    cases: list[RawCase] = []
    patients: dict[str, int] = {}
    everybody: set[str] = set()
    for pair in pairs:
        with problems.kept():
            with _at(f"{pair.where}: {pair.file}" if pair.row else pair.where):
                header = dicom.header(pair.file)
            words = dicom.identities(header)
            everybody.update(words)
            with _at(pair.where, words):
                case = _case(pair, header, words)
            number = patients.setdefault(case.patient_id, len(patients))
            cases.append(replace(case, patient_id=f"{number:04d}-{case.patient_id}"))
    problems[before:] = [hidden(line, everybody) for line in problems[before:]]
    return cases


def _case(pair: _Pair, header: Dataset, words: list[str]) -> RawCase:
    dicom.check(header)
    if pair.mask is None:
        raise UserError(pair.problem)
    count = dicom.frames(header)
    if pair.frame is None and count > 1:
        raise UserError(f"{pair.mask} is of which of its {count} frames? Name it NAME_f12, or give `cases`, a CSV")
    frame = pair.frame or 0
    if frame >= count:
        raise UserError(f"frame {frame} of {count}, counted from 0")
    patient = pair.row.get("patient_id") or dicom.patient_id(header)
    if not patient:
        raise UserError("no PatientID; give `cases`, a CSV with a column patient_id")
    groups = {name: value for name, value in pair.row.items() if name and name not in COLUMNS}
    for name, value in groups.items():
        if hidden(value, words) != value:
            raise UserError(f"column {name} has the patient's name, number or dates in it; leave it out")
    angles, spacing = dicom.angles(header, frame), dicom.spacing(header)
    named = hidden(pair.case_id, words) != pair.case_id
    return RawCase(
        f"case-{pseudonym(pair.case_id)}" if named else pair.case_id,
        pseudonym(f"patient {patient}"),
        angles,
        pair.row.get("split", ""),
        (pair.file, pair.mask),
        partial(_read, pair.where, pair.file, frame, pair.mask, words),
        hidden(pair.where, words),
        spacing,
        groups,
    )


def _read(where: str, file: Path, frame: int, mask: Path, words: list[str]) -> tuple[np.ndarray, np.ndarray]:
    with _at(where, words):
        return checked(dicom.grey(file, frame), _mask(mask), mask)


@contextmanager
def _at(where: str, words: Iterable[str] = ()) -> Iterator[None]:
    """The place, in front of what a UserError says."""
    try:
        yield
    except UserError as error:
        raise UserError(hidden(f"{where}: {error}", words)) from None


def _mask(path: Path) -> np.ndarray:
    import numpy as np

    if path.suffix != ".npy":
        return mask_picture(path)
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not readable as a NumPy array: {error}") from None
    if array.ndim != 2 or array.dtype not in (np.uint8, np.bool_):
        raise UserError(f"{path}: {array.dtype} of shape {array.shape}; expected uint8 with 2 dimensions")
    return array


def _listed(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())


def _dicoms(folder: Path) -> list[Path]:
    """Files with a suffix of DICOM's or with none; one of digits is the end of a UID. A DICOMDIR is only an index."""
    named = re.compile(rf"[^.]+|.*\.\d+|.*({'|'.join(map(re.escape, ENDS))})", re.IGNORECASE)
    return [path for path in _listed(folder) if named.fullmatch(path.name) and path.name.upper() != "DICOMDIR"]


def _masks(folder: Path) -> list[Path]:
    return [path for path in _listed(folder) if path.suffix.lower() in SUFFIXES | {".npy"}]


def _name(file: Path) -> str:
    return file.stem if file.suffix.lower() in ENDS else file.name


def _named(images: Path, masks: Path, problems: Problems) -> list[_Pair]:
    """NAME.dcm with NAME.png or NAME_mask.png (its only frame) or NAME_f12.png or NAME_f12_mask.png (frame 12)."""
    files = _dicoms(images)
    if not files:
        raise UserError(f"{images}: no DICOM files (names with {', '.join(ENDS)} or no suffix) in it")
    by_name: dict[str, Path] = {}
    for file in files:
        first = by_name.setdefault(_name(file), file)
        if first != file:
            problems.append(f"{file}: a second file of this name beside {first.name}; rename it, and its masks")
    pairs, used = [], set()
    for mask in _masks(masks):
        stem = mask.stem.removesuffix("_mask")
        name, _, number = stem.rpartition("_f")
        frame = int(number) if number.isdecimal() and name in by_name and stem not in by_name else None
        file = by_name.get(stem if frame is None else name)
        if file is None:
            problems.append(f"{mask}: no DICOM file for it in {images}; name it NAME.png, NAME_mask.png, NAME_f12.png")
            continue
        used.add(file)
        pairs.append(_Pair(file, mask, frame, stem if frame is None else f"{name}_f{frame}", str(file)))
    bare = [file for file in by_name.values() if file not in used]
    return pairs + [_Pair(file, None, None, _name(file), str(file), problem=f"no mask in {masks}") for file in bare]


def _rows(images: Path, masks: Path, table: Path, problems: Problems) -> list[_Pair]:
    """A pair per row; `file` is relative to `images`, `mask` to `masks` and found by name where it is empty."""
    rows = read_rows(table, COLUMNS[:2], "file")
    if not masks.is_dir():
        raise UserError(f"{masks}: no such folder")
    listed = cache(_masks)
    pairs, lines = [], {}
    for where, row in rows:
        with problems.kept(), _at(where):
            check_width(row)
            if not row["file"]:
                raise UserError("file is empty")
            if not row["frame_index"].isdecimal() or len(row["frame_index"]) > 9:
                raise UserError(f"frame_index '{row['frame_index']:.20}' is not a whole number from 0")
            file, frame = inside(images, row["file"]), int(row["frame_index"])
            folder, stem = masks / Path(row["file"]).parent, f"{_name(file)}_f{frame}"
            mask, problem = inside(masks, row["mask"]) if row.get("mask") else None, ""
            if mask is None:
                mask, problem = _of(listed(folder) if folder.is_dir() else [], _name(file), stem, folder)
                # The mask of a file without the number of a frame can be that of one frame only.
                if mask and mask.stem.removesuffix("_mask") != stem and lines.setdefault(mask, where) != where:
                    mask, problem = None, f"{mask} is the mask of {lines[mask]}; name it after its frame, {stem}"
            case_id = row.get("case_id") or "-".join([*Path(row["file"]).parent.parts, stem])
            pairs.append(_Pair(file, mask, frame, case_id, where, row, problem))
    return pairs


def _of(masks: list[Path], name: str, framed: str, folder: Path) -> tuple[Path | None, str]:
    """The mask of a frame by its name, or what is wrong."""
    for stem in (framed, name):
        found = [mask for mask in masks if mask.stem in (stem, f"{stem}_mask")]
        if len(found) > 1:
            return None, f"{found[0]} or {found[1].name}? Keep one, or name it in a column mask"
        if found:
            return found[0], ""
    return None, f"no mask {framed} or {name} in {folder}; name one in a column mask"
