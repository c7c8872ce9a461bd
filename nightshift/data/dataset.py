"""The canonical form of a data set: per split a table of cases, and their native-size frames and masks in shards."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nightshift.core.io import read_csv, replacing, write_csv
from nightshift.ingest.record import RawCase
from nightshift.data.shards import Shards, write_shards

PREPARED = Path("data/prepared")
FIELDS = ("case_id", "patient_id", "primary_angle", "secondary_angle", "height", "width")
SPACING = ("row_spacing", "column_spacing")  # mm per pixel


@dataclass(frozen=True)
class Case:
    """`angles` in degrees, None where unknown; frame (H, W) and mask (H, W), uint8, the mask 0 or 1.

    `spacing`: mm per pixel (row, column); `groups`: further columns of the source. Where `write_cases` kept them.
    """

    case_id: str
    patient_id: str
    angles: tuple[float, float] | None
    frame: np.ndarray
    mask: np.ndarray
    spacing: tuple[float, float] | None = None
    groups: dict[str, str] = field(default_factory=dict)


class Cases:
    """One split as `write_cases` wrote it; `cases[i]` reads case i."""

    def __init__(self, folder: Path) -> None:
        self.rows = read_csv(folder / "cases.csv")
        self._shards = Shards(folder)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Case:
        row = self.rows[i]
        known = row["primary_angle"] != ""
        angles = (float(row["primary_angle"]), float(row["secondary_angle"])) if known else None
        frame, mask = self._shards[f"frame.{i}"], self._shards[f"mask.{i}"]
        spacing = (float(row[SPACING[0]]), float(row[SPACING[1]])) if row.get(SPACING[0]) else None
        groups = {name: value for name, value in row.items() if name not in FIELDS + SPACING}
        return Case(row["case_id"], row["patient_id"], angles, frame, mask, spacing, groups)


def free_name(name: str, taken: Collection[str]) -> str:
    """A source's own column beside ours: `height` becomes `source_height`."""
    return f"source_{name}" if name in taken else name


def write_cases(
    folder: Path, cases: list[RawCase], progress: Callable[[Iterable], Iterable], report: bool = False
) -> None:
    """Write one split as `folder`: cases.csv and shards with frame.N and mask.N.

    Spacing and groups are kept for the `report` only, that is of the test cases: nothing is learned from them, so a
    column more in the user's table trains nothing again.
    """
    rows: list[dict[str, Any]] = []
    more: dict[str, None] = {}
    if report:
        more |= dict.fromkeys(SPACING if any(case.spacing for case in cases) else ())
        more |= dict.fromkeys(free_name(name, FIELDS + SPACING) for case in cases for name in case.groups)

    def arrays():
        for i, case in enumerate(progress(cases)):
            frame, mask = case.read()
            primary, secondary = case.angles or ("", "")
            values = (case.case_id, case.patient_id, primary, secondary, *frame.shape)
            known = dict(zip(SPACING, case.spacing or ("", ""), strict=True))
            known |= {free_name(name, FIELDS + SPACING): value for name, value in case.groups.items()}
            rows.append(dict(zip(FIELDS, values, strict=True)) | {name: known.get(name, "") for name in more})
            yield f"frame.{i}", frame
            yield f"mask.{i}", mask

    with replacing(folder) as temporary:
        write_shards(temporary, arrays())
        write_csv(temporary / "cases.csv", (*FIELDS, *more), rows)
