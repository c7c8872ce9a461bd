"""What folders of pictures may look like: one or two, 8 and 16 bits, with or without a table of their cases."""

import csv
from pathlib import Path

import numpy as np
import pytest
from helpers.data import FOLDER, fails, source_cases
from PIL import Image

from nightshift.config import params
from nightshift.console.errors import UserError
from nightshift.ingest.images import mask_picture, picture
from nightshift.ingest.record import Problems
from nightshift.ingest.sources import list_cases, source_files

TABLE = FOLDER.model_copy(update={"cases": "cases.csv"})
ROW = {"case_id": "a", "patient_id": "P1", "primary_angle": "RAO 30", "secondary_angle": "25"}
DEEP = (np.arange(20 * 30).reshape(20, 30) * 6).astype(np.uint16)


def put_cases(*rows: dict[str, str]) -> None:
    with Path("cases.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_masks_beside_the_pictures_in_one_folder(pictures):
    one = FOLDER.model_copy(update={"masks": "images", "mask_suffix": "_gt"})
    for name in "ab":
        Path(f"masks/{name}.png").rename(f"images/{name}_gt.png")
    first, second = source_cases(one)
    assert (first.case_id, second.case_id) == ("a", "b")
    np.testing.assert_array_equal(first.read()[1], np.indices((20, 30))[1] < 5)
    assert len(source_files(one)) == 4
    Path("images/b.png").unlink()
    fails("images/b_gt.png: no picture for it in images", one)
    fails("images: images and masks are one folder; set mask_suffix", one.model_copy(update={"mask_suffix": ""}))


def test_masks_with_a_suffix_in_a_folder_of_their_own(pictures):
    for name in "ab":
        Path(f"masks/{name}.png").rename(f"masks/{name}-mask.png")
    assert [c.case_id for c in source_cases(FOLDER.model_copy(update={"mask_suffix": "-mask"}))] == ["a", "b"]


def test_what_has_no_partner_is_a_line_and_the_rest_is_read(pictures):
    Path("masks/a.png").rename("masks/c.png")
    Image.new("L", (3, 3)).save("images/b.jpg")
    problems = Problems()
    assert [case.case_id for case in list_cases(FOLDER, problems)] == ["b"]
    assert problems == [
        "images/b.png: a second picture named 'b' beside b.jpg; keep one",
        "images/a.png: no mask 'a' for it in masks",
        "masks/c.png: no picture for it in images",
    ]


def test_a_table_gives_patients_angles_splits_and_groups(pictures):
    put_cases(
        ROW | {"split": "train", "spacing": "0.2", "phase": "systole"},
        {"case_id": "b", "split": "test"},
    )
    first, second = source_cases(TABLE.model_copy(update={"split": "given"}))
    assert (first.patient_id, first.angles, first.split) == ("P1", (-30, 25), "train")
    assert (first.spacing, first.groups, first.where) == ((0.2, 0.2), {"phase": "systole"}, "cases.csv, line 2")
    assert (second.patient_id, second.angles, second.spacing, second.split) == ("", None, None, "test")
    assert Path("cases.csv") in source_files(TABLE)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"case_id": "a.png"}, "cases.csv, line 2: case 'a.png': no picture with a mask is called so in images"),
        ({"case_id": ""}, "line 2: case '': no picture"),
        ({"secondary_angle": ""}, "line 2: one of two angles"),
        ({"secondary_angle": "LAO 3"}, "line 2: angle 'LAO 3' is not a number"),
        ({}, "images/b.png: no row for case 'b' in cases.csv"),
    ],
)
def test_errors_of_the_table(pictures, changed, said):
    put_cases(ROW | changed)
    fails(said, TABLE)


def test_errors_of_the_table_as_a_whole(pictures, change):
    fails("cases.csv: no such table of cases", TABLE)
    put_cases(ROW)
    fails("cases.csv: column split missing", TABLE.model_copy(update={"split": "given"}))
    put_cases({"patient_id": "a"})
    fails("column case_id missing", TABLE)
    put_cases({"case_id": "a", "patient_id": "P1"}, {"case_id": "b", "patient_id": "P2"})  # angles are unknown then
    assert [(case.patient_id, case.angles) for case in source_cases(TABLE)] == [("P1", None), ("P2", None)]
    Path("conf/data/mine.yaml").write_text("kind: folder\nimages: a\nmasks: b\nsplit: given\n")
    change({"use.data": "mine"})
    with pytest.raises(UserError, match="split: given needs cases, a CSV with a column split; expected made"):
        _ = params.read().source


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.tiff"])
def test_pictures_of_16_bits(tmp_path, name):
    Image.fromarray(DEEP).save(tmp_path / name)
    np.testing.assert_array_equal(picture(tmp_path / name), np.round(DEEP * (255 / 3594)))
    np.testing.assert_array_equal(picture(tmp_path / name, (0, 4095)), np.round(DEEP * (255 / 4095)))


def test_pgm_of_8_and_16_bits_and_tiff_of_floats(tmp_path):
    (tmp_path / "8.pgm").write_bytes(b"P5 30 20 255\n" + (DEEP // 16).astype(np.uint8).tobytes())
    np.testing.assert_array_equal(picture(tmp_path / "8.pgm"), DEEP // 16)
    (tmp_path / "16.pgm").write_bytes(b"P5 30 20 65535\n" + DEEP.astype(">u2").tobytes())
    np.testing.assert_array_equal(picture(tmp_path / "16.pgm"), np.round(DEEP * (255 / 3594)))
    Image.fromarray(DEEP.astype(np.float32) / 3594).save(tmp_path / "f.tif")
    np.testing.assert_array_equal(picture(tmp_path / "f.tif"), np.round(DEEP * (255 / 3594)))


def test_alpha_is_ignored_and_several_pages_are_refused(tmp_path):
    Image.merge("LA", [Image.new("L", (4, 3), 90), Image.new("L", (4, 3), 0)]).save(tmp_path / "la.png")
    assert (picture(tmp_path / "la.png") == 90).all()
    pages = [Image.new("L", (4, 3), n) for n in range(3)]
    pages[0].save(tmp_path / "x.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match=r"x.tif: 3 pages or frames; save the one to segment by itself"):
        picture(tmp_path / "x.tif")


@pytest.mark.parametrize("values", [(0, 1), (0, 2), (0, 255), (0, 65535), (0, 300)])
def test_masks_of_any_one_value(tmp_path, values):
    mask = np.indices((20, 30))[1] < 5
    Image.fromarray(np.where(mask, values[1], values[0]).astype(np.uint16)).save(tmp_path / "m.png")
    np.testing.assert_array_equal(mask_picture(tmp_path / "m.png"), mask)
    Image.fromarray(np.zeros((20, 30), np.uint16)).save(tmp_path / "m.png")
    assert mask_picture(tmp_path / "m.png").sum() == 0


def test_labels_are_no_mask(tmp_path):
    Image.fromarray((np.indices((20, 30))[1] % 3).astype(np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(UserError, match="a picture with greys, not a mask"):
        mask_picture(tmp_path / "m.png")
    Image.fromarray(DEEP).save(tmp_path / "m.png")
    with pytest.raises(UserError, match="a picture with greys, not a mask"):
        mask_picture(tmp_path / "m.png")
