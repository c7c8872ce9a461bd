"""The canonical form of a data set: per split a table of cases, and their native-size frames and masks in shards."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nightshift.errors import UserError
from nightshift.files import read_csv, replacing, write_csv
from nightshift.settings import Prepare
from nightshift.shards import Shards, write_shards
from nightshift.sources import RawCase

PREPARED = Path("data/prepared")
SPLITS = ("train", "val", "test")
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


def given_split(cases: list[RawCase]) -> dict[str, list[RawCase]]:
    """The split that the source states.

    Raises UserError: a case without a split or with an unknown one, an empty split, a patient in two splits.
    """
    split: dict[str, list[RawCase]] = {name: [] for name in SPLITS}
    home: dict[str, RawCase] = {}
    for case in cases:
        if case.split not in split:
            raise UserError(f"case '{case.case_id}': split '{case.split}'; expected {', '.join(SPLITS)}")
        first = home.setdefault(_unit(case), case)
        if first.split != case.split:
            raise UserError(
                f"patient '{case.patient_id}' is in {first.split} (case '{first.case_id}') and in {case.split} "
                f"(case '{case.case_id}'); keep all cases of a patient in one split"
            )
        split[case.split].append(case)
    return _filled(split)


def made_split(cases: list[RawCase], prepare: Prepare) -> dict[str, list[RawCase]]:
    """A random split by patient, by case where there are no patients; at least one unit in each split.

    Raises UserError: val + test leave nothing to train on, or fewer than three units.
    """
    units = sorted({_unit(case) for case in cases})
    order = np.random.default_rng(prepare.seed).permutation(len(units))
    test, val = (max(1, math.floor(len(units) * share + 0.5)) for share in (prepare.test, prepare.val))
    home = {units[k]: "test" if i < test else "val" if i < test + val else "train" for i, k in enumerate(order)}
    split: dict[str, list[RawCase]] = {name: [] for name in SPLITS}
    for case in cases:
        split[home[_unit(case)]].append(case)
    return _filled(split)


def _unit(case: RawCase) -> str:
    return f"patient {case.patient_id}" if case.patient_id else f"case {case.case_id}"


def _filled(split: dict[str, list[RawCase]]) -> dict[str, list[RawCase]]:
    for name in SPLITS:
        if not split[name]:
            raise UserError(f"no case in {name}; each of {', '.join(SPLITS)} needs at least one patient")
    return split
