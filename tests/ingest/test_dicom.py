"""DICOM files: greys, angles, spacing, pairing with masks, what is wrong with them, and that nobody is named."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.data import fails, run_stage, source_cases
from helpers.dicoms import write_dicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import MPEG2MPML, JPEGLosslessSV1

from nightshift.config.presets import Dicom
from nightshift.console.errors import UserError
from nightshift.ingest import deidentify, dicom
from nightshift.ingest.record import Problems
from nightshift.ingest.sources import list_cases, source_files
from stages import inputs, prepare

SOURCE = Dicom(kind="dicom", images="xa", masks="xa", split="made")
TABLE = SOURCE.model_copy(update={"masks": "masks", "cases": "xa/cases.csv"})
RAMP = np.arange(3 * 16 * 16, dtype=np.uint16).reshape(3, 16, 16)  # 0 to 767


def save_mask(path: str) -> None:
    mask = np.zeros((16, 16), np.uint8)
    mask[4:6] = 255
    np.save(path, mask) if path.endswith(".npy") else Image.fromarray(mask).save(path)


@pytest.fixture
def folder(checkout):
    """xa/run.dcm of three frames, and a mask of its frame 1."""
    Path("xa").mkdir()
    write_dicom("xa/run.dcm", RAMP.astype(np.uint8))
    save_mask("xa/run_f1.png")


def shown(frame=1, **tags):
    """A frame of the ramp, of 12 bits in 16, as `grey` shows it."""
    write_dicom("xa/run.dcm", tags.pop("frames", RAMP), **{"BitsStored": 12} | tags)
    return dicom.frame_pixels(Path("xa/run.dcm"), frame)


def read(**tags):
    """The header's case, of a file with these tags."""
    write_dicom("xa/run.dcm", RAMP.astype(np.uint8), **tags)
    return source_cases(SOURCE)[0]


def lut(entries: int, first: int, bits: int) -> list[Dataset]:
    """A table that turns its input over."""
    item = Dataset()
    item.LUTDescriptor = [entries, first, bits]
    item["LUTDescriptor"].VR = "US"
    item.LUTData = np.linspace(2**bits - 1, 0, entries).round().astype(int).tolist()
    item["LUTData"].VR = "US"
    return [item]


def test_eight_bits_are_what_they_were(folder):
    (case,) = source_cases(SOURCE)
    frame, mask = case.read()
    np.testing.assert_array_equal(frame, RAMP[1].astype(np.uint8))
    assert (frame.dtype, mask.dtype, mask.sum(), mask.max()) == (np.uint8, np.uint8, 32, 1)
    assert (case.case_id, case.angles, case.split, case.where) == ("run_f1", (-30.5, 20.0), "", "xa/run.dcm")
    np.testing.assert_array_equal(shown(frames=RAMP.astype(np.uint8), BitsStored=8), frame)


def test_more_bits_window_rescale_and_luts(folder):
    frame = RAMP[1].astype(float)
    scaled = lambda low, high: np.rint(255 * ((frame - low) / (high - low)).clip(0, 1))  # noqa: E731
    np.testing.assert_array_equal(shown(), scaled(0, 4095))
    np.testing.assert_array_equal(shown(BitsStored=10), scaled(0, 1023))
    np.testing.assert_array_equal(shown(BitsStored=16), scaled(0, 65535))
    signed = shown(frames=RAMP.astype(np.int16) - 400, BitsStored=12)
    np.testing.assert_array_equal(signed, np.rint(255 * (frame - 400 + 2048) / 4095))
    window = {"WindowCenter": [400, 9], "WindowWidth": [101, 9]}
    np.testing.assert_array_equal(shown(**window), scaled(349.5, 449.5))
    np.testing.assert_array_equal(shown(**window, VOILUTFunction="LINEAR_EXACT"), scaled(349.5, 450.5))
    sigmoid = np.rint(255 / (1 + np.exp(-4 * (frame - 400) / 101)))
    np.testing.assert_array_equal(shown(**window, VOILUTFunction="SIGMOID"), sigmoid)
    rescaled = {"RescaleSlope": 2, "RescaleIntercept": -10}
    np.testing.assert_array_equal(shown(**rescaled), scaled(0, 4095))
    np.testing.assert_allclose(shown(**rescaled, WindowCenter=790.5, WindowWidth=201), scaled(350, 450), atol=1)
    for bits in (8, 16):  # a table goes before a window
        np.testing.assert_allclose(shown(VOILUTSequence=lut(1024, 0, bits), **window), 255 - scaled(0, 1023), atol=1)
    np.testing.assert_allclose(shown(VOILUTSequence=lut(101, 350, 12)), 255 - scaled(350, 450), atol=1)
    modality = {"ModalityLUTSequence": lut(4096, 0, 16)}
    np.testing.assert_allclose(shown(**modality), 255 - scaled(0, 4095), atol=1)
    np.testing.assert_array_equal(shown(**modality, PixelIntensityRelationship="LOG"), scaled(0, 4095))


def test_monochrome1_is_turned_over_after_the_window(folder):
    for tags in ({}, {"WindowCenter": 400, "WindowWidth": 101}):
        inverted = shown(PhotometricInterpretation="MONOCHROME1", **tags)
        np.testing.assert_allclose(inverted, 255 - shown(**tags).astype(int), atol=1)
    assert shown(PhotometricInterpretation="MONOCHROME1", frame=0)[0, 0] == 255


def test_angles_of_a_frame(folder):
    assert read(PositionerPrimaryAngleIncrement=["0", "1.5", "3"]).angles == (-29.0, 20.0)
    assert read(PositionerSecondaryAngleIncrement=["0", "-2", "3"]).angles == (-30.5, 18.0)
    assert read(PositionerPrimaryAngleIncrement="0").angles == (-30.5, 20.0)
    write_dicom("xa/run.dcm", RAMP.astype(np.uint8), PositionerPrimaryAngleIncrement=["0", "1.5", "3"])
    save_mask("xa/run_f2.png")
    assert [case.angles for case in source_cases(SOURCE)] == [(-29.0, 20.0), (-27.5, 20.0)]


@pytest.mark.parametrize("name", dicom.ANGLES)
def test_without_both_angles_there_are_none(folder, name):
    assert read(**{name: None}).angles is None
    assert read(**{name: ""}).angles is None


def test_spacing(folder):
    imager, times = {"ImagerPixelSpacing": [0.3, 0.4]}, {"EstimatedRadiographicMagnificationFactor": 1.5}
    assert read().spacing is None
    assert read(**imager).spacing is None  # of the detector: the heart is nearer to the tube
    wanted = pytest.approx((0.2, 0.8 / 3))
    assert read(**imager, **times).spacing == wanted
    assert read(**imager, DistanceSourceToDetector=1050, DistanceSourceToPatient=700).spacing == wanted
    assert read(**imager, **times, PixelSpacing=[0.25, 0.25]).spacing == (0.25,) * 2
    assert read(**imager, **times, PixelSpacing=[0.3, 0.4]).spacing == wanted


def test_files_are_paired_by_name(folder):
    write_dicom("xa/1.2.840.5", RAMP[:1].astype(np.uint8))
    write_dicom("xa/noend", RAMP[:1].astype(np.uint8), NumberOfFrames=None)
    write_dicom("xa/odd_f3.DCM", RAMP[:1].astype(np.uint8))
    for name in ("1.2.840.5_mask.png", "noend.npy", "odd_f3.png", "run_f2_mask.npy"):
        save_mask(f"xa/{name}")
    for other in ("notes.txt", "DICOMDIR", ".DS_Store"):
        Path("xa", other).write_text("no picture")
    cases = source_cases(SOURCE)
    assert [case.case_id for case in cases] == ["1.2.840.5", "noend", "odd_f3", "run_f1", "run_f2"]
    assert [int(case.read()[0][0, 1]) for case in cases] == [1, 1, 1, 1, 1]
    assert len(source_files(SOURCE)) == 9
    assert source_files(SOURCE) == sorted({file for case in cases for file in case.files})


def write_table(*rows, columns=("file", "frame_index")):
    with Path("xa/cases.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([columns, *rows])


def test_a_csv_says_which_frames(folder):
    for name in ("p1", "p2"):
        Path("masks", name).mkdir(parents=True)
        Path("xa", name).mkdir()
        write_dicom(f"xa/{name}/IM1", RAMP.astype(np.uint8), PatientID=f"id-{name}")
        save_mask(f"masks/{name}/IM1_f2.png")
    save_mask("masks/other.npy")
    columns = ("file", "frame_index", "mask", "split", "case_id", "patient_id", "operator", "")  # as Excel ends lines
    write_table(
        ("p1/IM1", 2, "", "train", "", "", "A"),
        ("p2/IM1", 2, "", "val", "", "", "B"),
        ("run.dcm", 0, "other.npy", "test", "mine", "id-p2", ""),
        columns=columns,
    )
    cases = source_cases(TABLE)
    assert [case.case_id for case in cases] == ["p1-IM1_f2", "p2-IM1_f2", "mine"]
    assert [case.split for case in cases] == ["train", "val", "test"]
    assert [case.groups for case in cases] == [{"operator": one} for one in ("A", "B", "")]
    assert [case.patient_id[:5] for case in cases] == ["0000-", "0001-", "0001-"]
    assert cases[1].patient_id == cases[2].patient_id
    assert cases[2].where == "xa/cases.csv, line 4"
    assert cases[0].files == (Path("xa/p1/IM1"), Path("masks/p1/IM1_f2.png"))
    assert source_files(TABLE) == sorted({Path("xa/cases.csv"), *(file for case in cases for file in case.files)})
    assert [int(case.read()[0][0, 0]) for case in cases] == [0, 0, 0]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("run.dcm", "x")], "line 2: frame_index 'x' is not a whole number from 0"),
        ([("", "1")], "line 2: file is empty"),
        ([("run.dcm", "3")], "line 2: frame 3 of 3, counted from 0"),
        ([("run.dcm", "1", "odd")], "line 2: more cells than columns"),
        (
            [("run.dcm", "0"), ("run.dcm", "2")],
            "line 3: masks/run.png is the mask of xa/cases.csv, line 2; name",
        ),
        ([("more.dcm", "0")], "line 2: no mask more_f0 or more in masks; name one in a column mask"),
        ([("gone.dcm", "0")], "line 2: xa/gone.dcm: no such file"),
        ([("run.dcm", "1" * 5000)], "line 2: frame_index '11111111111111111111' is not"),
        ([("run.dcm", "1")] * 2, "line 3: case 'run_f1' is there twice"),
    ],
)
def test_errors_of_the_csv(folder, rows, said):
    Path("masks").mkdir()
    shutil.copy("xa/run.dcm", "xa/more.dcm")
    save_mask("masks/run_f1.png" if "twice" in said else "masks/run.png")
    write_table(*rows)
    fails(f"xa/cases.csv, {said}", TABLE)
    if "twice" not in said:
        save_mask("masks/run.npy")
        fails("xa/cases.csv, line", TABLE)


def test_errors_of_the_source(folder):
    fails("nowhere: no such folder", SOURCE.model_copy(update={"images": "nowhere"}))
    fails("nowhere: no such folder", SOURCE.model_copy(update={"masks": "nowhere"}))
    fails("xa/cases.csv: no such file", TABLE)
    write_table()
    fails("masks: no such folder", TABLE)
    write_table(columns=("file", "frame"))
    fails("xa/cases.csv: column frame_index missing", TABLE)
    Path("xa/cases.csv").write_bytes(b"file,\xff\xfe")
    fails("xa/cases.csv: not readable as a UTF-8 CSV", TABLE)
    Path("masks").mkdir()
    fails("masks: no DICOM files", SOURCE.model_copy(update={"images": "masks"}))


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"PhotometricInterpretation": "RGB"}, "PhotometricInterpretation RGB; expected grey"),
        ({"BitsAllocated": 32}, "BitsAllocated 32; expected 8 or 16"),
        ({"BurnedInAnnotation": "YES"}, "BurnedInAnnotation YES: the pixels may show the patient's name"),
        ({"PerFrameFunctionalGroupsSequence": []}, "an enhanced multi-frame DICOM file; export it as X-Ray"),
        ({"Rows": None}, "a DICOM file without pixels"),
        ({"syntax": JPEGLosslessSV1}, "to read it: python -m pip install pylibjpeg pylibjpeg-libjpeg"),
        ({"syntax": MPEG2MPML}, "which pydicom does not read; decompress the file"),
        ({"NumberOfFrames": 1}, "frame 1 of 1, counted from 0"),
        ({"PatientID": ""}, "no PatientID; give `cases`, a CSV with a column patient_id"),
        ({"PositionerPrimaryAngle": "200"}, "PositionerPrimaryAngle of frame 1: 200 is not from -180 to 180"),
        ({"PositionerPrimaryAngle": ["1", "2"]}, "PositionerPrimaryAngle has 2 values for 3 frames"),
        ({"PositionerPrimaryAngleIncrement": ["1", "2"]}, "PositionerPrimaryAngleIncrement has 2 values for 3 frames"),
        ({"PositionerPrimaryAngleIncrement": "1"}, "Increment has one value for 3 frames; expected one for each"),
        ({"PixelSpacing": ["0.3", "0"]}, "PixelSpacing is not two numbers above 0"),
        ({"ImagerPixelSpacing": "0.3"}, "ImagerPixelSpacing is not two numbers above 0"),
        ({"RescaleSlope": "0", "RescaleIntercept": "0"}, "RescaleSlope is 0"),
        ({"WindowCenter": "3", "WindowWidth": "0.5"}, "a window of kind LINEAR and width 0.5 is none of DICOM's"),
        ({"WindowCenter": "3", "WindowWidth": "9", "VOILUTFunction": "LOG"}, "a window of kind LOG"),
        ({"Columns": 15}, "mask of (16, 16) pixels for a frame of (16, 15)"),
    ],
)
def test_errors_of_a_file(folder, tags, said):
    write_dicom("xa/run.dcm", RAMP.astype(np.uint8), **tags)
    if "Columns" in tags:
        write_dicom("xa/run.dcm", RAMP[:, :, :15].astype(np.uint8))
    fails(said, SOURCE)
    fails("xa/run.dcm: ", SOURCE)


@pytest.mark.parametrize(
    ("name", "tag", "good", "bad"),
    [
        ("PositionerPrimaryAngle", b"\x18\x00\x10\x15DS", "-3.5", b"1O.5"),
        ("RescaleSlope", b"(\x00S\x10DS", "2.25", b"nan "),
        ("NumberOfFrames", b"(\x00\x08\x00IS", "3333", b"many"),
    ],
)
def test_numbers_that_are_none(folder, name, tag, good, bad):
    """pydicom writes none, but others do."""
    write_dicom("xa/run.dcm", RAMP.astype(np.uint8), **{name: good})
    content = Path("xa/run.dcm").read_bytes()
    value = content.index(tag) + 8
    Path("xa/run.dcm").write_bytes(content[:value] + bad + content[value + 4 :])
    fails(f"xa/run.dcm: {name} is not a number", SOURCE)


def test_errors_of_pairs_and_broken_files(folder):
    Path("xa/run.dcm").write_bytes(Path("xa/run.dcm").read_bytes()[:-300])
    fails("xa/run.dcm: frame 1 is not readable", SOURCE)
    Path("xa/run.dcm").write_bytes(b"\0" * 200)
    fails("xa/run.dcm: not readable as a DICOM file", SOURCE)
    write_dicom("xa/run.dcm", RAMP.astype(np.uint8))
    np.save("xa/run_f1.npy", np.zeros((3, 16, 16), np.uint8))
    fails("case 'run_f1' is there twice", SOURCE)
    Path("xa/run_f1.png").unlink()
    fails("xa/run_f1.npy: uint8 of shape (3, 16, 16); expected uint8 with 2 dimensions", SOURCE)
    Path("xa/run_f1.npy").write_bytes(b"no")
    fails("xa/run_f1.npy: not readable as a NumPy array", SOURCE)
    Path("xa/run_f1.npy").unlink()
    save_mask("xa/run.png")
    fails("xa/run.dcm: xa/run.png is of which of its 3 frames? Name it NAME_f12, or give `cases`", SOURCE)
    save_mask("xa/rum_f1.png")
    fails("xa/rum_f1.png: no DICOM file for it in xa", SOURCE)
    Path("xa/rum_f1.png").unlink()
    shutil.copy("xa/run.dcm", "xa/run")
    fails("xa/run.dcm: a second file of this name beside run; rename it, and its masks", SOURCE)
    shutil.move("xa/run", "xa/more.dcm")
    shutil.move("xa/run.png", "xa/run_f1.png")
    fails("xa/more.dcm: no mask in xa", SOURCE)


def test_the_problems_of_one_file_leave_the_others(folder):
    write_dicom("xa/bad.dcm", RAMP.astype(np.uint8), PatientID="")
    save_mask("xa/bad_f1.png")
    problems = Problems()
    assert [case.case_id for case in list_cases(SOURCE, problems)] == ["run_f1"]
    assert len(problems) == 1 and problems[0].startswith("xa/bad.dcm: no PatientID")


def test_nobody_is_named(folder, change, capsys):
    """Names, numbers and dates of the patient are in no case, not in data/, in no message about a file of theirs."""
    Path("xa/run.dcm").unlink()
    Path("xa/run_f1.png").unlink()
    names = ["Doe-Jane_1", "47110815_2", "run_1950-01-02", "harmless"]
    for number, name in enumerate(names):
        patient = {"PatientID": "4711-0815"} if number < 2 else {"PatientID": f"4711-081{number}"}
        frames = np.random.default_rng(number).integers(0, 256, (3, 40, 40), dtype=np.uint8)
        write_dicom(f"xa/{name}.dcm", frames, **patient, OtherPatientNames="SMITH^J", StudyDate="20200229")
        Image.fromarray(np.uint8(255 * (np.indices((40, 40))[0] < 4 + number))).save(f"xa/{name}_f1.png")
    cases = source_cases(SOURCE)
    secrets = [b"doe", b"jane", b"4711", b"0815", b"1950", b"smith", b"2020"]

    def clean(text: str | bytes) -> bool:
        text = text.lower() if isinstance(text, bytes) else text.lower().encode()
        text = re.sub(rb"[0-9a-f]{12,}", b"", text)  # a hash may well have 2020 in it
        return not any(secret in text for secret in secrets)

    assert [case.case_id.startswith("case-") for case in cases] == [True, True, False, True]
    assert cases[2].case_id == "harmless_f1"
    for case in cases:
        fields = [case.case_id, case.patient_id, case.split, case.where, case.groups, case.angles, case.spacing]
        assert clean(repr(fields)), case
    change({"use.data": "mine", "prepare.val": 0.34, "prepare.test": 0.34})
    Path("conf/data/mine.yaml").write_text("kind: dicom\nimages: xa\nmasks: xa\nsplit: made\n")
    Path("data").mkdir()
    run_stage(inputs)
    run_stage(prepare)
    written = [path for path in Path("data").rglob("*") if path.is_file()]
    assert len(written) > 6
    assert all(clean(path.read_bytes()) and clean(str(path)) for path in written)
    assert clean(capsys.readouterr().out)
    save_mask("xa/Doe-Jane_1_f9.png")
    with pytest.raises(UserError) as caught:
        source_cases(SOURCE)
    assert str(caught.value) == "xa/***-***_1.dcm: frame 9 of 3, counted from 0"


def test_problems_name_nobody_of_the_folder(folder):
    for name in ("doe_1.dcm", "doe_2.dcm"):
        shutil.copy("xa/run.dcm", f"xa/{name}")
    Path("xa/doe_3").write_bytes(b"broken")
    write_dicom("xa/4711-0815.dcm", RAMP.astype(np.uint8), BurnedInAnnotation="YES")
    for name in ("doe_2", "doe_3_f1", "jane_f1", "4711-0815_f1"):
        save_mask(f"xa/{name}.png")
    problems = Problems()
    assert [case.case_id for case in list_cases(SOURCE, problems)] == ["run_f1"]
    assert [line[:27] for line in problems] == [
        "xa/***_f1.png: no DICOM fil",
        "xa/***.dcm: BurnedInAnnotat",
        "xa/***_2.dcm: xa/***_2.png ",
        "xa/***_3: not readable as a",
        "xa/***_1.dcm: no mask in xa",
    ]
    write_table(("doe_1.dcm", 0), ("run.dcm", 1))
    problems = Problems()
    assert len(list_cases(TABLE.model_copy(update={"masks": "xa"}), problems)) == 1
    assert problems == ["xa/cases.csv, line 2: no mask ***_1_f0 or ***_1 in xa; name one in a column mask"]


def test_a_column_of_the_csv_names_nobody(folder):
    Path("masks").mkdir()
    save_mask("masks/run_f1.png")
    write_table(("run.dcm", 1, "of J. Doe"), columns=("file", "frame_index", "note"))
    fails("xa/cases.csv, line 2: column note has the patient's name, number or dates in it; leave it out", TABLE)


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("DOE_jane_1", ["Doe", "JANE"], "***_***_1"),
        ("doejane", ["Jane"], "doe***"),
        ("li_2 slice", ["Li"], "***_2 slice"),
        ("run_7", ["7"], "run_7"),
        ("p-47.11", ["4711"], "p-***"),
        ("mu\u0308ller", ["M\u00fcller"], "***"),
        ("a.b", ["x", ""], "a.b"),
    ],
)
def test_hidden(text, words, said):
    assert deidentify.hidden(text, words) == said


def test_the_salt_is_the_main_checkouts_and_neither_split_nor_order_hang_on_it(folder, monkeypatch, tmp_path_factory):
    for number in range(5):
        write_dicom(f"xa/r{number}.dcm", RAMP.astype(np.uint8), PatientID=f"id-{9 - number // 2}")
        save_mask(f"xa/r{number}_f0.png")
    first = [case.patient_id for case in source_cases(SOURCE)]
    assert [name[:5] for name in first] == ["0000-", "0000-", "0001-", "0001-", "0002-", "0003-"]
    assert first == [case.patient_id for case in source_cases(SOURCE)]
    salt = Path(deidentify.SALT)
    assert os.name == "nt" or salt.stat().st_mode & 0o77 == 0
    assert [path.name for path in salt.parent.iterdir()] == ["salt"]
    main = Path.cwd()
    monkeypatch.chdir(tmp_path_factory.mktemp("queued"))
    monkeypatch.setenv("DVC_ROOT", str(main))
    assert first == [case.patient_id for case in source_cases(SOURCE)]
    (main / salt).unlink()
    other = [case.patient_id for case in source_cases(SOURCE)]
    assert [name[:5] for name in other] == [name[:5] for name in first]
    assert not set(other) & set(first)
    (main / salt).write_text("short")
    fails("salt: not a salt of 64 hexadecimal digits; restore it, or delete it", SOURCE)


def test_inputs_opens_no_header(folder, monkeypatch, change):
    Path("conf/data/mine.yaml").write_text("kind: dicom\nimages: xa\nmasks: xa\nsplit: made\n")
    change({"use.data": "mine"})
    monkeypatch.setattr(dicom, "header", lambda path: pytest.fail("opened"))
    run_stage(inputs)
    rows = json.loads(Path("data/inventory.json").read_text())
    assert [len(row["path"]) for row in rows] == [12, 12]


def test_a_damaged_array_as_mask_is_one_line(folder):
    """NumPy raises a TokenError for this head, which is no ValueError."""
    Path("xa/run_f1.png").unlink()
    save_mask("xa/run_f1.npy")
    path = Path("xa/run_f1.npy")
    path.write_bytes(path.read_bytes().replace(b"{'d", b"((("))
    fails("xa/run_f1.npy: not readable as a NumPy array", SOURCE)
