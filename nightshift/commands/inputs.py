"""Inputs of `nightshift predict`: pictures, arrays and DICOM files, alone or in folders, as single frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nightshift.carm import Angles, view
from nightshift.console.errors import UserError
from nightshift.ingest import dicom, images
from nightshift.ingest.record import error_prefix
from nightshift.ingest.user_table import read_rows

if TYPE_CHECKING:
    import numpy as np

    from nightshift.ingest.record import Pixels

DICOM = (".dcm", ".dicom")  # and every file that begins as one, whatever its name
COLUMNS = ("file", "primary_angle", "secondary_angle")


@dataclass(frozen=True)
class Frame:
    """One frame of a file.

    `name`: the file's, in a cine with the number of the frame from 0, as `cine-00012`. `pixels`: (H, W), uint8.
    `angles` in degrees and `spacing` in millimetres per pixel (row, column) are None where the file has none.
    """

    name: str
    pixels: Pixels
    angles: Angles | None = None
    spacing: tuple[float, float] | None = None


def list_files(paths: Iterable[Path]) -> list[Path]:
    """The files to segment, each once. A folder stands for its files by name, without those of folders in it.

    Raises UserError for a path that does not exist or is no picture, array or DICOM file.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(
                file for file in path.iterdir() if file.is_file() and not file.name.startswith(".") and _kind(file)
            )
            if not inside:
                raise UserError(f"{path}: {_expected()} in it; folders in it are not looked into")
            files += inside
        elif not path.is_file():
            raise UserError(f"{path}: no such file or folder")
        elif _kind(path):
            files.append(path)
        else:
            raise UserError(f"{path}: {_expected()}")
    return list({path.resolve(): path for path in files}.values())


def frames_of(path: Path) -> list[Frame]:
    """Every frame of the file, in order. Raises UserError for one that cannot be read."""
    kind = _kind(path)
    if kind == "dicom":
        return _dicom(path)
    pixels = images.picture(path) if kind == "picture" else _array(path)
    if pixels.ndim == 2:
        return [Frame(path.stem, pixels)]
    return [Frame(_numbered(path, i), frame) for i, frame in enumerate(pixels)]


def _numbered(path: Path, frame: int) -> str:
    return f"{path.stem}-{frame:05d}"


def _kind(path: Path) -> Literal["picture", "array", "dicom", ""]:
    """What kind of file it is; empty for any other."""
    suffix = path.suffix.lower()
    if suffix in images.SUFFIXES:
        return "picture"
    if suffix == ".npy":
        return "array"
    with path.open("rb") as file:
        return "dicom" if suffix in DICOM or file.read(132)[128:] == b"DICM" else ""


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
        names = [path.stem] if count == 1 else [_numbered(path, i) for i in range(count)]
        return [
            Frame(name, dicom.frame_pixels(path, i), dicom.angles(header, i), spacing) for i, name in enumerate(names)
        ]


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
