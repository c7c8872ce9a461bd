"""The files of a user as cases: manifests, folders of pictures, simulated data, and the errors in them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.data import FOLDER, MANIFEST, fails, source_cases, write_manifest
from PIL import Image

from nightshift.config.presets import Simulated
from nightshift.data.locations import SYNTHETIC
from nightshift.ingest.manifest import COLUMNS
from nightshift.ingest.sources import source_files

MADE = MANIFEST.model_copy(update={"split": "made"})


def test_manifest(manifest):
    first, second = source_cases(MANIFEST)
    assert (first.case_id, first.patient_id, first.angles, first.split) == ("c0", "p0", (-30.5, 180.0), "train")
    frame, mask = second.read()
    assert (frame.shape, frame.dtype, mask.shape, mask.dtype) == ((8, 7), np.uint8) * 2
    assert (frame == 12).all()  # its frame_index is 2
    assert np.bincount(mask.ravel()).tolist() == [42, 14]
    files_of = [Path(f"set/p{n}/{name}") for n in (0, 1) for name in ("cine.npy", "contours.json", "mask.npy")]
    assert source_files(MANIFEST) == [Path("set/manifest.csv"), *files_of]


def test_manifest_with_bom_more_columns_and_bool_masks(manifest):
    np.save("set/p0/mask.npy", np.load("set/p0/mask.npy") > 0)
    write_manifest([r | {"note": "é"} for r in manifest], (*COLUMNS, "note"))
    path = Path("set/manifest.csv")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert source_cases(MANIFEST)[0].read()[1].sum() == 18


def test_sources_lie_in_the_main_checkout_but_synthetic_data_here(manifest, monkeypatch, tmp_path_factory):
    main = Path.cwd()
    monkeypatch.chdir(tmp_path_factory.mktemp("queued"))
    monkeypatch.setenv("DVC_ROOT", str(main))
    assert len(source_cases(MANIFEST)) == 2
    simulated = Simulated.model_construct(kind="simulated")
    fails("no such manifest", simulated)
    shutil.copytree(main / "set", SYNTHETIC)
    assert len(source_cases(simulated)) == 2


def test_errors_of_a_manifest(manifest):
    for column in COLUMNS[:-1]:
        write_manifest([manifest[0] | {column: ""}])
        fails(f"set/manifest.csv, line 2: {column} is empty")  # or, of the mask, and nothing to draw one from
    write_manifest(manifest, COLUMNS[1:-1])
    fails("column patient_id, split missing")
    fails("column patient_id missing", MADE)
    write_manifest(manifest, COLUMNS[:-1])
    assert [case.split for case in source_cases(MADE)] == ["", ""]
    write_manifest([row | {"split": "Train"} for row in manifest])
    assert [case.split for case in source_cases(MADE)] == ["", ""]
    write_manifest([manifest[0], manifest[1] | {"case_id": "c0"}])
    fails("case 'c0' is there twice")
    for index in ("-1", "1.0", "x"):
        write_manifest([manifest[0], manifest[1] | {"frame_index": index}])
        fails(f"line 3: frame_index '{index}' is not a whole number")
    write_manifest([manifest[0] | {"frame_index": 3}])
    fails("frame_index 3 but set/p0/cine.npy has 3 frames")
    Path("set/manifest.csv").write_bytes(b"patient_id,\xff\xfe")
    fails("not readable as a UTF-8 CSV")
    Path("set/manifest.csv").unlink()
    fails("set/manifest.csv: no such manifest")


@pytest.mark.parametrize(
    ("view", "said"),
    [
        ("{", "no view angles in it"),
        ('{"primary_angle": 1}', "no view angles in it"),
        ('{"primary_angle": "x", "secondary_angle": 0}', "angle 'x' is not a number of degrees"),
        ('{"primary_angle": true, "secondary_angle": 0}', "angle True is not"),
        ('{"primary_angle": NaN, "secondary_angle": 0}', "angle nan is not"),
        ('{"primary_angle": 0, "secondary_angle": -180.5}', "angle -180.5 is not"),
    ],
)
def test_errors_of_the_angles(manifest, view, said):
    path = Path("set/p1/contours.json")
    path.write_text(f'{{"view_angles": {view}}}')
    fails(said)
    fails("set/manifest.csv, line 3: set/p1/contours.json: ")
    path.unlink()
    fails("set/p1/contours.json: no such file")


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("cine", np.zeros((6, 9), np.uint8), "uint8 of shape (6, 9); expected (T, H, W)"),
        ("cine", np.array([{}]), "not readable as a NumPy array"),
        ("mask", np.zeros((1, 6, 9), np.uint8), "expected numbers with 2 dimensions"),
        ("mask", np.zeros((9, 6), np.uint8), "mask of (9, 6) pixels for a frame of (6, 9)"),
        ("mask", np.arange(54, dtype=np.uint8).reshape(6, 9) % 3, "mask with values [0, 1, 2]"),
        ("mask", np.arange(54, dtype=np.uint8).reshape(6, 9) % 2 + 1, "mask with values [1, 2]"),
    ],
)
def test_errors_of_the_arrays(manifest, name, array, said):
    path = Path(f"set/p0/{name}.npy")
    np.save(path, array)
    fails(said)
    fails(f"set/p0/{name}.npy: ")
    path.write_bytes(path.read_bytes()[:7])
    fails("not readable as a NumPy array")
    path.unlink()
    fails("not readable as a NumPy array")


def test_folder(pictures):
    first, second = source_cases(FOLDER)
    assert (first.case_id, first.patient_id, first.angles, first.split) == ("a", "", None, "")
    frame, mask = first.read()
    np.testing.assert_array_equal(frame, np.asarray(Image.open("images/a.png")))
    np.testing.assert_array_equal(mask, np.indices((20, 30))[1] < 5)
    assert second.read()[0].shape == (25, 15)
    assert source_files(FOLDER) == [Path(f) for f in ("images/a.png", "images/b.png", "masks/a.png", "masks/b.png")]


def test_masks_with_soft_edges_are_cut_at_half_and_pictures_are_refused(pictures):
    size, edge = (200, 300), np.array([255, 240, 128, 127, 20], np.uint8)
    mask = np.zeros(size, np.uint8)
    mask[:, 100:105] = edge
    Image.fromarray(np.zeros(size, np.uint8)).save("images/a.png")
    Image.fromarray(mask).save("masks/a.png")
    np.testing.assert_array_equal(source_cases(FOLDER)[0].read()[1], mask >= 128)
    mask[:, 110:115] = 100
    Image.fromarray(mask).save("masks/a.png")
    fails("masks/a.png: a picture with greys, not a mask", FOLDER)
    Image.fromarray(np.uint8(mask == 100)).convert("RGB").save("masks/a.png")  # 0 and 1, in colour
    np.testing.assert_array_equal(source_cases(FOLDER)[0].read()[1], mask == 100)


def test_errors_of_a_folder(pictures):
    Path("images/notes.txt").write_text("not a picture")
    shutil.copy("images/a.png", "images/a.jpg")
    fails("a second picture named 'a' beside a.jpg", FOLDER)
    Path("images/a.jpg").unlink()
    Image.fromarray(np.zeros((20, 31), np.uint8)).save("masks/a.png")
    fails("masks/a.png: mask of (20, 31) pixels for a frame of (20, 30)", FOLDER)
    Image.fromarray(np.zeros((20, 30, 4), np.uint8), "CMYK").save("images/a.jpg")
    Path("images/a.png").unlink()
    fails("images/a.jpg: pixels of mode CMYK", FOLDER)
    Path("images/a.jpg").unlink()
    Path("images/a.png").write_bytes(b"no")
    fails("images/a.png: not readable as a picture", FOLDER)
    Path("masks/a.png").unlink()
    fails("images/a.png: no mask 'a' for it in masks", FOLDER)
    [path.unlink() for path in Path().glob("*s/*.png")]
    fails("images: no pictures", FOLDER)
    Path("masks").rmdir()
    fails("masks: no such folder", FOLDER)


@pytest.mark.parametrize(
    ("column", "value"),
    [("contours_path", "p0"), ("cine_path", "p0/cine.npz"), ("vessel_mask_actual_path", "p0/cine.npz")],
)
def test_a_folder_for_a_file_and_npz_for_arrays(manifest, column, value):
    np.savez("set/p0/cine.npz", np.load("set/p0/cine.npy"))
    write_manifest([manifest[0] | {column: value}])
    fails(f"set/{value}")
    fails("set", MANIFEST.model_copy(update={"path": "set"}))
