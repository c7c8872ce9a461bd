"""`nightshift check`: the pictures that it draws, and what it says of similar frames without patient ids."""

from pathlib import Path

import numpy as np
import pytest
from helpers.chain import ROOT
from helpers.data import run_check, run_stage
from PIL import Image
from scipy.ndimage import gaussian_filter, shift

from nightshift.commands import contact_sheet
from nightshift.core.records import SimilarFrames
from nightshift.data.dataset import read_folds
from nightshift.ingest.record import SourceCase
from stages import prepare

SIZE = (48, 40)
NONE = ("use.data=angiograms", "view.mode=none")
REAL = ROOT.parent / "shared/angiograms"


def picture(number: int) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(number).standard_normal(SIZE), 1.5)
    return np.uint8(np.interp(noise, (noise.min(), noise.max()), (20, 230)))


def test_the_contact_sheet_shows_frame_and_mask(checkout):
    frame, mask = picture(0), np.zeros(SIZE, np.uint8)
    mask[10:20, 5:15] = 1
    drawn = contact_sheet.beside_mask(frame, mask)
    assert drawn.shape == (300, 250 + 6 + 250, 3)
    plain, marked = drawn[:, :250].astype(int), drawn[:, 256:].astype(int)
    assert (plain[..., 0] == plain[..., 1]).all()
    coloured = marked[..., 0] != marked[..., 1]
    np.testing.assert_array_equal(np.argwhere(coloured).min(axis=0), [61, 30])  # an outline of one pixel, outside
    np.testing.assert_array_equal(plain[~coloured], marked[~coloured])
    (case,) = [SourceCase("a", "p", None, "val", (), lambda: (frame, mask))]
    assert contact_sheet.write_contact_sheet(Path("sheet.png"), [case]) == 1
    assert Image.open("sheet.png").size > (1000, 200)


@pytest.fixture
def cines(checkout, change):
    """Ten pictures without patients; 7 and 8 are like 0 and 1, moved by two pixels, and 9 is like 8."""
    change({"images": "images", "masks": "masks"}, "conf/data/angiograms.yaml")
    change({"use.data": "angiograms", "view.mode": "none"})
    for folder in ("images", "masks"):
        Path(folder).mkdir()
    frames = [picture(number) for number in range(7)]
    frames += [shift(frames[0], (1, 2), mode="nearest"), shift(frames[1], (2, -1), mode="nearest")]
    frames.append(shift(frames[8], (1, -1), mode="nearest"))
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(f"images/{number}.png")
        mask = np.zeros(SIZE, np.uint8)
        mask[4:20, number : number + 3] = 255
        Image.fromarray(mask).save(f"masks/{number}.png")


def parts() -> dict[str, str]:
    """Part of the split by case id, as prepared."""
    (fold,) = read_folds().folds
    return {case_id: part for part, members in fold.model_dump().items() for case_id in members}


def test_similar_frames_in_different_parts_are_said_and_shown(cines, capsys):
    run_check()
    out = capsys.readouterr().out
    run_stage(prepare)
    similar = SimilarFrames.read(Path("reports/similar.json"))
    part = parts()
    alike = {frozenset("07"), frozenset("18"), frozenset("19"), frozenset("89")}
    apart = {pair for pair in alike if len({part[name] for name in pair}) > 1}
    assert similar.cases == 10 and similar.pairs_across == len(apart) > 0
    above = [pair for pair in similar.most_alike if pair.correlation >= similar.threshold]
    assert {frozenset((pair.first.case_id, pair.second.case_id)) for pair in above} == apart
    assert all(case.split == part[case.case_id] for pair in above for case in (pair.first, pair.second))
    assert [pair.correlation for pair in similar.most_alike] == sorted(
        (pair.correlation for pair in similar.most_alike), reverse=True
    )
    first = above[0].first
    assert f"{first.split} {first.case_id} (images/{first.case_id}.png)" in out and "Dice may be too high" in out
    assert "nothing is wrong" not in out and "Dice may be too high" in capsys.readouterr().out
    assert Image.open("reports/check/similar-pairs.png").size[0] > 1000


def test_group_similar_keeps_them_in_one_part(cines, capsys, change):
    change({"prepare.group_similar": True})
    for seed in range(5):
        change({"prepare.seed": seed})
        run_stage(prepare)
        part = parts()
        assert part["0"] == part["7"] and part["1"] == part["8"] == part["9"]
        similar = SimilarFrames.read(Path("reports/similar.json"))
        assert similar.pairs_across == 0 and similar.most_alike[0].correlation < similar.threshold
    run_check()
    assert "nothing is wrong" in capsys.readouterr().out


def test_with_patients_nothing_is_compared(checkout, change, cines, capsys):
    change({"cases": "cases.csv"}, "conf/data/angiograms.yaml")
    Path("cases.csv").write_text("case_id,patient_id\n" + "".join(f"{n},p{n}\n" for n in range(10)))
    run_check()
    assert "nothing is wrong" in capsys.readouterr().out
    assert not Path("reports/check/similar-pairs.png").exists()
    run_stage(prepare)
    assert SimilarFrames.read(Path("reports/similar.json")) == SimilarFrames(
        threshold=0.75, cases=0, pairs_across=0, most_alike=[]
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sign_of_the_primary_angle_that_the_data_contradict_is_a_warning(checkout, change, cines, capsys, sign):
    change({"cases": "cases.csv"}, "conf/data/angiograms.yaml")
    rows = [f"{n},p{n},{sign * (-30 if n == 0 else 45)},0,{'RCA' if n < 8 else 'LAD'}\n" for n in range(10)]
    Path("cases.csv").write_text("case_id,patient_id,primary_angle,secondary_angle,vessel\n" + "".join(rows))
    for stage in (run_check, lambda: run_stage(prepare)):
        stage()
        out = capsys.readouterr().out
        warned = "warning: 7 of 8 views of the right coronary artery (by the column vessel) have a negative primary"
        assert (warned in out) == (sign < 0)
        assert "train, " in out  # it stops nothing
    run_check()
    assert ("see the warning above" if sign < 0 else "nothing is wrong") in capsys.readouterr().out


@pytest.mark.skipif(not REAL.is_dir(), reason="the 40 real angiograms are not here")
@pytest.mark.parametrize("grouped", [False, True])
def test_the_real_angiograms(checkout, change, capsys, grouped):
    change({"images": str(REAL / "images"), "masks": str(REAL / "masks")}, "conf/data/angiograms.yaml")
    run_check(*NONE, f"prepare.group_similar={str(grouped).lower()}")
    out = capsys.readouterr().out
    wanted = "nothing is wrong" if grouped else "2 pairs of similar frames are in different parts of the split"
    assert grouped or "24 train, 6 val, 10 test cases; " in out
    assert wanted in out and ("nothing is wrong" in out) == grouped
    assert Image.open("reports/check/contact-sheet.png").size[0] > 2000
