"""Cases and data sets made of numbers, for tests."""

import csv
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from nightshift.commands.main import dispatch
from nightshift.config import params, resolved
from nightshift.config.presets import ImageFolder, Manifest
from nightshift.console.errors import UserError
from nightshift.data.dataset import Cases
from nightshift.ingest.manifest import COLUMNS
from nightshift.ingest.prepared import write_cases
from nightshift.ingest.record import Problems, SourceCase
from nightshift.ingest.sources import Source, list_cases

MANIFEST = Manifest(kind="manifest", path="set/manifest.csv", split="given")
FOLDER = ImageFolder(kind="folder", images="images", masks="masks", split="made")


def write_manifest(rows: list[dict[str, Any]], columns: Sequence[str] = COLUMNS) -> None:
    with Path("set/manifest.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def source_cases(source: Source) -> list[SourceCase]:
    """All cases of a source. Raises UserError where there is a problem."""
    problems = Problems()
    cases = list_cases(source, problems)
    problems.stop()
    return cases


def fails(match: str, source: Source = MANIFEST) -> None:
    """Listing or reading the source raises a UserError of one line with these words."""
    with pytest.raises(UserError) as caught:
        [case.read() for case in source_cases(source)]
    assert match in str(caught.value)
    assert "\n" not in str(caught.value)


def source_case(number: int, patient: str = "", split: str = "", **values: Any) -> SourceCase:
    """A frame of 60 x (40 + number) pixels with a bright bar, which the mask marks; angles from the number."""
    random = np.random.default_rng(number)
    frame = random.integers(0, 100, (60, 40 + number), dtype=np.uint8)
    mask = np.zeros_like(frame)
    mask[:, 5 + number : 12 + number] = 1
    angles = values.get("angles", (float(7 * number), -10.0))
    return SourceCase(f"case-{number}", patient, angles, split, (), lambda: (frame + 100 * mask, mask))


def written(folder: Path, cases: list[SourceCase]) -> Cases:
    """The cases as a prepared data set in `folder`, opened."""
    write_cases(folder, cases, iter)
    return Cases(folder)


def run_stage(stage: ModuleType) -> None:
    """Run a stage of stages/ with the settings of params.yaml, as they are now, resolved."""
    resolved.write_all(params.read())
    stage.main()


def run_check(*changes: str) -> None:
    """`nightshift check -S CHANGE ...`."""
    dispatch(["check", *(word for change in changes for word in ("-S", change))])
