"""Reads a folder of DICOM files and masks of some of their frames, paired by name or by a CSV."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.config.presets import Dicom
from nightshift.console.errors import UserError
from nightshift.ingest import dicom
from nightshift.ingest.deidentify import hidden, pseudonym
from nightshift.ingest.images import SUFFIXES, mask_picture, read_array
from nightshift.ingest.paths import inside
from nightshift.ingest.record import Problems, SourceCase, checked, error_prefix
from nightshift.ingest.user_table import check_width, frame_index, is_index, read_rows

if TYPE_CHECKING:
    from pydicom import Dataset

    from nightshift.ingest.record import Pixels

COLUMNS = ("file", "frame_index", "mask", "case_id", "patient_id", "split")
ENDS = (".dcm", ".dicom")


@dataclass(frozen=True)
class _Pair:
    """A DICOM file, the mask of one of its frames, and how the user names them.

    `frame` counts from 0, None where the file has one only; `row` is that of the CSV, empty where there is no CSV;
    `problem` says why there is no mask.
    """

    file: Path
    mask: Path | None
    frame: int | None
    case_id: str
    where: str
    row: dict[str, str] = field(default_factory=dict)
    problem: str = ""


def dicom_files(data: Dicom, root: Path) -> list[Path]:
    """All files that may belong to the source, none of them opened but the CSV. Raises UserError: no folder or CSV."""
    images, masks, table = _places(data, root)
    if table is None:
        return [*_dicoms(images), *_masks(masks)]
    pairs = _rows(images, masks, table, Problems())
    return [table, *(file for pair in pairs for file in (pair.file, pair.mask) if file and file.is_file())]


def dicom_cases(data: Dicom, root: Path, problems: Problems) -> list[SourceCase]:
    """A case per mask, or per row of the preset's CSV.

    Nothing in a header that identifies the patient gets into a case: the patient is a number in the order of the files,
    by which a split is drawn, and a salted hash; a case's id is a salted hash where the file is named after the
    patient. Only `files` is as the user named it.

    Args:
        data: the preset.
        root: the folder that the preset's paths are relative to.
        problems: gets a line for each file or row with a mistake. It may get into a report, so the names, numbers and
            dates of every patient in the folder are *** in it.

    Raises:
        UserError: a folder or the CSV is missing.
    """
    images, masks, table = _places(data, root)
    before = len(problems)
    pairs = _named(images, masks, problems) if table is None else _rows(images, masks, table, problems)
    cases: list[SourceCase] = []
    patients: dict[str, int] = {}
    everybody: set[str] = set()
    for pair in pairs:
        with problems.collecting():
            with error_prefix(f"{pair.where}: {pair.file}" if pair.row else pair.where):
                header = dicom.header(pair.file)
            words = dicom.identities(header)
            everybody.update(words)
            with error_prefix(pair.where, partial(hidden, words=words)):
                case = _case(pair, header, words)
            number = patients.setdefault(case.patient_id, len(patients))
            cases.append(replace(case, patient_id=f"{number:04d}-{case.patient_id}"))
    problems[before:] = [hidden(line, everybody) for line in problems[before:]]
    return cases


def _places(data: Dicom, root: Path) -> tuple[Path, Path, Path | None]:
    return root / data.images, root / data.masks, root / data.cases if data.cases else None


def _case(pair: _Pair, header: Dataset, words: list[str]) -> SourceCase:
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
    named = hidden(pair.case_id, words) != pair.case_id
    return SourceCase(
        case_id=f"case-{pseudonym(pair.case_id)}" if named else pair.case_id,
        patient_id=pseudonym(f"patient {patient}"),
        angles=dicom.angles(header, frame),
        split=pair.row.get("split", ""),
        files=(pair.file, pair.mask),
        read=partial(_read, pair.where, pair.file, frame, pair.mask, words),
        where=hidden(pair.where, words),
        spacing=dicom.spacing(header),
        groups=groups,
    )


def _read(where: str, file: Path, frame: int, mask: Path, words: list[str]) -> tuple[Pixels, Pixels]:
    with error_prefix(where, partial(hidden, words=words)):
        return checked(dicom.frame_pixels(file, frame), _mask(mask), mask)


def _mask(path: Path) -> Pixels:
    """(H, W), of 0 and other values; `checked` makes them 0 and 1. Raises UserError."""
    import numpy as np

    if path.suffix != ".npy":
        return mask_picture(path)
    array = read_array(path)
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
        frame = int(number) if is_index(number) and name in by_name and stem not in by_name else None
        partner = by_name.get(stem if frame is None else name)
        if partner is None:
            problems.append(f"{mask}: no DICOM file for it in {images}; name it NAME.png, NAME_mask.png, NAME_f12.png")
            continue
        used.add(partner)
        pairs.append(_Pair(partner, mask, frame, stem if frame is None else f"{name}_f{frame}", str(partner)))
    bare = [file for file in by_name.values() if file not in used]
    return pairs + [_Pair(file, None, None, _name(file), str(file), problem=f"no mask in {masks}") for file in bare]


def _rows(images: Path, masks: Path, table: Path, problems: Problems) -> list[_Pair]:
    """A pair per row; `file` is relative to `images`, `mask` to `masks` and found by name where it is empty."""
    rows = read_rows(table, COLUMNS[:2], "file")
    if not masks.is_dir():
        raise UserError(f"{masks}: no such folder")
    listed = cache(_masks)
    pairs: list[_Pair] = []
    first_row: dict[Path, str] = {}  # by mask
    for where, row in rows:
        with problems.collecting(), error_prefix(where):
            check_width(row)
            if not row["file"]:
                raise UserError("file is empty")
            frame = frame_index(row["frame_index"])
            file = inside(images, row["file"])
            folder, stem = masks / Path(row["file"]).parent, f"{_name(file)}_f{frame}"
            mask: Path | None = inside(masks, row["mask"]) if row.get("mask") else None
            problem = ""
            if mask is None:
                mask, problem = _mask_of(listed(folder) if folder.is_dir() else [], _name(file), stem, folder)
                # The mask of a file without the number of a frame can be that of one frame only.
                if mask and mask.stem.removesuffix("_mask") != stem and first_row.setdefault(mask, where) != where:
                    problem = f"{mask} is the mask of {first_row[mask]}; name it after its frame, {stem}"
                    mask = None
            case_id = row.get("case_id") or "-".join([*Path(row["file"]).parent.parts, stem])
            pairs.append(_Pair(file, mask, frame, case_id, where, row, problem))
    return pairs


def _mask_of(masks: list[Path], name: str, framed: str, folder: Path) -> tuple[Path | None, str]:
    """The mask of a frame by its name, or None and what is wrong."""
    for stem in (framed, name):
        matching = [mask for mask in masks if mask.stem in (stem, f"{stem}_mask")]
        if len(matching) > 1:
            return None, f"{matching[0]} or {matching[1].name}? Keep one, or name it in a column mask"
        if matching:
            return matching[0], ""
    return None, f"no mask {framed} or {name} in {folder}; name one in a column mask"
