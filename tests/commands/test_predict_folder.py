"""`nightshift predict` on a clinic's folder: formats, identifiers, several frames at once, going on, left out."""

import gzip
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from helpers.data import source_case
from helpers.dicoms import write_dicom
from helpers.models import card_of, new_model
from highdicom.seg import segread
from PIL import Image
from pydicom.uid import XRayAngiographicImageStorage, generate_uid

from nightshift.commands import inputs, mask_files, models, prediction
from nightshift.commands.main import dispatch
from nightshift.commands.prediction_record import LeftOutFiles
from nightshift.console.errors import UserError
from nightshift.core.io import read_json
from nightshift.model import predictor
from nightshift.model.kinds import kind_of

ARM = "models/frozen"
MODEL = f"{ARM}/fold-0/seed-0"
ANGLES = ("--angles", "30", "-20")
IDENTITIES = (
    "DOE",
    "JANE",
    "JÄNE",
    "4711-0815",
    "19500102",
    "ACC77",
    "20240229",
    "SMITH",
    "left heart",
    "cine of Jane",
)


@pytest.fixture
def model(small):
    """models/frozen, untrained, with seeds 0 and 1, and thresholds that cut through its maps; its settings."""
    settings = small()
    frame = source_case(0).read()[0]
    for seed in (0, 1):
        one, folder = new_model(settings, seed=seed).eval(), Path(f"{ARM}/fold-0/seed-{seed}")
        folder.mkdir(parents=True)
        kind_of(settings).save(one, folder)
        found = predictor.CachedPredictor(one, frame).probability_map((30.0, -20.0))
        card_of(settings, seed, float(np.median(found)) / predictor.MAP_MAX).write(folder / "card.json")
    return settings


def cine(case, frames=3):
    """(T, H, W), uint8."""
    return np.stack([np.roll(source_case(case).read()[0], 5 * i, 1) for i in range(frames)])


def ask(*arguments, out="out"):
    dispatch(["predict", *(str(one) for one in (*arguments, "-o", out))])


def refused(*arguments, out="out") -> str:
    with pytest.raises(UserError) as caught:
        ask(*arguments, out=out)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def masks_of(name, out="out"):
    """(T, H, W), bool: the PNG files of a cine."""
    return np.stack([np.asarray(Image.open(path)) > 0 for path in sorted(Path(f"{out}/masks/{name}").iterdir())])


def named_dicom(path, frames, **tags):
    """A DICOM file with all that names a patient; its header."""
    uids = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID")}
    names = {
        "AccessionNumber": "ACC77",
        "StudyDate": "20240229",
        "ReferringPhysicianName": "SMITH",
        "StudyDescription": "left heart",
        "SeriesDescription": "cine of Jane",
        "PatientSex": "F",
        "InstitutionName": "St DOE",
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_dicom(path, frames, **(uids | names | tags))
    return pydicom.dcmread(path, stop_before_pixels=True)


def test_a_dicom_seg_holds_the_masks_of_all_frames_and_refers_to_each(model):
    frames = cine(1)
    frames[1] = 0  # a frame may have no vessel
    source = named_dicom("study/IM0001", frames, PixelSpacing=[0.3, 0.2])
    Path("study/notes").mkdir()
    single = named_dicom("study/single.dcm", frames[:1])
    ask(MODEL, "study", "--to", "dicom-seg,png", "--to", "nifti", "--recursive")
    made, masks = pydicom.dcmread("out/dicom-seg/IM0001.dcm"), masks_of("IM0001")
    assert masks.shape == frames.shape and 0 < masks.mean() < 1
    np.testing.assert_array_equal(made.pixel_array, masks)
    assert (made.SOPClassUID.name, made.SegmentationType) == ("Segmentation Storage", "BINARY")
    assert (made.StudyInstanceUID, made.file_meta.MediaStorageSOPInstanceUID) == (
        source.StudyInstanceUID,
        made.SOPInstanceUID,
    )
    assert made.SeriesInstanceUID != source.SeriesInstanceUID and "FrameOfReferenceUID" not in made
    assert made.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    groups = made.PerFrameFunctionalGroupsSequence
    items = [one.DerivationImageSequence[0].SourceImageSequence[0] for one in groups]
    assert [one.ReferencedFrameNumber for one in items] == [1, 2, 3]
    assert made.NumberOfFrames == 3
    reread = segread("out/dicom-seg/IM0001.dcm").get_pixels_by_source_frame(source.SOPInstanceUID, [3, 1])
    np.testing.assert_array_equal(reread[..., 0], masks[[2, 0]])
    for one in (*items, made.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0], made.SourceImageSequence[0]):
        assert one.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert one.ReferencedSOPClassUID == XRayAngiographicImageStorage
    assert [list(one.FrameContentSequence[0].DimensionIndexValues) for one in groups] == [[1, 1], [1, 2], [1, 3]]
    assert len(made.DimensionIndexSequence) == 2
    (segment,) = made.SegmentSequence
    assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == ("Coronary artery", "AUTOMATIC")
    assert segment.SegmentAlgorithmName == "frozen/fold-0/seed-0"
    code = segment.SegmentedPropertyTypeCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("41801008", "SCT")
    one = pydicom.dcmread("out/dicom-seg/single.dcm")
    assert (one.StudyInstanceUID, one.NumberOfFrames) == (single.StudyInstanceUID, 1)
    np.testing.assert_array_equal(one.pixel_array, np.asarray(Image.open("out/masks/single.png")) > 0)
    image = nibabel.load("out/nifti/IM0001.nii.gz")
    np.testing.assert_array_equal(np.asarray(image.dataobj), masks.T)
    assert image.get_data_dtype() == np.uint8 and image.header.get_zooms() == pytest.approx((0.2, 0.3, 1))
    assert image.header.get_xyzt_units()[0] == "mm"
    assert {path.name for path in Path("out").iterdir()} == {
        "masks", "overlays", "dicom-seg", "nifti", "predictions.json",
    }  # fmt: skip


def contents(folder):
    """The names and bytes of all files below it, those in gzip files as well."""
    for path in Path(folder).rglob("*"):
        yield path.as_posix().encode()
        if path.is_file():
            yield path.read_bytes()
            if path.suffix == ".gz":
                yield gzip.decompress(path.read_bytes())


def test_nothing_says_who_the_patient_is_unless_asked(model):
    odd = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "DOE^JÄNE", "PatientSex": "?"}  # no value of DICOM's
    header = named_dicom("Doe_Jane/4711 0815.dcm", cine(1), **odd)
    named_dicom("Doe_Jane/other.dcm", cine(2), StudyInstanceUID=header.StudyInstanceUID)
    Path("Doe_Jane/notes.txt").write_text("no picture")
    asked = (MODEL, "Doe_Jane", "--to", "png,dicom-seg,nifti")
    ask(*asked)
    for one in contents("out"):
        assert [word for word in IDENTITIES if word.lower().encode("latin-1") in one.lower()] == []
    told = read_json("out/predictions.json")
    assert {(one["file"], one["name"]) for one in told["asked"]["files"]} == {
        ("***_***/***.dcm", "file-00001"),
        ("***_***/other.dcm", "other"),
    }
    assert told["left_out"][0]["file"] == "***_***/notes.txt"
    made = pydicom.dcmread("out/dicom-seg/file-00001.dcm")
    assert (made.PatientName, made.PatientID, made.PatientBirthDate, made.StudyDate) == ("", "", "", "")
    assert not {"StudyDescription", "SeriesDescription", "InstitutionName"} & set(made.dir())
    ask(*asked, "--identifiers", out="named")
    made = pydicom.dcmread("named/dicom-seg/4711_0815.dcm")
    assert (made.PatientName, made.PatientID, made.PatientSex) == ("DOE^JÄNE", "4711-0815", "?")
    assert (made.AccessionNumber, made.StudyDescription) == ("ACC77", "left heart")
    assert "was begun with another choice of --identifiers" in refused(*asked, "--identifiers")


def test_a_dicom_seg_needs_a_dicom_file_that_it_can_refer_to(model):
    Image.fromarray(cine(1)[0]).save("a.png")
    write_dicom("b.dcm", cine(1), StudyInstanceUID=None)
    for file, said in (("a.png", "a.png: not a DICOM file"), ("b.dcm", "b.dcm: no StudyInstanceUID in its header")):
        assert said in refused(MODEL, file, *ANGLES, "--to", "dicom-seg") and not Path("out").exists()
    assert "--to tiff: valid: dicom-seg, nifti, png" in refused(MODEL, "a.png", "--to", "png,tiff")
    assert "--batch 0: expected a whole number from 1" in refused(MODEL, "a.png", "--batch", 0)


@pytest.mark.parametrize("of", [MODEL, ARM])
def test_several_frames_at_once_give_the_masks_of_one_by_one(model, monkeypatch, of):
    Path("in").mkdir()
    for i in range(3):
        Image.fromarray(source_case(i).read()[0]).save(f"in/{i}.png")
    np.save("in/cine.npy", cine(3, 4))
    sizes = counted(monkeypatch)
    ask(of, "in", *ANGLES, "--batch", 5)
    assert sizes == [5, 2] * (2 if of == ARM else 1)
    ask(of, "in", *ANGLES, "--batch", 1, out="single")
    for path in [path.relative_to("out") for path in Path("out").rglob("*.png")]:
        assert Path("out", path).read_bytes() == Path("single", path).read_bytes()
    assert len(list(Path("out/masks").rglob("*.png"))) == 7
    one, other = (read_json(f"{out}/predictions.json")["predictions"] for out in ("out", "single"))
    assert [row["area"] for row in one] == [row["area"] for row in other]


def counted(monkeypatch) -> list[int]:
    """The number of frames of each forward pass from now on."""
    sizes: list[int] = []
    before = predictor.BatchPredictor.__init__

    def counting(self, model, frames, mirror=False):
        sizes.append(len(frames))
        before(self, model, frames, mirror)

    monkeypatch.setattr(predictor.BatchPredictor, "__init__", counting)
    return sizes


SAVES, RECORDS = (mask_files, "_save_nifti"), (prediction, "write_text")  # before and after the files are in place


@pytest.mark.parametrize("of, group, where", [(MODEL, 1000, RECORDS), (ARM, 1000, SAVES), (ARM, 4, RECORDS)])
def test_what_was_killed_goes_on_and_computes_only_what_is_missing(model, monkeypatch, of, group, where):
    Path("in").mkdir()
    for i in range(4):
        np.save(f"in/{i}.npy", cine(i, 2))
    asked = (of, "in", *ANGLES, "--batch", 2, "--to", "png,nifti")
    ask(*asked, out="whole")
    monkeypatch.setattr(prediction, "GROUP", group)
    for call, done in ((1, 1), (2, 3)):
        with monkeypatch.context() as context:
            context.setattr(*where, killed_at(call, getattr(*where)))
            with pytest.raises(KeyboardInterrupt):
                ask(*asked)
        assert len(list(Path("out/.unfinished").glob("*.json"))) == done
        assert not read_json("out/predictions.json")["finished"]
    sizes = counted(monkeypatch)
    ask(*asked)
    ask(*asked, "--batch", 1)
    assert sizes == [2]  # the last file's; what is finished is not made again
    assert files_below("out") == files_below("whole")
    for path in files_below("out"):
        mine, whole = (Path(out, path).read_bytes() for out in ("out", "whole"))
        assert mine == whole or (path.suffix == ".gz" and gzip.decompress(mine) == gzip.decompress(whole))


def files_below(folder):
    return [path.relative_to(folder) for path in sorted(Path(folder).rglob("*")) if path.is_file()]


def killed_at(call, function):
    """`function`, in the call of this number, from 0, interrupted when it is half done."""
    calls = []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) > call:
            raise KeyboardInterrupt
        function(*arguments)

    return interrupted


def test_another_command_does_not_go_on_in_the_same_folder(model):
    Path("in").mkdir()
    np.save("in/a.npy", cine(1, 2))
    asked = (MODEL, "in", *ANGLES)
    ask(*asked)
    before = list(contents("out"))
    rule = {"rules": {"fold-0/seed-0": {"mirror": True, "threshold": 0.5}}}
    Path("rules.json").write_text(json.dumps(rule))
    others = {
        "another MODEL": (f"{ARM}/fold-0/seed-1", "in", *ANGLES),
        "other formats": (*asked, "--to", "nifti"),
        "other inputs or angles": (MODEL, "in", "--angles", "0", "0"),
        "other --rules": (*asked, "--rules", "rules.json"),
    }
    for what, other in others.items():
        assert f"out: was begun with {what}" in refused(*other)
    np.save("in/a.npy", cine(2, 2))
    assert "other inputs" in refused(*asked)
    card = read_json(f"{MODEL}/card.json")
    Path(MODEL, "card.json").write_text(json.dumps(card | {"epoch": 7}))
    assert "another MODEL" in refused(*asked)
    assert list(contents("out")) == before


def test_what_is_left_out_is_told_with_the_reason(model, capsys):
    for name in ("in/a", "in/b"):
        Path(name).mkdir(parents=True)
    np.save("in/good.npy", cine(1, 2))
    Path("in/broken.npy").write_bytes(b"no array")
    Path("in/notes.txt").write_text("no picture")
    Path("in/.DS_Store").write_text("")
    named_dicom("in/burned.dcm", cine(1), BurnedInAnnotation="YES")
    assert "broken.npy: not readable" in refused(MODEL, "in", *ANGLES) and not Path("out").exists()
    capsys.readouterr()
    ask(MODEL, "in", "nowhere.png", *ANGLES, "--on-problem", "skip")
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "2 masks of 1 file(s), 6 left out (see predictions.json): out"
    reasons = {one["file"]: one["reason"] for one in read_json("out/predictions.json")["left_out"]}
    said = {
        "in/a": "a folder; --recursive looks into it",
        "in/b": "a folder; --recursive looks into it",
        "in/notes.txt": "no picture",
        "in/broken.npy": "not readable as a NumPy array",
        "in/burned.dcm": "BurnedInAnnotation YES",
        "nowhere.png": "no such file or folder",
    }
    assert reasons.keys() == said.keys()
    for file, reason in said.items():
        assert reasons[file].startswith(reason)
        assert any(line.startswith(f"left out: {file}: {reason}") for line in lines)
    shutil.rmtree("out")
    assert "no file to predict is left" in refused(MODEL, "in/broken.npy", *ANGLES, "--on-problem", "skip")


def test_files_of_one_name_in_several_folders_have_outputs_of_their_own(model):
    for i, folder in enumerate(("in", "in/a", "in/b", "in/b/c")):
        Path(folder).mkdir()
        np.save(f"{folder}/x.npy", cine(i, 2))
    Image.fromarray(cine(1)[0]).save("in/a-x.png")
    Image.fromarray(cine(1)[0]).save("in/b/x..y .npy.png")
    asked = (MODEL, "in", *ANGLES, "--recursive")
    ask(*asked, out="in/out")
    names = {one["file"]: one["name"] for one in read_json("in/out/predictions.json")["asked"]["files"]}
    assert names == {
        "in/a/x.npy": "a-x",
        "in/a-x.png": "a-x-2",
        "in/b/c/x.npy": "b-c-x",
        "in/x.npy": "x",
        "in/b/x.npy": "b-x",
        "in/b/x..y .npy.png": "b-x_y_npy",
    }
    assert len(list(Path("in/out/masks").rglob("*.png"))) == 4 * 2 + 2
    ask(*asked, out="in/out")  # what is in DIR is no input


def test_a_link_to_a_folder_is_not_followed(tmp_path):
    np.save(tmp_path / "x.npy", cine(1, 2))
    (tmp_path / "back").symlink_to(tmp_path, target_is_directory=True)
    left_out = LeftOutFiles(skip=False)
    assert inputs.list_files([tmp_path], True, tmp_path / "out", left_out) == {tmp_path / "x.npy": "x"}
    assert [one.file for one in left_out] == [(tmp_path / "back").as_posix()]


def test_a_file_that_cannot_be_opened_is_left_out(tmp_path, monkeypatch):
    (tmp_path / "IM1").write_bytes(b"")
    monkeypatch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(UserError, match="IM1: cannot be read: Permission denied"):
        inputs.list_files([tmp_path / "IM1"], False, tmp_path / "out", LeftOutFiles(skip=False))


def test_a_file_that_changes_meanwhile_has_no_masks(model, monkeypatch):
    np.save("a.npy", cine(1, 2))
    monkeypatch.setattr(models, "_maker", lambda *_: np.save("a.npy", cine(2, 3)))
    assert "a.npy: has changed since it was read" in refused(MODEL, "a.npy", *ANGLES)
    assert not list(Path("out").rglob("*.png"))


def test_too_large_a_batch_is_one_line(model, monkeypatch):
    def full(*_):
        raise MemoryError

    monkeypatch.setattr(models, "_maker", lambda *_: full)
    np.save("a.npy", cine(1, 2))
    assert "out of memory with --batch 4; give a lower one" in refused(MODEL, "a.npy", *ANGLES, "--batch", 4)
