"""A CSV as people have it, out of Excel or pandas: rows with their place, and what any table of cases may hold."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from nightshift.console.errors import UserError

Row = dict[str, str]
SEPARATORS = ",;\t"  # ; is what Excel writes where the comma is for decimals


@contextmanager
def at(where: str) -> Iterator[None]:
    """A UserError of the block begins with `where`."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None


def read_rows(path: Path, needed: Sequence[str], what: str) -> list[tuple[str, Row]]:
    """(place, cells by column) of each row, cells stripped, a missing one empty; rows of nothing are left out.

    `place` is as `set/manifest.csv, line 7`. Cells beyond the header's are in the row's column "", joined.
    Raises UserError: no such file, no UTF-8 CSV, a column of `needed` missing, a column twice. `what` names the file.
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
        raise UserError(f"{path}: column {', '.join(missing)} missing; it needs {', '.join(needed)}")
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
    """Raises UserError for a row of more cells than columns: a comma too many has shifted all that follow."""
    if row[""]:
        raise UserError(f"more cells than columns ('{row['']:.40}'); quote a cell with a comma in it")


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
    """The columns that nobody has used, to group the report by; paths are no groups."""
    return {name: cell for name, cell in row.items() if name and name not in used and not name.endswith("_path")}
