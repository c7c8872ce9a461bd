"""Reads the canonical form of a data set: per split a table of cases, and their native-size frames and masks in shards.

`nightshift.ingest.prepared` writes it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.core.io import read_csv
from nightshift.data.shards import Shards

if TYPE_CHECKING:
    import numpy as np

FIELDS = ("case_id", "patient_id", "primary_angle", "secondary_angle", "height", "width")
SPACING = ("row_spacing", "column_spacing")  # mm per pixel


@dataclass(frozen=True)
class Case:
    """One frame and its mask.

    Attributes:
        case_id: unique in the data set.
        patient_id: empty where unknown.
        angles: primary and secondary in degrees, None where unknown.
        frame: (H, W), uint8.
        mask: (H, W), uint8, 0 or 1.
        spacing: mm per pixel (row, column), None where unknown. Test cases only.
        groups: further columns of the source by name. Test cases only.
    """

    case_id: str
    patient_id: str
    angles: tuple[float, float] | None
    frame: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    mask: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    spacing: tuple[float, float] | None = None
    groups: dict[str, str] = field(default_factory=dict)


class Cases:
    """One split in `folder`, as `nightshift.ingest.prepared.write_cases` wrote it; `cases[i]` reads case i.

    Attributes:
        rows: the cells of cases.csv, all text.
    """

    def __init__(self, folder: Path) -> None:
        self.rows = read_csv(folder / "cases.csv")
        self._shards = Shards(folder)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Case:
        row = self.rows[i]
        known = row["primary_angle"] != ""
        return Case(
            case_id=row["case_id"],
            patient_id=row["patient_id"],
            angles=(float(row["primary_angle"]), float(row["secondary_angle"])) if known else None,
            frame=self._shards[f"frame.{i}"],
            mask=self._shards[f"mask.{i}"],
            spacing=(float(row[SPACING[0]]), float(row[SPACING[1]])) if row.get(SPACING[0]) else None,
            groups={name: value for name, value in row.items() if name not in FIELDS + SPACING},
        )


def free_name(name: str, taken: Collection[str]) -> str:
    """The name of a source's own column beside ours: `height` becomes `source_height`."""
    return f"source_{name}" if name in taken else name


def unit_of(case_id: str, patient_id: str) -> str:
    """What is never divided between parts of a split, and counts once in a test: the patient, or a case without one."""
    return f"patient {patient_id}" if patient_id else f"case {case_id}"
