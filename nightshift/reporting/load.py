"""What the stages of one arm wrote, read again and checked: what the comparison is made of."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nightshift.console.errors import UserError
from nightshift.core.io import read_csv, read_json
from nightshift.evaluation.measures import MEASURES, MILLIMETRES

Row = dict[str, Any]
ARMS = ("frozen", "lora")
LABELS = {"frozen": "Frozen", "lora": "LoRA"}
STEPS = ("encode", "train", "evaluate")
ANGLES = ("primary_angle", "secondary_angle")
WHO = ("case_id", "patient_id", *ANGLES)
CURVES = ("train_loss", "val_dice")


@dataclass(frozen=True)
class ArmResults:
    """Rows by case and seed, and the folder of pictures; what only a run of the pipeline has may be empty.

    `cards` are in the order of their seeds, `costs` by step, `probe` is the arm's own verdict.
    """

    cases: list[Row]
    pictures: Path
    seed: int = 0
    ablations: list[Row] = field(default_factory=list)
    curves: list[Row] = field(default_factory=list)
    cards: list[Row] = field(default_factory=list)
    costs: dict[str, Row] = field(default_factory=dict)
    probe: Row = field(default_factory=dict)


def read_arm(arm: str, root: Path = Path()) -> ArmResults:
    """What lies below `root`. Raises UserError for a file that is missing or is not what its stage writes."""
    folder, cost = root / "reports/evaluation" / arm, ("seconds", "peak_memory_bytes", "machine", "revision")
    cards = [
        read_record(path, "seed", "settings", "data_hash", "weights", "epoch", "threshold", "val_dice", "cases")
        for path in (root / "models" / arm).glob("seed-*/card.json")
    ]
    if not cards:
        raise UserError(f"models/{arm}: no seed-N/card.json in it yet; `dvc repro` makes it")
    cases = read_table(folder / "cases.csv", ("seed", *MEASURES), WHO, MILLIMETRES)
    ablations = read_table(folder / "ablations.csv", ("seed", "dice"), ("case_id", "patient_id", "ablation"))
    if {row["case_id"] for row in ablations} - {row["case_id"] for row in cases}:
        raise UserError(f"{folder.as_posix()}/ablations.csv: not the cases of cases.csv; `dvc repro` makes it anew")
    curves = read_table(root / f"reports/curves/{arm}.csv", ("seed", "epoch", *CURVES))
    for rows, what in ((cases, folder.as_posix()), (curves, f"reports/curves/{arm}.csv")):
        if {row["seed"] for row in rows} != {card["seed"] for card in cards}:
            raise UserError(f"{what}: not the seeds that models/{arm} has; `dvc repro` makes it anew")
    costs = {step: read_record(root / f"reports/cost/{step}_{arm}.json", *cost) for step in STEPS}
    trained = ("parameters_trained", "seconds_per_epoch", "cases_per_second")
    costs["train"] = read_record(root / f"reports/cost/train_{arm}.json", *cost, *trained)
    cards.sort(key=lambda card: card["seed"])
    return ArmResults(
        cases=cases,
        pictures=folder / "pictures",
        seed=cards[0]["seed"],
        ablations=ablations,
        curves=curves,
        cards=cards,
        costs=costs,
        probe=read_record(root / f"reports/probe/{arm}.json", "ok", "cause", "cure"),
    )


def read_record(path: Path | str, *keys: str) -> Row:
    """A JSON object with at least `keys`. Raises UserError."""
    try:
        record = read_json(path)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error}); `dvc repro` makes it anew") from None
    if missing := [key for key in keys if key not in record]:
        raise UserError(f"{path}: no key '{missing[0]}'; `dvc repro` makes it anew")
    return record


def group_names(rows: list[Row]) -> list[str]:
    """The columns of the source's own among rows as in evaluation's cases.csv."""
    ours = {"seed", *WHO, *MEASURES, *MILLIMETRES}
    return [name for name in rows[0] if name not in ours]


def read_table(
    path: Path | str, numbers: Sequence[str], texts: Sequence[str] = (), maybe: Sequence[str] = ()
) -> list[Row]:
    """Rows of a CSV with `numbers` as finite floats and `texts` as they are. Raises UserError, naming the line.

    `maybe`: numbers, where there is such a column.
    """
    rows: list[Row] = read_csv(path)
    if not rows:
        raise UserError(f"{path}: no rows; `dvc repro` makes it anew")
    if missing := [column for column in (*numbers, *texts) if column not in rows[0]]:
        raise UserError(f"{path}: no column '{missing[0]}'; `dvc repro` makes it anew")
    numbers = [*numbers, *(column for column in maybe if column in rows[0])]
    for line, row in enumerate(rows, start=2):
        for column in numbers:
            try:
                row[column] = float(row[column])
            except (TypeError, ValueError):
                row[column] = math.nan
            if not math.isfinite(row[column]):
                raise UserError(f"{path}: line {line}: {column} is not a finite number; `dvc repro` makes it anew")
    return rows
