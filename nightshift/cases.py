"""The canonical form of a data set: per split a table of cases, and their native-size frames and masks in shards."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nightshift.files import read_csv, replacing, write_csv
from nightshift.raw import RawCase
from nightshift.shards import Shards, write_shards

PREPARED = Path("data/prepared")
FIELDS = ("case_id", "patient_id", "primary_angle", "secondary_angle", "height", "width")


@dataclass(frozen=True)
class Case:
    """`angles` in degrees, None where unknown; frame (H, W) and mask (H, W), uint8, the mask 0 or 1."""

    case_id: str
    patient_id: str
    angles: tuple[float, float] | None
    frame: np.ndarray
    mask: np.ndarray


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
        return Case(row["case_id"], row["patient_id"], angles, frame, mask)


def write_cases(folder: Path, cases: list[RawCase], progress: Callable[[Iterable], Iterable]) -> None:
    """Write one split as `folder`: cases.csv and shards with frame.N and mask.N."""
    rows: list[dict[str, Any]] = []

    def arrays():
        for i, case in enumerate(progress(cases)):
            frame, mask = case.read()
            primary, secondary = case.angles or ("", "")
            values = (case.case_id, case.patient_id, primary, secondary, *frame.shape)
            rows.append(dict(zip(FIELDS, values, strict=True)))
            yield f"frame.{i}", frame
            yield f"mask.{i}", mask

    with replacing(folder) as temporary:
        write_shards(temporary, arrays())
        write_csv(temporary / "cases.csv", FIELDS, rows)
