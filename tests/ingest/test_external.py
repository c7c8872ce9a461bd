"""A second data set: all of it is prepared for testing, and what it shares with the first one is named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.data import run_check, run_stage
from PIL import Image
from scipy.ndimage import gaussian_filter, shift

from nightshift.commands import contact_sheet
from nightshift.console.errors import UserError
from nightshift.core.io import read_csv
from nightshift.core.records import BetweenSets, Skipped
from nightshift.data.dataset import Cases, read_folds
from nightshift.data.locations import EXTERNAL
from stages import inputs, prepare

SIZE = (64, 56)


def frame(number: int) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(number).standard_normal(SIZE), 2)
    return np.uint8(np.interp(noise, (noise.min(), noise.max()), (20, 230)))


def folder_set(name: str, numbers: range) -> None:
    """NAME/images and NAME/masks, a picture for each number, and the preset NAME."""
    for kind in ("images", "masks"):
        Path(name, kind).mkdir(parents=True)
    for number in numbers:
        Image.fromarray(frame(number)).save(f"{name}/images/{number}.png")
        mask = np.uint8(255 * (np.indices(SIZE)[0] < 5 + number % 20))
        Image.fromarray(mask).save(f"{name}/masks/{number}.png")
    Path(f"conf/data/{name}.yaml").write_text(
        f"kind: folder\nimages: {name}/images\nmasks: {name}/masks\nsplit: made\n", encoding="utf-8"
    )


@pytest.fixture
def two_sets(change: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """two_sets({KEY: VALUE}): eight cases in `first`, four in `second`, which is external; no contact sheet."""
    monkeypatch.setattr(contact_sheet, "write_contact_sheet", lambda path, cases: len(cases))
    monkeypatch.setattr(contact_sheet, "write_pairs", lambda path, pairs, cases: None)
    folder_set("first", range(8))
    folder_set("second", range(20, 24))
    change({"use.data": "first", "use.external": "second", "view.mode": "none"})
    return change


def known_frame(frame: np.ndarray) -> None:
    """Another one of the first set is a case of the second, too."""
    Image.fromarray(frame).save("first/images/20-copy.png")
    Image.fromarray(np.uint8(255 * (np.indices(SIZE)[0] < 30))).save("first/masks/20-copy.png")


def patients(name: str, ids: dict[int, str]) -> None:
    rows = "".join(f"{case},{patient}\n" for case, patient in ids.items())
    Path(f"{name}/cases.csv").write_text(f"case_id,patient_id\n{rows}", encoding="utf-8")
    with Path(f"conf/data/{name}.yaml").open("a", encoding="utf-8") as file:
        file.write(f"cases: {name}/cases.csv\n")


def test_all_of_it_is_prepared_without_folds(two_sets, capsys):
    run_check()
    assert "nothing is wrong\nsecond: 4 cases to test every model on" in capsys.readouterr().out
    run_stage(inputs)
    assert "24 files" in capsys.readouterr().out
    run_stage(prepare)
    assert "4 cases of second: data/external" in capsys.readouterr().out
    cases = Cases(EXTERNAL, details=True)
    assert [case.case_id for case in cases] == ["20", "21", "22", "23"]
    np.testing.assert_array_equal(cases[0].frame, frame(20))
    fold = read_folds().folds[0]
    assert sorted([*fold.train, *fold.val, *fold.test]) == [str(i) for i in range(8)]
    found = BetweenSets.read(Path("reports/external.json"))
    assert found.warnings() == [] and (found.first, found.second, found.patients) == ("first", "second", [])
    assert {case.split for pair in found.similar.most_alike for case in (pair.first, pair.second)} == {
        "first", "second",
    }  # fmt: skip


def test_without_one_its_place_is_empty(two_sets):
    two_sets({"use.external": "none"})
    run_stage(prepare)
    assert len(Cases(EXTERNAL, details=True)) == 0
    assert BetweenSets.read(Path("reports/external.json")) == BetweenSets()


@pytest.mark.parametrize(("known", "how"), [(frame(20), "the very"), (frame(20) // 2 + 60, "nearly the")])
def test_a_frame_of_it_in_the_first_set_is_named_as_a_leak(two_sets, known, how):
    known_frame(known)
    message = f"second/images/20.png: second/images/20.png: {how} frame of case '20-copy' of first .* a leak"
    for stage in (run_check, lambda: run_stage(prepare)):
        with pytest.raises(UserError, match=message):
            stage()
    assert not EXTERNAL.exists()
    two_sets({"prepare.on_problem": "skip"})
    run_stage(prepare)
    assert [row["case_id"] for row in Cases(EXTERNAL).rows] == ["21", "22", "23"]
    skipped = Skipped.read(Path("reports/skipped.json"))
    assert skipped.total == 13 and [one.case_id for one in skipped.skipped] == ["20"]
    assert "20-copy" in {case for part in ("train", "val", "test") for case in getattr(read_folds().folds[0], part)}


def test_cases_of_one_name_in_both_sets_are_different_cases(two_sets):
    """What is wrong with one of them is not said of the other."""
    for kind in ("images", "masks"):
        Path(f"second/{kind}/20.png").rename(f"second/{kind}/0.png")
    Image.fromarray(np.zeros(SIZE, np.uint8)).save("second/masks/0.png")
    two_sets({"prepare.on_problem": "skip"})
    run_stage(prepare)
    assert [row["case_id"] for row in Cases(EXTERNAL).rows] == ["21", "22", "23"]
    (problem,) = Skipped.read(Path("reports/skipped.json")).skipped
    assert "second/masks/0.png: an empty mask" in problem.what and len(Cases(Path("data/prepared"))) == 8


def test_ids_of_patients_in_both_sets_are_a_warning(two_sets, capsys):
    """They may be other people: P001 is a patient of many hospitals."""
    patients("first", {i: f"P{i}" for i in range(8)})
    patients("second", {20 + i: f"P{6 + i}" for i in range(4)})
    run_check()
    out = capsys.readouterr().out
    assert "first and second both have patients with the ids P6, P7. If they are the same people" in out
    assert "see the warning above" in out
    run_stage(prepare)
    assert BetweenSets.read(Path("reports/external.json")).patients == ["P6", "P7"]
    assert len(Cases(EXTERNAL)) == 4


def test_similar_frames_in_both_sets_are_a_warning(two_sets, capsys):
    """Probably of one cine: the picture has moved too far to be the same frame."""
    known_frame(np.uint8(shift(frame(20).astype(float), (4, 3), mode="nearest")))
    run_check()
    warning = "1 pair of frames of first and second looks alike, 20-copy and 20 with a correlation of 0."
    assert warning in capsys.readouterr().out


def test_what_is_wrong_with_it_stops_as_in_the_first_set(two_sets, capsys):
    two_sets({"view.mode": "film"})
    with pytest.raises(UserError, match="the 2 problems listed above"):
        run_check()
    out = capsys.readouterr().out
    for name in ("first", "second"):
        assert f"conf/data/{name}.yaml" in out
    two_sets({"view.mode": "none", "prepare.on_problem": "skip"})
    for number in range(20, 24):
        Image.fromarray(np.zeros(SIZE, np.uint8)).save(f"second/masks/{number}.png")
    with pytest.raises(UserError, match=r"second.yaml: the 5 problems listed above"):
        run_check()
    assert "no case is left" in capsys.readouterr().out
    assert len(read_csv("reports/check/problems.csv")) == 5


def test_each_case_has_the_mask_that_it_would_be_tested_with(manifest, two_sets):
    """Of a manifest whose masks depend on the part, and whatever part its table names."""
    rows = Path("set/manifest.csv").read_text(encoding="utf-8").splitlines()
    header, *lines = (row.split(",") for row in rows)
    at = header.index("vessel_mask_actual_path")
    header.append("pseudo")
    for n, line in enumerate(lines):
        line.append(line[at])
        line[at] = f"p{n}/expert.npy"
        side = 40
        np.save(f"set/p{n}/cine.npy", np.stack([frame(40 + n)[:side, :side]] * 3))
        for mask, width in (("mask", 9), ("expert", 3 + n)):
            np.save(f"set/p{n}/{mask}.npy", np.uint8(np.indices((side, side))[1] < width))
    text = "".join(",".join(line) + "\n" for line in [header, *lines])
    Path("set/manifest.csv").write_text(text, encoding="utf-8")
    masks = "{train: pseudo, val: pseudo, test: vessel_mask_actual_path}"
    Path("conf/data/mine.yaml").write_text(
        f"kind: manifest\npath: set/manifest.csv\nsplit: given\nmask: {masks}\n", encoding="utf-8"
    )
    two_sets({"use.external": "mine"})
    run_stage(prepare)
    assert [int(case.mask[0].sum()) for case in Cases(EXTERNAL)] == [3, 4]
