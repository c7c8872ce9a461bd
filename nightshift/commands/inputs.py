"""Inputs of `nightshift predict`: pictures, arrays and DICOM files, alone or in folders, as single frames."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nightshift.carm import Angles, view
from nightshift.commands.prediction_record import LeftOutFiles
from nightshift.console.errors import UserError
from nightshift.ingest import dicom, images
from nightshift.ingest.record import error_prefix
from nightshift.ingest.user_table import read_rows

if TYPE_CHECKING:
    import numpy as np

    from nightshift.ingest.record import Pixels

DICOM = (".dcm", ".dicom")  # and every file that begins as one, whatever its name
LONGEST = 80  # characters of a name, of at most 3 bytes each: disks take 255 bytes
COLUMNS = ("file", "primary_angle", "secondary_angle")


@dataclass(frozen=True)
class Frame:
    """One frame of a file.

    `pixels`: (H, W), uint8. `angles` in degrees and `spacing` in millimetres per pixel (row, column) are None where the
    file has none.
    """

    pixels: Pixels
    angles: Angles | None = None
    spacing: tuple[float, float] | None = None


def list_files(paths: Iterable[Path], recursive: bool, out: Path, left_out: LeftOutFiles) -> dict[Path, str]:
    """The files to segment, each once, with a name for its outputs, which two of them may share.

    A folder stands for its files by path: with `recursive` also those of folders in it, whose names then begin with
    their folders'. Files and folders whose names begin with a dot are none of them, and nothing in `out` is.

    Args:
        left_out: gets what is in a folder and is no picture, array or DICOM file.

    Raises:
        UserError: a path that does not exist or is none of these, a folder without any.
    """
    found: dict[Path, str] = {}
    for path in paths:
        with left_out.about(path):
            if path.is_dir():
                found |= _inside(path, recursive, out, left_out)
            elif not path.is_file():
                raise UserError(f"{path}: no such file or folder")
            elif not _kind(path):
                raise UserError(f"{path}: {_expected()}")
            else:
                found[path] = _name(Path(path.name))
    return {path: found[path] for path in {path.resolve(): path for path in found}.values()}


def _inside(folder: Path, recursive: bool, out: Path, left_out: LeftOutFiles) -> dict[Path, str]:
    found = {}
    for path in sorted(folder.rglob("*") if recursive else folder.iterdir()):
        below = path.relative_to(folder)
        if any(part.startswith(".") for part in below.parts) or path.resolve().is_relative_to(out.resolve()):
            continue
        if path.is_dir():
            if not recursive or path.is_symlink():  # a link is not followed: it may lead back
                left_out.add(path, "a folder; give it as INPUT" if recursive else "a folder; --recursive looks into it")
            continue
        with left_out.about(path):
            if path.is_file() and _kind(path):
                found[path] = _name(below)
            else:
                left_out.add(path, _expected())
    if not found:
        raise UserError(
            f"{folder}: {_expected()} in it" + ("" if recursive else "; --recursive looks into its folders")
        )
    return found


def _name(path: Path) -> str:
    """The parts of a relative path, joined, of letters, digits, _ and - alone: a file's name on every disk."""
    known = path.suffix.lower() in {*images.SUFFIXES, ".npy", *DICOM}  # not the last number of a UID
    return re.sub(r"[^\w-]+", "_", "-".join([*path.parent.parts, path.stem if known else path.name]))[-LONGEST:]


def frames_of(path: Path) -> list[Frame]:
    """Every frame of the file, in order. Raises UserError for one that cannot be read."""
    kind = _kind(path)
    if kind == "dicom":
        return _dicom(path)
    pixels = images.picture(path) if kind == "picture" else _array(path)
    return [Frame(frame) for frame in (pixels[None] if pixels.ndim == 2 else pixels)]


def identities_of(path: Path) -> list[str]:
    """Names, numbers and dates of the patient and the study in the header of a DICOM file; of other files none."""
    with error_prefix(str(path)):
        return dicom.identities(dicom.header(path)) if _kind(path) == "dicom" else []


def _kind(path: Path) -> Literal["picture", "array", "dicom", ""]:
    """What kind of file it is; empty for any other. Raises UserError for one that cannot be opened."""
    suffix = path.suffix.lower()
    if suffix in images.SUFFIXES:
        return "picture"
    if suffix == ".npy":
        return "array"
    if suffix in DICOM:
        return "dicom"
    try:
        with path.open("rb") as file:
            return "dicom" if file.read(132)[128:] == b"DICM" else ""
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _expected() -> str:
    return f"no picture ({', '.join(sorted(images.SUFFIXES))}), .npy or DICOM file"


def _array(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[Any]]:
    """(H, W) or (T, H, W), uint8; mapped, so that a long cine is read frame by frame."""
    array = images.read_array(path)
    shape = array.shape
    if len(shape) not in (2, 3) or 0 in shape or shape[-1] in (3, 4) or array.dtype != "uint8":
        raise UserError(f"{path}: expected one grey frame (H, W) or a cine (T, H, W), uint8, as numpy.save writes it")
    return array


def _dicom(path: Path) -> list[Frame]:
    """Greys as a viewer shows them, with each frame's own angles and the header's spacing."""
    with error_prefix(str(path)):
        header = dicom.header(path)
        dicom.check(header)
        count, spacing = dicom.frames(header), dicom.spacing(header)
        return [Frame(dicom.frame_pixels(path, i), dicom.angles(header, i), spacing) for i in range(count)]


def angles_by_file(table: Path, files: Sequence[Path]) -> dict[Path, Angles]:
    """The angles that a CSV of COLUMNS gives to some of `files`; its other rows are ignored.

    A file is named by its path, from the current folder or from that of the CSV, or by its bare name where no other
    file has the same. Raises UserError for a table that cannot be read, and for a row that is wrong or ambiguous.
    """
    by_path, count = {path.resolve(): path for path in files}, Counter(path.name for path in files)
    by_name = {path.name: path for path in files if count[path.name] == 1}
    angles: dict[Path, Angles] = {}
    for where, row in read_rows(table, COLUMNS, "table of angles"):
        name = row["file"]
        nearby = (by_path.get((folder / name).resolve()) for folder in (table.parent, Path()))
        path = next((path for path in nearby if path), by_name.get(name))
        if count[name] > 1 and path is None:
            raise UserError(f"{where}: {count[name]} files are named {name}; give their paths")
        if path is None:
            continue
        if path in angles:
            raise UserError(f"{where}: {name} is in it twice")
        angles[path] = angles_from((row["primary_angle"], row["secondary_angle"]), where)
    return angles


def angles_from(texts: Sequence[str], where: str) -> Angles:
    """Primary and secondary angle in degrees, from numbers or text such as `RAO 30`.

    Raises UserError for anything else, with the place `where` in front.
    """
    with error_prefix(where):
        return view(*texts)
