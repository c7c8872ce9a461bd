"""`nightshift predict`: the masks of the evaluation from a model's folder and a file; every mistake is one line."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.docs import PAGES, blocks
from helpers.models import WITHOUT_ENCODER, train_and_evaluate
from PIL import Image

from nightshift.arms import lora
from nightshift.backbone import encoder
from nightshift.backbone.pretrained import record_of
from nightshift.commands import inputs, predict
from nightshift.commands.main import dispatch
from nightshift.config.hardware import hardware
from nightshift.config.presets import Encoder
from nightshift.config.sections import Predict
from nightshift.console.errors import UserError
from nightshift.core.hashing import hash_files, sha256
from nightshift.core.io import read_csv, read_json, write_json
from nightshift.data.letterbox import frame_to_square
from nightshift.evaluation.measures import all_measures
from nightshift.model.card import read_card, settings_of
from nightshift.model.head_file import load_head
from nightshift.model.segmentation import SegmentationModel

MODEL = "models/lora/fold-0/seed-0"
PREFIX = "detector.backbone.vision_backbone."


def ask(*arguments):
    dispatch(["predict", *(str(one) for one in (*arguments, "-o", "out"))])


def refused(*arguments) -> str:
    """The one line that such a command ends in; nothing is written."""
    with pytest.raises(UserError) as caught:
        ask(*arguments)
    assert "\n" not in str(caught.value) and not Path("out").exists() and not list(Path().glob(".out*"))
    return str(caught.value)


def told_of():
    """The rows of out/predictions.json."""
    return read_json("out/predictions.json")["predictions"]


def mask(path):
    return np.asarray(Image.open(path))


@pytest.fixture
def frames(prepared):
    """The test cases as files: frames/case-7.png, frames/case-8.npy, and angles.csv."""
    Path("frames").mkdir()
    cases = list(prepared["test"])
    Image.fromarray(cases[0].frame).save("frames/case-7.png")
    np.save("frames/case-8.npy", cases[1].frame)
    rows = [(f"frames/case-{i + 7}.{end}", *cases[i].angles) for i, end in enumerate(("png", "npy"))]
    Path("angles.csv").write_text("\n".join(",".join(map(str, row)) for row in (inputs.COLUMNS, *rows)))
    return cases


@pytest.fixture
def trained(small, frames):
    """A LoRA arm in models/lora/fold-0/seed-0, evaluated on the same two cases."""
    train_and_evaluate(small({}, "lora"))
    return frames


@pytest.mark.parametrize("name", ["frozen", "lora", "unet", "vesselness"])
@pytest.mark.parametrize("changes", [{}, {"encoder.precision": "bf16", "encoder.resolution": 84, "view.mode": "none"}])
def test_the_masks_are_those_of_the_evaluation(small, frames, name, changes, tmp_path):
    masks = Predict(mirror=bool(changes), hysteresis=bool(changes))
    train_and_evaluate(
        small(WITHOUT_ENCODER | changes | ({"encoder.channels": "vesselness"} if changes else {}), name), masks
    )
    for needless in ("params.yaml", "conf", "data"):
        (tmp_path / needless).rename(tmp_path / f"no-{needless}")
    rules = ["--rules", f"reports/evaluation/{name}/rules.json"]
    ask(f"models/{name}/fold-0/seed-0", "frames", *(rules if changes else ["--angles-csv", "angles.csv"]), "--batch", 1)
    rows, told = read_csv(f"reports/evaluation/{name}/cases.csv"), told_of()
    assert len(rows) == len(told) == len(frames)
    for i, (case, row, one) in enumerate(zip(frames, rows, told, strict=True)):
        assert (one["name"], Path(one["file"]).stem) == (case.case_id, case.case_id)
        found = mask(f"out/masks/{one['name']}.png")
        pictures = Path(f"reports/evaluation/{name}/pictures")
        np.testing.assert_array_equal(found, mask(pictures / f"prediction-0-{i:05d}.png"))
        assert found.shape == case.frame.shape == (one["height"], one["width"])
        assert f"{all_measures(found > 0, case.mask)['dice']:.6f}" == row["dice"]
        assert one["area"] == (found > 0).sum() and one["area_mm2"] is None
        inside = mask(pictures / f"probability-0-{i:05d}.png")[found > 0] / 65535
        assert one["confidence"] == (pytest.approx(inside.mean(), abs=1e-6) if inside.size else None)
        shown = mask(f"out/overlays/{one['name']}.png")
        assert shown.shape == (*found.shape, 3)
        np.testing.assert_array_equal(shown[found == 0], case.frame[found == 0][:, None].repeat(3, 1))
    assert any(one["area"] for one in told)


def test_every_frame_of_a_cine_has_a_mask_and_no_name_is_taken_twice(trained):
    first, second = (case.frame for case in trained)
    for patient, frame in (("p0", first), ("p1", second)):
        Path(patient).mkdir()
        np.save(f"{patient}/cine.npy", np.stack([frame, frame // 2]))
    Image.fromarray(first).save("p1/Cine.png")
    ask(MODEL, "p0/cine.npy", "p1", "p0", "--angles", "-30", "20.5")
    told = [(row["file"], row["name"]) for row in told_of()]
    assert told == [
        ("p0/cine.npy", "cine/00000"),
        ("p0/cine.npy", "cine/00001"),
        ("p1/Cine.png", "Cine-2"),
        ("p1/cine.npy", "cine-3/00000"),
        ("p1/cine.npy", "cine-3/00001"),
    ]
    for folder in ("out/masks", "out/overlays"):
        found = Path(folder).rglob("*.png")
        assert {path.relative_to(folder).with_suffix("").as_posix() for path in found} == {name for _, name in told}
    assert {path.name for path in Path("out").iterdir()} == {"masks", "overlays", "predictions.json"}
    np.testing.assert_array_equal(mask("out/masks/cine/00000.png"), mask("out/masks/Cine-2.png"))


def test_a_dicom_file_brings_its_angles(trained):
    pydicom = pytest.importorskip("pydicom")
    case = trained[0]
    header = pydicom.dataset.FileMetaDataset()
    header.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.12.1"  # X-ray angiography
    header.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    made = pydicom.Dataset()
    made.file_meta, made.SOPClassUID, made.Modality = header, header.MediaStorageSOPClassUID, "XA"
    made.Rows, made.Columns = case.frame.shape
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.NumberOfFrames = 7, 2
    made.PixelData = np.stack([case.frame, case.frame]).tobytes()
    made.PositionerPrimaryAngle, made.PositionerSecondaryAngle = (str(angle) for angle in case.angles)
    Path("study").mkdir()
    made.save_as("study/IM0001", enforce_file_format=True)
    Path("study/notes.txt").write_text("no picture")
    ask(MODEL, "study")
    expected = mask("reports/evaluation/lora/pictures/prediction-0-00000.png")
    for i in range(2):
        np.testing.assert_array_equal(mask(f"out/masks/IM0001/0000{i}.png"), expected)
    del made.PositionerPrimaryAngle
    made.save_as("study/IM0001", enforce_file_format=True)
    shutil.rmtree("out")
    assert re.search(
        r"IM0001: no view angles.*--angles PRIMARY SECONDARY or --angles-csv FILE", refused(MODEL, "study")
    )


def test_what_is_missing_or_wrong_is_one_line(trained):
    assert re.search(r"case-7\.png: no view angles.*view\.mode: film.*--angles PRIMARY", refused(MODEL, "frames"))
    shutil.copytree("models/lora", "models/other/lora")
    card = read_json("models/lora/fold-0/seed-0/card.json")
    write_json("models/third/fold-0/seed-0/card.json", card | {"settings": card["settings"] | {"name": "third"}})
    assert "it has models/lora/fold-0/seed-0, models/other/lora/fold-0/seed-0" in refused("models", "frames")
    assert "as models/lora/fold-0/seed-0" in refused("models/fourth", "frames")
    assert "no such file or folder" in refused(MODEL, "frames", "nowhere")
    assert ".npy or DICOM file" in refused(MODEL, "params.yaml")
    assert "in it; --recursive looks into its folders" in refused(MODEL, ".")
    for angles in (("200", "0"), ("nan", "0"), ("left", "0")):
        assert "is not a number of degrees" in refused(MODEL, "frames", "--angles", *angles)
    for array in (np.zeros((4, 5, 3), np.uint8), np.zeros((4, 5)), np.zeros((2, 3, 4, 5), np.uint8)):
        np.save("wrong.npy", array)
        assert "expected one grey frame" in refused(MODEL, "wrong.npy", "--angles", "0", "0")
    for name in ("head.safetensors", "adapter_model.safetensors"):
        file = Path(MODEL, name)
        whole = file.read_bytes()
        file.write_bytes(whole[:100])
        assert "not the " in refused(MODEL, "frames", "--angles", "0", "0")
        file.unlink()
        refused(MODEL, "frames", "--angles", "0", "0")
        file.write_bytes(whole)
    card = read_json(f"{MODEL}/card.json")
    for key in ("preset", "encoder"):
        write_json(f"{MODEL}/card.json", card | {"settings": {k: v for k, v in card["settings"].items() if k != key}})
        assert f"card.json: settings.{key}: " in refused(MODEL, "frames", "--angles", "0", "0")
    other = card["settings"]["preset"] | {"embed_dim": 64, "d_model": 32}
    write_json(f"{MODEL}/card.json", card | {"settings": card["settings"] | {"preset": other}})
    assert "not the adapters of this encoder" in refused(MODEL, "frames", "--angles", "0", "0")


def test_nothing_is_overwritten(trained):
    Path("out/masks").mkdir(parents=True)
    Path("out/masks/case-7.png").write_text("an expert's")
    with pytest.raises(UserError, match=r"out: is there already; name a new folder"):
        ask(MODEL, "frames", "--angles", "0", "0")
    assert Path("out/masks/case-7.png").read_text() == "an expert's"


@pytest.mark.parametrize(
    "rows, said",
    [
        ("a.png,1,2\na.png,3,4", "line 3: a.png is in it twice"),
        ("a.png,1,", "line 2: angle '' is not a number"),
        ("c.png,1,2", "line 2: 2 files are named c.png; give their paths"),
    ],
)
def test_a_table_of_angles_is_never_guessed_at(tmp_path, rows, said):
    files = [tmp_path / name for name in ("a.png", "x/c.png", "y/c.png")]
    (tmp_path / "t.csv").write_text(f"file,primary_angle,secondary_angle\n{rows}\n")
    with pytest.raises(UserError, match=re.escape(said)):
        inputs.angles_by_file(tmp_path / "t.csv", files)
    good = "note,file,primary_angle,secondary_angle\n,y/c.png,-3.5,4\n,a.png,1,2\n,unknown.png,0,0\n"
    (tmp_path / "t.csv").write_text(good, encoding="utf-8-sig")
    assert inputs.angles_by_file(tmp_path / "t.csv", files) == {files[2]: (-3.5, 4.0), files[0]: (1.0, 2.0)}
    (tmp_path / "t.csv").write_text("file,primary\n")
    with pytest.raises(UserError, match="column primary_angle, secondary_angle missing"):
        inputs.angles_by_file(tmp_path / "t.csv", files)


@pytest.fixture
def weighted(small, frames):
    """A LoRA arm that was trained on weights in sam3.pt."""
    settings = small({"encoder.weights": "sam3.pt"}, "lora")
    neck = encoder.build(Encoder(**settings.preset.model_dump() | {"seed": 7}))
    torch.save({PREFIX + name: value for name, value in neck.state_dict().items()}, "sam3.pt")
    write_json(record_of("lora"), hash_files([Path("sam3.pt")], iter)[0])
    train_and_evaluate(settings)
    return settings


def test_only_the_very_weights_will_do_and_they_stay_as_they_are(weighted, tmp_path):
    asked = (MODEL, "frames", "--angles-csv", "angles.csv")
    before = sha256(Path("sam3.pt"))
    assert before == read_json(record_of("lora"))["sha256"]
    Path("elsewhere").mkdir()
    shutil.move("sam3.pt", "elsewhere/other.pt")
    assert re.search(r"trained on the weights sam3\.pt: no such file; name it with --weights FILE", refused(*asked))
    assert "no x.pt; name it with" in refused(*asked, "--weights", "x.pt")
    ask(*asked, "--weights", "elsewhere/other.pt")
    pictures = Path("reports/evaluation/lora/pictures")
    for i in range(2):
        np.testing.assert_array_equal(mask(f"out/masks/case-{i + 7}.png"), mask(pictures / f"prediction-0-{i:05d}.png"))
    assert sha256(Path("elsewhere/other.pt")) == before
    shutil.rmtree("out")
    neck = encoder.build(weighted.preset)
    torch.save({PREFIX + name: value for name, value in neck.state_dict().items()}, "sam3.pt")
    assert re.search(r"sam3\.pt: not the weights that .* was trained on \(sha256 .*--weights FILE", refused(*asked))


def test_an_arm_of_random_weights_takes_no_file(trained):
    Path("w.pt").write_text("")
    asked = refused(MODEL, "frames", "--angles", "0", "0", "--weights", "w.pt")
    assert "was trained on random weights, not on w.pt; leave --weights out" in asked


@pytest.mark.parametrize("name", ["unet", "vesselness"])
def test_an_arm_without_an_encoder_takes_no_weights(small, frames, name):
    train_and_evaluate(small(WITHOUT_ENCODER, name))
    card = read_json(f"models/{name}/fold-0/seed-0/card.json")
    assert card["weights"] == {"path": "none"} and not {"encoder", "preset", "head"} & card["settings"].keys()
    asked = (f"models/{name}/fold-0/seed-0", "frames", "--angles", "0", "0")
    assert "was trained without an encoder, not on w.pt; leave --weights out" in refused(*asked, "--weights", "w.pt")
    ask(*asked)


def test_a_damaged_array_is_one_line(trained):
    """A damaged header makes NumPy raise almost anything."""
    whole = Path("frames/case-8.npy").read_bytes()
    for wrong in (
        whole[:5],
        whole[:90],
        whole[:40] + b"\xff(" + whole[42:],
        b"\x93NUMPY\x01\x00\x10\x00{'descr': '|u1'",
    ):
        Path("cine.npy").write_bytes(wrong)
        assert "cine.npy: not readable as a NumPy array" in refused(MODEL, "cine.npy", "--angles", "0", "0")


def test_the_project_is_the_nearest_folder_with_params_and_dvc_yaml(checkout, monkeypatch):
    folder = checkout / "studies/one"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert predict.project_folder() is None
    (checkout / "dvc.yaml").write_text("stages: {}")
    assert predict.project_folder() == checkout
    for name in ("params.yaml", "dvc.yaml"):
        (folder / name).write_text("")
    assert predict.project_folder() == folder


def test_hardware_is_that_of_the_project_from_a_folder_in_it(trained, checkout, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", "to be set back")  # so that pytest undoes what the command sets
    del os.environ["DVC_ROOT"]
    (checkout / "dvc.yaml").write_text("stages: {}")
    (checkout / "hardware.yaml").write_text("device: abacus\n")
    hardware.cache_clear()
    monkeypatch.chdir(checkout / "frames")
    assert "hardware.yaml: " in refused(checkout / MODEL, "case-7.png", "--angles", "RAO 30", "CRA 20")
    (checkout / "hardware.yaml").write_text("device: cpu\nthreads: 1\n")
    hardware.cache_clear()
    ask(checkout / MODEL, "case-7.png", "--angles", "RAO 30", "CRA 20")
    assert mask("out/masks/case-7.png").shape == trained[0].frame.shape


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_merged_adapters_give_what_training_saw(small, trained, precision):
    """And in half precision they are as near to the arm in float32 as the adapters beside the weights were."""
    settings = small({"encoder.precision": precision}, "lora")
    merged = lora.open_model(Path(MODEL), settings)
    beside = open_beside(settings)
    exact = open_beside(small({"encoder.precision": "fp32"}, "lora"))
    image, angles = frame_to_square(trained[0].frame, settings.resolution)[None], torch.tensor([trained[0].angles])
    with torch.no_grad():
        one, two, true = (model(None, angles, image) for model in (merged, beside, exact))
    if precision == "fp32":
        torch.testing.assert_close(one, two, rtol=0, atol=1e-4)
    else:
        assert (one - true).norm() < 1.5 * (two - true).norm()


def open_beside(settings):
    """The model with its adapters beside the weights, as in training."""
    from peft import PeftModel

    model = SegmentationModel(encoder.configured(settings), settings.preset.depth, settings)
    PeftModel.from_pretrained(model.neck.trunk, MODEL)
    load_head(model, Path(MODEL))
    return model.eval()


def test_the_documented_lines_of_plain_peft_give_our_trunk(weighted):
    code = next(one.text for page in PAGES for one in blocks(page, "python") if "PeftModel" in one.text)
    images = torch.rand(1, 3, weighted.resolution, weighted.resolution) * 2 - 1
    names = {"images": images}
    exec(code, names)  # noqa: S102, the documentation's own code
    card = read_card(Path(MODEL))
    model = lora.open_model(Path(MODEL), settings_of(card, Path(MODEL)))
    with torch.no_grad():
        ours = model.features(None, images)
    torch.testing.assert_close(names["features"], ours, rtol=1e-5, atol=1e-5)
    plain = encoder.configured(weighted)
    assert not torch.allclose(encoder.run_prefix(plain.trunk, images, 3).permute(0, 3, 1, 2), ours, atol=1e-3)


def test_the_models_of_an_arm_together_give_their_mean(small, frames):
    train_and_evaluate(small({"train.seeds": [0, 1, 2]}))
    maps, thresholds = [], []
    for seed in range(3):
        folder = f"models/frozen/fold-0/seed-{seed}"
        thresholds.append(read_json(f"{folder}/card.json")["threshold"])
        pictures = Path("reports/evaluation/frozen/pictures")
        maps.append([mask(pictures / f"probability-{seed}-{i:05d}.png").astype(float) for i in range(2)])
    ask("models/frozen", "frames", "--angles-csv", "angles.csv")
    for i in range(2):
        mean = np.round(sum(of_seed[i] for of_seed in maps) / 3)
        found = mask(f"out/masks/case-{i + 7}.png") > 0
        np.testing.assert_array_equal(found, mean > np.mean(thresholds) * 65535)
