"""The default run, as it is shipped: what it must show, and that the report on record is of it. Minutes."""

import csv
import json
import re
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from helpers import chain
from helpers.chain import ROOT
from helpers.report_inputs import Tags, make_inputs
from onnxruntime import InferenceSession
from PIL import Image
from PIL.Image import Resampling

from nightshift.core.io import read_csv
from nightshift.data.dataset import open_part
from nightshift.evaluation.measures import all_measures
from nightshift.export import check
from nightshift.export.bundle import BundleRecord
from nightshift.model.card import read_card
from nightshift.model.kinds import kind_of
from nightshift.model.predictor import MAP_MAX, CachedPredictor, threshold_mask
from nightshift.reporting import text_measures
from stages import compare

EXAMPLE = ROOT / "docs/example"
FOLD = "fold-0/seed-0"


@pytest.fixture(scope="module")
def default(tmp_path_factory) -> Path:
    """A clone with the shipped settings in which `dvc repro` has run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain, "MINIATURE", {})
        folder = chain.clone(tmp_path_factory.mktemp("default") / "nightshift")
    done = chain.run(folder, "dvc", "repro")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_the_better_arm_needs_the_right_view_and_the_encoder(default):
    better = json.loads((default / "reports/comparison/metrics.json").read_text())["verdict"]
    whole = json.loads((default / f"reports/evaluation/{better}/metrics.json").read_text())["dice"]
    with (default / f"reports/evaluation/{better}/ablations.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    for name, least in (("wrong_angles", 0.05), ("no_tokens", 0.3)):
        dice = [float(row["dice"]) for row in rows if row["ablation"] == name]
        print(f"{better}, {name}: {whole:.3f} -> {sum(dice) / len(dice):.3f}")
        assert whole - sum(dice) / len(dice) >= least
    report = (default / "reports/comparison/report.md").read_text(encoding="utf-8").replace("\\", "")
    label = {"lora": "LoRA", "frozen": "Frozen"}[better]
    assert re.search(rf"Wrong angles cost {label} 0\.\d+ Dice .*it uses the view", report)
    assert re.search(rf"Without the encoder {label} keeps \d+% of its Dice", report)


@pytest.fixture(scope="module")
def bundles(default, tmp_path_factory) -> Path:
    """The folder of the bundles of both arms, with onnx and float16."""
    folder = tmp_path_factory.mktemp("bundles")
    for name in chain.ARMS:
        nightshift(default, "export", f"models/{name}/{FOLD}", "-o", str(folder / name), "--to", "onnx,float16")
    return folder


def nightshift(folder: Path, *command: str) -> None:
    done = chain.run(folder, "nightshift.commands.main", *command)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("size", [None, (230, 150), (331, 400)])  # the frames' own, a smaller and a larger one
@pytest.mark.parametrize("name", chain.ARMS)
def test_a_bundle_makes_the_masks_of_its_model(default, bundles, name, size, monkeypatch):
    monkeypatch.chdir(default)
    folder, record = Path(f"models/{name}/{FOLD}"), BundleRecord.read(bundles / name / "bundle.json")
    settings = read_card(folder).settings
    model = kind_of(settings).open_model(folder, settings)
    graphs = {graph.file: InferenceSession(bundles / name / graph.file) for graph in record.graphs}
    furthest, different, pixels = dict.fromkeys(graphs, 0.0), dict.fromkeys(graphs, 0), 0
    dice: dict[str, list[float]] = {file: [] for file in ("", *graphs)}
    for case in open_part(0, "test"):
        wanted = size or case.frame.shape[::-1]
        frame = np.array(Image.fromarray(case.frame).resize(wanted, Resampling.BILINEAR))
        truth = np.array(Image.fromarray(case.mask).resize(wanted, Resampling.NEAREST)) > 0
        expected = CachedPredictor(model, frame).probability_map(case.angles)
        masks = {"": threshold_mask(expected, record.threshold)}
        for file, session in graphs.items():
            found = check.probability_map(session, frame, list(case.angles))
            masks[file] = check.mask_of(found, record.threshold, None)
            furthest[file] = max(furthest[file], float(np.abs(found.astype(int) - expected).max()) / MAP_MAX)
            different[file] += int((masks[file] != masks[""]).sum())
        pixels += expected.size
        for file, mask in masks.items():
            dice[file].append(all_measures(mask, truth)["dice"])
    mean = {file: fmean(values) for file, values in dice.items()}
    print(f"{name} {size or 'as they are'}: maps {furthest}, masks {different} of {pixels} pixels, Dice {mean}")
    assert len(dice[""]) == 114
    for file, map_limit, share in (("model.onnx", 1e-4, 1e-5), ("model-float16.onnx", 2e-3, 1e-3)):
        assert furthest[file] <= map_limit and different[file] <= share * pixels
    assert abs(mean["model-float16.onnx"] - mean[""]) <= 1e-3


@pytest.mark.slow
def test_a_bundle_is_compared_as_its_model_was_evaluated(default, bundles, tmp_path):
    nightshift(default, "compare", "--bundle", f"lora={bundles / 'lora'}", "--data", "synthetic", "-o", str(tmp_path))
    found, before = (read_csv(folder / "evaluation/lora/cases.csv") for folder in (tmp_path, default / "reports"))
    assert [row["case_id"] for row in found] == [row["case_id"] for row in before]
    dice = [fmean(float(row["dice"]) for row in rows) for rows in (found, before)]
    print(f"Dice by the bundle {dice[0]:.5f}, by the evaluation {dice[1]:.5f}")
    assert abs(dice[0] - dice[1]) <= 1e-4


@pytest.mark.slow
def test_an_arm_that_trained_on_turned_and_mirrored_cases_uses_the_view(default):
    chain.edit(default, "params.yaml", {"augment.variants": 4})
    done = chain.run(default, "dvc", "repro", "evaluate@frozen")
    assert done.returncode == 0, done.stderr
    chain.edit(default, "params.yaml", {"augment.variants": 0})
    whole = json.loads((default / "reports/evaluation/frozen/metrics.json").read_text())["dice"]
    with (default / "reports/evaluation/frozen/ablations.csv").open(newline="") as handle:
        dice = [float(row["dice"]) for row in csv.DictReader(handle) if row["ablation"] == "wrong_angles"]
    print(f"frozen, wrong angles: {whole:.3f} -> {sum(dice) / len(dice):.3f}")
    assert whole - sum(dice) / len(dice) >= 0.05


@pytest.mark.slow
def test_without_view_conditioning_wrong_angles_change_nothing(default):
    done = chain.run(default, "dvc", "exp", "run", "-S", "view.mode=none", "-S", "train.epochs=2")
    assert done.returncode == 0, done.stderr
    report = (default / "reports/comparison/report.md").read_text(encoding="utf-8").replace("\\", "")
    for label in ("Frozen", "LoRA"):
        assert f"Wrong angles change nothing for {label}, because view.mode is none." in report


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT.parent / "shared/angiograms").is_dir(), reason="../shared/angiograms is not here")
def test_the_report_of_the_real_angiograms_carries_its_warnings(default):
    conf = default / "conf/data/angiograms.yaml"
    conf.write_text(conf.read_text().replace("../shared", (ROOT.parent / "shared").as_posix()))
    changes = ("use.data=angiograms", "view.mode=none", "encoder.resolution=308", "train.epochs=2")
    done = chain.run(default, "dvc", "exp", "run", *(word for change in changes for word in ("-S", change)))
    assert done.returncode == 0, done.stderr
    html = (default / "reports/comparison/report.html").read_text(encoding="utf-8")
    for warning in (
        "The test set has only 10 cases",
        "10 of 10 test cases have no patient id",
        "10 of 10 test cases have no C-arm angles",
        "chosen by only 6 validation cases",
        "This encoder has random weights.",
    ):
        assert warning in html


def shape(html: str) -> list[str]:
    """Sections, headings and columns: what a report consists of, whatever its numbers are."""
    ids = [section["id"] for section in Tags(html).all("section")]
    heads = re.findall(r"<h2>(.*?)</h2>|<th scope=\"col\"[^>]*>(.*?)</th>", html)
    return ids + [re.sub(r"<.*?>|\d+", "", "".join(head)) for head in heads]


def test_the_example_has_the_shape_of_todays_report(tmp_path, monkeypatch):
    """Stale? `dvc repro`, then copy report.html, report.md and metrics.json of reports/comparison to docs/example."""
    make_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    compare.main()
    example, today = (
        shape((folder / "report.html").read_text(encoding="utf-8")) for folder in (EXAMPLE, Path("reports/comparison"))
    )
    assert example == today
    kept = json.loads((EXAMPLE / "metrics.json").read_text(encoding="utf-8"))
    new = json.loads(Path("reports/comparison/metrics.json").read_text(encoding="utf-8"))
    assert kept.keys() == new.keys() and kept["against"]["lora"].keys() == new["against"]["lora"].keys()
    markdown = (EXAMPLE / "report.md").read_text(encoding="utf-8")
    assert all(f"\n| {name}" in markdown for name in text_measures.NAMES.values())
