"""COCO's instance JSON: polygons, run lengths, categories, splits, and what can be wrong with it."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.data import fails, source_cases
from PIL import Image
from pycocotools import mask as runs

from nightshift.config import params
from nightshift.config.presets import Coco, DataFile
from nightshift.console.errors import UserError
from nightshift.ingest.record import Problems
from nightshift.ingest.sources import list_cases, source_files

SOURCE = Coco(kind="coco", annotations="set.json", images="images", categories="all", split="made")
LAD = SOURCE.model_copy(update={"categories": ["LAD"]})
SQUARE = [2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]  # columns 2 to 5, rows 1 to 3


@pytest.fixture
def content(checkout):
    """Two images of 10 rows and 12 columns: one with a square and run lengths, one with another category's square."""
    Path("images").mkdir()
    for number in (1, 2):
        Image.fromarray(np.full((10, 12), number, np.uint8)).save(f"images/{number}.png")
    images = [{"id": number, "file_name": f"{number}.png", "height": 10, "width": 12} for number in (1, 2)]
    lengths = {"size": [10, 12], "counts": [100, 5, 15]}  # column 10, rows 0 to 4
    annotations = [
        {"id": 1, "image_id": 1, "category_id": 3, "segmentation": [SQUARE], "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 4, "segmentation": lengths, "iscrowd": 1},
        {"id": 3, "image_id": 2, "category_id": 4, "segmentation": [[x + 1 for x in SQUARE]]},
    ]
    categories = [{"id": 3, "name": "LAD"}, {"id": 4, "name": "stenosis"}]
    return save({"images": images, "annotations": annotations, "categories": categories})


def save(content, name="set.json"):
    Path(name).write_text(json.dumps(content), encoding="utf-8")
    return content


def square(top=1, left=2):
    mask = np.zeros((10, 12), np.uint8)
    mask[top : top + 3, left : left + 4] = 1
    return mask


def test_all_categories_are_one_mask(content):
    first, second = source_cases(SOURCE)
    wanted = square()
    wanted[:5, 10] = 1
    frame, mask = first.read()
    np.testing.assert_array_equal(mask, wanted)
    assert (frame.dtype, mask.dtype, int(frame.min()), int(frame.max())) == (np.uint8, np.uint8, 1, 1)
    np.testing.assert_array_equal(second.read()[1], square(2, 3))
    assert (first.case_id, first.patient_id, first.angles, first.split) == ("1", "", None, "")
    assert first.where == "set.json, images[0] (1.png)"
    assert source_files(SOURCE) == [Path("images/1.png"), Path("images/2.png"), Path("set.json")]


def test_categories_by_name_and_images_without_them(content):
    problems = Problems()
    (only,) = list_cases(LAD, problems)
    np.testing.assert_array_equal(only.read()[1], square())
    assert problems == [
        "set.json, images[1] (2.png): no annotation of LAD; `unannotated: empty` if there is nothing to see"
    ]
    cases = source_cases(LAD.model_copy(update={"unannotated": "empty"}))
    assert [int(case.read()[1].sum()) for case in cases] == [12, 0]
    fails("set.json: no category 'LAT'; did you mean 'LAD'?", LAD.model_copy(update={"categories": ["LAT"]}))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_run_lengths(content, compressed, seed):
    mask = np.random.default_rng(seed).random((10, 12)) < (0.05, 0.5, 1)[seed]
    packed = runs.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    ends = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.ravel(), [2]])))  # the first run is of zeros
    lengths = np.diff(ends, prepend=0).tolist()
    content["annotations"][0]["segmentation"] = {"size": [10, 12], "counts": packed if compressed else lengths}
    save(content)
    np.testing.assert_array_equal(source_cases(LAD.model_copy(update={"unannotated": "empty"}))[0].read()[1], mask)


def test_a_large_mask_compressed(content):
    mask = np.kron(np.random.default_rng(0).random((9, 7)) < 0.5, np.ones((150, 90), np.uint8)).astype(np.uint8)
    Image.fromarray(mask).save("images/1.png")
    packed = runs.encode(np.asfortranarray(mask))
    content["images"][0] |= {"height": 1350, "width": 630}
    content["annotations"][:2] = [
        content["annotations"][0] | {"segmentation": {"size": [1350, 630], "counts": packed["counts"].decode()}}
    ]
    save(content)
    np.testing.assert_array_equal(source_cases(SOURCE)[0].read()[1], mask)


def test_a_file_per_split(content):
    for number, split in enumerate(("train", "val", "test")):
        Path(split).mkdir()
        Image.fromarray(np.full((10, 12), number, np.uint8)).save(f"{split}/1.png")
        one = {"images": content["images"][:1], "annotations": content["annotations"][:1]}
        save(content | one, f"{split}.json")
    by_split = {split: split for split in ("train", "val", "test")}
    Path("conf/data/mine.yaml").write_text(
        "kind: coco\nannotations: {train: train.json, val: val.json, test: test.json}\n"
        f"images: {json.dumps(by_split)}\ncategories: [LAD]\nsplit: given\n"
    )
    data = params.read_preset("data", "mine", DataFile).source
    cases = source_cases(data)
    assert [(case.case_id, case.split) for case in cases] == [(f"{name}-1", name) for name in by_split]
    assert [int(case.read()[0][0, 0]) for case in cases] == [0, 1, 2]
    assert len(source_files(data)) == 6
    cases = source_cases(data.model_copy(update={"images": "val"}))  # one folder for all
    assert [int(case.read()[0][0, 0]) for case in cases] == [1, 1, 1]


def test_an_image_may_have_a_patient_and_angles(content):
    content["images"][0] |= {"patient_id": 17, "primary_angle": -30, "secondary_angle": 20.5}
    content["images"][0]["file_name"] = "sub/1.png"
    Path("images/sub").mkdir()
    Path("images/1.png").rename("images/sub/1.png")
    save(content)
    case = source_cases(SOURCE)[0]
    assert (case.case_id, case.patient_id, case.angles) == ("sub-1", "17", (-30.0, 20.5))


@pytest.mark.parametrize(
    ("place", "values", "said"),
    [
        (("images", 0), {"id": None}, "images[0]: expected id and file_name"),
        (("images", 0), {"id": [1]}, "images[0]: expected id and file_name"),
        (("images", 1), {"file_name": 2}, "images[1]: expected id and file_name"),
        (("images", 1), {"id": 1}, "images[0]: id 1 is that of 2 images"),
        (("images", 1), {"file_name": "1.png"}, "images[1] (1.png): case '1' is there twice"),
        (("images", 0), {"height": "10"}, "images[0]: height '10', width 12; expected pixels"),
        (("images", 0), {"width": 0}, "images[0]: height 10, width 0; expected pixels"),
        (("images", 0), {"width": 11}, "images[0] (1.png): 10 rows and 11 columns, but images/1.png has (10, 12)"),
        (("images", 0), {"file_name": "9.png"}, "images[0]: images/9.png: no such file"),
        (("images", 0), {"primary_angle": 3}, "images[0] (1.png): one of two angles; give both or none"),
        (("images", 0), {"primary_angle": True, "secondary_angle": 3}, "images[0] (1.png): angle True is not a number"),
        (("images", 0), {"primary_angle": 10**400, "secondary_angle": 3}, "images[0] (1.png): angle 1000"),
        (("annotations", 0), {"image_id": 9}, "annotations[0]: its image_id is that of no image"),
        (("annotations", 0), {"image_id": [1]}, "annotations[0]: its image_id is that of no image"),
        (("annotations", 0), {"category_id": 9}, "annotations[0]: category_id 9 is not in categories"),
        (("annotations", 0), {"segmentation": None}, "annotations[0]: no segmentation; expected run lengths, or poly"),
        (("annotations", 0), {"segmentation": []}, "annotations[0]: no segmentation"),
        (("annotations", 0), {"segmentation": [SQUARE[:4]]}, "annotations[0]: no segmentation"),
        (("annotations", 0), {"segmentation": [SQUARE[:7]]}, "annotations[0]: no segmentation"),
        (("annotations", 0), {"segmentation": [[float("nan")] * 6]}, "annotations[0]: no segmentation"),
        (("annotations", 0), {"segmentation": [[10**400] * 6]}, "annotations[0]: no segmentation"),
        (("annotations", 0), {"segmentation": [[1e9] * 6]}, "annotations[0]: no segmentation"),
        (("annotations", 0), {"segmentation": SQUARE}, "annotations[0]: no segmentation"),
        (("categories", 1), {"id": None}, "categories[1]: expected id and name"),
    ],
)
def test_errors_of_an_entry(content, place, values, said):
    content[place[0]][place[1]] |= values
    save(content)
    fails(f"set.json, {said}", SOURCE)


@pytest.mark.parametrize(
    ("size", "counts"),
    [
        ([12, 10], [100, 5, 15]),
        (None, [120]),
        ([10, 12], [100, 5, 14]),
        ([10, 12], [100, 5, 16]),
        ([10, 12], [130, -10]),
        ([10, 12], [100.0, 20]),
        ([10, 12], None),
        ([10, 12], ""),
        ([10, 12], "01d0"),
        ([10, 12], "~~~"),
        ([10, 12], "oooo"),
    ],
)
def test_run_lengths_that_do_not_fit(content, size, counts):
    content["annotations"][0]["segmentation"] = {"size": size, "counts": counts}
    save(content)
    fails("set.json, annotations[0]: run lengths", SOURCE)


def test_errors_of_the_file(content):
    fails("images2: no such folder", SOURCE.model_copy(update={"images": "images2"}))
    for name in content:
        save({k: v for k, v in content.items() if k != name})
        fails(f"set.json: no list '{name}'; expected COCO's images, annotations and categories", SOURCE)
    save(content | {"images": []})
    fails("set.json: no images in it", SOURCE)
    save([])
    fails("set.json: no list 'images'", SOURCE)
    Path("set.json").write_text("{")
    fails("set.json: not JSON", SOURCE)
    Path("set.json").write_text("[" * 100000)
    fails("set.json: not JSON", SOURCE)
    Path("set.json").write_bytes(b"\xff\xfe")
    fails("set.json: not JSON", SOURCE)
    Path("set.json").unlink()
    fails("set.json: no such file", SOURCE)


def test_the_problems_of_one_image_leave_the_others(content):
    content["images"][0]["height"] = None
    save(content)
    problems = Problems()
    assert [case.case_id for case in list_cases(SOURCE, problems)] == ["2"]
    assert len(problems) == 1


def test_an_annotation_that_is_wrong_spoils_its_image_and_no_other(content):
    """Else the image would count with a part of its mask missing."""
    content["annotations"][1]["category_id"] = 9
    content["annotations"].append({"image_id": 9})
    save(content)
    problems = Problems()
    assert [case.case_id for case in list_cases(SOURCE, problems)] == ["2"]
    assert problems == [
        "set.json, annotations[1]: category_id 9 is not in categories",
        "set.json, annotations[3]: its image_id is that of no image",
    ]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("split: given", "annotations: expected {train: a file, val: ..., test: ...}, as split or images ask for"),
        ("images: {train: a, val: b, test: c}", "annotations: expected {train: a file, val: ..."),
        (
            "annotations: {train: a, val: b}",
            "annotations: expected a file, or {train: a file, val: a",
        ),
        ("annotations: {train: a, val: b, tst: c}", "annotations: expected a file, or {train: a file"),
        ("categories: LAD", "categories: expected all or a list of names"),
        ("categories: []", "categories: expected all or a list of names"),
        ("unannotated: skip", "unannotated: Input should be 'error' or 'empty', got 'skip'"),
        ("category: LAD", "unknown key 'category'; did you mean 'categories'?"),
    ],
)
def test_errors_of_the_preset(checkout, changed, said):
    lines = {"kind": "coco", "annotations": "a.json", "images": "images", "categories": "all", "split": "made"}
    key, value = changed.split(": ", 1)
    text = "\n".join(f"{k}: {v}" for k, v in (lines | {key: value}).items())
    Path("conf/data/mine.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        params.read_preset("data", "mine", DataFile)
    assert said in str(caught.value)


def test_a_given_split_of_dicom_files_is_in_a_csv(checkout):
    Path("conf/data/mine.yaml").write_text("kind: dicom\nimages: xa\nmasks: xa\nsplit: given\n")
    with pytest.raises(UserError, match="split: given needs cases, a CSV with a column split"):
        params.read_preset("data", "mine", DataFile)


@pytest.mark.parametrize(
    ("primary", "secondary", "angles"),
    [(-30, 20.5, (-30.0, 20.5)), ("RAO 30", "CRA 20", (-30.0, 20.0)), ("30° LAO", -5, (30.0, -5.0)), ("", None, None)],
)
def test_angles_of_an_image_are_written_as_anywhere(content, primary, secondary, angles):
    content["images"][0] |= {"primary_angle": primary, "secondary_angle": secondary}
    save(content)
    assert source_cases(SOURCE)[0].angles == angles
