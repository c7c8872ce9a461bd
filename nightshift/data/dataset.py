"""Reads a prepared data set: a table of cases, their native-size frames and masks in shards, and its folds.

`nightshift.ingest.prepared` writes it. Only `open_part` opens the cases of a fold.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nightshift.console.errors import UserError
from nightshift.core.hashing import hash_folder
from nightshift.core.io import read_csv
from nightshift.core.records import Folds
from nightshift.data.locations import DETAILS, FOLDS, FRAMES, MASKS, PREPARED
from nightshift.data.shards import Shards

if TYPE_CHECKING:
    import numpy as np

    Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]

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
    frame: Pixels
    mask: Pixels
    spacing: tuple[float, float] | None = None
    groups: dict[str, str] = field(default_factory=dict)


class Frames:
    """The frames of all cases of a data set in `folder`, without their masks; `frames[i]` reads frame i, (H, W) uint8.

    Attributes:
        rows: the cells of cases.csv, all text.
    """

    def __init__(self, folder: Path) -> None:
        self.rows = read_csv(folder / FRAMES / "cases.csv")
        self._shards = Shards(folder / FRAMES)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Pixels:
        pixels: Pixels = self._shards[f"frame.{i}"]
        return pixels


class Cases:
    """Some cases of a data set in `folder`, in its order; `cases[i]` reads case i of them.

    Args:
        folder: of the data set.
        numbers: of the cases in the data set; all of them by default.
        details: whether spacing and groups are read, too.

    Attributes:
        rows: the cells of cases.csv, all text, and of details.csv.
        numbers: of the cases in the data set.
        total: number of cases in the data set.
    """

    def __init__(self, folder: Path, numbers: Sequence[int] | None = None, details: bool = False) -> None:
        self._frames, self._masks = Frames(folder), Shards(folder / MASKS)
        self.total = len(self._frames)
        self.numbers = range(self.total) if numbers is None else numbers
        more = read_csv(folder / DETAILS) if details else [{}] * self.total
        self.rows = [self._frames.rows[number] | more[number] for number in self.numbers]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Case:
        row = self.rows[i]
        known = row["primary_angle"] != ""
        return Case(
            case_id=row["case_id"],
            patient_id=row["patient_id"],
            angles=(float(row["primary_angle"]), float(row["secondary_angle"])) if known else None,
            frame=self._frames[self.numbers[i]],
            mask=self._masks[f"mask.{self.numbers[i]}"],
            spacing=(float(row[SPACING[0]]), float(row[SPACING[1]])) if row.get(SPACING[0]) else None,
            groups={name: value for name, value in row.items() if name not in FIELDS + SPACING},
        )


def data_hash(folder: Path = PREPARED) -> str:
    """One hash of the prepared frames, masks and folds: models with one hash have the same test cases in a fold."""
    return hash_folder(folder / FRAMES, folder / MASKS, folder / FOLDS)


def read_folds(folder: Path = PREPARED) -> Folds:
    """The folds of the prepared data set. Raises UserError where there are none yet."""
    return Folds.read(folder / FOLDS)


def open_part(fold: int, part: str, patients: int | Literal["all"] = "all", folder: Path = PREPARED) -> Cases:
    """The train, val or test cases of a fold; those of test with their spacing and groups.

    Args:
        fold: number of the fold.
        part: `train`, `val` or `test`.
        patients: how many of its patients; those of a smaller number are among those of a larger one.
        folder: of the prepared data set.

    Raises:
        UserError: there are fewer patients.
    """
    members = set(getattr(read_folds(folder).folds[fold], part))
    rows = dict(enumerate(read_csv(folder / FRAMES / "cases.csv")))
    rows = {number: row for number, row in rows.items() if row["case_id"] in members}
    if patients != "all":
        units = sorted({unit_of(row["case_id"], row["patient_id"]) for row in rows.values()})
        if patients > len(units):
            raise UserError(
                f"params.yaml: train.patients {patients}: there are {len(units)} to train on in fold {fold}; "
                "take fewer, or all"
            )
        random.Random(0).shuffle(units)  # noqa: S311, no secret
        chosen = set(units[:patients])
        rows = {n: row for n, row in rows.items() if unit_of(row["case_id"], row["patient_id"]) in chosen}
    return Cases(folder, list(rows), details=part == "test")


def free_name(name: str, taken: Collection[str]) -> str:
    """The name of a source's own column beside ours: `height` becomes `source_height`."""
    return f"source_{name}" if name in taken else name


def unit_of(case_id: str, patient_id: str) -> str:
    """What is never divided between parts of a split, and counts once in a test: the patient, or a case without one."""
    return f"patient {patient_id}" if patient_id else f"case {case_id}"
