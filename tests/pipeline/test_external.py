"""A second data set by really running it: every model of two folds predicts it, and a leak is named."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml
from helpers.chain import ALWAYS, ARMS, ROOT, clone, edit, ran, run
from PIL import Image, ImageDraw

REAL = ROOT.parent / "shared/angiograms"
COUNT = 6  # of the real angiograms: measures at full size take a while
FOLDS = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone whose data are ten drawn pictures, and whose second data set are real angiograms."""
    above = tmp_path_factory.mktemp("external")
    for kind in ("images", "masks"):
        (above / "drawn" / kind).mkdir(parents=True)
        (above / "real" / kind).mkdir(parents=True)
        for path in sorted((REAL / kind).iterdir())[:COUNT]:
            shutil.copy(path, above / "real" / kind)
    for i in range(10):
        frame, mask = Image.new("L", (90, 80), 160), Image.new("L", (90, 80), 0)
        for picture, ink in ((frame, 60), (mask, 255)):
            ImageDraw.Draw(picture).line([(5 * i, 10), (80 - 7 * i, 70)], fill=ink, width=4)
        frame.save(above / f"drawn/images/{i}.png")
        mask.save(above / f"drawn/masks/{i}.png")
    made = clone(above / "clone")
    for name in ("drawn", "real"):
        preset = {"kind": "folder", "images": f"../{name}/images", "masks": f"../{name}/masks", "split": "made"}
        (made / f"conf/data/{name}.yaml").write_text(yaml.safe_dump(preset), encoding="utf-8")
    edit(made, "params.yaml", {"use.data": "drawn", "view.mode": "none", "prepare.folds": FOLDS})
    assert "compare" in ran(made)
    return made


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the 40 real angiograms are not here")
def test_every_model_predicts_all_of_it_and_nothing_is_trained_again(folder):
    before = (folder / "reports/evaluation/lora/cases.csv").read_bytes()
    edit(folder, "params.yaml", {"use.external": "real"})
    assert ran(folder) - ALWAYS == {"prepare", *(f"evaluate@{arm}" for arm in ARMS), "compare"}
    for arm in ARMS:
        with (folder / f"reports/evaluation/{arm}/external.csv").open(newline="", encoding="utf-8") as handle:
            rows = list(csv.DictReader(handle))
        expected = [(str(fold), f"{i + 1:03d}") for fold in range(FOLDS) for i in range(COUNT)]
        assert [(row["fold"], row["case_id"]) for row in rows] == expected
    assert (folder / "reports/evaluation/lora/cases.csv").read_bytes() == before
    metrics = json.loads((folder / "reports/comparison/metrics.json").read_text(encoding="utf-8"))
    assert metrics["cases"] == 10 and metrics["folds"] == FOLDS
    assert (metrics["external"]["cases"], set(metrics["external"]["arms"])) == (COUNT, set(ARMS))
    report = (folder / "reports/comparison/report.md").read_text(encoding="utf-8")
    assert "## On a second data set" in report
    assert f"Each of its {COUNT} cases is predicted by all {FOLDS} models of an arm" in report


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the 40 real angiograms are not here")
def test_a_frame_of_it_in_the_first_set_is_a_leak(folder):
    edit(folder, "params.yaml", {"use.external": "real"})
    for kind in ("images", "masks"):
        with Image.open(folder.parent / f"real/{kind}/002.png") as picture:
            half = (picture.width // 2, picture.height // 2)
            picture.resize(half, Image.Resampling.NEAREST).save(folder.parent / f"drawn/{kind}/smuggled.png")
    for command in (("dvc", "repro"), ("nightshift", "check")):
        done = run(folder, *command)
        errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert done.returncode != 0 and len(errors) == 1
        assert "002.png: nearly the frame of case 'smuggled' of drawn" in errors[0] and "a leak" in errors[0]
    done = run(folder, "nightshift", "check", "-S", "prepare.on_problem=skip")
    assert done.returncode == 0 and f"real: {COUNT - 1} cases to test every model on" in done.stdout
    for kind in ("images", "masks"):
        (folder.parent / f"drawn/{kind}/smuggled.png").unlink()
