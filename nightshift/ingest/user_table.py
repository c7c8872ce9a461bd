"""Reads a user's CSV, as Excel or pandas write it: rows with their line numbers, and cells that any table may have.

pandas is not used for these: it moves a row with one cell too many into the index, turns a patient called `NA` into a
missing value, and does not give line numbers.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from nightshift.console.errors import UserError

Row = dict[str, str]
SEPARATORS = ",;\t"  # ; is what Excel writes where the comma is for decimals


def read_rows(path: Path, needed: Sequence[str], what: str) -> list[tuple[str, Row]]:
    """(place, cells by column) of each row that is not empty.

    Args:
        path: comma, semicolon or tab between cells, UTF-8 with or without a byte order mark.
        needed: columns that must be there; cells in them may be empty.
        what: what messages call the file, as `manifest`.

    Returns:
        place: as `set/manifest.csv, line 7`. Cells are stripped, a missing one is empty, and those beyond the header's
        are joined in the column "" (see `check_width`).

    Raises:
        UserError: no such file, not a UTF-8 CSV, a column missing, a column twice.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        header = text.partition("\n")[0]
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(SEPARATORS, key=header.count))
        columns = [name.strip() for name in next(reader, [])]
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not readable as a UTF-8 CSV: {error}") from None
    if missing := [name for name in needed if name not in columns]:
        raise UserError(f"{path}: column {', '.join(missing)} missing; it has {', '.join(columns)}")
    if twice := [name for i, name in enumerate(columns) if name and name in columns[:i]]:
        raise UserError(f"{path}: column {twice[0]} is there twice; rename or remove one")
    rows = []
    for number, cells in lines:
        if any(cells):
            padded = cells + [""] * (len(columns) - len(cells))
            row = dict(zip(columns, padded, strict=False)) | {"": ",".join(filter(None, padded[len(columns) :]))}
            rows.append((f"{path}, line {number}", row))
    return rows


def check_width(row: Row) -> None:
    """Raises UserError for a row of more cells than columns: a comma too many has shifted all cells after it."""
    if row[""]:
        raise UserError(f"more cells than columns ('{row['']:.40}'); quote a cell with a comma in it")


def frame_index(cell: str) -> int:
    """The number of a frame, from 0. Raises UserError for anything but up to nine ASCII digits."""
    if not is_index(cell):
        raise UserError(f"frame_index '{cell:.20}' is not a whole number from 0")
    return int(cell)


def is_index(text: str) -> bool:
    """Whether `text` is the number of a frame: up to nine ASCII digits, so not `²` or `٣`."""
    return text.isascii() and text.isdecimal() and len(text) <= 9


def spacing(cell: str) -> tuple[float, float] | None:
    """Millimetres per pixel (row, column) of `0.3`, `0.3 0.25`, `0.3\\0.25` or `0.3x0.25`; None where it is empty.

    Raises UserError.
    """
    if not cell:
        return None
    parts = [part for part in re.split(r"[\s\\x;/\[\]()]+|,\s*", cell) if part]
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if len(values) not in (1, 2) or not all(0.001 <= value <= 100 for value in values):
        raise UserError(f"spacing '{cell}' is not millimetres per pixel, as 0.3 or 0.3 0.25 (row, column)")
    return values[0], values[-1]


def groups(row: Row, used: Collection[str]) -> Row:
    """The cells of columns that are not in `used`, to group the report by. Columns named `..._path` are left out."""
    return {name: cell for name, cell in row.items() if name and name not in used and not name.endswith("_path")}
