"""Tables as pandas frames: what one stage writes as CSV and another reads, checked when it is read."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from nightshift.console.errors import UserError
from nightshift.core.io import replacing

AGAIN = "`dvc repro` makes it anew"


def write_table(path: Path | str, frame: pd.DataFrame) -> None:
    """Write `frame` as a CSV without its index: floats with six decimals, missing ones empty, `\\n` at line ends."""
    with replacing(path) as temporary:
        frame.to_csv(temporary, index=False, float_format="%.6f", lineterminator="\n", encoding="utf-8")


def read_table(
    path: Path | str,
    *,
    integers: Sequence[str] = (),
    numbers: Sequence[str] = (),
    texts: Sequence[str] = (),
    empty: Sequence[str] = (),
    optional: Sequence[str] = (),
    may_be_empty: bool = False,
) -> pd.DataFrame:
    """Read a CSV of ours. Columns that are not named are read as text, and so is `NA` in a column of texts.

    Args:
        path: the file.
        integers: columns that must be there, of whole numbers.
        numbers: columns that must be there, of finite numbers.
        texts: columns that must be there, of any text.
        empty: columns that must be there, of finite numbers or empty cells, which become NaN.
        optional: columns of finite numbers that may be missing.
        may_be_empty: a file of a header alone is right, too.

    Raises:
        UserError: the file, a row or a column is missing, or a cell is no number; with the line and the column.
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8", index_col=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file yet; `dvc repro` makes it") from None
    except pd.errors.EmptyDataError:
        raise UserError(f"{path}: no rows; {AGAIN}") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as a UTF-8 CSV: {error}; {AGAIN}") from None
    if frame.empty and not may_be_empty:
        raise UserError(f"{path}: no rows; {AGAIN}")
    if missing := [name for name in (*integers, *numbers, *texts, *empty) if name not in frame]:
        raise UserError(f"{path}: no column '{missing[0]}'; {AGAIN}")
    for name in (*integers, *numbers, *empty, *(name for name in optional if name in frame)):
        frame[name] = _numbers(frame[name], path, whole=name in integers, empty=name in empty)
    return frame


def _numbers(column: "pd.Series[str]", path: Path | str, *, whole: bool, empty: bool) -> np.ndarray:
    """The cells of a column as int64 or float64. Raises UserError with the line of one that is no such number."""
    values = []
    for line, text in enumerate(column, start=2):
        try:
            value = math.nan if empty and not text else float(text)
        except ValueError:
            value = math.inf
        if math.isinf(value) or (math.isnan(value) and (text or not empty)):
            raise UserError(f"{path}: line {line}: {column.name} is not a finite number; {AGAIN}")
        if whole and value != round(value):
            raise UserError(f"{path}: line {line}: {column.name} is not a whole number; {AGAIN}")
        values.append(value)
    return np.array(values, dtype=np.int64 if whole else np.float64)
