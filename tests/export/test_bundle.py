"""Bundles by `nightshift export`: the model's own masks wherever they are opened, and nothing else in their files."""

import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from helpers.data import source_case
from helpers.models import UNET, train_and_evaluate
from helpers.project import ROOT, copy_settings, prepare_cases, small_settings
from onnx import numpy_helper
from PIL import Image

from nightshift.commands.main import dispatch
from nightshift.config.sections import Predict
from nightshift.console.errors import UserError
from nightshift.core.io import read_json, write_json
from nightshift.evaluation.rules import Rules
from nightshift.export.check import mask_of, probability_map
from nightshift.model.card import read_card
from nightshift.model.kinds import kind_of
from nightshift.model.predictor import MAP_MAX, CachedPredictor, threshold_mask

FOLD = "fold-0/seed-0"
RULES = "reports/evaluation/unet/rules.json"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project, the current folder of this module: arms lora and unet, trained and evaluated, and their bundles.

    `lora` is in all formats, checked by test cases; `unet` has mirror images and two thresholds.
    """
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("project")
        copy_settings(folder)
        patch.chdir(folder)
        patch.delenv("DVC_ROOT", raising=False)
        prepare_cases()
        train_and_evaluate(small_settings({"train.epochs": 6}, "lora"))
        dispatch(["export", f"models/lora/{FOLD}", "-o", "lora", "--to", "onnx,float16,pt2", "--with-cases"])
        train_and_evaluate(small_settings({"arms.unet": UNET}, "unet"), Predict(mirror=True, hysteresis=True))
        dispatch(["export", f"models/unet/{FOLD}", "-o", "unet", "--rules", RULES])
        yield folder


@pytest.fixture
def copied(project, tmp_path):
    """copied("lora"): a copy of the bundle, which the test may change."""
    return lambda name: Path(shutil.copytree(name, tmp_path / name))


def frames():
    """Three sizes, flat and upright, and their views."""
    found = [source_case(number).read()[0] for number in (7, 8)]
    large = np.kron(found[0], np.ones((3, 2), np.uint8))
    return [(found[0], (49.0, -10.0)), (found[1].T.copy(), (-30.0, 20.0)), (large, (0.0, 35.0))]


def expected(arm, mirror=False):
    """The maps of `frames` by the trained model."""
    folder = Path(f"models/{arm}/{FOLD}")
    model = kind_of(settings := read_card(folder).settings).open_model(folder, settings)
    return [CachedPredictor(model, frame, mirror).probability_map(angles) for frame, angles in frames()]


def by_onnx(file):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return [probability_map(session, frame, list(angles)) for frame, angles in frames()]


def by_torch(file):
    model = torch.export.load(file).module()
    maps = [model(torch.from_numpy(frame), torch.tensor(angles)) for frame, angles in frames()]
    return [(found.double() * MAP_MAX).round().numpy().astype(np.uint16) for found in maps]


def assert_close(some, others, limit):
    for a, b in zip(some, others, strict=True):
        assert a.shape == b.shape and np.abs(a.astype(int) - b).max() <= limit * MAP_MAX


def bundle_json(name):
    return read_json(Path(name) / "bundle.json")


def checked(folder):
    """Status and lines of check.py, as a process in the bundle's folder."""
    done = subprocess.run([sys.executable, "check.py"], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize(
    "file, read, limit",
    [("model.onnx", by_onnx, 1e-4), ("model.pt2", by_torch, 1e-4), ("model-float16.onnx", by_onnx, 2e-3)],
)
@torch.no_grad()
def test_the_model_is_the_same_in_every_format(project, file, read, limit):
    maps, found = expected("lora"), read(f"lora/{file}")
    assert_close(found, maps, limit)
    threshold = bundle_json("lora")["threshold"]
    assert threshold == read_card(Path(f"models/lora/{FOLD}")).threshold
    masks = [threshold_mask(one, threshold) for one in maps]
    assert any(0 < mask.mean() < 1 for mask in masks)
    if limit == 1e-4:
        for mask, one in zip(masks, found, strict=True):
            np.testing.assert_array_equal(mask_of(one, threshold, None), mask)


def test_mirror_and_two_thresholds_are_those_of_the_rules(project):
    rule, record = Rules.read(Path(RULES)).rules[FOLD], bundle_json("unet")
    assert rule.mirror and (record["threshold"], record["low"]) == (rule.threshold, rule.low)
    maps, found = expected("unet", mirror=True), by_onnx("unet/model.onnx")
    assert_close(found, maps, 1e-4)
    plain = expected("unet")
    assert any(np.abs(a.astype(int) - b).max() > 1e-3 * MAP_MAX for a, b in zip(plain, maps, strict=True))
    for one, other in zip(maps, found, strict=True):
        expected_mask = threshold_mask(one, rule.threshold, rule.low)
        np.testing.assert_array_equal(mask_of(other, rule.threshold, rule.low), expected_mask)


def test_the_check_grows_masks_as_scikit_image_does():
    found = np.random.default_rng(0).integers(0, MAP_MAX + 1, (90, 70)).astype(np.uint16)
    grown, seeds = threshold_mask(found, 0.95, 0.6), threshold_mask(found, 0.95)
    assert seeds.sum() < grown.sum() < threshold_mask(found, 0.6).sum()
    np.testing.assert_array_equal(mask_of(found, 0.95, 0.6), grown)


@pytest.mark.parametrize("name", ["lora", "unet"])
def test_the_view_is_an_input(project, name):
    session = onnxruntime.InferenceSession(f"{name}/model.onnx", providers=["CPUExecutionProvider"])
    frame = frames()[0][0]
    one, other = (probability_map(session, frame, angles).astype(int) for angles in ([0.0, 0.0], [90.0, 45.0]))
    assert np.abs(one - other).max() > 1e-3 * MAP_MAX and bundle_json(name)["takes_angles"]


def all_files(folder):
    """Name and bytes of every file, and of every member of those that are a zip."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        yield file.name, file.read_bytes()
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as parts:
                yield from ((f"{file.name}/{name}", parts.read(name)) for name in parts.namelist())


def test_no_file_has_a_pickle_a_path_or_a_name_in_it(project):
    words = [str(project), str(ROOT), str(Path.home()), sys.prefix, "site-packages", "graph.py", "data.pkl"]
    words += [*(f"case-{i}" for i in range(9)), '"p7"', '"p8"']
    words += [name for name in (getpass.getuser(), socket.gethostname()) if len(name) > 4]  # shorter ones are anywhere
    found = dict(all_files(project / "lora"))
    assert {"model.onnx", "model-float16.onnx", "model.pt2", "bundle.json", "check.py", "MODEL_CARD.md"} <= found.keys()
    assert any(name.startswith("model.pt2/") for name in found)
    for name, content in found.items():
        assert not name.endswith((".pkl", ".py")) or name == "check.py"
        assert content[:1] != b"\x80" or content[1:2] not in (b"\2", b"\3", b"\4", b"\5"), f"{name} is a pickle"
        assert not [word for word in words if word.encode() in content], name


def test_the_check_needs_nothing_but_its_folder(project, copied):
    status, lines = checked(copied("lora"))
    assert status == 0 and len(lines) == 2 and all(line.startswith("yes: model") for line in lines)
    assert len(list(Path("lora/cases").iterdir())) == 2 * 3  # there are two test cases
    np.testing.assert_array_equal(np.asarray(Image.open("lora/cases/frame-0.png")), source_case(7).read()[0])
    assert len(list(Path("unet/cases").iterdir())) == 6 * 3


@pytest.mark.slow  # it installs packages
def test_the_check_runs_where_three_packages_are_installed(project, copied, tmp_path):
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    pinned = re.findall(r"^(?:onnxruntime|numpy|pillow)==\S+", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert len(pinned) == 3
    install = [python, "-m", "pip", "install", "-q", *pinned, "-c", ROOT / "constraints.txt"]
    subprocess.run(install, check=True, cwd=tmp_path)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, "check.py"]
    done = subprocess.run(command, cwd=copied("lora"), env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all(line.startswith("yes: model") for line in lines)


def changed_threshold(folder):
    record = read_json(folder / "bundle.json")
    write_json(folder / "bundle.json", record | {"threshold": record["threshold"] + 0.05})


def changed_graph(folder, wanted, by):
    """Multiply the first value of the first constant or weight that `wanted` says."""
    model = onnx.load(folder / "model.onnx")
    tensor = next(one for one in model.graph.initializer if wanted(numpy_helper.to_array(one), one.name))
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] *= by
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, folder / "model.onnx")


def changed_weight(folder):
    changed_graph(folder, lambda values, name: "output_block" in name and values.ndim == 4, 1.1)


def changed_preparation(folder):
    changed_graph(folder, lambda values, name: values.size == 1 and values.dtype == np.float32 and values == 255, 1.02)


@pytest.mark.parametrize("change", [changed_threshold, changed_weight, changed_preparation])
def test_the_check_says_no_to_what_was_changed(project, copied, change):
    folder = copied("unet")
    change(folder)
    status, (line,) = checked(folder)
    assert status == 1 and line.startswith("no: model.onnx: probabilities differ by up to ")
    told = float(line.split("by up to ")[1].split()[0]), int(line.split("masks in ")[1].split()[0])
    assert told[1] > 4 if change is changed_threshold else told[0] > 1e-4


@pytest.mark.parametrize("text", ['{"graphs": []}', "{", "{}"])
def test_the_check_says_no_where_there_is_nothing_to_check(project, copied, text):
    folder = copied("unet")
    (folder / "bundle.json").write_text(text)
    status, (line,) = checked(folder)
    assert status == 1 and line.startswith("no: bundle.json ")


def test_the_check_says_no_where_there_are_no_cases(project, copied):
    folder = copied("unet")
    write_json(folder / "bundle.json", read_json(folder / "bundle.json") | {"angles": []})
    status, (line,) = checked(folder)
    assert status == 1 and line.startswith("no: model.onnx: ")


@pytest.mark.parametrize("name", ["lora", "unet"])
def test_predict_makes_the_masks_of_the_model(project, name, tmp_path):
    rules = ["--rules", RULES] if name == "unet" else []
    for i, (frame, _) in enumerate(frames()):
        Image.fromarray(frame).save(tmp_path / f"{i}.png")
    for model, out in ((f"models/{name}/{FOLD}", "model"), (name, "bundle")):
        files = [str(tmp_path / f"{i}.png") for i in range(3)]
        more = rules if out == "model" else []
        dispatch(["predict", model, *files, "-o", str(tmp_path / out), "--angles", "30", "-20", *more])
    for i in range(3):
        one, other = (np.asarray(Image.open(tmp_path / out / f"masks/{i}.png")) for out in ("model", "bundle"))
        np.testing.assert_array_equal(one, other)
    told = read_json(tmp_path / "bundle/predictions.json")["asked"]
    assert list(told["models"]) == [name] and told["mirror"] is False


def test_compare_measures_a_bundle_as_the_evaluation_measured_its_model(project, tmp_path, monkeypatch):
    monkeypatch.setattr("nightshift.reporting.compare.write", lambda *_: None)
    dispatch(["compare", "--bundle", "unet=unet", "-o", str(tmp_path)])
    found, before = (pd.read_csv(f"{place}/evaluation/unet/cases.csv") for place in (tmp_path, "reports"))
    assert list(found["case_id"]) == list(before["case_id"])
    np.testing.assert_allclose(found["dice"], before["dice"], atol=1e-4)


def test_a_damaged_graph_is_one_line(project, copied, tmp_path):
    folder = copied("unet")
    content = (folder / "model.onnx").read_bytes()
    for damaged in (content[: len(content) // 2], b"", None):
        (folder / "model.onnx").unlink()
        if damaged is not None:
            (folder / "model.onnx").write_bytes(damaged)
        with pytest.raises(UserError) as caught:
            dispatch(["predict", str(folder), "lora/cases/frame-0.png", "-o", str(tmp_path / "out")])
        assert "model.onnx: onnxruntime cannot open it" in str(caught.value) and "\n" not in str(caught.value)
        (folder / "model.onnx").touch()
    write_json(folder / "bundle.json", json.loads((folder / "bundle.json").read_text()) | {"graphs": []})
    with pytest.raises(UserError, match="no ONNX graph in it; make one with nightshift export"):
        dispatch(["predict", str(folder), "lora/cases/frame-0.png", "-o", str(tmp_path / "out")])


@pytest.mark.parametrize("option", ["--weights", "--rules"])
def test_a_bundle_has_its_own_weights_and_rules(project, option, tmp_path):
    with pytest.raises(UserError, match=f"unet: a bundle, which has its own; leave {option} out"):
        dispatch(["predict", "unet", "lora/cases/frame-0.png", "-o", str(tmp_path / "out"), option, RULES])
