"""What a trained arm is asked about: pictures, arrays and DICOM files, alone or in folders, as single frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.ingest import dicom
from nightshift.ingest import images as pictures
from nightshift.carm import view
from nightshift.console.errors import UserError
from nightshift.ingest.user_table import at, read_rows
from nightshift.carm import Angles

if TYPE_CHECKING:
    import numpy as np

DICOM = (".dcm", ".dicom")  # and every file that begins as one, whatever its name
COLUMNS = ("file", "primary_angle", "secondary_angle")


@dataclass(frozen=True)
class Frame:
    """`pixels` (H, W) uint8. `name`: the file's, and in a cine the number of the frame from 0, as `cine-00012`.

    `angles` in degrees and `spacing` in millimetres per pixel (row, column), None where the file has none.
    """

    name: str
    pixels: np.ndarray
    angles: Angles | None = None
    spacing: tuple[float, float] | None = None


def listed(given: Iterable[Path]) -> list[Path]:
    """The files that are meant, each once: folders stand for what is in them, by name, but not in folders in them.

    Raises UserError for what is not there or is no picture, array or DICOM file.
    """
    found: list[Path] = []
    for path in given:
        if path.is_dir():
            inside = sorted(
                one for one in path.iterdir() if one.is_file() and not one.name.startswith(".") and _kind(one)
            )
            if not inside:
                raise UserError(f"{path}: {_wanted()} in it; folders in it are not looked into")
            found += inside
        elif not path.is_file():
            raise UserError(f"{path}: no such file or folder")
        elif _kind(path):
            found.append(path)
        else:
            raise UserError(f"{path}: {_wanted()}")
    return list({path.resolve(): path for path in found}.values())


def frames_of(path: Path) -> list[Frame]:
    """Every frame of the file, in order. Raises UserError for one that cannot be read."""
    kind = _kind(path)
    if kind == "dicom":
        return _dicom(path)
    pixels = pictures.picture(path) if kind == "picture" else _array(path)
    if pixels.ndim == 2:
        return [Frame(path.stem, pixels)]
    return [Frame(_numbered(path, i), one) for i, one in enumerate(pixels)]


def _numbered(path: Path, frame: int) -> str:
    return f"{path.stem}-{frame:05d}"


def _kind(path: Path) -> str:
    """picture, array or dicom; empty for anything else."""
    suffix = path.suffix.lower()
    if suffix in pictures.SUFFIXES:
        return "picture"
    if suffix == ".npy":
        return "array"
    with path.open("rb") as file:
        return "dicom" if suffix in DICOM or file.read(132)[128:] == b"DICM" else ""


def _wanted() -> str:
    return f"no picture ({', '.join(sorted(pictures.SUFFIXES))}), .npy or DICOM file"


def _array(path: Path) -> np.ndarray:
    """(H, W) or (T, H, W), uint8; mapped, so that a long cine is read frame by frame."""
    import numpy as np

    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not readable as a NumPy array: {error}") from None
    shape = getattr(array, "shape", ())
    if len(shape) not in (2, 3) or 0 in shape or shape[-1] in (3, 4) or array.dtype != np.uint8:
        raise UserError(f"{path}: expected one grey frame (H, W) or a cine (T, H, W), uint8, as numpy.save writes it")
    return array


def _dicom(path: Path) -> list[Frame]:
    """Greys as a viewer shows them, with each frame's own angles and the header's spacing."""
    try:
        found = dicom.header(path)
        dicom.check(found)
        count, spacing = dicom.frames(found), dicom.spacing(found)
        names = [path.stem] if count == 1 else [_numbered(path, i) for i in range(count)]
        return [Frame(name, dicom.grey(path, i), dicom.angles(found, i), spacing) for i, name in enumerate(names)]
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def angles_in(table: Path, files: Sequence[Path]) -> dict[Path, Angles]:
    """The angles that a CSV of COLUMNS gives to some of `files`.

    A file is named by its path, from here or from the CSV, or by its bare name where no other one has the same.
    Raises UserError for a table that cannot be read, and for a row that is wrong or names none of the files.
    """
    rows = read_rows(table, COLUMNS, "table of angles")
    places, count = {path.resolve(): path for path in files}, Counter(path.name for path in files)
    names = {path.name: path for path in files if count[path.name] == 1}
    found: dict[Path, Angles] = {}
    for where, row in rows:
        name = row["file"]
        nearby = (places.get((folder / name).resolve()) for folder in (table.parent, Path()))
        path = next((one for one in nearby if one), names.get(name))
        if count[name] > 1 and path is None:
            raise UserError(f"{where}: {count[name]} files are named {name}; give their paths")
        if path is None:
            continue  # a table may know more than what is asked about
        if path in found:
            raise UserError(f"{where}: {name} is in it twice")
        found[path] = angles_from((row["primary_angle"], row["secondary_angle"]), where)
    return found


def angles_from(texts: Sequence[str], where: str) -> Angles:
    """Primary and secondary angle, in degrees or as `RAO 30` and `CRA 20`. Raises UserError for anything else."""
    with at(where):
        return view(*texts)
