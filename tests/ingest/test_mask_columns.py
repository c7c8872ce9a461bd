"""A column of masks for each part of the split: pseudo-labels train, real ones test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.data import MANIFEST, fails, run_check, run_stage, source_cases, write_manifest

from nightshift.commands import contact_sheet, planning
from nightshift.config import params
from nightshift.config.presets import BySplit
from nightshift.console.errors import UserError
from nightshift.core.io import read_csv
from nightshift.data.dataset import open_part
from nightshift.data.locations import SPLITS
from nightshift.ingest.manifest import COLUMNS
from nightshift.ingest.record import SourceCase
from nightshift.ingest.sources import source_files
from stages import inputs, prepare

PSEUDO, ACTUAL = "vessel_mask_pseudo_path", "vessel_mask_actual_path"
MASK = {"train": PSEUDO, "val": PSEUDO, "test": ACTUAL}
SIZE = (40, 36)
Rows = list[dict[str, Any]]


@pytest.fixture
def mine(checkout, change, monkeypatch) -> Callable[..., Rows]:
    """mine(split): ten patients with two cases each; pseudo-labels mark row 0, real masks the last one; its rows."""
    monkeypatch.setattr(contact_sheet, "write_contact_sheet", lambda path, cases: len(cases))

    def made(split: str) -> Rows:
        rows = []
        for n in range(20):
            folder = Path(f"set/c{n}")
            folder.mkdir(parents=True)
            np.save(folder / "cine.npy", np.random.default_rng(n).integers(0, 256, (1, *SIZE), dtype=np.uint8))
            for name, line in (("pseudo", 0), ("actual", -1)):
                mask = np.zeros(SIZE, np.uint8)
                mask[line], mask[10, : n + 1] = 255, 255  # no two alike
                np.save(folder / f"{name}.npy", mask)
            (folder / "view.json").write_text('{"view_angles": {"primary_angle": -30.5, "secondary_angle": 20}}')
            part = SPLITS[n // 2 % 3]
            values = (f"p{n // 2}", f"c{n}", f"c{n}/cine.npy", 0, f"c{n}/actual.npy", f"c{n}/view.json", part)
            rows.append(dict(zip(COLUMNS, values, strict=True)) | {PSEUDO: f"c{n}/pseudo.npy"})
        write(rows)
        preset = {"kind": "manifest", "path": "set/manifest.csv", "split": split, "mask": MASK}
        Path("conf/data/mine.yaml").write_text(yaml.safe_dump(preset))
        change({"use.data": "mine", "encoder.weights": "random"})
        return rows

    return made


def write(rows: Rows) -> None:
    write_manifest(rows, (*COLUMNS, PSEUDO))


def which(mask: np.ndarray) -> str:
    assert bool(mask[0].all()) != bool(mask[-1].all())
    return PSEUDO if mask[0].all() else ACTUAL


def prepared() -> dict[str, dict[str, str]]:
    """By part, the column that the mask of each case is from."""
    return {part: {one.case_id: which(one.mask) for one in open_part(0, part)} for part in SPLITS}


@pytest.mark.parametrize("split", ["given", "made"])
def test_each_part_has_the_masks_of_its_column(mine, split, capsys):
    mine(split)
    run_stage(inputs)
    run_stage(prepare)
    found = prepared()
    assert {part: set(columns.values()) for part, columns in found.items()} == {
        part: {column} for part, column in MASK.items()
    }
    patients = {part: {int(case_id[1:]) // 2 for case_id in columns} for part, columns in found.items()}
    assert sorted(number for of_part in patients.values() for number in of_part) == list(range(10))
    assert sum(map(len, found.values())) == 20
    assert planning.fold_sizes(params.read().data)[0][:3] == tuple(map(len, found.values()))
    run_check()
    assert "nothing is wrong" in capsys.readouterr().out


def test_another_split_takes_other_masks(mine, change):
    mine("made")
    parts = {}
    for seed in (0, 1):
        change({"prepare.seed": seed})
        run_stage(prepare)
        parts[seed] = {case_id: part for part, columns in prepared().items() for case_id in columns}
        assert all(column == MASK[part] for part, columns in prepared().items() for column in columns.values())
    assert parts[0] != parts[1]


def test_the_same_split_as_with_one_column(mine, change):
    mine("made")
    run_stage(prepare)
    apart = {part: set(columns) for part, columns in prepared().items()}
    change({"mask": ACTUAL}, "conf/data/mine.yaml")
    run_stage(prepare)
    assert {part: set(columns) for part, columns in prepared().items()} == apart
    assert {column for columns in prepared().values() for column in columns.values()} == {ACTUAL}


@pytest.mark.parametrize("split", ["given", "made"])
def test_an_empty_cell_of_the_part_is_a_mistake_and_no_other_mask_is_taken(mine, split, change):
    rows = mine(split)
    part_of = {case.case_id: part for part, members in checked_split().items() for case in members}
    numbers = {part: next(n for n in range(20) if part_of[f"c{n}"] == part) for part in SPLITS}
    for part, n in numbers.items():
        write([row | {MASK[part]: ""} if row is rows[n] else row for row in rows])
        with pytest.raises(UserError) as caught:
            run_check()
        assert str(caught.value).startswith(
            f"set/manifest.csv, line {n + 2}: {MASK[part]} is empty, and the case is in"
        )
        assert f"in {part}; " in str(caught.value)
        for stop in (lambda: run_stage(prepare), lambda: planning.fold_sizes(params.read().data)):
            with pytest.raises(UserError, match=f"line {n + 2}: {MASK[part]} is empty"):
                stop()
        other = PSEUDO if MASK[part] == ACTUAL else ACTUAL
        write([row | {other: ""} if row is rows[n] else row for row in rows])
        run_check()
    change({"prepare.on_problem": "skip"})
    write(
        [
            row | {PSEUDO: "", ACTUAL: ""} if row in (rows[numbers["train"]], rows[numbers["test"]]) else row
            for row in rows
        ]
    )
    run_stage(prepare)
    found = prepared()
    left = {case_id: part for part, columns in found.items() for case_id in columns}
    gone = {f"c{numbers['train']}", f"c{numbers['test']}"}
    assert left == {case_id: part for case_id, part in part_of.items() if case_id not in gone}  # nothing has moved
    assert planning.fold_sizes(params.read().data)[0][:3] == tuple(map(len, found.values()))


def checked_split() -> dict[str, list[SourceCase]]:
    from nightshift.ingest import integrity

    return integrity.check(params.read().data, iter).folds[0]


def test_a_bad_mask_is_named_in_its_part_only(mine, change):
    mine("made")
    (first, *_) = checked_split()["test"]
    Path(f"set/{first.case_id}/pseudo.npy").write_bytes(b"")
    run_check()
    np.save(f"set/{first.case_id}/actual.npy", np.zeros(SIZE, np.uint8))
    with pytest.raises(UserError, match=f"set/{first.case_id}/actual.npy: an empty mask"):
        run_check()
    change({"prepare.on_problem": "skip"})
    run_stage(prepare)
    assert first.case_id not in prepared()["test"]
    (problem,) = read_csv("reports/check/problems.csv")
    assert problem["case_id"] == first.case_id


@pytest.mark.parametrize(("rows_marked", "said"), [(1, False), (3, True)])
def test_masks_of_one_column_that_mark_far_more_are_a_warning(mine, capsys, rows_marked, said):
    mine("made")
    for n in range(20):
        for name, line in (("pseudo", slice(0, rows_marked)), ("actual", slice(39, 40))):
            mask = np.zeros(SIZE, np.uint8)
            mask[line], mask[10, n] = 1, 1
            np.save(f"set/c{n}/{name}.npy", mask)
    run_check()
    out = capsys.readouterr().out
    warned = f"masks of {PSEUDO} mark 7.6% of their frame, those of {ACTUAL} 2.6% (medians): make sure that both mark"
    assert (warned in out) == said
    assert ("nothing is wrong" in out) != said


def test_too_few_patients_are_said_beside_other_mistakes(mine, capsys):
    rows = mine("made")
    write([*rows[:2], rows[2] | {"frame_index": "x"}])
    with pytest.raises(UserError, match="2 problems"):
        run_check()
    out = capsys.readouterr().out
    assert "no case in" in out and "frame_index 'x' is not a whole number" in out


def test_a_case_that_is_in_no_part_yet_cannot_be_read(manifest):
    rows = [row | {PSEUDO: row[ACTUAL], "more": "gone.npy"} for row in manifest]
    write_manifest(rows, (*COLUMNS, PSEUDO, "more"))
    mask = BySplit(train=PSEUDO, val="more", test="contours_path")
    made = MANIFEST.model_copy(update={"split": "made", "mask": mask})
    case = source_cases(made)[0]
    with pytest.raises(RuntimeError, match="depends on its part"):
        case.read()
    assert case.in_part is not None and case.groups == {}
    train = case.in_part("train")
    assert train.split == "train" and train.read()[1].any() and train.in_part is None
    assert train.files == tuple(Path("set/p0", name) for name in ("cine.npy", "mask.npy", "contours.json"))
    with pytest.raises(UserError, match=r"set/manifest.csv, line 2: set/gone.npy: not readable"):
        case.in_part("val").read()
    with pytest.raises(
        UserError, match=r"set/manifest.csv, line 2: set/p0/contours.json has no left_edge and right_edg"
    ):
        case.in_part("test")
    Path("set/gone.npy").write_bytes(b"")
    assert Path("set/gone.npy") in source_files(made) and Path("set/p1/mask.npy") in source_files(made)


def test_a_part_may_be_drawn_from_contours(manifest):
    edges = '"left_edge": [[1, 1], [7, 1]], "right_edge": [[1, 3], [7, 3]]'
    for n in (0, 1):
        Path(f"set/p{n}/contours.json").write_text(f'{{"view_angles": {{"primary": 1, "secondary": 2}}, {edges}}}')
    write_manifest([manifest[0], manifest[1] | {"split": "test"}])
    mask = BySplit(train=ACTUAL, val=ACTUAL, test="contours_path")
    given = MANIFEST.model_copy(update={"mask": mask})
    train, test = source_cases(given)
    assert train.read()[1].sum() == 18 and test.read()[1].sum() == 18
    assert test.read()[1][1:4, 1:7].all() and not test.read()[1][:, 0].any()
    assert test.files == (Path("set/p1/cine.npy"), Path("set/p1/contours.json"))
    write_manifest([manifest[0] | {"split": "Train"}])
    fails("set/manifest.csv, line 2: split 'Train'; expected train, val, test", given)


@pytest.mark.parametrize("mask", ["{train: a, test: b}", "{train: a, val: a, test: 3}", "[a]", "{all: a}", "''"])
def test_a_bad_mask_setting_is_named(checkout, change, mask):
    Path("conf/data/mine.yaml").write_text(f"kind: manifest\npath: m.csv\nsplit: given\nmask: {mask}\n")
    change({"use.data": "mine"})
    with pytest.raises(
        UserError, match=r"mine.yaml: mask: expected a column, or \{train: a column, val: a column, tes"
    ):
        params.read()
