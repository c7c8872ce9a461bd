"""The chain by really running it: a miniature configuration through DVC, in a temporary clone of this workspace."""

import csv
import json
import shutil
import subprocess

import pytest
import yaml
from helpers.chain import ALWAYS, ARMS, clone, edit, files, ran, repro, run


def test_the_contract_files_are_there(first):
    for arm in ARMS:
        header = (first / f"reports/evaluation/{arm}/cases.csv").read_text(encoding="utf-8").splitlines()
        assert header[0] == (
            "fold,seed,case_id,patient_id,primary_angle,secondary_angle,dice,iou,cldice,hd95,precision,recall,asd,"
            "recall_thin,recall_medium,recall_thick,betti0_error,ece,brier"
        )
        assert len(header) == 1 + 4  # 2 test patients, 2 views, 1 seed
        bins = (first / f"reports/evaluation/{arm}/reliability.csv").read_text(encoding="utf-8").splitlines()
        assert bins[0] == "low,high,probability,vessel,pixels" and len(bins) == 1 + 20
        assert sum(int(one.rpartition(",")[2]) for one in bins[1:]) == 4 * 96 * 96
        assert (first / f"models/{arm}/fold-0/seed-0/head.safetensors").is_file()
        assert json.loads((first / f"reports/probe/arms/{arm}.json").read_text())["ok"] is True
        cost = json.loads((first / f"reports/cost/{arm}/train.json").read_text())
        assert cost["seconds"] > 0 and cost["parameters_trained"] > 0
    assert {p.name for p in (first / "models/lora/fold-0/seed-0").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "card.json", "head.safetensors",
    }  # fmt: skip
    metrics = json.loads((first / "reports/comparison/metrics.json").read_text())
    assert metrics["reference"] == "frozen" and metrics["verdict"] in ("lora", "frozen", "undecided")
    assert set(metrics["arms"]) == set(ARMS) and set(metrics["against"]) == {"lora"}
    assert set(metrics["against"]["lora"]) == {"delta", "ci95", "p", "p_holm", "verdict"}
    assert (metrics["cases"], metrics["patients"], metrics["folds"], metrics["seeds"]) == (4, 2, 1, 1)
    html = (first / "reports/comparison/report.html").read_text(encoding="utf-8")
    assert "random weights" in html and "data:image/" in html


@pytest.mark.slow
def test_a_trained_arm_alone_finds_what_the_evaluation_found(first, tmp_path):
    """From the raw cines: every frame is predicted, the evaluated one is among them."""
    from PIL import Image

    raw = first / "data/raw/synthetic"
    with (raw / "manifest.csv").open(newline="", encoding="utf-8") as handle:
        rows = {row["case_id"]: row for row in csv.DictReader(handle)}
    for arm in ARMS:
        with (first / f"reports/evaluation/{arm}/cases.csv").open(newline="", encoding="utf-8") as handle:
            found = list(csv.DictReader(handle))
        table = "".join(
            f"cines/{one['case_id']}.npy,{one['primary_angle']},{one['secondary_angle']}\n" for one in found
        )
        (raw / "angles.csv").write_text(f"file,primary_angle,secondary_angle\n{table}", encoding="utf-8")
        cines = [str(raw / f"cines/{one['case_id']}.npy") for one in found]
        asked = (
            f"models/{arm}/fold-0/seed-0",
            *cines,
            "--angles-csv",
            str(raw / "angles.csv"),
            "-o",
            str(tmp_path / arm),
            "--batch",
            "1",
        )
        done = run(first, "nightshift", "predict", *asked)
        (raw / "angles.csv").unlink()
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(list((tmp_path / arm / "masks").rglob("*.png"))) == 2 * len(found)  # two frames each
        for i, one in enumerate(found):
            name = f"{one['case_id']}/{int(rows[one['case_id']]['frame_index']):05d}.png"
            predicted = Image.open(tmp_path / arm / "masks" / name)
            evaluated = Image.open(first / f"reports/evaluation/{arm}/pictures/prediction-0-{i:05d}.png")
            assert (predicted.size, predicted.tobytes()) == (evaluated.size, evaluated.tobytes())


def test_a_second_repro_runs_only_what_always_runs(first):
    assert ran(first) == ALWAYS


@pytest.mark.slow
def test_two_clones_agree_byte_for_byte(first, tmp_path):
    second = clone(tmp_path / "second")
    repro(second)
    assert files(second) == files(first)


def test_a_rank_trains_its_own_arm_alone_and_going_back_runs_nothing(first):
    """What is kept of the prefix follows only from where it ends: a sweep over ranks encodes it once."""
    edit(first, "params.yaml", {"arms.lora.rank": 3})
    assert ran(first) - ALWAYS == {"probe_arm@lora", "train@lora", "evaluate@lora", "compare"}
    edit(first, "params.yaml", {"arms.lora.rank": 2})
    assert ran(first) == ALWAYS


@pytest.mark.slow
def test_an_arm_is_added_and_taken_out_on_the_command_line(first):
    """A third arm trains alone and joins the report; without it `compare` alone runs."""
    done = run(first, "dvc", "exp", "run", "-S", "+arms.wide={kind: lora, rank: 4}")
    assert done.returncode == 0, done.stdout + done.stderr
    stages = {line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")}
    assert stages - ALWAYS == {"probe_arm@wide", "encode@wide", "train@wide", "evaluate@wide", "compare"}
    metrics = json.loads((first / "reports/comparison/metrics.json").read_text())
    assert set(metrics["arms"]) == {*ARMS, "wide"} and set(metrics["against"]) == {"lora", "wide"}
    assert "wide" in (first / "reports/comparison/report.md").read_text(encoding="utf-8")
    done = run(first, "dvc", "exp", "run", "-S", "~arms.wide")
    assert done.returncode == 0, done.stdout + done.stderr
    stages = {line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")}
    assert stages - ALWAYS <= {"compare"}  # from the run cache where it is the first comparison again
    assert set(json.loads((first / "reports/comparison/metrics.json").read_text())["arms"]) == set(ARMS)


@pytest.mark.slow
def test_arms_without_an_encoder_join_the_comparison(first, tmp_path):
    """Both in one command: no other arm runs again; the U-Net predicts from its folder alone."""
    first = shutil.copytree(first, tmp_path / "clone", symlinks=True)  # what it adds stays in no other test's way
    added = ("+arms.unet={kind: unet, channels: [4, 8, 8]}", "+arms.vesselness={kind: vesselness}")
    done = run(first, "dvc", "exp", "run", *(word for arm in added for word in ("-S", arm)))
    assert done.returncode == 0, done.stdout + done.stderr
    stages = {line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")}
    steps, names = ("probe_arm", "encode", "train", "evaluate"), ("unet", "vesselness")
    assert stages - ALWAYS == {f"{step}@{name}" for step in steps for name in names} | {"compare"}
    for name in names:
        assert f"{name}: does not use sam3's encoder" in done.stdout
        assert json.loads((first / f"reports/probe/arms/{name}.json").read_text()) == {
            "ok": True,
            "cause": "",
            "cure": "",
        }
    assert {path.name for path in (first / "models/unet/fold-0/seed-0").iterdir()} == {"card.json", "unet.safetensors"}
    assert {path.name for path in (first / "models/vesselness/fold-0/seed-0").iterdir()} == {"card.json", "filter.json"}
    costs = {name: json.loads((first / f"reports/cost/{name}/train.json").read_text()) for name in names}
    assert costs["unet"]["parameters_trained"] > 0 and "seconds_per_epoch" in costs["unet"]
    assert costs["vesselness"]["parameters_trained"] == 0 and "seconds_per_epoch" not in costs["vesselness"]
    metrics = json.loads((first / "reports/comparison/metrics.json").read_text())
    assert set(metrics["arms"]) == {*ARMS, *names} and set(metrics["against"]) == {"lora", *names}
    report = (first / "reports/comparison/report.md").read_text(encoding="utf-8")
    assert "U-Net" in report and "vesselness" in report
    cine = str(next((first / "data/raw/synthetic/cines").iterdir()))
    asked = ("models/unet/fold-0/seed-0", cine, "--angles", "0", "0", "-o", str(tmp_path / "out"))
    done = run(first, "nightshift", "predict", *asked)
    assert done.returncode == 0 and len(list((tmp_path / "out/masks").rglob("*.png"))) == 2, done.stderr

    edit(first, "params.yaml", {"encoder.rope": "as_shipped"})  # as the tables are made for this resolution
    status = (
        json.loads(run(first, "dvc", "status", "--json").stdout) if not run(first, "stages.inputs").returncode else {}
    )
    assert {"train@frozen", "train@lora"} <= status.keys() and not {"train@unet", "train@vesselness"} & status.keys()


def test_a_key_of_train_that_an_arm_has_for_itself_does_not_train_it_again(first):
    before = (first / "params.yaml").read_text(encoding="utf-8")
    edit(first, "params.yaml", {"arms.frozen.epochs": 2, "train.epochs": 3})
    run(first, "stages.inputs")
    status = json.loads(run(first, "dvc", "status", "--json").stdout)
    (first / "params.yaml").write_text(before, encoding="utf-8")
    assert "train@lora" in status and "train@frozen" not in status
    assert ran(first) == ALWAYS


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("use.data=synthetc", "did you mean 'synthetic'?"),
        ("encoder.resolution=100", "nearest: 98 or 112"),
        ("arms.lora.rank=wide", "arms.lora.rank"),
        ("+arms.wide={kind: lroa}", "did you mean 'lora'?"),
    ],
)
def test_a_wrong_setting_ends_at_once_in_one_line(first, change, said):
    done = run(first, "dvc", "exp", "run", "-S", change)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode != 0 and len(errors) == 1 and said in errors[0], done.stdout + done.stderr
    subprocess.run(["git", "checkout", "-q", "params.yaml"], cwd=first, check=True)
    assert ran(first) - {"compare"} == ALWAYS  # DVC brought back the results of an arm `wide` of before


def test_a_doomed_resolution_stops_at_encode_with_cause_and_cure(first):
    edit(first, "params.yaml", {"encoder.resolution": 98, "encoder.rope": "as_shipped"})
    done = run(first, "dvc", "repro", "encode@frozen")
    assert done.returncode != 0
    error = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(error) == 1 and "98 px" in error[0] and "Set encoder.rope to repaired" in error[0]
    edit(first, "params.yaml", {"encoder.resolution": "native", "encoder.rope": "repaired"})
    assert ran(first) == ALWAYS


@pytest.mark.slow
def test_a_folder_of_pictures_goes_through_both_arms(first, tmp_path):
    """Images and masks paired by name, of unequal sizes, without angles, outside the project."""
    from PIL import Image, ImageDraw

    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for i in range(8):
        size = (90 + 3 * i, 80)
        frame, mask = Image.new("L", size, 160), Image.new("L", size, 0)
        for picture, ink in ((frame, 60), (mask, 255)):
            ImageDraw.Draw(picture).line([(10, 10 + 5 * i), (80, 70)], fill=ink, width=4)
        frame.save(tmp_path / "images" / f"case {i}.png")
        mask.save(tmp_path / "masks" / f"case {i}.png")
    preset = {"kind": "folder", "images": str(tmp_path / "images"), "masks": str(tmp_path / "masks"), "split": "made"}
    (first / "conf/data/mine.yaml").write_text(yaml.safe_dump(preset), encoding="utf-8")
    refused = run(first, "dvc", "exp", "run", "-S", "use.data=mine")
    assert refused.returncode != 0 and "view.mode=none" in refused.stderr
    done = run(first, "dvc", "exp", "run", "-S", "use.data=mine", "-S", "view.mode=none")
    assert done.returncode == 0, done.stdout + done.stderr
    metrics = json.loads((first / "reports/comparison/metrics.json").read_text())
    assert metrics["cases"] == 2
