"""From the user's files to data/prepared: sources and their errors, splits, shards, atomic writing, the hash cache."""

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import FOLDER, MANIFEST, fails, raw_case, write_manifest, written
from PIL import Image

from nightshift.core import io as files
from nightshift.core import hashing as inventory
from nightshift.data import shards
from nightshift.ingest import splits
from nightshift.console.errors import UserError
from nightshift.ingest.manifest import COLUMNS
from nightshift.config.params import SYNTHETIC, Prepare, Simulated
from nightshift.ingest.sources import raw_cases, source_files

PREPARE = Prepare(val=0.15, test=0.25, seed=0, on_problem="stop")


def test_manifest(manifest):
    first, second = raw_cases(MANIFEST)
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
    assert raw_cases(MANIFEST)[0].read()[1].sum() == 18


def test_sources_lie_in_the_main_checkout_but_synthetic_data_here(manifest, monkeypatch, tmp_path_factory):
    main = Path.cwd()
    monkeypatch.chdir(tmp_path_factory.mktemp("queued"))
    monkeypatch.setenv("DVC_ROOT", str(main))
    assert len(raw_cases(MANIFEST)) == 2
    simulated = Simulated.model_construct(kind="simulated")
    fails("no such manifest", simulated)
    shutil.copytree(main / "set", SYNTHETIC)
    assert len(raw_cases(simulated)) == 2
    assert source_files(simulated) == [Path("data/raw/synthetic.json")]  # which has a hash of it all


def test_errors_of_a_manifest(manifest):
    for column in COLUMNS[:-1]:
        write_manifest([manifest[0] | {column: ""}])
        fails(f"set/manifest.csv, line 2: {column} is empty")  # or, of the mask, and nothing to draw one from
    write_manifest(manifest, COLUMNS[1:-1])
    fails("column patient_id, split missing")
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
    first, second = raw_cases(FOLDER)
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
    np.testing.assert_array_equal(raw_cases(FOLDER)[0].read()[1], mask >= 128)
    mask[:, 110:115] = 100
    Image.fromarray(mask).save("masks/a.png")
    fails("masks/a.png: a picture with greys, not a mask", FOLDER)
    Image.fromarray(np.uint8(mask == 100)).convert("RGB").save("masks/a.png")  # 0 and 1, in colour
    np.testing.assert_array_equal(raw_cases(FOLDER)[0].read()[1], mask == 100)


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


def test_prepared_cases_keep_native_sizes_values_and_angles(tmp_path):
    raw = [raw_case(1, "p"), raw_case(30, angles=None)]
    prepared = written(tmp_path / "train", raw)
    for i, one in enumerate(raw):
        frame, mask = one.read()
        np.testing.assert_array_equal(prepared[i].frame, frame)
        np.testing.assert_array_equal(prepared[i].mask, mask)
        assert all(getattr(prepared[i], name) == getattr(one, name) for name in ("case_id", "patient_id", "angles"))
    assert [r["width"] for r in prepared.rows] == ["41", "70"]


def test_given_split():
    raw = [raw_case(i, f"p{i // 2}", s) for i, s in enumerate(("train", "train", "val", "val", "test"))]
    split = splits.given_split(raw)
    assert {k: [int(c.case_id[-1]) for c in v] for k, v in split.items()} == {
        "train": [0, 1],
        "val": [2, 3],
        "test": [4],
    }
    for changed, said in (
        ({1: "val"}, "patient 'p0' is in train (case 'case-0') and in val (case 'case-1')"),
        ({2: ""}, "case 'case-2': split ''; expected train, val, test"),
        ({4: "Test"}, "case 'case-4': split 'Test'"),
        ({4: "train"}, "no case in test"),
    ):
        with pytest.raises(UserError) as caught:
            splits.given_split([replace(c, split=changed.get(i, c.split)) for i, c in enumerate(raw)])
        assert said in str(caught.value)


def split_of(raw, prepare=PREPARE) -> dict[str, set[str]]:
    return {name: {c.case_id for c in members} for name, members in splits.made_split(raw, prepare).items()}


def test_made_split_is_by_patient_and_from_the_seed_alone():
    raw = [raw_case(i, f"p{i % 20}", angles=None) for i in range(60)]
    split = splits.made_split(raw, PREPARE)
    patients = {name: {c.patient_id for c in members} for name, members in split.items()}
    assert {name: len(p) for name, p in patients.items()} == {"train": 12, "val": 3, "test": 5}
    assert (len(set.union(*patients.values())), sum(map(len, split.values()))) == (20, 60)
    assert patients["test"] == {"p3", "p9", "p10", "p12", "p14"}  # on every machine
    for cases in (raw, [raw_case(i, f"p{i % 20}", angles=(30.0 - 7 * (i % 9), 10.0 - i % 21)) for i in range(60)]):
        assert split_of(cases) == split_of(cases[::-1])
        assert split_of(cases) != split_of(cases, PREPARE.model_copy(update={"seed": 1}))


@pytest.mark.parametrize("seed", range(5))
def test_made_split_spreads_the_views_evenly(seed):
    """Of 80 patients with one to three views each, a rare one among them, every split has its share of every view."""
    random = np.random.default_rng(seed)
    usual, rare = [(30.0, 20.0), (30.0, -20.0), (-30.0, 20.0)], (-30.0, -20.0)
    raw = []
    for patient in range(80):
        for view in random.permutation(3)[: random.integers(1, 4)]:
            raw.append(raw_case(len(raw), f"p{patient}", angles=usual[view]))
        if patient % 10 == 0:
            raw.append(raw_case(len(raw), f"p{patient}", angles=rare))
    split = splits.made_split(raw, PREPARE.model_copy(update={"seed": seed}))
    assert {name: len({c.patient_id for c in members}) for name, members in split.items()} == {
        "train": 48, "val": 12, "test": 20,
    }  # fmt: skip
    for view in (*usual, rare):
        count = sum(c.angles == view for c in raw)
        for name, share in (("train", 0.6), ("val", 0.15), ("test", 0.25)):
            assert abs(sum(c.angles == view for c in split[name]) - share * count) <= 2


def test_made_split_without_patients_is_by_case_and_has_one_in_each():
    raw = [raw_case(i) for i in range(20)]
    assert {k: len(v) for k, v in split_of(raw).items()} == {"train": 12, "val": 3, "test": 5}
    none = PREPARE.model_copy(update={"val": 0.0, "test": 0.0})
    assert {k: len(v) for k, v in split_of(raw[:3], none).items()} == {"train": 1, "val": 1, "test": 1}
    for few, prepare in (
        (raw[:2], none),
        (raw[:1], none),
        (raw, Prepare(val=0.5, test=0.5, seed=0, on_problem="stop")),
    ):
        with pytest.raises(UserError, match="no case in"):
            split_of(few, prepare)


def test_shards_over_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "LIMIT", 100)
    arrays = {f"a{n}": np.full((n, 2), n, np.float32) for n in (5, 6, 7, 20, 1)} | {"b": np.ones((3, 5), np.uint8).T}
    shards.write_shards(tmp_path / "s", arrays.items())
    found = shards.Shards(tmp_path / "s")
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    index = {name: int(file[6:11]) for name, file in found.index.items()}
    assert index == {"a5": 0, "a6": 0, "a7": 1, "a20": 2, "a1": 3, "b": 3}  # 88 bytes, then 56, 160, and 23
    shards.write_shards(tmp_path / "none", [])
    assert shards.Shards(tmp_path / "none").index == {}


def test_a_writer_that_fails_leaves_what_was_there(tmp_path):
    files.write_json(tmp_path / "a.json", {"old": 1})
    files.write_text(tmp_path / "f/old", "old")
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", float("nan"))
    with pytest.raises(ValueError, match="extra"):
        files.write_csv(tmp_path / "a.json", ["a"], [{"a": 1}, {"extra": 2}])
    with pytest.raises(UserError), files.replacing(tmp_path / "f") as temporary:
        temporary.mkdir()
        (temporary / "half").write_text("half")
        raise UserError("stop")
    assert files.read_json(tmp_path / "a.json") == {"old": 1}
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*")) == ["a.json", "f", "f/old"]


def test_writing_replaces_and_never_writes_through_a_link(tmp_path):
    files.write_text(tmp_path / "cache", "old\n")
    for link, name in ((os.link, "hard"), (os.symlink, "soft")):
        link(tmp_path / "cache", tmp_path / name)
        files.write_text(tmp_path / name, "new\n")
        assert (tmp_path / name).read_bytes() == b"new\n"
        assert (tmp_path / "cache").read_bytes() == b"old\n"
    for text in ("one", "two"):
        with files.replacing(tmp_path / "deep/f") as temporary:
            temporary.mkdir()
            (temporary / text).write_text(text)
    assert [p.name for p in (tmp_path / "deep/f").iterdir()] == ["two"]
    files.write_csv(tmp_path / "t.csv", ("a", "b"), [{"a": 1 / 3, "b": 'x,"y'}, {"a": 2, "b": ""}])
    assert files.read_csv(tmp_path / "t.csv") == [{"a": "0.333333", "b": 'x,"y'}, {"a": "2", "b": ""}]
    with pytest.raises(UserError, match="no such file yet"):
        files.read_json(tmp_path / "not.json")


def test_hashes_follow_the_content_and_not_time_or_place(manifest, monkeypatch, tmp_path_factory):
    paths = source_files(MANIFEST)
    before = inventory.hash_files(paths, iter)
    size, sha256 = paths[0].stat().st_size, hashlib.sha256(paths[0].read_bytes()).hexdigest()
    assert before[0] == {"path": "set/manifest.csv", "size": size, "sha256": sha256}
    os.utime(paths[1], (1, 1))
    assert inventory.hash_files(paths, iter) == before
    known = files.read_json(inventory.CACHE)
    known[str(paths[1].absolute())][2] = "kept"
    files.write_json(inventory.CACHE, known)
    assert inventory.hash_files(paths, iter)[1]["sha256"] == "kept"  # same size and time: not read again
    np.save(paths[1], np.load(paths[1]) + 1)
    after = inventory.hash_files(paths, iter)
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False, *[True] * (len(paths) - 2)]
    folder = inventory.hash_folder(Path("set"))
    moved = tmp_path_factory.mktemp("moved")
    shutil.copytree("set", moved / "set")
    monkeypatch.setenv("DVC_ROOT", str(moved))
    assert inventory.hash_files(source_files(MANIFEST), iter) == after
    assert inventory.hash_folder(moved / "set") == folder
    (moved / "set/p0/cine.npy").rename(moved / "set/p0/other.npy")
    assert inventory.hash_folder(moved / "set") != folder
    with pytest.raises(UserError, match="no such file"):
        inventory.hash_files([moved / "set/p0/cine.npy"], iter)
    monkeypatch.delenv("DVC_ROOT")
    files.write_json(inventory.CACHE, files.read_json(inventory.CACHE) | {"/of/a/queued/run": [1, 1, "x"]})
    np.save(paths[1], np.load(paths[1]) + 1)
    inventory.hash_files(paths, iter)
    assert {Path(key) for key in files.read_json(inventory.CACHE)} == {path.absolute() for path in paths}


@pytest.mark.parametrize(
    ("column", "value"),
    [("contours_path", "p0"), ("cine_path", "p0/cine.npz"), ("vessel_mask_actual_path", "p0/cine.npz")],
)
def test_a_folder_for_a_file_and_npz_for_arrays(manifest, column, value):
    np.savez("set/p0/cine.npz", np.load("set/p0/cine.npy"))
    write_manifest([manifest[0] | {column: value}])
    fails(f"set/{value}")
    fails("set", MANIFEST.model_copy(update={"path": "set"}))


def test_a_folder_replaces_a_link_to_a_folder(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    with files.replacing(tmp_path / "link") as temporary:
        temporary.mkdir()
