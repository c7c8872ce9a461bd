"""Writes the canonical form of a data set that `nightshift.data.dataset` reads: per split a table and shards."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nightshift.core.io import replacing, write_csv
from nightshift.data.dataset import FIELDS, SPACING, free_name
from nightshift.data.shards import write_shards
from nightshift.ingest.record import SourceCase

Progress = Callable[[Iterable[SourceCase]], Iterable[SourceCase]]


def write_cases(folder: Path, cases: list[SourceCase], progress: Progress, report: bool = False) -> None:
    """Write one split as `folder`: cases.csv, and shards with frame.N and mask.N of case N.

    Args:
        folder: replaced as a whole.
        cases: read one after the other.
        progress: wraps the loop over the cases, as `nightshift.console.progress.bar` does.
        report: also write spacing and groups. Only the test cases have them: nothing is learned from them, so that a
            column more in the user's table trains nothing again.

    Raises:
        UserError: a case that cannot be read.
    """
    columns = _extra_columns(cases) if report else []
    rows: list[dict[str, object]] = []

    def arrays() -> Iterator[tuple[str, np.ndarray[tuple[int, ...], np.dtype[Any]]]]:
        for i, case in enumerate(progress(cases)):
            frame, mask = case.read()
            rows.append(_row(case, frame.shape, columns))
            yield f"frame.{i}", frame
            yield f"mask.{i}", mask

    with replacing(folder) as temporary:
        write_shards(temporary, arrays())
        write_csv(temporary / "cases.csv", (*FIELDS, *columns), rows)


def _extra_columns(cases: list[SourceCase]) -> list[str]:
    spacing = SPACING if any(case.spacing for case in cases) else ()
    return list(
        dict.fromkeys([*spacing, *(free_name(name, FIELDS + SPACING) for case in cases for name in case.groups)])
    )


def _row(case: SourceCase, shape: tuple[int, ...], columns: list[str]) -> dict[str, object]:
    primary, secondary = case.angles or ("", "")
    values = (case.case_id, case.patient_id, primary, secondary, *shape)
    extra: dict[str, object] = dict(zip(SPACING, case.spacing or ("", ""), strict=True))
    extra |= {free_name(name, FIELDS + SPACING): value for name, value in case.groups.items()}
    return dict(zip(FIELDS, values, strict=True)) | {name: extra.get(name, "") for name in columns}
